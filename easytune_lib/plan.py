"""Which steps of a rollout autograd records, which are rewarded, and when weights are updated."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GradientPlan:
    """How one rollout is differentiated; but for ``hop`` it never changes the sampled motion.

    >>> et.GradientPlan(recorded=frozenset({2, 3}), rewarded=frozenset({3})).last  # DRaFT-2 of 4
    3

    Steps are numbered from 0 (pure noise) to ``n_steps - 1`` (the clean motion). The first
    three fields tell the methods apart; the others say what the reward is asked and what
    becomes of its gradients.

    Raises:
        ValueError: No step is rewarded, or several rewarded steps would share one graph,
            or a step is rewarded that would carry no gradient.
    """

    recorded: frozenset[int]  # autograd keeps the denoiser call of these steps
    rewarded: frozenset[int]  # the state is scored after these steps
    detach_state: bool = False  # x_t is a constant: no gradient reaches earlier steps
    detach_input: bool = False  # the denoiser sees a constant; the update rule does not
    reads: Literal["x0_hat", "x_t"] = "x0_hat"  # which state the reward is given
    switch: int = 0  # before this step, the reward is given the other state
    weights: tuple[float, ...] = ()  # of each step's reward in what is raised; () = all 1
    target: float | None = None  # a motion that scores more than this pulls no further
    updates: Literal["step", "chain", "sum"] = "step"  # when the weights learn of a gradient:
    #   step: at once, and the rollout goes on with the new weights
    #   chain: at once, but the rollout keeps the weights that it began with
    #   sum: when the rollout is over, of all gradients together
    renoised: int = 0  # so many times more, the last step is taken from fresh noise
    checkpoint: bool = False  # keep each recorded call's input only, and compute it again
    hop: int = 1  # steps before all recorded and rewarded ones are taken so many at a time
    hold: int = 1  # decoder and reward are asked once in so many rewarded steps; see Slopes

    def __post_init__(self) -> None:
        if not self.rewarded:
            raise ValueError("a plan needs at least one rewarded step, got none")
        if len(self.rewarded) > 1 and not self.detach_state:
            raise ValueError(
                f"{len(self.rewarded)} rewarded steps share one graph, which the first update "
                "would invalidate: set detach_state=True or reward one step"
            )
        if self.detach_state and (missing := self.rewarded - self.recorded):
            raise ValueError(
                f"steps {sorted(missing)} are rewarded but not recorded, so with "
                "detach_state=True they carry no gradient: add them to `recorded`"
            )
        if self.recorded and min(self.recorded) > self.last:
            raise ValueError(
                f"no recorded step comes before the rewarded step {self.last}: it has no gradient"
            )
        if self.weights and len(self.weights) <= self.last:
            raise ValueError(
                f"{len(self.weights)} weights do not reach the rewarded step {self.last}: "
                "give one a step, or none"
            )
        if self.renoised and (self.updates != "sum" or not self.detach_state):
            raise ValueError(
                f"the gradients of {self.renoised} fresh noises make one update: "
                'set updates="sum" and detach_state=True'
            )
        if self.hop < 1:
            raise ValueError(f"a hop is 1 step or more, got {self.hop}")
        if self.hold < 1:
            raise ValueError(f"a slope is held for 1 step or more, got {self.hold}")

    @property
    def last(self) -> int:
        """The last step worth computing."""
        return max(self.rewarded)

    @property
    def visited(self) -> list[int]:
        """The steps that are computed, in order; the noisiest always is."""
        first = min(self.recorded | self.rewarded)
        return sorted({0, *range(first, 0, -self.hop), *range(first, self.last + 1)})

    def reads_at(self, step: int) -> Literal["x0_hat", "x_t"]:
        """Which state the reward is given after ``step``."""
        other: Literal["x0_hat", "x_t"] = "x_t" if self.reads == "x0_hat" else "x0_hat"
        return other if step < self.switch else self.reads

    def weight_at(self, step: int) -> float:
        """How much the reward after ``step`` counts."""
        return self.weights[step] if self.weights else 1.0
