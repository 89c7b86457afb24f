"""Motion latent diffusion (MLD) at laptop size: a VAE and a denoiser of its latents."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.sampler import LCM
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.models.blocks import (
    TimeEmbedding,
    Transformer,
    patches,
    scale_waves,
    unpatch,
    with_tokens,
)
from easytune_lib.types import Denoiser, Prompts, TextFeatures


class VAE(nn.Module):
    """A transformer VAE with long skips; a motion of any length becomes one latent.

    Reads and writes physical features and normalises inside. Latents are divided by
    ``scale``, so that they have about unit variance.

    Source: MLD (Chen et al., 2023), section 3.1. Deviations: ``patch`` frames are one
    token; pre-norm; the decoder reads the latent as tokens in front of its queries.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(
        self,
        features: int = 263,
        dim: int = 128,
        layers: int = 3,
        latents: int = 1,
        latent_dim: int = 128,
        patch: int = 4,
        max_frames: int = 200,
    ):
        super().__init__()
        self.config = {
            "features": features, "dim": dim, "layers": layers, "latents": latents,
            "latent_dim": latent_dim, "patch": patch, "max_frames": max_frames,
        }  # fmt: skip
        self.patch, self.latents, self.latent_dim = patch, latents, latent_dim
        self.max_frames, tokens = max_frames, max_frames // patch
        self.read = nn.Linear(patch * features, dim)
        self.read_position = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.global_tokens = nn.Parameter(0.02 * torch.randn(2 * latents, dim))
        self.encoder = Transformer(dim, layers, skips=True)
        self.to_latent, self.from_latent = nn.Linear(dim, latent_dim), nn.Linear(latent_dim, dim)
        self.latent_position = nn.Parameter(0.02 * torch.randn(latents, dim))
        self.queries = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.decoder = Transformer(dim, layers, skips=True)
        self.write = nn.Linear(dim, patch * features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("scale", torch.ones(()))

    def normalise(
        self, motion: Float[Tensor, "batch frames features"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """Physical features to zero mean and unit variance."""
        return (motion - self.mean) / self.std * mask[..., None]

    def encode(
        self, motion: Float[Tensor, "batch frames features"], mask: Bool[Tensor, "batch frames"]
    ) -> tuple[Float[Tensor, "batch latents dim"], Float[Tensor, "batch latents dim"]]:
        """Mean and log-variance of the scaled latent.

        Raises:
            ValueError: Motions are longer than ``max_frames``, or no multiple of ``patch``.
        """
        self._check(motion.shape[1])
        tokens = self.read(patches(self.normalise(motion, mask), self.patch))
        tokens = tokens + self.read_position[: tokens.shape[1]]
        front = self.global_tokens.expand(len(motion), -1, -1)
        keep = with_tokens(mask[:, :: self.patch], 2 * self.latents)
        hidden = self.encoder(torch.cat([front, tokens], dim=1), keep)[:, : 2 * self.latents]
        mu, logvar = self.to_latent(hidden).chunk(2, dim=1)
        return mu / self.scale, logvar.clamp(-10, 4) - 2 * self.scale.log()

    def decode_normalised(
        self, latent: Float[Tensor, "batch latents dim"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """The scaled latent to normalised features, zero where padded.

        Raises:
            ValueError: Motions longer than ``max_frames`` are asked for.
        """
        self._check(mask.shape[1])
        front = self.from_latent(latent * self.scale) + self.latent_position
        queries = self.queries[: mask.shape[1] // self.patch].expand(len(latent), -1, -1)
        keep = with_tokens(mask[:, :: self.patch], self.latents)
        hidden = self.decoder(torch.cat([front, queries], dim=1), keep)[:, self.latents :]
        return unpatch(self.write(hidden), self.patch) * mask[..., None]

    def decode(self, latent: Float[Tensor, "batch latents dim"], prompts: Prompts) -> Tensor:
        """The scaled latent to physical features, zero where padded."""
        return self.decode_masked(latent, prompts.mask)

    def decode_masked(
        self, latent: Float[Tensor, "batch latents dim"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """The same, where lengths are given by a mask."""
        return (self.decode_normalised(latent, mask) * self.std + self.mean) * mask[..., None]

    def _check(self, frames: int) -> None:
        if frames > self.max_frames:
            raise ValueError(
                f"motions of {frames} frames, this VAE knows at most {self.max_frames}: "
                "cut them or ask for shorter ones, or train it with a larger max_frames"
            )


class LatentDenoiser(Denoiser):
    """Predicts the noise in a latent, from [latent tokens, time, caption].

    Source: MLD (Chen et al., 2023), section 3.2. Deviations: pre-norm, laptop size, a
    MiniLM sentence embedding as the caption.
    """

    prediction = "epsilon"

    def __init__(
        self,
        latents: int = 1,
        latent_dim: int = 128,
        dim: int = 192,
        layers: int = 5,
        text_dim: int = 384,
    ):
        super().__init__()
        self.config = {
            "latents": latents, "latent_dim": latent_dim, "dim": dim, "layers": layers,
            "text_dim": text_dim,
        }  # fmt: skip
        self.read = nn.Linear(latent_dim, dim)
        self.time, self.text = TimeEmbedding(dim), nn.Linear(text_dim, dim)
        self.position = nn.Parameter(0.02 * torch.randn(latents + 2, dim))
        self.transformer = Transformer(dim, layers, skips=True)
        self.write = nn.Linear(dim, latent_dim)

    def forward(
        self, x_t: Float[Tensor, "batch latents dim"], t: Int[Tensor, " batch"], prompts: Prompts
    ) -> Float[Tensor, "batch latents dim"]:
        """See :meth:`Denoiser.forward`."""
        return self.read_with(self.time(t), x_t, prompts)

    def read_with(
        self,
        time: Float[Tensor, "batch width"],
        x_t: Float[Tensor, "batch latents dim"],
        prompts: Prompts,
    ) -> Float[Tensor, "batch latents dim"]:
        """The noise in ``x_t``, given the token that describes the time."""
        front = [time[:, None], self.text(prompts.text.sentence)[:, None]]
        tokens = torch.cat([self.read(x_t), *front], dim=1) + self.position
        return self.write(self.transformer(tokens, None)[:, : x_t.shape[1]])


class GuidedDenoiser(LatentDenoiser):
    """A latent denoiser that is told the scale of guidance, instead of being read twice.

    Before it is distilled it is the denoiser that it took its weights from, without guidance.

    Source: MotionLCM (Dai et al., 2024), after Meng et al. (2023). Deviation: the embedded
    scale is added to the time token behind its small network, not before.
    """

    def __init__(self, guidance_dim: int = 64, **sizes: int):
        super().__init__(**sizes)
        self.config = {"guidance_dim": guidance_dim} | self.config
        self.strength = nn.Linear(guidance_dim, self.config["dim"], bias=False)
        nn.init.zeros_(self.strength.weight)

    def forward(
        self, x_t: Float[Tensor, "batch latents dim"], t: Int[Tensor, " batch"], prompts: Prompts
    ) -> Float[Tensor, "batch latents dim"]:
        """The noise without guidance, see :meth:`guided`."""
        return self.guided(x_t, t, prompts, 1.0)

    def guided(self, x_t: Tensor, t: Tensor, prompts: Prompts, scale: float) -> Tensor:
        """The noise that guidance of this scale would find."""
        above = torch.full((len(x_t),), scale - 1.0, device=x_t.device)
        waves = scale_waves(above, self.config["guidance_dim"]).to(x_t.dtype)
        return self.read_with(self.time(t) + self.strength(waves), x_t, prompts)


def mld(
    vae: VAE,
    denoiser: LatentDenoiser,
    no_text: TextFeatures,
    n_steps: int = 50,
    guidance: float = 7.5,
) -> MotionDiffusion:
    """The two together, with MLD's schedule; the VAE is frozen."""
    vae.eval().requires_grad_(False)
    return MotionDiffusion(
        denoiser, NoiseSchedule.scaled_linear(), vae.decode,
        lambda prompts: (vae.latents, vae.latent_dim), no_text, n_steps, guidance,
    )  # fmt: skip


def motionlcm(
    vae: VAE,
    denoiser: GuidedDenoiser,
    no_text: TextFeatures,
    n_steps: int = 4,
    guidance: float = 5.0,
) -> MotionDiffusion:
    """MLD distilled to few steps: the same, with the sampler of consistency models."""
    return replace(mld(vae, denoiser, no_text, n_steps, guidance), sampler=LCM(), decodes="x")
