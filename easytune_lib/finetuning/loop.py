"""The one fine-tuning loop."""

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from easytune_lib import distributed
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import Step, gain, rollout
from easytune_lib.diffusion.sampler import ShareNoise
from easytune_lib.finetuning.two_phase import Slopes, scored, slopes
from easytune_lib.plan import GradientPlan
from easytune_lib.seeding import stream
from easytune_lib.types import Denoiser, FineTuneMethod, Prompts, Reward


@dataclass(frozen=True)
class Batch:
    """One batch of prompts with its noise and its own random stream."""

    index: int
    x_T: Float[Tensor, "batch tokens dim"]
    prompts: Prompts
    rng: torch.Generator  # for the method's choices and for stochastic samplers


@dataclass(frozen=True)
class Update:
    """One optimizer step: where it happened and what it saw.

    What it saw stays on the device until it is asked for, so that nobody waits for the device.
    """

    batch: int  # of the stream of batches
    step: int  # denoising step that was rewarded; the last one, where there were several
    last: bool  # nothing of this batch is left to do
    seen: tuple[Tensor, Tensor, Tensor]

    @cached_property
    def reward(self) -> float:
        """Mean over the batch and the rewarded steps, before the update."""
        return self.seen[0].item()

    @cached_property
    def grad_norm(self) -> float:
        """Before clipping."""
        return self.seen[1].item()

    @cached_property
    def drift(self) -> float:
        """Mean squared distance of the noise estimate from the anchor's; 0 without one."""
        return self.seen[2].item()


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


@dataclass(frozen=True, eq=False)
class Tuning:
    """What some runs want besides; by default, none of it that changes a gradient.

    Args:
        accumulate: Gradients an update, of which it takes the mean: batches, for methods of one
            update a batch. A rest that makes no whole update is dropped.
        scheduler: Stepped after every optimizer step, for instance :func:`warmup_cosine`.
        average: Of the weights, taken after every optimizer step, for instance
            ``AveragedModel(model.denoiser, multi_avg_fn=get_ema_multi_avg_fn(0.999))``; sample
            from its ``module``.
        pretraining: A loss on data, already weighted, whose gradient is added to every
            update's; for instance ``lambda rng: 1e-2 * denoising_loss(model.denoiser, ...)``.
        micro_batch: Motions that are decoded and scored at a time, which bounds memory and is
            exact; see :func:`~easytune_lib.finetuning.two_phase.scored`. ``None``: all of a batch.
        together: Rewarded steps of a rollout that are decoded and scored as one batch, exact
            too: for a GPU that one step leaves idle. The denoiser's graphs of so many steps are
            held. Only where weights stay as they are meanwhile: ``updates`` of ``chain`` or
            ``sum``; else each step is on its own. Raise ``micro_batch`` with it.
    """

    accumulate: int = 1
    scheduler: LRScheduler | None = None
    average: AveragedModel | None = None
    pretraining: Callable[[torch.Generator], Tensor] | None = None
    micro_batch: int | None = 8
    together: int = 1


def copy_for_tuning(model: MotionDiffusion) -> MotionDiffusion:
    """The same with a copy of its denoiser, to be tuned; what was given stays as it is.

    >>> model = et.copy_for_tuning(bench.model)
    >>> model.denoiser is bench.model.denoiser
    False
    """
    return replace(model, denoiser=deepcopy(model.denoiser).requires_grad_())


def batches(
    model: MotionDiffusion, pool: Prompts, size: int, seed: int, start: int = 0
) -> Iterator[Batch]:
    """Endless batches of prompts drawn from ``pool``, the same for every method.

    >>> pool = bench.prompts["finetune"].prompts
    >>> first = next(et.batches(bench.model, pool, 4, seed=0))
    >>> len(first.prompts)
    4

    Batch ``i`` depends on ``(seed, i)`` alone, so that a run may be resumed at any batch.
    """
    index = start
    while True:
        rng = stream(seed, "finetune", index)
        prompts = pool[torch.randint(len(pool), (size,), generator=rng)]
        yield Batch(index, model.draw_noise(prompts, rng), prompts, rng)
        index += 1


