"""Stands for your own repository: a network that knows nothing of this workbench.

Frames come first, the step is a fraction of 1, the mask is True where padded, and motions are
divided by statistics that lie in the checkpoint.
"""

import math

import torch
from torch import Tensor, nn


class TheirDenoiser(nn.Module):
    """A transformer that says what the clean motion is."""

    def __init__(self, features: int = 263, width: int = 128, depth: int = 4, stride: int = 4):
        super().__init__()
        self.stride = stride
        self.pose_in = nn.Linear(stride * features, width)
        self.pose_out = nn.Linear(width, stride * features)
        self.where = nn.Parameter(torch.zeros(52, width))
        self.when = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.what = nn.Linear(384, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, "gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), False)

    def forward(self, noisy: Tensor, progress: Tensor, cond: Tensor, padding: Tensor) -> Tensor:
        """The clean motion.

        Args:
            noisy: (frames, batch, features), normalised.
            progress: (batch,), 0 is clean and 1 is noise.
            cond: (batch, 384), a sentence embedding.
            padding: (batch, frames), True where there is no motion.
        """
        frames, batch, features = noisy.shape
        tokens = noisy.unflatten(0, (-1, self.stride)).transpose(1, 2).flatten(2)
        waves = 999 * progress[:, None] * torch.exp(-math.log(10000) * torch.arange(64) / 64)
        when = self.when(torch.cat([waves.cos(), waves.sin()], dim=1))
        what = self.what(cond)
        tokens = torch.cat([when[None], what[None], self.pose_in(tokens) + when + what])
        tokens = tokens + self.where[: len(tokens), None]
        ignored = torch.cat([padding.new_zeros(batch, 2), padding[:, :: self.stride]], dim=1)
        read = self.encoder(tokens, src_key_padding_mask=ignored)[2:]
        clean = self.pose_out(read).unflatten(2, (self.stride, features)).transpose(1, 2)
        return clean.reshape(frames, batch, features)
