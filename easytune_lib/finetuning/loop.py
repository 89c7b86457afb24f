"""The one fine-tuning loop."""

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import rollout
from easytune_lib.finetuning.anchor import Anchor, Drift
from easytune_lib.finetuning.two_phase import TwoPhase
from easytune_lib.finetuning.updater import Batch, Updater, hand_over, own_rows
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod, Prompts, Reward

IN_PARTS = TwoPhase()


@dataclass(frozen=True)
class Update:
    """One optimizer step: where it happened and what it saw.

    What it saw stays on the device until it is asked for, so that nobody waits for the device.
    """

    batch: int  # of the stream of batches
    step: int  # denoising step that was rewarded; the last one, where there were several
    last: bool  # nothing of this batch is left to do
    seen: Float[Tensor, "3"]  # reward, drift, gradient norm

    @cached_property
    def reward(self) -> float:
        """Mean over the batch and the rewarded steps, before the update."""
        return self.seen[0].item()

    @cached_property
    def grad_norm(self) -> float:
        """Before clipping."""
        return self.seen[2].item()

    @cached_property
    def drift(self) -> float:
        """Mean squared distance of the noise estimate from the anchor's; 0 without one."""
        return self.seen[1].item()


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
    *,
    max_norm: float = 1.0,
    anchor: Anchor | None = None,
    accumulate: int = 1,
    pretraining: Callable[[torch.Generator], Tensor] | None = None,
    scorer: TwoPhase = IN_PARTS,
) -> Iterator[Update]:
    """Raise ``reward`` on generated motions; yields after every optimizer step.

    >>> model = et.copy_for_tuning(bench.model)
    >>> optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-4)
    >>> drawn = et.batches(model, bench.prompts["finetune"].prompts, 2, seed=0)
    >>> updates = et.finetune(model, bench.reward, drawn, et.EasyTune(2), optimizer)
    >>> next(updates).step, next(updates).step
    (2, 3)

    A schedule of the rate, or an average of the weights, is taken by the caller after each update
    that is yielded. Several processes (:mod:`easytune_lib.distributed`) are to be given the same
    arguments; each takes its rows of every batch, and all make, but for rounding, the updates of
    one alone.

    Args:
        model: Only its denoiser is trained, in eval mode: no dropout in rollouts.
        reward: Frozen; see :class:`~easytune_lib.types.Reward`.
        batches: Prompts and noise, for instance from :func:`batches`.
        method: Which gradient exists, and when the weights learn of it.
        optimizer: Over ``model.denoiser.parameters()``, or those that are to be tuned.
        max_norm: Gradients are clipped to this norm.
        anchor: What keeps the model from drifting away; none by default, as in the paper's runs.
        accumulate: Gradients an update, of which it takes the mean: batches, for methods of one
            update a batch. A rest that makes no whole update is dropped.
        pretraining: A loss on data, already weighted, whose gradient is added to every
            update's; for instance ``lambda rng: 1e-2 * denoising_loss(model.denoiser, ...)``.
        scorer: How many motions are decoded and scored at a time, which bounds memory and is
            exact.

    Source: Tan et al. (2026), Algorithm 1; the mean over the batch is the loss, where the
    released code calls ``backward`` on a vector.
    """
    update = Updater(model.denoiser, optimizer, max_norm, accumulate, pretraining)
    weighting, options = method.weighting(model.n_steps), method.rollout_options
    for batch in batches:
        plan = method.plan(model.n_steps, batch.rng, batch.index)
        acting = model
        if method.updates == "chain":  # theta' learns, and theta goes on acting
            acting = replace(model, denoiser=deepcopy(model.denoiser))
        own = own_rows(batch)
        steps = rollout(acting, own.x_T, own.prompts, plan, own.noise, options=options)
        drift = Drift(steps, own.prompts, plan, anchor)
        left = len(plan.rewarded) + options.fresh_noises
        for step, scores in scorer(acting, reward, drift, own.prompts, plan, method):
            loss = drift.loss() - weighting(scores, step.index)
            (own.weight * loss / accumulate).backward()
            if acting is not model:
                hand_over(acting.denoiser, model.denoiser)
            left -= 1
            seen = own.weight * torch.stack([scores.detach().mean(), drift.last])
            whole = method.updates != "sum" or not left
            if (done := update(seen, whole, batch.rng)) is not None:
                yield Update(batch.index, step.index, not left, done)