def cosine(fraction: float) -> float:
    """What is left of a rate that falls to 0 as half a cosine, after a fraction of its way."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))


def warmup_cosine(
    optimizer: torch.optim.Optimizer, updates: int, warmup: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """The optimizer's rate, rising linearly over ``warmup`` updates, then falling to 0 as a cosine.

    Deviation from the released code, whose 1000 warm-up steps and cosine over 3000 epochs leave
    the rate still rising, or flat, for the few updates that a run takes.

    Args:
        optimizer: Its present rate is the highest.
        updates: Optimizer steps that the run really takes: with EasyTune, several a batch.
        warmup: Of which the rate rises.

    Raises:
        ValueError: The warm-up is as long as the run, or longer.
    """
    if not 0 <= warmup < updates:
        raise ValueError(f"a warm-up of {warmup} does not fit into {updates} updates")

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        return cosine((done - warmup) / (updates - warmup))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def finetune(
    model: MotionDiffusion,
    reward: Reward,
    batches: Iterable[Batch],
    method: FineTuneMethod,
    optimizer: torch.optim.Optimizer,
    max_norm: float = 1.0,
    anchor: Anchor | None = None,
    tuning: Tuning | None = None,
) -> Iterator[Update]:
    """Raise ``reward`` on generated motions; yields after every optimizer step.

    >>> model = et.copy_for_tuning(bench.model)
    >>> optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-4)
    >>> drawn = et.batches(model, bench.prompts["finetune"].prompts, 2, seed=0)
    >>> updates = et.finetune(model, bench.reward, drawn, et.EasyTune(2), optimizer)
    >>> next(updates).step, next(updates).step
    (2, 3)

    Several processes (:mod:`easytune_lib.distributed`) are to be given the same arguments; each
    takes its rows of every batch, and all make, but for rounding, the updates of one alone.

    Args:
        model: Only its denoiser is trained, in eval mode: no dropout in rollouts.
        reward: Frozen; see :class:`~easytune_lib.types.Reward`.
        batches: Prompts and noise, for instance from :func:`batches`.
        method: What is recorded and rewarded.
        optimizer: Over ``model.denoiser.parameters()``, or those that are to be tuned.
        max_norm: Gradients are clipped to this norm.
        anchor: What keeps the model from drifting away; none by default, as in the paper's runs.
        tuning: See :class:`Tuning`.

    Source: Tan et al. (2026), Algorithm 1; the mean over the batch is the loss, where the
    released code calls ``backward`` on a vector.
    """
    tuning = tuning or Tuning()
    weights = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
    distributed.broadcast(list(model.denoiser.state_dict().values()))
    pending: list[_Gradient] = []
    optimizer.zero_grad()
    for batch in batches:
        plan = method.plan(model.n_steps, batch.rng, batch.index)
        chain = plan.updates == "chain"
        acting = replace(model, denoiser=_twin(model.denoiser)) if chain else model
        for gradient in _gradients(acting, reward, batch, plan, anchor, tuning):
            if chain:
                _hand_over(acting.denoiser, model.denoiser)
            pending.append(gradient)
            if sum(part.whole for part in pending) < tuning.accumulate:
                continue
            if tuning.pretraining is not None:
                tuning.pretraining(batch.rng).backward()
            distributed.average_gradients(weights)
            norm = nn.utils.clip_grad_norm_(weights, max_norm)
            optimizer.step()
            optimizer.zero_grad()
            if tuning.scheduler is not None:
                tuning.scheduler.step()
            if tuning.average is not None:
                tuning.average.update_parameters(model.denoiser)
            mean = torch.stack([part.reward for part in pending]).mean()
            drift = torch.stack([part.drift for part in pending]).mean()
            mean, drift = distributed.average(torch.stack([mean, drift]))
            pending.clear()
            yield Update(batch.index, gradient.step, gradient.last, (mean, norm, drift))


@dataclass(frozen=True)
class _Gradient:
    """Where a gradient that is now in ``.grad`` comes from."""

    step: int
    reward: Float[Tensor, ""]
    drift: Float[Tensor, ""]
    whole: bool  # with those before it, it makes an update
    last: bool  # of its batch


def _gradients(
    model: MotionDiffusion,
    reward: Reward,
    batch: Batch,
    plan: GradientPlan,
    anchor: Anchor | None,
    tuning: Tuning,
) -> Iterator[_Gradient]:
    """Roll out, and after each rewarded step add its gradient's part to ``.grad``."""
    held: list[Slopes] = []
    rows, weight = distributed.share(len(batch.prompts))
    x_T, prompts, noise = batch.x_T, batch.prompts, batch.rng
    if distributed.size() > 1:
        noise = ShareNoise(batch.rng, rows, len(prompts))
        x_T, prompts = x_T[rows], prompts.padded(rows)
    left = todo = len(plan.rewarded) + plan.renoised
    taken = rollout(model, x_T, prompts, plan, noise)
    for group in _rewarded(taken, prompts, plan, anchor, tuning.together):
        steps, how = [step for step, _ in group], (plan, tuning.micro_batch)
        if len(steps) == plan.hold == 1:
            known = [scored(model, reward, steps[0], prompts, *how)]
        else:
            if (todo - left) % plan.hold == 0:
                held = slopes(model, reward, steps, prompts, *how)
            known = [slope.at(step) for slope, step in zip(held, steps, strict=True)]
        for (step, drift), scores in zip(group, known, strict=True):
            loss = -gain(scores, step, plan)
            if anchor is not None:
                loss = anchor.weight * drift + loss
            (weight * loss / tuning.accumulate).backward()
            left -= 1
            whole = plan.updates != "sum" or not left
            seen = weight * scores.detach().mean(), weight * drift.detach()
            yield _Gradient(step.index, *seen, whole, not left)


def _rewarded(
    taken: Iterator[Step],
    prompts: Prompts,
    plan: GradientPlan,
    anchor: Anchor | None,
    together: int,
) -> Iterator[list[tuple[Step, Tensor]]]:
    """The rollout's rewarded steps, each with its drift, in groups that may be scored as one."""

    def each() -> Iterator[tuple[Step, Tensor]]:
        drifts: list[Tensor] = []
        for step in taken:
            if anchor is not None and step.index in plan.recorded:
                drifts.append(anchor(step, prompts))
            if step.index in plan.rewarded:
                yield step, torch.stack(drifts).mean() if drifts else step.x.new_zeros(())
                drifts.clear()
            del step  # what it holds makes room for the next

    size = together if plan.updates != "step" and plan.hold == 1 else 1
    for _, alike in groupby(each(), lambda pair: plan.reads_at(pair[0].index)):
        while group := list(islice(alike, size)):
            yield group


def _twin(denoiser: Denoiser) -> Denoiser:
    """The same network with weights of its own, and no gradient yet."""
    twin = deepcopy(denoiser)
    twin.zero_grad()
    return twin


def _hand_over(giver: Denoiser, taker: Denoiser) -> None:
    """Move the gradients of one network to its twin."""
    for given, taken in zip(giver.parameters(), taker.parameters(), strict=True):
        if given.grad is not None:
            taken.grad = given.grad if taken.grad is None else taken.grad + given.grad
            given.grad = None
