"""What the published models that diffuse normalised features share."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.diffusion.sampler import DDIM
from easytune_lib.types import Denoiser, Prompts


class FeatureDenoiser(Denoiser):
    """Holds the statistics of the features, which no official file has, and the way to and fro."""

    mean: Tensor
    std: Tensor
    frames: int  # the most there may be
    whole = False  # whether it always makes ``frames``, which are cut to the lengths asked for
    called = "model"  # in errors

    def keep_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Mean and standard deviation of each feature, in physical units."""
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def normalise(self, motion: Float[Tensor, "batch frames features"], prompts: Prompts) -> Tensor:
        """Physical features to the state that is diffused, of its length."""
        state = (motion - self.mean) / self.std * prompts.mask[..., None]
        return F.pad(state, (0, 0, 0, self.state_shape(prompts)[0] - state.shape[1]))

    def decode(self, state: Float[Tensor, "batch frames features"], prompts: Prompts) -> Tensor:
        """The state to physical features, cut to the longest motion, zero where padded."""
        motion = state[:, : prompts.frames] * self.std + self.mean
        return motion * prompts.mask[..., None]

    def state_shape(self, prompts: Prompts) -> tuple[int, int]:
        """One sample's state: the longest motion of the batch, or always ``frames``.

        Raises:
            ValueError: Motions are longer than ``frames``.
        """
        self.check(prompts.frames)
        return self.frames if self.whole else prompts.frames, len(self.mean)

    def check(self, frames: int) -> None:
        """Refuse motions of more frames than there may be.

        Raises:
            ValueError: There are.
        """
        if frames > self.frames:
            raise ValueError(
                f"motions of {frames} frames, this {self.called} makes at most {self.frames}: "
                "ask for shorter ones, or give it more frames"
            )


def respaced(sampler: Literal["DDIM", "DDPM"]) -> DDIM:
    """The published samplers of MDM and MotionDiffuse."""
    return DDIM(spacing="leading") if sampler == "DDIM" else DDIM(eta=1.0, spacing="whole")
