"""Fine-tuning methods: each is one choice of what to record and what to reward.

Positional fields say what a method is; keyword-only ones are options, off by default.
"""

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal

import torch

from easytune_lib.plan import GradientPlan
from easytune_lib.types import FineTuneMethod


def recorded(method: FineTuneMethod) -> dict[str, Any]:
    """A method as records hold it: ``{"EasyTune": {"k": 10, "steps": "strided"}}``.

    An option that is off is left out, so that a new one leaves older records' ids as they are.
    """
    values = {
        f.name: getattr(method, f.name)
        for f in fields(method)  # type: ignore[arg-type]
        if not f.kw_only or getattr(method, f.name) != f.default
    }
    return {type(method).__name__: values}


def _last(k: int | None, n_steps: int) -> frozenset[int]:
    k = n_steps if k is None else k
    if not 1 <= k <= n_steps:
        raise ValueError(f"k is 1 to n_steps={n_steps}, got {k}")
    return frozenset(range(n_steps - k, n_steps))


def _randint(low: int, high: int, rng: torch.Generator) -> int:
    return int(torch.randint(low, high, (), generator=rng))


Ramp = Literal["uniform", "early", "late"]


def _ramp(weights: Ramp, n_steps: int) -> tuple[float, ...]:
    rising = tuple(2 * (i + 1) / (n_steps + 1) for i in range(n_steps))  # mean 1
    return {"uniform": (), "early": rising[::-1], "late": rising}[weights]


