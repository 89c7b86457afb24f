"""MotionDiffuse as it was published, key for key: its checkpoints load as they are."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.models.blocks import Layers, gelu, step_waves
from easytune_lib.models.feature_space import FeatureDenoiser, respaced
from easytune_lib.types import Prompts, TextFeatures

WORDS = 77  # CLIP's, padding among them


class MotionDiffuse(FeatureDenoiser):
    """Predicts the noise in normalised features, by linear attention and stylization.

    A caption is read from CLIP ViT-B/32's states of all 77 tokens after its last norm (before
    the projection), which a small transformer of its own reads on. The published code reads the
    states behind the end of a caption too: give them in ``TextFeatures.tokens`` for the same
    numbers, with a ``token_mask`` that ends where the caption does. Missing ones are zeros.

    Args:
        mean: Of each feature, in physical units: ``meta/mean.npy`` beside the checkpoint.
        std: Of each feature: ``meta/std.npy``.
        frames: The most there may be.
        dim: Width of the transformer.
        layers: Of the transformer.
        heads: Of its attention.
        ff: Width of its feed-forward networks.
        text_dim: Width of the caption's own transformer.
        text_layers: Of it.
        text_heads: Of its attention.
        text_ff: Width of its feed-forward networks.
        clip_dim: Numbers of a token state.
        full_attention: Softmax over all pairs in place of linear attention: an ablation, whose
            weights have the same names. Its published mask hides nothing, so that it always
            makes ``frames`` frames, which are cut to the lengths asked for.
        bypass: For a network narrower than a frame has features, through which white noise does
            not fit: the noise is ``sigma x_t + alpha F(x_t)``, of the network's output ``F``
            (Salimans & Ho, 2022, appendix D). The published network is wide enough without.

    Source: MotionDiffuse (Zhang et al., 2022), and its code. Frames in the padding come out as
    the network has them; decoding cuts them.
    """

    prediction = "epsilon"
    called = "MotionDiffuse"

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        frames: int = 196,
        dim: int = 512,
        layers: int = 8,
        heads: int = 8,
        ff: int = 1024,
        text_dim: int = 256,
        text_layers: int = 4,
        text_heads: int = 4,
        text_ff: int = 2048,
        clip_dim: int = 512,
        full_attention: bool = False,
        bypass: bool = False,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            "mean": list(mean), "std": list(std), "frames": frames, "dim": dim, "layers": layers,
            "heads": heads, "ff": ff, "text_dim": text_dim, "text_layers": text_layers,
            "text_heads": text_heads, "text_ff": text_ff, "clip_dim": clip_dim,
            "full_attention": full_attention, "bypass": bypass,
        }  # fmt: skip
        self.dim, self.frames, self.full_attention = dim, frames, full_attention
        self.schedule, self.bypass = NoiseSchedule.linear(), bypass
        self.whole = full_attention
        self.sequence_embedding = nn.Parameter(torch.randn(frames, dim))
        self.text_pre_proj = nn.Linear(clip_dim, text_dim)
        self.textTransEncoder = Layers(
            nn.TransformerEncoderLayer(text_dim, text_heads, text_ff, 0.0, gelu, batch_first=True)
            for _ in range(text_layers)
        )
        self.text_ln = nn.LayerNorm(text_dim)
        self.text_proj = nn.Sequential(nn.Linear(text_dim, 4 * dim))
        self.joint_embed = nn.Linear(len(mean), dim)
        self.time_embed = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, 4 * dim)
        )
        self.temporal_decoder_blocks = nn.ModuleList(
            Block(dim, heads, ff, text_dim, full_attention) for _ in range(layers)
        )
        self.out = nn.Linear(dim, len(mean))
        self._kept: WeakKeyDictionary[TextFeatures, tuple[list, tuple[Tensor, Tensor]]]
        self._kept = WeakKeyDictionary()
        self.keep_statistics(mean, std)

    @classmethod
    def sizes(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Arguments of the class from the shapes of its weights; heads cannot be told.

        Raises:
            KeyError: A weight is missing.
        """
        return {
            "frames": shapes["sequence_embedding"][0],
            "dim": shapes["sequence_embedding"][1],
            "layers": sum(k.endswith("sa_block.norm.bias") for k in shapes),
            "ff": shapes["temporal_decoder_blocks.0.ffn.linear1.weight"][0],
            "text_dim": shapes["text_ln.weight"][0],
            "text_layers": sum(k.endswith("norm1.bias") for k in shapes),
            "text_ff": shapes["textTransEncoder.layers.0.linear1.weight"][0],
            "clip_dim": shapes["text_pre_proj.weight"][1],
        }

    def forward(
        self,
        x_t: Float[Tensor, "batch frames features"],
        t: Int[Tensor, " batch"],
        prompts: Prompts,
    ) -> Float[Tensor, "batch frames features"]:
        """See :meth:`Denoiser.forward`.

        Raises:
            ValueError: Captions are of another encoder, or motions too long.
        """
        mask = F.pad(prompts.mask, (0, x_t.shape[1] - prompts.frames))
        return self.denoise(x_t, t, mask, *self.read_text(prompts.text))

    def read_text(
        self, text: TextFeatures
    ) -> tuple[Float[Tensor, "batch style"], Float[Tensor, "batch words dim"]]:
        """What of a caption joins the time, and what is attended to.

        Where no gradient is recorded it is computed once, until weights change.
        """
        if torch.is_grad_enabled():
            return self._read(text)
        readers = (self.text_pre_proj, self.textTransEncoder, self.text_ln, self.text_proj)
        state = [(w.data_ptr(), w._version) for part in readers for w in part.parameters()]
        kept = self._kept.get(text)
        if kept is None or kept[0] != state:
            kept = self._kept[text] = state, self._read(text)
        return kept[1]

    def _read(self, text: TextFeatures) -> tuple[Tensor, Tensor]:
        width, given = self.text_pre_proj.in_features, text.tokens
        if given.shape[2] != width or given.shape[1] > WORDS:
            raise ValueError(
                f"{given.shape[1]} token states of {given.shape[2]} numbers, this model reads at "
                f"most {WORDS} of {width}: encode captions with CLIP ViT-B/32"
            )
        states = F.pad(given.to(self.mean.dtype), (0, 0, 0, WORDS - given.shape[1]))
        words = self.text_ln(self.textTransEncoder(self.text_pre_proj(states)))
        end = text.token_mask.sum(1) - 1
        return self.text_proj(words[torch.arange(len(words), device=end.device), end]), words

    def denoise(
        self,
        x_t: Float[Tensor, "batch frames features"],
        t: Int[Tensor, " batch"],
        mask: Bool[Tensor, "batch frames"],
        caption: Float[Tensor, "batch style"],
        words: Float[Tensor, "batch words dim"],
    ) -> Float[Tensor, "batch frames features"]:
        """The noise in ``x_t``, given what :meth:`read_text` says."""
        self.check(x_t.shape[1])
        style = self.time_embed(step_waves(t, self.dim).to(x_t.dtype)) + caption
        x = self.joint_embed(x_t) + self.sequence_embedding[: x_t.shape[1]]
        for block in self.temporal_decoder_blocks:
            x = block(x, style, mask, words)
        if not self.bypass:
            return self.out(x)
        signal = self.schedule.alpha_bar.to(x_t.device)[t, None, None].to(x_t.dtype)
        return (1 - signal).sqrt() * x_t + signal.sqrt() * self.out(x)

    def diffusion(
        self,
        no_text: TextFeatures,
        n_steps: int = 50,
        guidance: float = 1.0,
        sampler: Literal["DDIM", "DDPM"] = "DDIM",
    ) -> MotionDiffusion:
        """This network with its linear schedule, ready to sample and to be tuned.

        Args:
            no_text: Not read: it was trained without guidance, which 1 leaves out.
            n_steps: Of 1000; published samples have all of them, by DDPM.
            guidance: Scale.
            sampler: DDPM draws noise at each step.
        """
        return MotionDiffusion(
            self, self.schedule, self.decode, self.state_shape, no_text, n_steps, guidance,
            respaced(sampler),
        )  # fmt: skip


