"""Our own forms of EasyTune: which steps are drawn, how they weigh, and what is left out."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch

from easytune_lib.finetuning.methods import EasyTune, last
from easytune_lib.plan import GradientPlan, Reads, RolloutOptions, Weighting
from easytune_lib.types import FineTuneMethod

Ramp = Literal["uniform", "early", "late"]


def _ramp(kind: Ramp, n_steps: int) -> tuple[float, ...]:
    """A line along the trajectory with mean 1; ``()`` where it is uniform."""
    rising = tuple(2 * (i + 1) / (n_steps + 1) for i in range(n_steps))
    return {"uniform": (), "early": rising[::-1], "late": rising}[kind]


@dataclass(frozen=True)
class EasyTunePlus(EasyTune):
    """EasyTune with our options; without one it is :class:`EasyTune`.

    Args:
        k: As of EasyTune; so ``steps``, ``reads`` and ``updates``.
        steps: Where the rewarded steps lie.
        reads: What the reward reads.
        updates: When the weights learn.
        switch: Before this step the reward reads the other of x0_hat and x_t. MotionRFT's
            ``reward_t_switch`` is ``reads="x_t", switch=...``: x0_hat early, x_t late.
        weights: Of the steps' rewards (Table S4, whose weights are not published: ours fall or
            rise linearly along the trajectory, with mean 1).
        step_odds: Of a random step to be the one, along the same ramps; its reward is weighed by
            their inverse, so that the mean gradient stays that of Eq. 6 (importance sampling).
            Asks for ``k=1, steps="random"``.
        chain: Steps recorded in a row: the reward is read ``chain - 1`` steps after the first
            of them, and its gradient goes back through all (between EasyTune and DRaFT). Asks
            for ``k=1``.
        skip: Steps before the first recorded one are taken so many at a time. Their states are
            constants to EasyTune, so nothing but their cost depends on how they are reached.
        reward_every: Decoder and reward are asked once in so many rewarded steps; in between, the
            reward's gradient with respect to the state is the last one known (approximate, since
            the clean estimate moves little from step to step; the denoiser's part is exact).
            Rewards reported there are the last known, too.

    Raises:
        ValueError: ``step_odds`` or ``chain`` without the steps that they ask for.
    """

    _: KW_ONLY
    switch: int = 0
    weights: Ramp = "uniform"
    step_odds: Ramp = "uniform"
    chain: int = 1
    skip: int = 1
    reward_every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k != 1 and (self.chain > 1 or self.step_odds != "uniform"):
            raise ValueError(f"step_odds and chain are of one step: k=1, got k={self.k}")
        if self.step_odds != "uniform" and self.steps != "random":
            raise ValueError(f'step_odds are of random steps: steps="random", got {self.steps!r}')

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        rewarded = recorded = self._choose(n_steps, rng)
        if self.chain > 1:
            first = min(rewarded)
            rewarded = frozenset({min(first + self.chain, n_steps) - 1})
            recorded = frozenset(range(first, max(rewarded) + 1))
        other: Reads = "x_t" if self.reads == "x0_hat" else "x0_hat"
        reads: list[Reads] = [other if i < self.switch else self.reads for i in range(n_steps)]
        return GradientPlan(
            recorded,
            rewarded,
            detach_state=self.chain == 1,
            reads=tuple(reads) if self.switch else self.reads,
        )

    def _choose(self, n_steps: int, rng: torch.Generator) -> frozenset[int]:
        odds = _ramp(self.step_odds, n_steps)
        if odds:
            return frozenset(torch.multinomial(torch.tensor(odds), 1, generator=rng).tolist())
        return super()._choose(n_steps, rng)

    def weighting(self, n_steps: int) -> Weighting:
        """Return the steps' weights, over their odds."""
        weights, odds = _ramp(self.weights, n_steps), _ramp(self.step_odds, n_steps)
        if odds:
            weights = tuple(w / p for w, p in zip(weights or [1.0] * n_steps, odds, strict=True))
        return Weighting(weights)

    @property
    def rollout_options(self) -> RolloutOptions:
        """How the rollout gets through its steps."""
        return RolloutOptions(self.skip)


@dataclass(frozen=True)
class Curriculum(FineTuneMethod):
    """EasyTune on ``k`` steps in a row that move from the noisy to the clean end.

    They begin at the noisiest step, arrive after ``sweep`` batches, and stay there. The place
    depends on the batch's number alone, so that a resumed run finds it again.

    Source: MotionRFT (arXiv 2603.27185), Eq. 26, where the sweep is 3 % of the training.
    """

    k: int = 10
    sweep: int = 30  # batches
    _: KW_ONLY
    reads: Literal["x0_hat", "x_t"] = "x0_hat"

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        way = n_steps - len(last(self.k, n_steps))
        start = way if batch >= self.sweep else way * batch // self.sweep
        window = frozenset(range(start, start + self.k))
        return GradientPlan(window, window, detach_state=True, reads=self.reads)
