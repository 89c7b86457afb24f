"""The exact two-phase backward: decoder and reward in small parts, then the denoiser at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import State, Step, score, score_state, state_read
from easytune_lib.plan import GradientPlan
from easytune_lib.types import Prompts, Reward

Parts = list[tuple[Tensor, Prompts]]
_parts: WeakKeyDictionary[Prompts, dict[tuple[int, int], Parts]] = WeakKeyDictionary()


def scored(
    model: MotionDiffusion,
    reward: Reward,
    step: Step,
    prompts: Prompts,
    plan: GradientPlan,
    micro_batch: int | None,
) -> Float[Tensor, " batch"]:
    """As :func:`~easytune_lib.diffusion.rollout.score`, value and gradient, with less held.

    Phase 1, here: ``micro_batch`` motions at a time, padded to the longest of them only, are
    decoded and scored, and the score's gradient with respect to the state is taken at once, so
    that the graph of decoder and reward never holds more than these. Phase 2, whenever a loss of
    the scores goes backward: one vector-Jacobian product into the denoiser's graph. By the chain
    rule the gradient is the same; in float32 it differs by rounding, about 1e-7.

    Args:
        model: Whose decoder.
        reward: Must score each motion on its own, as :class:`~easytune_lib.types.Reward` says.
        step: What came out of the rollout.
        prompts: Of the whole batch.
        plan: Which state is read.
        micro_batch: Motions at a time; ``None``, or the whole batch: plain backpropagation.

    Raises:
        ValueError: ``micro_batch`` is not positive.
    """
    if micro_batch is None or len(prompts) <= micro_batch:
        return score(model, reward, step, prompts, plan)
    return slopes(model, reward, [step], prompts, plan, micro_batch)[0].at(step)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Scores of a step's motions, and what they gain per unit of the state: phase 1."""

    scores: Float[Tensor, " batch"]
    rises: Float[Tensor, "batch tokens dim"]
    read: State  # of which state

    def at(self, step: Step) -> Float[Tensor, " batch"]:
        """The scores as a function of ``step``'s state: what goes back from them is phase 2.

        At the step that they were taken at, the gradient is exact. At another one of the same
        trajectory it is that of a reward which is linear in the state, and the scores are those
        of the step before: see ``hold`` of :class:`~easytune_lib.plan.GradientPlan`.
        """
        return cast(Tensor, _Known.apply(self.scores, self.rises, getattr(step, self.read)))


def slopes(
    model: MotionDiffusion,
    reward: Reward,
    steps: Sequence[Step],
    prompts: Prompts,
    plan: GradientPlan,
    micro_batch: int | None,
) -> list[Slopes]:
    """Phase 1 of :func:`scored`, whose arguments and errors it shares; ``None``: all at once.

    Several steps of one rollout are decoded and scored as one batch, if the reward is given the
    same of their states: a GPU that one step leaves idle is filled, and the slopes are the same.
    """
    count, read = len(prompts), state_read(plan, steps[0])
    states = [getattr(step, read).detach() for step in steps]
    after = [torch.as_tensor(step.after, device=states[0].device).expand(count) for step in steps]
    state, after = _joined(states), _joined(after)
    scores, rises = state.new_zeros(len(state)), torch.zeros_like(state)
    parts = by_length(prompts, len(state) if micro_batch is None else micro_batch, len(steps))
    for rows, part in parts:
        leaf = state[rows, : model.state_shape(part)[0]].requires_grad_()
        with torch.enable_grad():
            values = score_state(model, reward, read, leaf, after[rows], part)
        (rise,) = torch.autograd.grad(values.sum(), leaf)
        scores[rows], rises[rows, : leaf.shape[1]] = values.detach(), rise
    each = zip(scores.split(count), rises.split(count), strict=True)
    return [Slopes(*own, read) for own in each]


def _joined(parts: list[Tensor]) -> Tensor:
    """One after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def by_length(prompts: Prompts, size: int, times: int = 1) -> Parts:
    """Rows and prompts of parts of at most ``size``, shortest first; kept while ``prompts`` is.

    The same parts at every step, so that a reward need read their captions only once. Rows
    count through ``times`` copies of the prompts, one after the other.

    Raises:
        ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"a micro-batch holds 1 motion or more, got {size}: None turns it off")
    kept = _parts.setdefault(prompts, {})
    if (size, times) not in kept:
        rows = prompts.lengths.cpu().repeat(times).argsort(stable=True).split(size)
        kept[size, times] = [(part, prompts[part % len(prompts)]) for part in rows]
    return kept[size, times]


class _Known(torch.autograd.Function):
    """Scores whose gradient with respect to the state is known already."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rises: Tensor, state: Tensor) -> Tensor:
        """The scores as they are."""
        ctx.save_for_backward(rises)
        return scores.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Each motion's slope, weighed by what the loss makes of its score."""
        (rises,) = ctx.saved_tensors
        return None, None, grad[0][:, None, None] * rises
