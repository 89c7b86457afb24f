"""The one fine-tuning loop."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import rollout, score
from easytune_lib.protocols import FineTuneMethod, Prompts, Reward
from easytune_lib.seeding import stream


@dataclass(frozen=True)
class Batch:
    """One batch of prompts with its noise and its own random stream."""

    index: int
    x_T: Float[Tensor, "batch tokens dim"]
    prompts: Prompts
    rng: torch.Generator  # for the method's choices and for stochastic samplers


@dataclass(frozen=True)
class Update:
    """One optimizer step: where it happened and what it saw."""

    batch: int  # of the stream of batches
    step: int  # denoising step that was rewarded
    reward: float  # mean over the batch, before the update
    grad_norm: float  # before clipping
    last: bool  # nothing of this batch is left to do


def batches(
    model: MotionDiffusion, pool: Prompts, size: int, seed: int, start: int = 0
) -> Iterator[Batch]:
    """Endless batches of prompts drawn from ``pool``, the same for every method.

    Batch ``i`` depends on ``(seed, i)`` alone, so that a run may be resumed at any batch.
    """
    index = start
    while True:
        rng = stream(seed, "finetune", index)
        prompts = pool[torch.randint(len(pool), (size,), generator=rng)]
        yield Batch(index, model.draw_noise(prompts, rng), prompts, rng)
        index += 1


def finetune(
    model: MotionDiffusion,
    reward: Reward,
    batches: Iterable[Batch],
    method: FineTuneMethod,
    optimizer: torch.optim.Optimizer,
    max_norm: float = 1.0,
) -> Iterator[Update]:
    """Raise ``reward`` on generated motions; yields after every optimizer step.

    Args:
        model: Only its denoiser is trained, in eval mode: no dropout in rollouts.
        reward: Frozen; see :class:`~easytune_lib.protocols.Reward`.
        batches: Prompts and noise, for instance from :func:`batches`.
        method: What is recorded and rewarded.
        optimizer: Over ``model.denoiser.parameters()``.
        max_norm: Gradients are clipped to this norm.

    Source: Tan et al. (2026), Algorithm 1; the mean over the batch is the loss, where the
    released code calls ``backward`` on a vector.
    """
    weights = list(model.denoiser.parameters())
    for batch in batches:
        plan = method.plan(model.n_steps, batch.rng)
        for step in rollout(model, batch.x_T, batch.prompts, plan, batch.rng):
            if step.index not in plan.rewarded:
                continue
            mean = score(model, reward, step, batch.prompts, plan).mean()
            optimizer.zero_grad()
            (-mean).backward()
            norm = nn.utils.clip_grad_norm_(weights, max_norm)
            optimizer.step()
            yield Update(batch.index, step.index, mean.item(), norm.item(), step.index == plan.last)
