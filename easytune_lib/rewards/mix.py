"""Rewards made of others: weighted mixes, any function, likeness to a reference motion."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.types import Prompts, Reward

Function = Callable[[Tensor, Prompts, Tensor | None], Tensor]
"""``(motion, prompts, t) -> (batch,)``, as of :class:`~easytune_lib.types.Reward`."""


class Mix:
    """A weighted sum of rewards: ``Mix({AlignmentReward(spm): 1.0, Jerk(): 0.002})``.

    >>> from easytune_lib.rewards.kinematic import Jerk
    >>> et.Mix([(bench.reward, 1.0), (Jerk(), 0.1)]).names
    ('AlignmentReward', 'Jerk')

    Rewards have units; a weight says how many of one are worth one of another. Look at
    :meth:`parts` on motions of the base model before choosing weights, and while tuning: a sum
    that rises may hide a part that falls.

    Args:
        rewards: Weights by reward; or pairs, where a reward cannot be a key.

    Raises:
        ValueError: There are none, or a weight is not finite.
    """

    def __init__(self, rewards: Mapping[Reward, float] | Sequence[tuple[Reward, float]]):
        pairs = list(rewards.items()) if isinstance(rewards, Mapping) else list(rewards)
        self.pairs: tuple[tuple[Reward, float], ...] = tuple(pairs)
        weights = [weight for _, weight in self.pairs]
        if not weights or not all(map(math.isfinite, weights)):
            raise ValueError(f"a mix needs at least one reward and finite weights, got {weights}")
        names: list[str] = []
        for reward, _ in self.pairs:
            name = getattr(reward, "name", getattr(reward, "__name__", type(reward).__name__))
            twins = sum(other.split(" #")[0] == name for other in names)
            names.append(f"{name} #{twins + 1}" if twins else name)
        self.names = tuple(names)

    def __call__(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The weighted sum."""
        scores = self.parts(motion, prompts, t).values()
        weighted = [weight * s for (_, weight), s in zip(self.pairs, scores, strict=True)]
        return torch.stack(weighted).sum(dim=0)

    def parts(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Each reward's scores, before they are weighted, by name (its own, or its class's)."""
        scores = [reward(motion, prompts, t) for reward, _ in self.pairs]
        return dict(zip(self.names, scores, strict=True))


@dataclass(frozen=True)
class FromFunction:
    """Any function as a reward, with its usual mistakes caught where they are made.

    The function gets ``(motion, prompts, t)``: features in physical units, zero where padded.
    :func:`~easytune_lib.rewards.kinematic.joints_of` makes joints of them, and
    :func:`~easytune_lib.rewards.kinematic.over_frames` leaves padding out of a mean.
    """

    function: Function
    name: str = "own reward"

    def __call__(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """One score a motion, from the function.

        Raises:
            ValueError: It is not one finite number a motion; or ``motion`` asks for a gradient,
                and none leads back to it.
        """
        seen = motion.view_as(motion)  # a node of its own, which the way back must pass
        scores = self.function(seen, prompts, t)
        wanted = (len(motion),)
        if not isinstance(scores, Tensor) or scores.shape != wanted:
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"{self.name!r} gave {got}, expected a tensor of shape {wanted}, one score a "
                "motion: take the mean over frames, as over_frames does"
            )
        if not scores.is_floating_point() or not scores.isfinite().all():
            raise ValueError(
                f"{self.name!r} gave {scores.tolist()[:8]}, expected finite floats: look for a "
                "division by 0, or for numbers read from padding"
            )
        if seen.requires_grad and not _leads_to(scores, seen):
            raise ValueError(
                f"{self.name!r} has no gradient to the motion: stay with torch, without detach, "
                "no_grad, item, numpy, argmax, rounding or comparisons"
            )
        return scores


@runtime_checkable
class MotionEncoder(Protocol):
    """Embeds motions; an :class:`~easytune_lib.rewards.alignment.AlignmentReward` is one."""

    def embed(
        self, motion: Tensor, prompts: Prompts, t: Tensor | None = None
    ) -> Float[Tensor, "batch latent"]:
        """One latent a motion, differentiable in ``motion``."""
        ...


class MotionSimilarity:
    """Cosine of the latents of a motion and of a reference motion, -1 to 1 (M2M).

    What "alike" means is the encoder's: one that was trained on captions is blind to what no
    caption says.

    Args:
        encoder: Frozen; embeds both.
        reference: Clean motions in physical units. One is the reference of every prompt; of
            several, each is that of the prompts with its caption.
        prompts: Captions and lengths of the reference.

    Raises:
        ValueError: Several references share a caption.

    Source: the M2M term of MotionRFT's released code, whose reference is the true motion of each
    caption: a supervision that a text-motion reward does without. Deviation: mean latents.
    """

    def __init__(
        self,
        encoder: MotionEncoder,
        reference: Float[Tensor, "references frames features"],
        prompts: Prompts,
    ):
        if len(set(prompts.texts)) < len(prompts):
            raise ValueError(f"{len(prompts)} references share captions: keep one a caption")
        self.encoder = encoder
        self.row = {text: row for row, text in enumerate(prompts.texts)}
        with torch.no_grad():
            self.latents = encoder.embed(reference, prompts)

    def __call__(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """One score a motion; ``t`` is that of ``motion``, the reference is clean.

        Raises:
            ValueError: A caption has no reference.
        """
        latents = self.encoder.embed(motion, prompts, t)
        if len(self.row) == 1:
            return F.cosine_similarity(latents, self.latents.expand_as(latents), dim=-1)
        if missing := sorted(set(prompts.texts) - self.row.keys()):
            raise ValueError(f"no reference motion for {missing[:5]} ({len(missing)} captions)")
        rows = [self.row[text] for text in prompts.texts]
        return F.cosine_similarity(latents, self.latents[rows], dim=-1)


def gradient_error(
    reward: Reward,
    motion: Float[Tensor, "batch frames features"],
    prompts: Prompts,
    rng: torch.Generator,
    *,
    step: float = 1e-6,
    directions: int = 4,
) -> float:
    """Measure a reward's gradient against finite differences; a relative 1e-7 or so is exact.

    Compares derivatives along random directions with central differences, in float64 (a network
    in float32 inside a reward needs a ``step`` of about 1e-2, and reaches about 1e-2).

    Args:
        reward: To check; what it says of one motion must not depend on the others.
        motion: Where; padding is left alone.
        prompts: Captions and lengths.
        rng: Draws directions.
        step: Length of a step along a direction of unit size a number.
        directions: How many are tried; the worst counts.

    Raises:
        ValueError: The gradient is zero everywhere, so that nothing can be learned.
    """
    x = motion.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(x, prompts).sum(), x)
    real = prompts.mask[..., None].to(x.device)
    gradient = gradient * real
    if not gradient.any():
        raise ValueError("the gradient is 0 at this motion: the reward is flat here")
    worst = 0.0
    for _ in range(directions):
        way = torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x.device) * real
        with torch.no_grad():
            up, down = (reward(x + sign * step * way, prompts).double() for sign in (1, -1))
        found, wanted = (gradient * way).flatten(1).sum(1), (up - down) / (2 * step)
        size = (gradient.flatten(1).norm(dim=1)).clamp(min=1e-12)
        worst = max(worst, float(((found - wanted).abs() / size).max()))
    return worst


def _leads_to(scores: Tensor, motion: Tensor) -> bool:
    """Tell if the backward graph of ``scores`` comes by ``motion``."""
    open_nodes, seen = [scores.grad_fn], set()
    while open_nodes:
        node = open_nodes.pop()
        if node is motion.grad_fn:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            open_nodes += [before for before, _ in node.next_functions]
    return False
