"""Discrete variance-preserving noise schedules, and the steps a sampler visits."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """``alpha_bar[t]`` is the signal variance left at training step ``t``; float64, decreasing.

    Source: DDPM (Ho et al., 2020), Eq. 4. Time ``-1`` is the clean end, one step below 0.
    """

    alpha_bar: Float[Tensor, " train_steps"]
    clean: float = 1.0  # alpha_bar at time -1

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @classmethod
    def scaled_linear(cls, train_steps: int = 1000) -> "NoiseSchedule":
        """MLD's and Stable Diffusion's: the square root of beta is linear, .00085 to .012.

        The clean end keeps ``alpha_bar[0]``, as MLD does (``set_alpha_to_one=False``).
        """
        root = torch.linspace(0.00085**0.5, 0.012**0.5, train_steps, dtype=torch.float64)
        alpha_bar = torch.cumprod(1 - root**2, 0)
        return cls(alpha_bar, clean=float(alpha_bar[0]))

    @classmethod
    def linear(cls, train_steps: int = 1000) -> "NoiseSchedule":
        """MotionDiffuse's: Ho et al. (2020), section 4: beta is linear, .0001 to .02."""
        beta = torch.linspace(1e-4, 0.02, train_steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - beta, 0))

    @classmethod
    def cosine(cls, train_steps: int = 1000) -> "NoiseSchedule":
        """MDM's: Nichol & Dhariwal (2021), Eq. 17, beta capped at .999."""

        def level(t: int) -> float:
            return math.cos((t / train_steps + 0.008) / 1.008 * math.pi / 2) ** 2

        steps = range(train_steps)
        beta = torch.tensor([min(1 - level(t + 1) / level(t), 0.999) for t in steps])
        return cls(torch.cumprod(1 - beta.double(), 0))

    def times(self, n_steps: int) -> tuple[tuple[int, int], ...]:
        """Pairs ``(t, t_after)`` from noise to clean, evenly spaced; the last goes to -1.

        As diffusers' "leading" spacing with an offset of 1: 50 of 1000 gives 981, 961 .. 1. Where
        the offset would leave the schedule there is none: all of 1000 are 999, 998 .. 0.

        Raises:
            ValueError: More steps than the schedule has, or fewer than one.
        """
        if not 1 <= n_steps <= len(self):
            raise ValueError(f"1 to {len(self)} sampling steps, got {n_steps}")
        stride = len(self) // n_steps
        offset = min(1, len(self) - 1 - (n_steps - 1) * stride)
        t = [i * stride + offset for i in reversed(range(n_steps))]
        return tuple(zip(t, [*t[1:], -1], strict=True))

    def scales(self, t: int) -> tuple[float, float]:
        """Signal and noise standard deviations ``(alpha, sigma)`` at time ``t``."""
        a = self.clean if t < 0 else self.alpha_bar[t].item()
        return a**0.5, (1 - a) ** 0.5

    def add_noise(
        self,
        x0: Float[Tensor, "batch *shape"],
        noise: Float[Tensor, "batch *shape"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch *shape"]:
        """``x_t`` for the clean ``x0``: the forward process."""
        alpha, sigma = self._scales(t, x0)
        return alpha * x0 + sigma * noise

    def clean_estimate(
        self,
        x_t: Float[Tensor, "batch *shape"],
        noise: Float[Tensor, "batch *shape"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch *shape"]:
        """``x0_hat``, where ``noise`` is taken for the noise in ``x_t``."""
        alpha, sigma = self._scales(t, x_t)
        return (x_t - sigma * noise) / alpha

    def _scales(self, t: Int[Tensor, " batch"], x: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma of a time a sample, to be multiplied with ``x``."""
        a = self.alpha_bar.to(x.device)[t].view(-1, *[1] * (x.dim() - 1))
        return a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)
