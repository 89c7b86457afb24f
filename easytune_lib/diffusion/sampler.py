"""One reverse step, given an estimate of the noise, and the steps that a sampler visits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from easytune_lib.choices import check_choices
from easytune_lib.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class RowNoise:
    """One stream a row: a row's noise is the same, whatever stands beside it in the batch.

    ``tokens`` is the length that is drawn, and cut to that of the state.
    """

    rngs: list[torch.Generator]
    tokens: int

    def like(self, x: Tensor) -> Tensor:
        """Fresh noise for each row of ``x``."""
        shape = (self.tokens, *x.shape[2:])
        rows = [torch.randn(shape, generator=rng, dtype=x.dtype) for rng in self.rngs]
        return torch.stack(rows)[:, : x.shape[1]]


@dataclass(frozen=True)
class ShareNoise:
    """Some rows of the noise that one stream draws for a whole batch of ``count``."""

    rng: torch.Generator
    rows: slice
    count: int

    def like(self, x: Tensor) -> Tensor:
        """Fresh noise for the rows in ``x``."""
        shape = (self.count, *x.shape[1:])
        return torch.randn(shape, generator=self.rng, dtype=x.dtype)[self.rows]


Randomness = torch.Generator | RowNoise | ShareNoise | None


@runtime_checkable
class Sampler(Protocol):
    """Which steps are visited, and how each is made."""

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        ...

    def times(self, schedule: NoiseSchedule, n_steps: int) -> tuple[tuple[int, int], ...]:
        """Pairs ``(t, t_after)`` from noise to clean; the last goes to -1."""
        ...

    def step(
        self,
        schedule: NoiseSchedule,
        x0_hat: Tensor,
        noise: Tensor,
        now: int,
        after: int,
        rng: Randomness = None,
    ) -> Tensor:
        """The state at time ``after``, from what step ``now`` says is signal and noise."""
        ...


@dataclass(frozen=True)
class DDIM:
    """DDIM (Song et al., 2021), Eq. 12.

    ``eta`` = 0 is deterministic, 1 is DDPM with its small variance. ``spacing`` says which 50 of
    1000 steps are visited: ``"offset"`` 981, 961 .. 1 (MLD), ``"leading"`` 980, 960 .. 0 (MDM's
    DDIM), ``"whole"`` 999, 979 .. 0 (MDM and MotionDiffuse, when respaced). Two of these are the
    same where all steps are visited.
    """

    eta: float = 0.0
    spacing: Literal["offset", "leading", "whole"] = "offset"

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.eta != 0

    def times(self, schedule: NoiseSchedule, n_steps: int) -> tuple[tuple[int, int], ...]:
        """Pairs ``(t, t_after)`` from noise to clean; the last goes to -1.

        Raises:
            ValueError: More steps than the schedule has, or fewer than one.
        """
        pairs = schedule.times(n_steps)
        if self.spacing == "offset":
            return pairs
        train_steps = len(schedule)
        if self.spacing == "leading":
            t = [i * (train_steps // n_steps) for i in range(n_steps)]
        elif n_steps == 1:
            t = [train_steps - 1]
        else:
            t = [round(i * (train_steps - 1) / (n_steps - 1)) for i in range(n_steps)]
        return _to_clean(t[::-1])

    def step(
        self,
        schedule: NoiseSchedule,
        x0_hat: Tensor,
        noise: Tensor,
        now: int,
        after: int,
        rng: Randomness = None,
    ) -> Tensor:
        """The state at time ``after``, from what step ``now`` says is signal and noise.

        Raises:
            ValueError: A stochastic sampler was given no generator.
        """
        (_, sigma), (alpha_after, sigma_after) = schedule.scales(now), schedule.scales(after)
        if self.eta == 0 or sigma_after == 0:
            state = alpha_after * x0_hat
            state += sigma_after * noise  # in place: one state less at a step's peak
            return state
        alpha_now = (1 - sigma**2) ** 0.5
        fresh = self.eta * sigma_after / sigma * (1 - alpha_now**2 / alpha_after**2) ** 0.5
        kept = (sigma_after**2 - fresh**2) ** 0.5
        return alpha_after * x0_hat + kept * noise + fresh * fresh_noise(x0_hat, rng)


@dataclass(frozen=True)
class LCM:
    """Multistep sampling of a latent consistency model (Luo et al., 2023), Algorithm 3.

    Each step jumps to the clean end and, but for the last, is noised again. ``steps`` names the
    times to visit by their number; other numbers are spread over the ``origin`` steps that the
    model was distilled on. Repeated times are allowed.
    """

    origin: int = 50
    steps: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0

    @property
    def stochastic(self) -> bool:
        """With more than one step, noise is drawn."""
        return True

    def times(self, schedule: NoiseSchedule, n_steps: int) -> tuple[tuple[int, int], ...]:
        """Pairs ``(t, t_after)`` from noise to clean; the last goes to -1.

        Raises:
            ValueError: Neither ``steps`` nor ``origin`` has as many.
        """
        if n_steps in self.steps:
            return _to_clean(self.steps[n_steps])
        if not 1 <= n_steps <= self.origin:
            raise ValueError(f"1 to {self.origin} sampling steps, got {n_steps}")
        stride = len(schedule) // self.origin
        return _to_clean(
            [(self.origin - i * self.origin // n_steps) * stride - 1 for i in range(n_steps)]
        )

    def step(
        self,
        schedule: NoiseSchedule,
        x0_hat: Tensor,
        noise: Tensor,
        now: int,
        after: int,
        rng: Randomness = None,
    ) -> Tensor:
        """The state at time ``after``; the clean end is free of noise, whatever the schedule.

        Raises:
            ValueError: No generator was given, and this is not the last step.
        """
        alpha, sigma = schedule.scales(now)
        distance = now * self.timestep_scaling
        keep = self.sigma_data**2 / (distance**2 + self.sigma_data**2)  # boundary at t = 0
        trust = distance / (distance**2 + self.sigma_data**2) ** 0.5
        clean = trust * x0_hat + keep * (alpha * x0_hat + sigma * noise)
        if after < 0:
            return clean
        alpha_after, sigma_after = schedule.scales(after)
        return alpha_after * clean + sigma_after * fresh_noise(clean, rng)


def _to_clean(t: "list[int] | tuple[int, ...]") -> tuple[tuple[int, int], ...]:
    return tuple(pairwise([*t, -1]))


def fresh_noise(like: Tensor, rng: Randomness) -> Tensor:
    """Standard noise of the shape of ``like``, drawn on the CPU so that devices see the same.

    Raises:
        ValueError: There is nothing to draw it from.
    """
    if rng is None:
        raise ValueError("noise is to be drawn on the way: pass rng=stream(...)")
    if isinstance(rng, RowNoise | ShareNoise):
        return rng.like(like).to(like.device)
    return torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)