class Stylization(nn.Module):
    """A norm whose scale and shift depend on time and caption, before a linear layer."""

    def __init__(self, dim: int):
        super().__init__()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * dim, 2 * dim))
        self.norm = nn.LayerNorm(dim)
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Identity(), nn.Linear(dim, dim))

    def forward(
        self, x: Float[Tensor, "batch frames dim"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch frames dim"]:
        """Of ``x``, in the style of ``style``."""
        scale, shift = self.emb_layers(style)[:, None].chunk(2, dim=-1)
        return self.out_layers(self.norm(x) * (1 + scale) + shift)


class Attention(nn.Module):
    """Linear attention, or that of all pairs; what both users of it hold.

    Linear: every query reads one summary of all keys, at a cost linear in their number.
    """

    def __init__(self, dim: int, heads: int, read_dim: int, full: bool):
        super().__init__()
        self.heads, self.full, self.norm = heads, full, nn.LayerNorm(dim)
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(read_dim, dim)
        self.value, self.proj_out = nn.Linear(read_dim, dim), Stylization(dim)

    def attend(
        self,
        asking: Float[Tensor, "batch frames dim"],
        read: Float[Tensor, "batch tokens read_dim"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """What ``read`` has to say; linear attention reads where ``mask`` is True."""
        query, key, value = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x in (self.query(asking), self.key(read), self.value(read))
        )
        if self.full:
            pairs = query @ key.mT / query.shape[-1] ** 0.5
            if mask is not None:  # as published: a row's constant hides nothing, it only rounds
                pairs = pairs - 1e5 * (~mask)[:, None, :, None]
            found = pairs.softmax(dim=3) @ value
        else:
            if mask is not None:
                hidden = ~mask[:, None, :, None]
                key, value = key.masked_fill(hidden, -torch.inf), value.masked_fill(hidden, 0.0)
            found = query.softmax(dim=3) @ (key.softmax(dim=2).mT @ value)
        return found.transpose(1, 2).flatten(2)


class SelfAttention(Attention):
    """Between frames; padding is not read."""

    def __init__(self, dim: int, heads: int, full: bool):
        super().__init__(dim, heads, dim, full)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        style: Float[Tensor, "batch style"],
        mask: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch frames dim"]:
        """``x`` with what real frames have to say."""
        y = self.norm(x)
        return x + self.proj_out(self.attend(y, y, mask), style)


class CrossAttention(Attention):
    """From frames to words."""

    def __init__(self, dim: int, heads: int, text_dim: int, full: bool):
        super().__init__(dim, heads, text_dim, full)
        self.text_norm = nn.LayerNorm(text_dim)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        style: Float[Tensor, "batch style"],
        words: Float[Tensor, "batch words text"],
    ) -> Float[Tensor, "batch frames dim"]:
        """``x`` with what the words have to say."""
        return x + self.proj_out(self.attend(self.norm(x), self.text_norm(words)), style)


class FeedForward(nn.Module):
    """Each frame by itself."""

    def __init__(self, dim: int, ff: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, ff), nn.Linear(ff, dim)
        self.proj_out = Stylization(dim)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch frames dim"]:
        """``x``, worked on."""
        return x + self.proj_out(self.linear2(F.gelu(self.linear1(x))), style)


class Block(nn.Module):
    """Frames read each other, then the caption."""

    def __init__(self, dim: int, heads: int, ff: int, text_dim: int, full: bool):
        super().__init__()
        self.sa_block = SelfAttention(dim, heads, full)
        self.ca_block = CrossAttention(dim, heads, text_dim, full)
        self.ffn = FeedForward(dim, ff)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        style: Float[Tensor, "batch style"],
        mask: Bool[Tensor, "batch frames"],
        words: Float[Tensor, "batch words text"],
    ) -> Float[Tensor, "batch frames dim"]:
        """``x``, a layer further."""
        return self.ffn(self.ca_block(self.sa_block(x, style, mask), style, words), style)