@dataclass(frozen=True)
class EasyTune:
    """Reward each of ``k`` steps on its own; no gradient in between (Tan et al., 2026, Eq. 6-8).

    >>> plan = et.EasyTune(2).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([2, 3], [2, 3])

    Args:
        k: Rewarded steps; ``None`` is every step.
        steps: Where they lie: the ``last`` k (the released code), every n-th (``strided``;
            ours: k nearly independent updates a trajectory), or ``random`` ones, drawn anew
            for each batch (Eq. 6 reads t ~ U(0, T); with k = 1 its unbiased sampling).
        reads: What the reward is given: the one-step estimate ``x0_hat``, or the state ``x_t``
            that comes out, with its step, which asks for a noise-aware reward (Eq. 12).
        switch: Before this step the reward is given the other state. MotionRFT's
            ``reward_t_switch`` is ``reads="x_t", switch=...``: x0_hat early, x_t late.
        weights: Of the steps' rewards (Table S4, whose weights are not published: ours fall or
            rise linearly along the trajectory, with mean 1).
        updates: ``step`` optimisation updates after each rewarded step, and the rollout goes on
            with the new weights (the paper's Fig. 5, released code's ``ft_mld.py``); in ``chain``
            optimisation a copy theta' learns, which takes over when the trajectory ends
            (``ft_mld_chain.py``); ``sum`` makes one update of all gradients (ours).
        odds: Of a random step to be the one, along the same ramps; its reward is weighed by
            their inverse, so that the mean gradient stays that of Eq. 6 (importance sampling;
            ours). Asks for ``k=1, steps="random"``.
        chain: Steps recorded in a row: the reward is read ``chain - 1`` steps after the first
            of them, and its gradient goes back through all (ours, between EasyTune and DRaFT).
            Asks for ``k=1``.
        hop: Steps before the first recorded one are taken so many at a time (ours). Their states
            are constants to EasyTune, so nothing but their cost depends on how they are reached.
        hold: Decoder and reward are asked once in so many rewarded steps; in between, the
            reward's gradient with respect to the state is the last one known (ours; approximate,
            since the clean estimate moves little from step to step; the denoiser's part is
            exact). Rewards reported there are the last known, too.
    """

    k: int | None = None
    steps: Literal["last", "strided", "random"] = "last"
    _: KW_ONLY
    reads: Literal["x0_hat", "x_t"] = "x0_hat"
    switch: int = 0
    weights: Ramp = "uniform"
    updates: Literal["step", "chain", "sum"] = "step"
    odds: Ramp = "uniform"
    chain: int = 1
    hop: int = 1
    hold: int = 1

    def __post_init__(self) -> None:
        if self.k != 1 and (self.chain > 1 or self.odds != "uniform"):
            raise ValueError(f"odds and chains are of one step a trajectory: k=1, got k={self.k}")
        if self.odds != "uniform" and self.steps != "random":
            raise ValueError(f'odds are of random steps: steps="random", got {self.steps!r}')

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """The plan of one batch."""
        rewarded = _last(self.k, n_steps)
        k, weights, odds = len(rewarded), _ramp(self.weights, n_steps), _ramp(self.odds, n_steps)
        if self.steps == "strided":
            rewarded = frozenset(n_steps - 1 - i * n_steps // k for i in range(k))
        elif odds:
            rewarded = frozenset(torch.multinomial(torch.tensor(odds), 1, generator=rng).tolist())
            weights = tuple(w / p for w, p in zip(weights or [1.0] * n_steps, odds, strict=True))
        elif self.steps == "random":
            rewarded = frozenset(torch.randperm(n_steps, generator=rng)[:k].tolist())
        recorded = rewarded
        if self.chain > 1:
            first = min(rewarded)
            rewarded = frozenset({min(first + self.chain, n_steps) - 1})
            recorded = frozenset(range(first, max(rewarded) + 1))
        return GradientPlan(
            recorded, rewarded, detach_state=self.chain == 1, reads=self.reads,
            switch=self.switch, weights=weights, updates=self.updates, hop=self.hop,
            hold=self.hold,
        )  # fmt: skip


@dataclass(frozen=True)
class Curriculum:
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
        """The plan of one batch."""
        way = n_steps - len(_last(self.k, n_steps))
        start = way if batch >= self.sweep else way * batch // self.sweep
        window = frozenset(range(start, start + self.k))
        return GradientPlan(window, window, detach_state=True, reads=self.reads)


@dataclass(frozen=True)
class DRaFT:
    """Reward the final motion; backpropagate through the last ``k`` steps (Clark et al., 2024).

    >>> plan = et.DRaFT(2).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([2, 3], [3])

    ``None`` is the whole chain. Deviations: all weights are tuned unless the denoiser is given
    LoRA, and only with ``checkpoint`` are steps recomputed, as in the original: the gradient is
    the same, the memory that of one step. The comparison of Tan et al. has neither. ``hop`` as
    of :class:`EasyTune`, for the steps before the last k (ours).
    """

    k: int | None = None
    _: KW_ONLY
    checkpoint: bool = False
    hop: int = 1

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """The plan of one batch."""
        return GradientPlan(
            recorded=_last(self.k, n_steps), rewarded=_last(1, n_steps),
            checkpoint=self.checkpoint, hop=self.hop,
        )  # fmt: skip


@dataclass(frozen=True)
class DRaFTLV:
    """DRaFT-1 whose one gradient is a mean over ``noises`` (Clark et al., 2024, DRaFT-LV).

    >>> plan = et.DRaFTLV().plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([3], [3])

    The clean motion is noised again to the last step's level and denoised once more. One of
    the noises is the trajectory's own. Deviation: a mean, not a sum, so that the learning rate
    does not depend on their number.
    """

    noises: int = 2

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """The plan of one batch."""
        last = _last(1, n_steps)
        return GradientPlan(
            last, last, detach_state=True, updates="sum", renoised=self.noises - 1,
            weights=(1 / self.noises,) * n_steps,
        )  # fmt: skip


@dataclass(frozen=True)
class AlignProp:
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
        """The plan of one batch."""
        if self.cut is None:
            chosen = (torch.rand(n_steps, generator=rng) < self.p).nonzero().flatten().tolist()
        else:
            place = torch.rand((), generator=rng)
            if self.cut == "normal":
                place = 0.84 + 0.1 * torch.randn((), generator=rng)
            chosen = range(min(max(int(place * n_steps), 0), n_steps - 1), n_steps)
        return GradientPlan(
            recorded=frozenset(chosen) or _last(1, n_steps),
            rewarded=_last(1, n_steps),
            checkpoint=self.checkpoint,
        )


@dataclass(frozen=True)
class DRTune:
    """Record ``k`` evenly spaced steps on constant inputs; stop early (Wu et al., 2024).

    >>> plan = et.DRTune(2, window=1).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([0, 2], [3])

    The rewarded step is drawn from the last ``window``; the denoiser never sees a state
    that carries a gradient, the update rule does. So the final state is linear in the noise
    estimates, and with ``replay`` the memory is that of one step, exactly: a first pass keeps no
    graph, and backward replays the recorded steps one by one, each with its known coefficient.
    """

    k: int = 10
    window: int = 5
    _: KW_ONLY
    replay: bool = False

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """The plan of one batch."""
        stride = n_steps // len(_last(self.k, n_steps))
        start = _randint(0, n_steps - stride * self.k + 1, rng)
        recorded = frozenset(range(start, n_steps, stride)[: self.k])
        stop = _randint(n_steps - min(self.window, n_steps), n_steps, rng)
        if min(recorded) > stop:
            stop = min(recorded)
        return GradientPlan(
            recorded, rewarded=frozenset({stop}), detach_input=True, checkpoint=self.replay
        )


@dataclass(frozen=True)
class ReFL:
    """Reward the clean estimate of one random step of the last ``window`` (Xu et al., 2023).

    >>> plan = et.ReFL(1).plan(4, torch.Generator().manual_seed(0))
    >>> sorted(plan.recorded), sorted(plan.rewarded)
    ([3], [3])

    As Tan et al. ran it, without the original's bound on the reward and its pre-training loss.

    Args:
        window: Steps.
        target: The loss is ``relu(target - reward)``, up to a constant: a motion that scores
            more pulls no further. The original's offset is 2, in units of its own reward.
        hop: As of :class:`EasyTune` (ours).

    The original, of 40 steps, is ``ReFL(10, target=2.0)`` with ``Tuning(pretraining=...)``; its
    factor of 1e-3 on the reward is a weight of 1e3 on the pre-training loss.
    """

    window: int = 10
    _: KW_ONLY
    target: float | None = None
    hop: int = 1

    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """The plan of one batch."""
        first = n_steps - len(_last(self.window, n_steps))
        step = frozenset({_randint(first, n_steps, rng)})
        return GradientPlan(step, step, detach_state=True, target=self.target, hop=self.hop)
