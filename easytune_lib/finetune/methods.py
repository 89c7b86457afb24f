"""Fine-tuning methods: each is one choice of what to record and what to reward."""

from dataclasses import dataclass
from typing import Literal

import torch

from easytune_lib.plan import GradientPlan


def _last(k: int | None, n_steps: int) -> frozenset[int]:
    k = n_steps if k is None else k
    if not 1 <= k <= n_steps:
        raise ValueError(f"k is 1 to n_steps={n_steps}, got {k}")
    return frozenset(range(n_steps - k, n_steps))


def _randint(low: int, high: int, rng: torch.Generator) -> int:
    return int(torch.randint(low, high, (), generator=rng))


@dataclass(frozen=True)
class EasyTune:
    """Reward each of ``k`` steps on its own; no gradient in between (Tan et al., 2026, Eq. 6-8).

    Step optimisation: the denoiser is updated after each rewarded step and the rollout goes
    on with the new weights (the paper's Fig. 5, released code's ``ft_mld.py``).

    Args:
        k: Rewarded steps; ``None`` is every step.
        steps: Where they lie: the ``last`` k (the released code), every n-th (``strided``;
            ours: k nearly independent updates a trajectory), or ``random`` ones, drawn anew
            for each batch (Eq. 6 reads t ~ U(0, T); with k = 1 its unbiased sampling).
        reads: What the reward is given: the one-step estimate ``x0_hat``, or the state ``x_t``
            that comes out, with its step, which asks for a noise-aware reward (Eq. 12).
    """

    k: int | None = None
    steps: Literal["last", "strided", "random"] = "last"
    reads: Literal["x0_hat", "x_t"] = "x0_hat"

    def plan(self, n_steps: int, rng: torch.Generator) -> GradientPlan:
        """The plan of one batch."""
        rewarded = _last(self.k, n_steps)
        k = len(rewarded)
        if self.steps == "strided":
            rewarded = frozenset(n_steps - 1 - i * n_steps // k for i in range(k))
        elif self.steps == "random":
            rewarded = frozenset(torch.randperm(n_steps, generator=rng)[:k].tolist())
        return GradientPlan(rewarded, rewarded, detach_state=True, reads=self.reads)


@dataclass(frozen=True)
class DRaFT:
    """Reward the final motion; backpropagate through the last ``k`` steps (Clark et al., 2024).

    ``None`` is the whole chain. Deviations: all weights are tuned instead of LoRA, without
    gradient checkpointing, as in the comparison of Tan et al.
    """

    k: int | None = None

    def plan(self, n_steps: int, rng: torch.Generator) -> GradientPlan:
        """The plan of one batch."""
        return GradientPlan(recorded=_last(self.k, n_steps), rewarded=_last(1, n_steps))


@dataclass(frozen=True)
class AlignProp:
    """Record each step with probability ``p`` (Prabhudesai et al., 2023, as Tan et al. ran it).

    At least one step is recorded. The state always carries its gradient through the update
    rule. Deviation from the original: it truncates at a random step instead.
    """

    p: float = 0.5

    def plan(self, n_steps: int, rng: torch.Generator) -> GradientPlan:
        """The plan of one batch."""
        recorded = (torch.rand(n_steps, generator=rng) < self.p).nonzero().flatten().tolist()
        return GradientPlan(
            recorded=frozenset(recorded) or _last(1, n_steps), rewarded=_last(1, n_steps)
        )


@dataclass(frozen=True)
class DRTune:
    """Record ``k`` evenly spaced steps on constant inputs; stop early (Wu et al., 2024).

    The rewarded step is drawn from the last ``window``; the denoiser never sees a state
    that carries a gradient, the update rule does.
    """

    k: int = 10
    window: int = 5

    def plan(self, n_steps: int, rng: torch.Generator) -> GradientPlan:
        """The plan of one batch."""
        stride = n_steps // len(_last(self.k, n_steps))
        start = _randint(0, n_steps - stride * self.k + 1, rng)
        recorded = frozenset(range(start, n_steps, stride)[: self.k])
        stop = _randint(n_steps - min(self.window, n_steps), n_steps, rng)
        if min(recorded) > stop:
            stop = min(recorded)
        return GradientPlan(recorded, rewarded=frozenset({stop}), detach_input=True)


@dataclass(frozen=True)
class ReFL:
    """Reward the clean estimate of one random step of the last ``window`` (Xu et al., 2023).

    Deviations: no offset and no ReLU on the reward, no pre-training loss, as Tan et al. ran it.
    """

    window: int = 10

    def plan(self, n_steps: int, rng: torch.Generator) -> GradientPlan:
        """The plan of one batch."""
        first = n_steps - len(_last(self.window, n_steps))
        step = frozenset({_randint(first, n_steps, rng)})
        return GradientPlan(recorded=step, rewarded=step, detach_state=True)
