"""A pull towards the model that tuning started from."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import Step
from easytune_lib.plan import GradientPlan
from easytune_lib.types import Prompts


@dataclass(frozen=True, eq=False)
class Anchor:
    """Holds the tuned model near the one it started from, at every recorded step.

    ``weight * mean (eps_theta(x_t, c) - eps_base(x_t, c))**2`` is added to the loss: the KL
    divergence of two Gaussian steps of equal variance, up to a factor that depends on the step.

    Source: Tan et al. (2026), Eq. S2, which the released code does not have; the form is
    derived. Deviation: every step weighs the same, and an element counts, not a motion.
    """

    base: MotionDiffusion  # frozen
    weight: float

    def __call__(self, step: Step, prompts: Prompts) -> Float[Tensor, ""]:
        """The mean squared distance at a step; its gradient reaches the tuned model only."""
        with torch.no_grad():
            expected = self.base.noise_estimate(step.x_t, step.now, prompts)
        return (step.noise - expected).square().mean()


class Drift:
    """A rollout, and how far its recorded steps are from the anchor's.

    Iterating passes the steps on; at a rewarded one the mean distance of the recorded steps since
    the rewarded one before is set aside, and :meth:`loss` takes these in order.
    """

    last: Float[Tensor, ""]  # of the last :meth:`loss`, without its weight and gradient

    def __init__(
        self, steps: Iterable[Step], prompts: Prompts, plan: GradientPlan, anchor: Anchor | None
    ):
        self.steps, self.prompts, self.plan, self.anchor = steps, prompts, plan, anchor
        self.means: deque[Tensor] = deque()

    def __iter__(self) -> Iterator[Step]:
        found: list[Tensor] = []
        for step in self.steps:
            if self.anchor is not None and step.index in self.plan.recorded:
                found.append(self.anchor(step, self.prompts))
            if step.index in self.plan.rewarded:
                self.means.append(torch.stack(found).mean() if found else step.x.new_zeros(()))
                found.clear()
            yield step
            del step  # what it holds makes room for the next

    def loss(self) -> Float[Tensor, ""]:
        """Return the next rewarded step's distance, times the anchor's weight; 0 without one."""
        mean = self.means.popleft()
        self.last = mean.detach()
        return mean if self.anchor is None else self.anchor.weight * mean
