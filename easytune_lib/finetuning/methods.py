"""Published fine-tuning methods: each is one choice of what to record and what to reward.

Positional fields say what a method is; keyword-only ones are options, off by default. Our own
are in :mod:`easytune_lib.finetuning.variants`.
"""

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal

import torch

from easytune_lib.plan import GradientPlan, RolloutOptions, Updates, Weighting
from easytune_lib.types import FineTuneMethod

RECORDED_AS = {
    "EasyTunePlus": "EasyTune", "skip": "hop", "reward_every": "hold", "step_odds": "odds",
}  # fmt: skip
"""Names that records keep from when they were first written, so that ids stay as they are."""


def recorded(method: FineTuneMethod) -> dict[str, Any]:
    """Return a method as records hold it: ``{"EasyTune": {"k": 10, "steps": "strided"}}``.

    An option that is off is left out, so that a new one leaves older records' ids as they are.
    """
    values = {
        RECORDED_AS.get(f.name, f.name): getattr(method, f.name)
        for f in fields(method)  # type: ignore[arg-type]
        if not f.kw_only or getattr(method, f.name) != f.default
    }
    name = type(method).__name__
    return {RECORDED_AS.get(name, name): values}


def last(k: int | None, n_steps: int) -> frozenset[int]:
    """Return the last ``k`` steps; ``None``: all.

    Raises:
        ValueError: There are not so many.
    """
    k = n_steps if k is None else k
    if not 1 <= k <= n_steps:
        raise ValueError(f"k is 1 to n_steps={n_steps}, got {k}")
    return frozenset(range(n_steps - k, n_steps))


def _randint(low: int, high: int, rng: torch.Generator) -> int:
    return int(torch.randint(low, high, (), generator=rng))


