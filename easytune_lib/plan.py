"""Which gradient of a rollout exists; and, apart from it, what a method makes of that gradient."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from easytune_lib.choices import check_choices

Reads = Literal["final", "x0_hat", "x_t"]
Updates = Literal["step", "chain", "sum"]


@dataclass(frozen=True)
class GradientPlan:
    """Which gradient of one rollout exists; it never changes the sampled motion.

    Steps are numbered from 0 (pure noise) to ``n_steps - 1`` (the clean motion). With
    ``print(plan)`` a plan is drawn, one column a step.

    Args:
        recorded: Active steps: autograd keeps their denoiser calls.
        rewarded: The reward is read after these steps.
        detach_state: Each rewarded step stands alone: the state x_t is a constant, so that no
            gradient reaches earlier steps, neither through the network nor the update rule.
        reads: What the reward reads: the ``final`` state, which is what ``model.decodes`` names
            at the last step; the clean estimate ``x0_hat`` of the rewarded step; or the state
            ``x_t`` that comes out of it, with its noise level. A tuple says it for each step.
        coupling: How much of the state's gradient passes the network's input, 0 (it sees a
            constant; the gradient flows through the update rule alone) to 1 (all). A tuple says
            it for each step.

    Raises:
        ValueError: No step is rewarded, several rewarded steps would share one graph, a rewarded
            step would carry no gradient, or a choice is none of those listed.

    >>> last = lambda k: frozenset(range(8 - k, 8))
    >>> easytune = et.GradientPlan(recorded=last(3), rewarded=last(3), detach_state=True)
    >>> print(et.GradientPlan(recorded=last(3), rewarded=last(1), reads="final"))  # DRaFT-3
    step      01234567
    recorded  .....xxx
    rewarded  .......R  reads final
    gradient  .....<<<  back through all recorded steps
    """

    recorded: frozenset[int]
    rewarded: frozenset[int]
    detach_state: bool = False
    reads: Reads | tuple[Reads, ...] = "x0_hat"
    coupling: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        check_choices(self)
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
        for name in ("reads", "coupling"):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) <= self.last:
                raise ValueError(
                    f"{len(given)} values of {name} do not reach step {self.last}: give one a step"
                )
        steps = range(self.last + 1)
        if unknown := {self.reads_at(step) for step in steps} - {"final", "x0_hat", "x_t"}:
            raise ValueError(f"reads is 'final', 'x0_hat' or 'x_t', got {sorted(unknown)}")
        if not all(0 <= self.coupling_at(step) <= 1 for step in steps):
            raise ValueError(f"a coupling is 0 to 1, got {self.coupling}")

    @property
    def last(self) -> int:
        """The last step worth computing."""
        return max(self.rewarded)

    def reads_at(self, step: int) -> Reads:
        """Return what the reward reads after ``step``."""
        return self.reads[step] if isinstance(self.reads, tuple) else self.reads

    def coupling_at(self, step: int) -> float:
        """Return how much of the state's gradient passes the network's input at ``step``."""
        return self.coupling[step] if isinstance(self.coupling, tuple) else self.coupling

    def __str__(self) -> str:
        steps = range(self.last + 1)

        def row(name: str, marks: list[str], note: str) -> str:
            return f"{name:<10}{''.join(marks)}  {note}".rstrip()

        reads = dict.fromkeys(self.reads_at(step) for step in sorted(self.rewarded))
        couplings = {self.coupling_at(step) for step in self.recorded if step <= self.last}
        if self.detach_state:
            mark, note = "|", "of each step alone"
        elif couplings == {0.0}:
            mark, note = "-", "back through the update rule alone"
        else:
            mark, note = "<", "back through all recorded steps"
            if couplings - {0.0, 1.0}:
                note += ", in part"
        tens = [str(i // 10) if i % 10 == 0 else " " for i in steps]
        rows = [
            *([row("", tens, "")] if self.last > 9 else []),
            row("step", [str(i % 10) for i in steps], ""),
            row("recorded", ["x" if i in self.recorded else "." for i in steps], ""),
            row(
                "rewarded",
                ["R" if i in self.rewarded else "." for i in steps],
                f"reads {' and '.join(reads)}",
            ),
            row("gradient", [mark if i in self.recorded else "." for i in steps], note),
        ]
        return "\n".join(rows)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


@dataclass(frozen=True)
class Weighting:
    """How much each score counts in what is raised.

    Args:
        steps: A weight for each step; ``()``: each counts 1.
        target: A motion that scores more pulls no further; ``None``: no such bound.
    """

    steps: tuple[float, ...] = ()
    target: float | None = None

    def __call__(self, scores: Tensor, step: int) -> Tensor:
        """Return the mean score after ``step``, bounded and weighted: what is raised."""
        bounded = scores if self.target is None else scores.clamp(max=self.target)
        return self.at(step) * bounded.mean()

    def at(self, step: int) -> float:
        """Return the weight of ``step``."""
        return self.steps[step] if self.steps else 1.0


@dataclass(frozen=True)
class RolloutOptions:
    """How a rollout gets through its steps, which changes cost and states but no gradient rule.

    Args:
        skip: Steps before the first recorded or rewarded one are taken so many at a time.
        checkpoint: Keep each recorded call's input only, and compute the call again in backward.
        fresh_noises: So many times more, the last step is taken from fresh noise.

    Raises:
        ValueError: A count is out of range.
    """

    skip: int = 1
    checkpoint: bool = False
    fresh_noises: int = 0

    def __post_init__(self) -> None:
        if self.skip < 1 or self.fresh_noises < 0:
            raise ValueError(
                f"skip is 1 or more and fresh_noises 0 or more, got {self.skip} and "
                f"{self.fresh_noises}"
            )

    def visited(self, plan: GradientPlan) -> list[int]:
        """Return the steps that are computed, in order; the noisiest always is."""
        first = min(plan.recorded | plan.rewarded)
        return sorted({0, *range(first, 0, -self.skip), *range(first, plan.last + 1)})
