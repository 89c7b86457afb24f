"""A text-to-motion diffusion model, as every job in this library sees it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from easytune_lib.choices import check_choices
from easytune_lib.diffusion.guidance import guided
from easytune_lib.diffusion.sampler import DDIM, Sampler
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.types import Denoiser, Prompts, TextFeatures


@dataclass(frozen=True)
class MotionDiffusion:
    """A denoiser, the schedule it was trained on, a sampler, and the way back to motion.

    >>> bench.model.n_steps, len(bench.model.times)
    (4, 4)

    Only ``denoiser`` is ever fine-tuned. ``decode`` maps the final state to features in
    physical units, zero where padded; it is a frozen VAE decoder in latent models.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    decode: Callable[[Tensor, Prompts], Tensor]
    state_shape: Callable[[Prompts], tuple[int, int]]  # (tokens, dim) of one sample
    no_text: TextFeatures  # the features of the empty caption
    n_steps: int = 50
    guidance: float = 7.5
    sampler: Sampler = field(default_factory=DDIM)
    decodes: Literal["x0_hat", "x"] = "x0_hat"  # at the end; they differ where noise is left in x

    def __post_init__(self) -> None:
        check_choices(self)

    def to(self, device: torch.device | str) -> "MotionDiffusion":
        """A copy of all of it on ``device``; the decoder is to be a network's method."""
        twin = deepcopy(self)  # network and decoder may be one, and stay so
        for part in (twin.denoiser, getattr(twin.decode, "__self__", None)):
            if isinstance(part, nn.Module):
                part.to(device)
        return replace(twin, no_text=twin.no_text.to(device))

    @property
    def times(self) -> tuple[tuple[int, int], ...]:
        """The sampling steps, from noise to clean."""
        return self.sampler.times(self.schedule, self.n_steps)

    def draw_noise(
        self, prompts: Prompts, rng: torch.Generator
    ) -> Float[Tensor, "batch tokens dim"]:
        """``x_T``, drawn on the CPU so that every device sees the same."""
        noise = torch.randn(len(prompts), *self.state_shape(prompts), generator=rng)
        return noise.to(prompts.lengths.device)

    def noise_estimate(
        self, x_t: Float[Tensor, "batch tokens dim"], t: int, prompts: Prompts
    ) -> Float[Tensor, "batch tokens dim"]:
        """The noise that the guided network says is in ``x_t``, whatever it predicts."""
        times = torch.full((len(x_t),), t, device=x_t.device)
        output = guided(self.denoiser, x_t, times, prompts, self.guidance, self.no_text)
        if self.denoiser.prediction == "epsilon":
            return output
        alpha, sigma = self.schedule.scales(t)
        return (x_t - alpha * output) / sigma
