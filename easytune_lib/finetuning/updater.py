"""From gradients to updates: accumulation, clipping, and several processes that tune as one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from easytune_lib import distributed
from easytune_lib.diffusion.sampler import Randomness, ShareNoise
from easytune_lib.types import Denoiser, Prompts


@dataclass(frozen=True)
class Batch:
    """One batch of prompts with its noise and its own random stream."""

    index: int
    x_T: Float[Tensor, "batch tokens dim"]
    prompts: Prompts
    rng: torch.Generator  # for the method's choices and for stochastic samplers


@dataclass(frozen=True)
class OwnRows:
    """The rows of a batch that this process computes: all, where it is alone."""

    x_T: Float[Tensor, "rows tokens dim"]
    prompts: Prompts
    noise: Randomness
    weight: float  # of the mean over these rows, in the mean over processes


def own_rows(batch: Batch) -> OwnRows:
    """Return this process's share of a batch, under the noise that the whole batch has.

    Raises:
        ValueError: The batch has fewer rows than there are processes.
    """
    if distributed.size() == 1:
        return OwnRows(batch.x_T, batch.prompts, batch.rng, 1.0)
    rows, weight = distributed.share(len(batch.prompts))
    noise = ShareNoise(batch.rng, rows, len(batch.prompts))
    return OwnRows(batch.x_T[rows], batch.prompts.padded(rows), noise, weight)


class Updater:
    """Makes an optimizer step of every ``accumulate`` gradients; all processes begin alike.

    Args:
        denoiser: Whose ``.grad`` it takes.
        optimizer: Over those weights.
        max_norm: Gradients are clipped to this norm.
        accumulate: Gradients an update.
        pretraining: A loss on data whose gradient is added to every update's.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        optimizer: torch.optim.Optimizer,
        max_norm: float,
        accumulate: int,
        pretraining: Callable[[torch.Generator], Tensor] | None,
    ):
        self.weights = [weight for weight in denoiser.parameters() if weight.requires_grad]
        self.optimizer, self.max_norm = optimizer, max_norm
        self.accumulate, self.pretraining = accumulate, pretraining
        self.pending: list[Tensor] = []
        self.whole = 0
        distributed.broadcast(list(denoiser.state_dict().values()))
        optimizer.zero_grad()

    def __call__(
        self, seen: Float[Tensor, " n"], whole: bool, rng: torch.Generator
    ) -> Float[Tensor, " n+1"] | None:
        """Count one gradient that is in ``.grad`` now, and update where there are enough.

        Args:
            seen: What is to be reported of it.
            whole: With those before it, it makes a gradient that counts.
            rng: Of the batch, for the loss on data.

        Returns:
            The mean of what was seen and the norm before clipping, or ``None`` without an update.
        """
        self.pending.append(seen)
        self.whole += whole
        if self.whole < self.accumulate:
            return None
        if self.pretraining is not None:
            self.pretraining(rng).backward()
        distributed.average_gradients(self.weights)
        norm = nn.utils.clip_grad_norm_(self.weights, self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mean = distributed.average(torch.stack(self.pending).mean(0))
        self.pending.clear()
        self.whole = 0
        return torch.cat([mean, norm.to(mean)[None]])


def hand_over(giver: Denoiser, taker: Denoiser) -> None:
    """Move the gradients of one network to its twin."""
    for given, taken in zip(giver.parameters(), taker.parameters(), strict=True):
        if given.grad is not None:
            taken.grad = given.grad if taken.grad is None else taken.grad + given.grad
            given.grad = None
