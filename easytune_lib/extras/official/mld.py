"""MLD and MLD++ as they were published, key for key: their checkpoints load as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.models.blocks import LearnedPositions, SkipTransformer, StepEmbedding, gelu
from easytune_lib.models.feature_space import FeatureDenoiser
from easytune_lib.models.mld import VAE
from easytune_lib.storage import part
from easytune_lib.types import Denoiser, Prompts, TextFeatures

Shape = tuple[int, ...]


class OfficialVAE(VAE):
    """The published VAE; used wherever the laptop's :class:`~easytune_lib.models.mld.VAE` is.

    Only the way to and from physical units is inherited. The statistics are no part of an
    official file, nor of ``state_dict()``, whose keys are the official ones.

    Args:
        mean: Of each feature, in physical units: the data set's ``Mean.npy``.
        std: Of each feature: the data set's ``Std.npy``.
        latents: Tokens of a latent: 1, or 16 in MLD++.
        latent_dim: Width of a latent between projections (MLD++: 32); ``None``: ``dim``, and
            no projections.
        dim: Width of both transformers.
        layers: Of each transformer, odd.
        heads: Of all attention.
        ff: Width of the feed-forward networks.
        dropout: Within both transformers, in training.

    Source: MLD (Chen et al., 2023), section 3.1, and its code; the projections of MLD++ are
    those of MotionLCM V2.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        latents: int = 1,
        latent_dim: int | None = None,
        dim: int = 256,
        layers: int = 9,
        heads: int = 4,
        ff: int = 1024,
        dropout: float = 0.1,
    ):
        nn.Module.__init__(self)
        self.patch, self.latents, self.latent_dim = 1, latents, latent_dim or dim
        self.max_frames = 500 - 2 * latents  # positions are learned for 500 tokens
        sizes = (dim, heads, ff, dropout, gelu)
        self.global_motion_token = nn.Parameter(torch.randn(2 * latents, dim))
        self.query_pos_encoder, self.query_pos_decoder = (
            LearnedPositions(dim),
            LearnedPositions(dim),
        )
        self.encoder = SkipTransformer(
            lambda: nn.TransformerEncoderLayer(*sizes, batch_first=True),
            layers, dim, nn.LayerNorm(dim),
        )  # fmt: skip
        self.decoder = SkipTransformer(
            lambda: nn.TransformerDecoderLayer(*sizes, batch_first=True),
            layers, dim, nn.LayerNorm(dim),
        )  # fmt: skip
        self.skel_embedding, self.final_layer = nn.Linear(len(mean), dim), nn.Linear(dim, len(mean))
        if latent_dim is not None:
            self.latent_pre = nn.Linear(dim, latent_dim)
            self.latent_post = nn.Linear(latent_dim, dim)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def encode(
        self, motion: Float[Tensor, "batch frames features"], mask: Bool[Tensor, "batch frames"]
    ) -> tuple[Float[Tensor, "batch latents dim"], Float[Tensor, "batch latents dim"]]:
        """Mean and log-variance of the latent. Padding has no influence.

        Raises:
            ValueError: Motions are longer than ``max_frames``.
        """
        self._check(motion.shape[1])
        front = self.global_motion_token.expand(len(motion), -1, -1)
        tokens = torch.cat([front, self.skel_embedding(self.normalise(motion, mask))], dim=1)
        unread = ~F.pad(mask, (2 * self.latents, 0), value=True)
        hidden = self.encoder(self.query_pos_encoder(tokens), src_key_padding_mask=unread)
        hidden = hidden[:, : 2 * self.latents]
        mu, logvar = (self.latent_pre(hidden) if self.projects else hidden).chunk(2, dim=1)
        return mu, logvar

    def decode_normalised(
        self, latent: Float[Tensor, "batch latents dim"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """A latent to normalised features, zero where padded.

        Raises:
            ValueError: Motions longer than ``max_frames`` are asked for.
        """
        self._check(mask.shape[1])
        memory = self.latent_post(latent) if self.projects else latent
        queries = self.query_pos_decoder(memory.new_zeros(*mask.shape, memory.shape[2]))
        hidden = self.decoder(queries, memory=memory, tgt_key_padding_mask=~mask)
        return self.final_layer(hidden) * mask[..., None]

    @property
    def projects(self) -> bool:
        """Whether latents have another width than the transformers."""
        return hasattr(self, "latent_pre")


class CaptionedSkipTransformer(Denoiser):
    """What all denoisers of the family are made of: a time token, a caption token, an encoder.

    Args:
        dim: Width of the transformer.
        layers: Odd.
        heads: Of all attention.
        ff: Width of the feed-forward networks.
        text_dim: Numbers of a sentence embedding.
        text_relu: Whether embeddings pass a ReLU first; not so in the projecting models.
        time_dim: Numbers of the sinusoids of the training step.
        guidance_dim: Numbers of a guidance embedding, see
            :mod:`easytune_lib.extras.official.motionlcm`; ``None``: there is none.
        dropout: In training.
    """

    prediction = "epsilon"

    def __init__(
        self,
        dim: int = 256,
        layers: int = 9,
        heads: int = 4,
        ff: int = 1024,
        text_dim: int = 768,
        text_relu: bool = True,
        time_dim: int = 768,
        guidance_dim: int | None = None,
        dropout: float = 0.1,
    ):
        super().__init__()
        sizes = (dim, heads, ff, dropout, gelu)
        self.text_dim = text_dim
        self.time_embedding = StepEmbedding(dim, time_dim, guidance_dim)
        self.emb_proj = nn.Sequential(
            nn.ReLU() if text_relu else nn.Identity(), nn.Linear(text_dim, dim)
        )
        self.query_pos = LearnedPositions(dim)
        self.encoder = SkipTransformer(
            lambda: nn.TransformerEncoderLayer(*sizes, batch_first=True),
            layers, dim, nn.LayerNorm(dim),
        )  # fmt: skip

    def condition(
        self,
        t: Int[Tensor, " batch"],
        text: TextFeatures,
        guidance: Float[Tensor, "batch numbers"] | None = None,
    ) -> Float[Tensor, "batch two dim"]:
        """The time token and the caption token.

        Raises:
            ValueError: The caption is of another encoder.
        """
        width, given = self.text_dim, text.sentence.shape[1]
        if given != width:
            raise ValueError(
                f"sentence embeddings of {given} numbers, this model reads {width}: encode "
                "captions with the text encoder that it was trained with"
            )
        caption = self.emb_proj(text.sentence.to(self.query_pos.pe.dtype))
        return torch.stack([self.time_embedding(t, guidance), caption], dim=1)


class LatentDenoiser(CaptionedSkipTransformer):
    """Predicts the noise in a latent, from [latent tokens, time, caption].

    Args:
        latents: Tokens of a latent.
        latent_dim: Width of a latent between projections; ``None``: ``dim``, no projections.
        dim: Width of the transformer.
        sizes: Other arguments of :class:`CaptionedSkipTransformer`.

    Source: MLD (Chen et al., 2023), section 3.2, and its code. Deviation: positions of a second
    sequence, which the original code stores and never reads (``mem_pos.pe``), are left out.
    """

    def __init__(
        self, latents: int = 1, latent_dim: int | None = None, dim: int = 256, **sizes: Any
    ):
        super().__init__(dim=dim, **{"text_relu": latent_dim is None} | sizes)
        self.latents, self.latent_dim = latents, latent_dim or dim
        if latent_dim is not None:
            self.latent_pre = nn.Linear(latent_dim, dim)
            self.latent_post = nn.Linear(dim, latent_dim)

    def forward(
        self, x_t: Float[Tensor, "batch latents dim"], t: Int[Tensor, " batch"], prompts: Prompts
    ) -> Float[Tensor, "batch latents dim"]:
        """See :meth:`Denoiser.forward`."""
        return self.read(x_t, self.condition(t, prompts.text))

    def read(
        self,
        x_t: Float[Tensor, "batch latents dim"],
        condition: Float[Tensor, "batch two width"],
    ) -> Float[Tensor, "batch latents dim"]:
        """The noise in ``x_t``, given the tokens that describe time and caption."""
        projects = hasattr(self, "latent_pre")
        tokens = torch.cat([self.latent_pre(x_t) if projects else x_t, condition], dim=1)
        hidden = self.encoder(self.query_pos(tokens))[:, : x_t.shape[1]]
        return self.latent_post(hidden) if projects else hidden


class OfficialMLD(nn.Module):
    """MLD (with CLIP as published, or with sentence-T5) or MLD++: a VAE and its denoiser.

    Args:
        mean: Of each feature, in physical units: the data set's ``Mean.npy``.
        std: Of each feature: the data set's ``Std.npy``.
        latents: Tokens of a latent: 1, or 16 in MLD++.
        latent_dim: Width of a latent between projections (MLD++: 32); ``None``: ``dim``.
        dim: Width of all transformers.
        heads: Of all attention.
        vae: Other arguments of :class:`OfficialVAE`.
        denoiser: Other arguments of :class:`LatentDenoiser`; of the original MLD these are the
            defaults, with embeddings of CLIP ViT-L/14; of the others, with sentence-T5-large.
    """

    denoises = LatentDenoiser

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        latents: int = 1,
        latent_dim: int | None = None,
        dim: int = 256,
        heads: int = 4,
        vae: Mapping[str, Any] | None = None,
        denoiser: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            "mean": list(mean), "std": list(std), "latents": latents, "latent_dim": latent_dim,
            "dim": dim, "heads": heads, "vae": dict(vae or {}), "denoiser": dict(denoiser or {}),
        }  # fmt: skip
        shared = {"latents": latents, "latent_dim": latent_dim, "dim": dim, "heads": heads}
        self.vae = OfficialVAE(mean, std, **shared, **(vae or {}))
        self.denoiser = self.denoises(**shared, **(denoiser or {}))

    @classmethod
    def sizes(cls, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """Arguments of the class, but for statistics and heads, from the shapes of its weights.

        Raises:
            KeyError: A weight is missing.
        """
        vae, denoiser = _sizes(part(shapes, "vae.")), _sizes(part(shapes, "denoiser."))
        latent_dim, dim = denoiser.pop("latent_dim", None), denoiser.pop("dim")
        return {
            "latents": shapes["vae.global_motion_token"][0] // 2,
            "latent_dim": latent_dim, "dim": dim,
            "vae": {"layers": vae["layers"], "ff": vae["ff"]}, "denoiser": denoiser,
        }  # fmt: skip

    def diffusion(
        self, no_text: TextFeatures, n_steps: int = 50, guidance: float = 7.5
    ) -> MotionDiffusion:
        """The two with MLD's schedule and DDIM, ready to sample and to be tuned; VAE frozen."""
        self.vae.eval().requires_grad_(False)
        return MotionDiffusion(
            self.denoiser, NoiseSchedule.scaled_linear(), self.vae.decode, self.state_shape,
            no_text, n_steps, guidance, decodes="x",
        )  # fmt: skip

    def state_shape(self, prompts: Prompts) -> tuple[int, int]:
        """One sample's state: a latent, however long the motion."""
        return self.vae.latents, self.vae.latent_dim


class MotionDenoiser(FeatureDenoiser, CaptionedSkipTransformer):
    """MLD's ablation without a VAE: predicts the noise in normalised features.

    It reads [time, caption, frames], padding too. So ``frames`` are diffused, whatever the
    length asked for, and neighbours in a batch have no influence.

    Args:
        mean: Of each feature, in physical units.
        std: Of each feature.
        frames: Of the diffused state.
        dim: Width of the transformer.
        sizes: Other arguments of :class:`CaptionedSkipTransformer`.

    Source: MLD's code, ``VAE_TYPE: no``.
    """

    whole = True

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        frames: int = 196,
        dim: int = 256,
        **sizes: Any,
    ):
        super().__init__(dim=dim, **sizes)
        self.frames = frames
        self.config: dict[str, Any] = {
            "mean": list(mean), "std": list(std), "frames": frames, "dim": dim, **sizes,
        }  # fmt: skip
        self.pose_embd, self.pose_proj = nn.Linear(len(mean), dim), nn.Linear(dim, len(mean))
        self.keep_statistics(mean, std)

    @classmethod
    def sizes(cls, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """Arguments of the class, but for statistics, from the shapes of its weights."""
        return _sizes(shapes)

    def forward(
        self,
        x_t: Float[Tensor, "batch frames features"],
        t: Int[Tensor, " batch"],
        prompts: Prompts,
    ) -> Float[Tensor, "batch frames features"]:
        """See :meth:`Denoiser.forward`; zero where padded."""
        tokens = torch.cat([self.condition(t, prompts.text), self.pose_embd(x_t)], dim=1)
        mask = F.pad(prompts.mask, (0, x_t.shape[1] - prompts.frames))
        return self.pose_proj(self.encoder(self.query_pos(tokens))[:, 2:]) * mask[..., None]

    def diffusion(
        self, no_text: TextFeatures, n_steps: int = 50, guidance: float = 7.5
    ) -> MotionDiffusion:
        """This network with MLD's schedule and DDIM."""
        return MotionDiffusion(
            self, NoiseSchedule.scaled_linear(), self.decode, self.state_shape, no_text,
            n_steps, guidance, decodes="x",
        )  # fmt: skip


def _sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Sizes of a VAE or a denoiser; those that it has."""
    found: dict[str, Any] = {
        "dim": shapes["encoder.norm.weight"][0],
        "layers": 1 + sum(k.startswith("encoder.linear_blocks.") for k in shapes),  # weight, bias
        "ff": shapes["encoder.middle_block.linear1.weight"][0],
    }
    if "latent_pre.weight" in shapes:
        found["latent_dim"] = shapes["latent_pre.weight"][1]
    if "emb_proj.1.weight" in shapes:
        found["text_dim"] = shapes["emb_proj.1.weight"][1]
        found["time_dim"] = shapes["time_embedding.linear_1.weight"][1]
    if "time_embedding.cond_proj.weight" in shapes:
        found["guidance_dim"] = shapes["time_embedding.cond_proj.weight"][1]
    return found