@dataclass(frozen=True)
class EasyTune(FineTuneMethod):
    """Reward each of ``k`` steps on its own; no gradient in between (Tan et al., 2026, Eq. 6-8).

    >>> plan = et.EasyTune(2).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([2, 3], [2, 3])

    Args:
        k: Rewarded steps; ``None`` is every step.
        steps: Where they lie: the ``last`` k (the released code), every n-th (``strided``;
            ours: k nearly independent updates a trajectory), or ``random`` ones, drawn anew
            for each batch (Eq. 6 reads t ~ U(0, T); with k = 1 its unbiased sampling).
        reads: What the reward reads: the one-step estimate ``x0_hat``, or the state ``x_t``
            that comes out, with its step, which asks for a noise-aware reward (Eq. 12).
        updates: ``step`` optimisation updates after each rewarded step, and the rollout goes on
            with the new weights (the paper's Fig. 5, released code's ``ft_mld.py``); in ``chain``
            optimisation a copy theta' learns, which takes over when the trajectory ends
            (``ft_mld_chain.py``); ``sum`` makes one update of all gradients (ours).
    """

    k: int | None = None
    steps: Literal["last", "strided", "random"] = "last"
    _: KW_ONLY
    reads: Literal["x0_hat", "x_t"] = "x0_hat"
    updates: Updates = "step"

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        chosen = self._choose(n_steps, rng)
        return GradientPlan(
            recorded=chosen, rewarded=chosen, detach_state=True, reads=self.reads
        )  # fmt: skip

    def _choose(self, n_steps: int, rng: torch.Generator) -> frozenset[int]:
        k = len(last(self.k, n_steps))
        if self.steps == "strided":
            return frozenset(n_steps - 1 - i * n_steps // k for i in range(k))
        if self.steps == "random":
            return frozenset(torch.randperm(n_steps, generator=rng)[:k].tolist())
        return last(k, n_steps)


@dataclass(frozen=True)
class DRaFT(FineTuneMethod):
    """Reward the final motion; backpropagate through the last ``k`` steps (Clark et al., 2024).

    >>> plan = et.DRaFT(2).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([2, 3], [3])

    ``None`` is the whole chain. Deviations: all weights are tuned unless the denoiser is given
    LoRA, and only with ``checkpoint`` are steps recomputed, as in the original: the gradient is
    the same, the memory that of one step. The comparison of Tan et al. has neither. ``skip``
    (ours): so many of the steps before the last k are taken at once.
    """

    k: int | None = None
    _: KW_ONLY
    checkpoint: bool = False
    skip: int = 1

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        return GradientPlan(
            recorded=last(self.k, n_steps), rewarded=last(1, n_steps), reads="final"
        )

    @property
    def rollout_options(self) -> RolloutOptions:
        """How the rollout gets through its steps."""
        return RolloutOptions(self.skip, self.checkpoint)


@dataclass(frozen=True)
class DRaFTLV(FineTuneMethod):
    """DRaFT-1 whose one gradient is a mean over ``noises`` (Clark et al., 2024, DRaFT-LV).

    >>> plan = et.DRaFTLV().plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([3], [3])

    The clean motion is noised again to the last step's level and denoised once more. One of
    the noises is the trajectory's own. Deviation: a mean, not a sum, so that the learning rate
    does not depend on their number.
    """

    noises: int = 2
    updates = "sum"

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        end = last(1, n_steps)
        return GradientPlan(recorded=end, rewarded=end, detach_state=True, reads="final")

    def weighting(self, n_steps: int) -> Weighting:
        """Return equal weights, which make the sum over noises a mean."""
        return Weighting((1 / self.noises,) * n_steps)

    @property
    def rollout_options(self) -> RolloutOptions:
        """How the rollout gets through its steps."""
        return RolloutOptions(fresh_noises=self.noises - 1)


@dataclass(frozen=True)
class AlignProp(FineTuneMethod):
    """Record each step with probability ``p`` (Prabhudesai et al., 2023, as Tan et al. ran it).

    >>> plan = et.AlignProp(1.0).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([0, 1, 2, 3], [3])

    At least one step is recorded. The state always carries its gradient through the update rule.

    Args:
        p: Not used with a ``cut``.
        cut: Random truncation, as in the original: all steps from a random one on are recorded.
            It is drawn from all steps (``uniform``) or near the end (``normal``: mean .84 and
            deviation .1 of the steps, the released 42 and 5 of 50).
        checkpoint: Recompute steps in backward, as the original does; the same gradient.
    """

    p: float = 0.5
    _: KW_ONLY
    cut: Literal["uniform", "normal"] | None = None
    checkpoint: bool = False

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        if self.cut is None:
            chosen = (torch.rand(n_steps, generator=rng) < self.p).nonzero().flatten().tolist()
        else:
            place = torch.rand((), generator=rng)
            if self.cut == "normal":
                place = 0.84 + 0.1 * torch.randn((), generator=rng)
            chosen = range(min(max(int(place * n_steps), 0), n_steps - 1), n_steps)
        end = last(1, n_steps)
        return GradientPlan(recorded=frozenset(chosen) or end, rewarded=end, reads="final")

    @property
    def rollout_options(self) -> RolloutOptions:
        """How the rollout gets through its steps."""
        return RolloutOptions(checkpoint=self.checkpoint)


@dataclass(frozen=True)
class DRTune(FineTuneMethod):
    """Record ``k`` evenly spaced steps on constant inputs; stop early (Wu et al., 2024).

    >>> plan = et.DRTune(2, window=1).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([0, 2], [3])

    The reward reads the clean estimate of a step drawn from the last ``window``; the denoiser
    never sees a state that carries a gradient, the update rule does. So the final state is linear
    in the noise estimates, and with ``replay`` the memory is that of one step, exactly: a first
    pass keeps no graph, and backward replays the recorded steps one by one, each with its known
    coefficient.
    """

    k: int = 10
    window: int = 5
    _: KW_ONLY
    replay: bool = False

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        stride = n_steps // len(last(self.k, n_steps))
        start = _randint(0, n_steps - stride * self.k + 1, rng)
        recorded = frozenset(range(start, n_steps, stride)[: self.k])
        stop = max(_randint(n_steps - min(self.window, n_steps), n_steps, rng), min(recorded))
        return GradientPlan(recorded=recorded, rewarded=frozenset({stop}), coupling=0.0)

    @property
    def rollout_options(self) -> RolloutOptions:
        """How the rollout gets through its steps."""
        return RolloutOptions(checkpoint=self.replay)


@dataclass(frozen=True)
class ReFL(FineTuneMethod):
    """Reward the clean estimate of one random step of the last ``window`` (Xu et al., 2023).

    >>> plan = et.ReFL(1).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([3], [3])

    As Tan et al. ran it, without the original's bound on the reward and its pre-training loss.

    Args:
        window: Steps.
        target: The loss is ``relu(target - reward)``, up to a constant: a motion that scores
            more pulls no further. The original's offset is 2, in units of its own reward.
        skip: So many of the steps before are taken at once (ours).

    The original, of 40 steps, is ``ReFL(10, target=2.0)`` with ``finetune(pretraining=...)``; its
    factor of 1e-3 on the reward is a weight of 1e3 on the pre-training loss.
    """

    window: int = 10
    _: KW_ONLY
    target: float | None = None
    skip: int = 1

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch."""
        first = n_steps - len(last(self.window, n_steps))
        step = frozenset({_randint(first, n_steps, rng)})
        return GradientPlan(recorded=step, rewarded=step, detach_state=True)

    def weighting(self, n_steps: int) -> Weighting:
        """Return equal weights with the target."""
        return Weighting(target=self.target)

    @property
    def rollout_options(self) -> RolloutOptions:
        """How the rollout gets through its steps."""
        return RolloutOptions(self.skip)
