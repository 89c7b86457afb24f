"""The exact two-phase backward: decoder and reward in small parts, then the denoiser at once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import State, Step, score, score_state, state_read
from easytune_lib.plan import GradientPlan
from easytune_lib.types import FineTuneMethod, Prompts, Reward

Parts = list[tuple[Tensor, Prompts]]
_parts: WeakKeyDictionary[Prompts, dict[tuple[int, int], Parts]] = WeakKeyDictionary()


@dataclass(frozen=True)
class TwoPhase:
    """Scores a rollout's rewarded steps, value and gradient, while little of it is held.

    Phase 1, here: ``micro_batch`` motions at a time, padded to the longest of them only, are
    decoded and scored, and the score's gradient with respect to the state is taken at once, so
    that the graph of decoder and reward never holds more than these. Phase 2, whenever a loss of
    the scores goes backward: one vector-Jacobian product into the denoiser's graph. By the chain
    rule the gradient is the same; in float32 it differs by rounding, about 1e-7.

    Args:
        micro_batch: Motions at a time; ``None``, or the whole batch: plain backpropagation.
        together: Rewarded steps that are decoded and scored as one batch, exact too: for a GPU
            that one step leaves idle. The denoiser's graphs of so many steps are held. Only
            where weights stay as they are meanwhile: ``updates`` of ``chain`` or ``sum``; else
            each step is on its own. Raise ``micro_batch`` with it.
    """

    micro_batch: int | None = 8
    together: int = 1

    def __call__(
        self,
        model: MotionDiffusion,
        reward: Reward,
        steps: Iterable[Step],
        prompts: Prompts,
        plan: GradientPlan,
        method: FineTuneMethod,
    ) -> Iterator[tuple[Step, Float[Tensor, " batch"]]]:
        """Yield each rewarded step of a rollout with its scores.

        Args:
            model: Whose decoder.
            reward: Must score each motion on its own, as :class:`~easytune_lib.types.Reward` says.
            steps: A rollout.
            prompts: Of the whole batch.
            plan: Which steps are rewarded, and which state is read.
            method: How often the reward is asked, and when weights change.

        Raises:
            ValueError: ``micro_batch`` is not positive.
        """
        whole = self.micro_batch is None or len(prompts) <= self.micro_batch
        size = self.together if method.updates != "step" and method.reward_every == 1 else 1
        known: list[RewardGradient] = []
        for count, group in enumerate(_groups(steps, plan, size)):
            if len(group) == method.reward_every == 1 and whole:
                yield group[0], score(model, reward, group[0], prompts, plan)
                continue
            if count % method.reward_every == 0:
                known = reward_gradients(model, reward, group, prompts, plan, self.micro_batch)
            for step, gradient in zip(group, known, strict=True):
                yield step, gradient.at(step)


def _groups(steps: Iterable[Step], plan: GradientPlan, size: int) -> Iterator[list[Step]]:
    """The rewarded steps, at most ``size`` that read the same at a time."""

    def rewarded() -> Iterator[Step]:
        for step in steps:
            if step.index in plan.rewarded:
                yield step
            del step  # what it holds makes room for the next

    for _, alike in groupby(rewarded(), lambda step: plan.reads_at(step.index)):
        while group := list(islice(alike, size)):
            yield group


@dataclass(frozen=True, eq=False)
class RewardGradient:
    """Scores of a step's motions, and their gradient with respect to the state: phase 1."""

    scores: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch tokens dim"]
    read: State  # of which state

    def at(self, step: Step) -> Float[Tensor, " batch"]:
        """Return the scores as a function of ``step``'s state: what goes back is phase 2.

        At the step that they were taken at, the gradient is exact. At another one of the same
        trajectory it is that of a reward which is linear in the state, and the scores are those
        of the step before: see ``reward_every`` of
        :class:`~easytune_lib.finetuning.variants.EasyTunePlus`.
        """
        return cast(Tensor, _Known.apply(self.scores, self.gradient, getattr(step, self.read)))


def reward_gradients(
    model: MotionDiffusion,
    reward: Reward,
    steps: Sequence[Step],
    prompts: Prompts,
    plan: GradientPlan,
    micro_batch: int | None,
) -> list[RewardGradient]:
    """Take the reward's gradients at several steps of one rollout, which read the same state.

    They are decoded and scored as one batch, ``micro_batch`` motions at a time (``None``: all).
    """
    count = len(prompts)
    read, timed = state_read(model, steps[0], plan)
    states = [getattr(step, read).detach() for step in steps]
    after = [torch.as_tensor(step.after, device=states[0].device).expand(count) for step in steps]
    state, after = _joined(states), _joined(after)
    scores, gradient = state.new_zeros(len(state)), torch.zeros_like(state)
    parts = by_length(prompts, len(state) if micro_batch is None else micro_batch, len(steps))
    for rows, part in parts:
        leaf = state[rows, : model.state_shape(part)[0]].requires_grad_()
        with torch.enable_grad():
            time = None if timed is None else after[rows]
            values = score_state(model, reward, leaf, part, time)
        (own,) = torch.autograd.grad(values.sum(), leaf)
        scores[rows], gradient[rows, : leaf.shape[1]] = values.detach(), own
    each = zip(scores.split(count), gradient.split(count), strict=True)
    return [RewardGradient(*own, read) for own in each]


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
    def forward(ctx: Any, scores: Tensor, gradient: Tensor, state: Tensor) -> Tensor:
        """The scores as they are."""
        ctx.save_for_backward(gradient)
        return scores.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Each motion's gradient, weighed by what the loss makes of its score."""
        (gradient,) = ctx.saved_tensors
        return None, None, grad[0][:, None, None] * gradient
