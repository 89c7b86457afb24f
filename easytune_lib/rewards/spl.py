"""Self-refinement Preference Learning (SPL): the reward learns from its own retrieval failures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.motion.corpus import Clip, MotionBatch
from easytune_lib.protocols import Prompts, TextFeatures
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.objective import (
    LAPTOP,
    MIXED,
    CaptionFeatures,
    SPMLoss,
    StepNoise,
    draw_balanced,
    same_meaning,
    spm_loss,
)
from easytune_lib.rewards.spm import SPM
from easytune_lib.training import Objective


@dataclass(frozen=True)
class SPL:
    """How preferences are mined from the reward's failures, and what they weigh.

    Source: Tan et al. (2026), Eq. 13 to 17; K = 10, weight 1e-2. Deviations: a caption's false
    negatives neither take a place among the top k nor are they ever the loser; the temperature
    is InfoNCE's (the released code divides by it twice, .01 in all).
    """

    top_k: int = 10
    temperature: float = 0.1
    weight: float = 1e-2  # beside the loss of the SPM
    pool: int = 256  # motions a step that captions are searched in, the batch among them


def mine(
    scores: Float[Tensor, "texts motions"],
    truth: Int[Tensor, " texts"],
    same: Bool[Tensor, "texts motions"],
    k: int,
) -> tuple[Bool[Tensor, " texts"], Int[Tensor, " texts"]]:
    """Which captions miss their motion among the top ``k``, and the best wrong motion of each.

    Args:
        scores: Reward of each motion for each caption.
        truth: Each caption's own motion.
        same: Motions that fit the caption as well: they are out of the competition.
        k: 1 to ``motions - 1``. A wrong motion that ties with the truth ranks above it.

    Raises:
        ValueError: Nothing could be missed, or no place is given.
    """
    if not 1 <= k < scores.shape[1]:
        raise ValueError(
            f"top {k} of {scores.shape[1]} motions: k must be 1 to {scores.shape[1] - 1}, "
            "or each truth is retrieved; take a smaller k or a larger pool"
        )
    out = same.scatter(1, truth[:, None], True)
    wrong = scores.masked_fill(out, -torch.inf)
    return (wrong >= scores.gather(1, truth[:, None])).sum(1) >= k, wrong.argmax(1)


def preference_loss(
    winner: Float[Tensor, " pairs"], loser: Float[Tensor, " pairs"], temperature: float
) -> Float[Tensor, " pairs"]:
    """KL of the preference (1, 0) and the softmax of the two rewards over ``temperature``.

    Source: Tan et al. (2026), Eq. 15 and 17; equal to ``-log sigmoid`` of the margin.
    """
    return F.softplus((loser - winner) / temperature)


def spl_loss(
    scores: Float[Tensor, "texts motions"],
    truth: Int[Tensor, " texts"],
    same: Bool[Tensor, "texts motions"],
    k: int = 10,
    temperature: float = 0.1,
) -> tuple[Float[Tensor, ""], float]:
    """The loss, a mean over all captions, and the share of captions that were refined.

    A caption whose motion is retrieved adds exactly 0, to the loss and to the gradient; of the
    others, only the scores of the truth and of the best wrong motion get a gradient.
    Arguments as those of :func:`mine`.

    Source: Tan et al. (2026), Eq. 13 to 17.
    """
    refined, loser = mine(scores.detach(), truth, same, k)
    pair = scores.gather(1, torch.stack([truth, loser], dim=1))[refined]
    loss = preference_loss(pair[:, 0], pair[:, 1], temperature).sum() / len(scores)
    return loss, refined.float().mean().item()


def spl_objective(
    model: SPM,
    clips: Sequence[Clip],
    features: CaptionFeatures,
    spl: SPL = SPL(),
    loss: SPMLoss = LAPTOP,
    noise: StepNoise | None = MIXED,
    batch_size: int = 64,
    max_frames: int = 128,
) -> Objective:
    """The SPM's loss plus SPL's; other arguments as those of ``spm_objective``.

    It refines a reward that can already retrieve: mined from a fresh one, nearly all captions
    are failures and the hardest of wrong motions stop it from learning.

    Each step searches a new pool of clean motions with the reward as it is now, without
    gradient; the pairs found are encoded again, with gradient. So nothing is remembered from
    step to step, and a resumed training equals an unbroken one.

    Raises:
        ValueError: ``spl.pool`` is smaller than a batch.
    """
    if spl.pool < batch_size:
        raise ValueError(f"a pool of {spl.pool} can not hold the batch of {batch_size} motions")
    draw = draw_balanced(clips, spl.pool, max_frames)
    device = model.mean.device

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pool = draw(rng).to(device)
        every = features(pool.texts).to(device)
        own = torch.arange(batch_size, device=device)
        batch, text = _rows(pool, own), every[:batch_size]
        total, terms = spm_loss(model, batch, text, rng, loss, noise)
        same = same_meaning(batch, pool, text, every, loss.threshold)
        refined, loser = mine(_search(model, text, pool, every), own, same, spl.top_k)
        preference = torch.zeros((), device=device)
        if refined.any():
            pairs = _rows(pool, torch.cat([own[refined], loser[refined]]))
            motion, _ = model.encode_motion(pairs.features, pairs.mask)
            caption, _ = model.encode_text(text[own[refined]])
            won, lost = F.cosine_similarity(motion, caption.repeat(2, 1)).chunk(2)
            preference = preference_loss(won, lost, spl.temperature).sum() / batch_size
        terms |= {"spl": preference.item(), "refined": refined.float().mean().item()}
        return total + spl.weight * preference, terms

    return objective


@torch.no_grad()
def _search(model: SPM, text: TextFeatures, pool: MotionBatch, every: TextFeatures) -> Tensor:
    """The current reward of each motion of ``pool`` for each caption."""
    reward = AlignmentReward(model)
    found = []
    order = pool.lengths.argsort(stable=True)
    for index in order.split(64):  # by length, so that little is padded
        part = _rows(pool, index)
        found.append(reward.embed(part.features, Prompts(every[index], part.lengths)))
    motions = torch.cat(found)[order.argsort()]
    return F.normalize(reward.embed_text(text), dim=-1) @ F.normalize(motions, dim=-1).T


def _rows(batch: MotionBatch, index: Tensor) -> MotionBatch:
    lengths, chosen = batch.lengths[index], index.tolist()
    return MotionBatch(
        batch.features[index, : int(lengths.max())],
        lengths,
        *(
            tuple(names[i] for i in chosen)
            for names in (batch.texts, batch.labels, batch.ids)
        ),
    )  # fmt: skip
