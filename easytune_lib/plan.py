"""Which steps of a rollout autograd records, and which are rewarded."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GradientPlan:
    """How one rollout is differentiated; it never changes the sampled motion.

    Steps are numbered from 0 (pure noise) to ``n_steps - 1`` (the clean motion).

    Raises:
        ValueError: No step is rewarded, or several rewarded steps would share one graph,
            or a step is rewarded that would carry no gradient.
    """

    recorded: frozenset[int]  # autograd keeps the denoiser call of these steps
    rewarded: frozenset[int]  # the state is scored after these steps; one update follows each
    detach_state: bool = False  # x_t is a constant: no gradient reaches earlier steps
    detach_input: bool = False  # the denoiser sees a constant; the update rule does not
    reads: Literal["x0_hat", "x_t"] = "x0_hat"  # which state the reward is given

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

    @property
    def last(self) -> int:
        """The last step worth computing."""
        return max(self.rewarded)
