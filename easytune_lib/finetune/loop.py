"""The one fine-tuning loop."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import Step, rollout, score
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
    drift: float  # mean squared distance of the noise estimate from the anchor's; 0 without one
    last: bool  # nothing of this batch is left to do


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
    anchor: Anchor | None = None,
) -> Iterator[Update]:
    """Raise ``reward`` on generated motions; yields after every optimizer step.

    Args:
        model: Only its denoiser is trained, in eval mode: no dropout in rollouts.
        reward: Frozen; see :class:`~easytune_lib.protocols.Reward`.
        batches: Prompts and noise, for instance from :func:`batches`.
        method: What is recorded and rewarded.
        optimizer: Over ``model.denoiser.parameters()``.
        max_norm: Gradients are clipped to this norm.
        anchor: What keeps the model from drifting away; none by default, as in the paper's runs.

    Source: Tan et al. (2026), Algorithm 1; the mean over the batch is the loss, where the
    released code calls ``backward`` on a vector.
    """
    weights = list(model.denoiser.parameters())
    for batch in batches:
        plan = method.plan(model.n_steps, batch.rng)
        drifts: list[Tensor] = []
        for step in rollout(model, batch.x_T, batch.prompts, plan, batch.rng):
            if anchor is not None and step.index in plan.recorded:
                drifts.append(anchor(step, batch.prompts))
            if step.index not in plan.rewarded:
                continue
            mean = score(model, reward, step, batch.prompts, plan).mean()
            drift = torch.stack(drifts).mean() if drifts else torch.zeros(())
            loss = -mean if anchor is None else anchor.weight * drift - mean
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(weights, max_norm)
            optimizer.step()
            drifts.clear()
            yield Update(
                batch.index, step.index, mean.item(), norm.item(), drift.item(),
                step.index == plan.last,
            )  # fmt: skip
