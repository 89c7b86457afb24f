"""Transformer blocks shared by the diffusion models and the reward."""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward, with PyTorch's fused attention kernel."""

    def __init__(self, dim: int, heads: int = 4, ff: int | None = None, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_ff = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ff = nn.Sequential(
            nn.Linear(dim, ff or 2 * dim), nn.GELU(), nn.Linear(ff or 2 * dim, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], keep: Bool[Tensor, "batch tokens"] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens where ``keep`` is False are never attended to; ``None`` keeps all."""
        batch, tokens, dim = x.shape
        q, k, v = (
            part.view(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        mask = None if keep is None else keep[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(x.shape)
        x = x + self.drop(self.out(y))
        return x + self.drop(self.ff(self.norm_ff(x)))


class Transformer(nn.Module):
    """A stack of blocks with a final norm; ``skips`` adds MLD's long U-net skip connections."""

    def __init__(
        self, dim: int, layers: int, heads: int = 4, dropout: float = 0.0, skips: bool = False
    ):
        super().__init__()
        if skips and layers % 2 == 0:
            raise ValueError(f"long skips need an odd number of layers, got {layers}")
        self.blocks = nn.ModuleList(Block(dim, heads, dropout=dropout) for _ in range(layers))
        self.merge = nn.ModuleList(
            nn.Linear(2 * dim, dim) for _ in range(layers // 2 if skips else 0)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], keep: Bool[Tensor, "batch tokens"] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens where ``keep`` is False are never attended to; ``None`` keeps all."""
        stack, half = [], len(self.merge)
        for i, block in enumerate(self.blocks):
            if (j := i - (len(self.blocks) - half)) >= 0:
                x = self.merge[j](torch.cat([x, stack.pop()], dim=-1))
            x = block(x, keep)
            if i < half:
                stack.append(x)
        return self.norm(x)


class TimeEmbedding(nn.Module):
    """Sinusoids of the training step, through a small network."""

    frequencies: Tensor

    def __init__(self, dim: int, width: int = 128):
        super().__init__()
        self.register_buffer(
            "frequencies", torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
        )
        self.net = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Float[Tensor, "batch dim"]:
        """Embed training steps of shape ``(batch,)``."""
        angle = t[:, None].to(self.frequencies.dtype) * self.frequencies
        return self.net(torch.cat([angle.cos(), angle.sin()], dim=-1))


def patches(x: Float[Tensor, "batch frames features"], size: int) -> Tensor:
    """Join ``size`` frames to a token: ``(batch, frames / size, size * features)``."""
    batch, frames, features = x.shape
    if frames % size:
        raise ValueError(f"{frames} frames do not divide into tokens of {size}: crop or pad first")
    return x.reshape(batch, frames // size, size * features)


def unpatch(x: Float[Tensor, "batch tokens width"], size: int) -> Tensor:
    """Undo :func:`patches`: ``(batch, tokens * size, width / size)``."""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens * size, width // size)


def with_tokens(
    keep: Bool[Tensor, "batch tokens"], extra: int
) -> Bool[Tensor, "batch more_tokens"]:
    """``keep`` with ``extra`` real tokens in front."""
    return F.pad(keep, (extra, 0), value=True)


def gelu(x: Tensor) -> Tensor:
    """Plain GELU, under a name of our own.

    PyTorch's layers fuse all they do if they know their activation, and then read their linear
    layers' weights past any adapter that stands in a layer's place.
    """
    return F.gelu(x)


class SkipTransformer(nn.Module):
    """Post-norm layers, those of the second half fed also with what the first half put out.

    The layers are PyTorch's own; keyword arguments go to each of them. Keys are those of the
    published MLD and SPM.

    Source: MLD (Chen et al., 2023), after U-ViT.
    """

    def __init__(self, layer: Callable[[], nn.Module], layers: int, dim: int, norm: nn.LayerNorm):
        super().__init__()
        if layers % 2 == 0:
            raise ValueError(f"long skips need an odd number of layers, got {layers}")
        half = layers // 2
        self.norm = norm
        self.input_blocks = nn.ModuleList(layer() for _ in range(half))
        self.middle_block = layer()
        self.output_blocks = nn.ModuleList(layer() for _ in range(half))
        self.linear_blocks = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(half))

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], **options: Tensor
    ) -> Float[Tensor, "batch tokens dim"]:
        """As the layers: ``src_key_padding_mask``, or ``memory`` and ``tgt_key_padding_mask``."""
        skips = []
        for block in self.input_blocks:
            x = block(x, **options)
            skips.append(x)
        x = self.middle_block(x, **options)
        for block, merge in zip(self.output_blocks, self.linear_blocks, strict=True):
            x = block(merge(torch.cat([x, skips.pop()], dim=-1)), **options)
        return self.norm(x)


class Layers(nn.Module):
    """A plain stack of PyTorch's own transformer layers."""

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "batch tokens dim"], **options: Tensor | None) -> Tensor:
        """As the layers."""
        for layer in self.layers:
            x = layer(x, **options)
        return x


class LearnedPositions(nn.Module):
    """Adds a learned vector to each place of a sequence."""

    def __init__(self, dim: int, places: int = 500):
        super().__init__()
        self.pe = nn.Parameter(torch.rand(places, 1, dim))

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """``x`` with positions."""
        if x.shape[1] > len(self.pe):
            raise ValueError(
                f"a sequence of {x.shape[1]} tokens, this model knows {len(self.pe)} places: cut it"
            )
        return x + self.pe[: x.shape[1], 0]


class StepEmbedding(nn.Module):
    """Sinusoids of the training step, cosines first, through two layers.

    ``condition_dim``: numbers of a further condition, which is added before the two layers.
    """

    def __init__(self, dim: int, width: int = 512, condition_dim: int | None = None):
        super().__init__()
        self.width = width
        if condition_dim is not None:
            self.cond_proj = nn.Linear(condition_dim, width, bias=False)
        self.linear_1, self.linear_2 = nn.Linear(width, dim), nn.Linear(dim, dim)

    def forward(
        self, t: Int[Tensor, " batch"], condition: Float[Tensor, "batch numbers"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Embed training steps, 0 (clean) to 999."""
        waves = step_waves(t, self.width).to(self.linear_1.weight.dtype)
        if condition is not None:
            waves = waves + self.cond_proj(condition.to(waves.dtype))
        return self.linear_2(F.silu(self.linear_1(waves)))


def step_waves(t: Int[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Cosines, then sines of training steps, of wavelengths from 2 pi up to 10000 times that."""
    half = width // 2
    powers = -math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    angle = t[:, None] * torch.exp(powers)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def scale_waves(strength: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sines, then cosines of 1000 times the scale above 1; an odd width ends with a zero."""
    half = width // 2
    step = -math.log(10000) / max(half - 1, 1)  # in this order: angles reach 10000
    angle = 1000 * strength[:, None] * torch.exp(torch.arange(half, device=strength.device) * step)
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, width % 2))
