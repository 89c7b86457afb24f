"""Self-refinement Preference Learning (SPL): the reward learns from its own retrieval failures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.data.corpus import Clip, MotionBatch, draw_balanced
from easytune_lib.distributed import by_rows
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.losses import (
    LAPTOP,
    MIXED,
    CaptionFeatures,
    Corruption,
    Meaning,
    SPMLoss,
    same_meaning,
    spm_loss,
)
from easytune_lib.rewards.spm import SPM
from easytune_lib.training import Objective
from easytune_lib.types import Prompts, TextFeatures


@dataclass(frozen=True)
class SPL:
    """Settings of the preferences that are mined from the reward's failures.

    >>> et.SPL(top_k=5).weight
    0.01

    Motions are searched in a bank of embeddings of all clips, which is encoded anew every
    ``refresh`` steps, so that a pool may be far larger than a batch.

    Source: Tan et al. (2026), Eq. 13 to 17; K = 10, weight 1e-2. Deviations: a caption's false
    negatives neither take a place among the top k nor are they ever the loser; the temperature
    is InfoNCE's (the released code divides by it twice, .01 in all).
    """

    top_k: int = 10
    temperature: float = 0.1
    weight: float = 1e-2  # beside the loss of the SPM
    pool: int = 256  # motions that each caption is searched in, beside its own
    refresh: int = 20  # steps; 1 mines with the reward exactly as it is


@dataclass(frozen=True)
class OfficialSPL:
    """SPL as the released code does it, which is not what the paper says.

    Pairs come from the batch alone, by the cosine of sampled latents. A caption counts as
    correct where its motion is among the top k, or where *any* motion of the batch has a cosine
    above ``correct_above``. Correct captions are not skipped: their target is (0.5, 0.5) on the
    first motion and the true one, which pulls a hard negative and the truth together. The
    temperature is applied twice.

    Source: the code released with Tan et al. (2026), ``train_spm.py``.
    """

    top_k: int = 10
    temperature: float = 0.1
    weight: float = 1e-2
    correct_above: float = 0.8


def mine(
    scores: Float[Tensor, "texts motions"],
    truth: Int[Tensor, " texts"],
    same: Bool[Tensor, "texts motions"],
    k: int,
) -> tuple[Bool[Tensor, " texts"], Int[Tensor, " texts"]]:
    """Find captions that miss their motion among the top ``k``, and the best wrong motion of each.

    Args:
        scores: Reward of each motion for each caption.
        truth: Each caption's own motion.
        same: Motions that fit the caption as well: they are out of the competition.
        k: 1 to ``motions - 1``. A wrong motion that ties with the truth ranks above it.

    Raises:
        ValueError: Nothing could be missed, or no place is given.

    Source: Tan et al. (2026), Eq. 13 and 14.
    """
    if not 1 <= k < scores.shape[1]:
        raise ValueError(
            f"top {k} of {scores.shape[1]} motions: k must be 1 to {scores.shape[1] - 1}, "
            "or each truth is retrieved; take a smaller k or a larger pool"
        )
    out = same.scatter(1, truth[:, None], True)
    wrong = scores.masked_fill(out, -torch.inf)
    return (wrong >= scores.gather(1, truth[:, None])).sum(1) >= k, wrong.argmax(1)


def spl_loss(
    winner: Float[Tensor, " pairs"],
    loser: Float[Tensor, " pairs"],
    captions: int,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """KL of the preference (1, 0) and the softmax of each pair of rewards, over all captions.

    A caption whose motion is retrieved has no pair: it adds exactly 0, to loss and gradient.

    Args:
        winner: Reward of the true motion of each caption that :func:`mine` finds refined.
        loser: Of the best wrong motion of that caption.
        captions: Captions of the batch, refined or not, that the mean is over.
        temperature: Of the softmax.

    Source: Tan et al. (2026), Eq. 15 to 17; a pair's KL is ``-log sigmoid`` of its margin.
    """
    return F.softplus((loser - winner) / temperature).sum() / captions


def official_spl_loss(
    scores: Float[Tensor, "batch batch"], spl: OfficialSPL
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The released code's loss; row ``i``'s own motion is column ``i``.

    Returns:
        The mean over captions, and two shares of the captions: ``refined``, counted as wrong,
        and ``pulled``, counted as correct though another motion is first, so that the loss
        pulls the two together.

    Source: see :class:`OfficialSPL`.
    """
    own = scores.diagonal()
    first, place = scores.max(dim=1)
    found = (scores > own[:, None]).sum(dim=1) < spl.top_k
    correct = found | (scores > spl.correct_above).any(dim=1)
    pair = torch.stack([own, first], dim=1) / spl.temperature / spl.temperature
    target = torch.where(correct[:, None], pair.new_tensor([0.5, 0.5]), pair.new_tensor([1.0, 0.0]))
    loss = F.kl_div(pair.log_softmax(dim=1), target, reduction="batchmean")
    second = place != torch.arange(len(scores), device=scores.device)
    shares = {"refined": ~correct, "pulled": correct & second}
    return loss, {name: rows.float().mean().item() for name, rows in shares.items()}


class Refinement:
    """The SPM's loss plus SPL's, as an objective for :func:`easytune_lib.training.train`.

    ``state`` is the bank: what a resumed training must remember to equal an unbroken one.
    """

    def __init__(
        self,
        model: SPM,
        clips: Sequence[Clip],
        features: CaptionFeatures,
        *,
        spl: SPL,
        loss: SPMLoss,
        noise: Corruption | None,
        batch_size: int,
        max_frames: int,
    ):
        self.model, self.clips, self.features = model, clips, features
        self.spl, self.loss, self.noise, self.max_frames = spl, loss, noise, max_frames
        self.draw = draw_balanced(clips, batch_size, max_frames)
        self.row = {clip.id: row for row, clip in enumerate(clips)}
        captions = tuple(clip.captions[0].text for clip in clips)
        self.meaning = Meaning(
            captions,
            tuple(clip.label for clip in clips),
            tuple(clip.id for clip in clips),
            features(captions).sentence.to(model.mean.device),
        )
        latent = model.from_latent.in_features
        self.state = {
            "bank": model.mean.new_zeros(len(clips), latent),
            "age": torch.tensor(spl.refresh),  # steps since the bank was encoded
        }

    def __call__(self, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch, and its terms; ``refined`` is the share of captions missed."""
        model, spl, device = self.model, self.spl, self.model.mean.device
        if self.state["age"] >= spl.refresh:
            self._refresh()
        self.state["age"] += 1
        batch = self.draw(rng).to(device)
        text = self.features(batch.texts).to(device)
        total, terms = spm_loss(model, batch, text, rng, self.loss, self.noise)
        refined, loser = self._mine(batch, text, rng)
        preference = torch.zeros((), device=device)
        if refined.any():
            right = batch.features[refined], batch.mask[refined]
            won = by_rows(model.encode_motion, *right)[0]
            wrong = self._clips(loser[refined].tolist()).to(device)
            lost = by_rows(model.encode_motion, wrong.features, wrong.mask)[0]
            caption = by_rows(model.encode_text, text[refined.nonzero().flatten()])[0]
            winner, worse = (F.cosine_similarity(motion, caption) for motion in (won, lost))
            preference = spl_loss(winner, worse, len(batch), spl.temperature)
        terms |= {"spl": preference.item(), "refined": refined.float().mean().item()}
        return total + spl.weight * preference, terms

    @torch.no_grad()
    def _mine(
        self, batch: MotionBatch, text: TextFeatures, rng: torch.Generator
    ) -> tuple[Bool[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Which captions are missed, and the row of the clip that is wrongly preferred."""
        own = torch.tensor([self.row[name] for name in batch.ids])
        drawn = torch.randperm(len(self.clips), generator=rng)[: self.spl.pool]
        pool = torch.cat([own, drawn[~torch.isin(drawn, own)]]).unique()
        caption = by_rows(AlignmentReward(self.model).embed_text, text)
        bank = self.state["bank"][pool.to(text.tokens.device)]
        scores = F.normalize(caption, dim=-1) @ F.normalize(bank, dim=-1).T
        same = same_meaning(
            Meaning.of(batch, text), self.meaning[pool.tolist()], self.loss.threshold
        )
        truth = torch.searchsorted(pool, own).to(scores.device)
        refined, loser = mine(scores, truth, same, self.spl.top_k)
        return refined, pool.to(scores.device)[loser]

    @torch.no_grad()
    def _refresh(self) -> None:
        """Encode all clips from their start, by length, so that little is padded."""
        reward, device = AlignmentReward(self.model), self.model.mean.device
        order = sorted(range(len(self.clips)), key=lambda i: len(self.clips[i].features))
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            part = self._clips(rows).to(device)
            asked = Prompts(self.features(part.texts[:1]).to(device)[[0] * len(part)], part.lengths)
            self.state["bank"][rows] = by_rows(reward.embed, part.features, asked)
        self.state["age"].zero_()

    def _clips(self, rows: Sequence[int]) -> MotionBatch:
        """Clips from their start; which caption they carry plays no role."""
        chosen = [self.clips[row] for row in rows]
        rng = torch.Generator().manual_seed(0)
        return MotionBatch.collate(chosen, rng, max_frames=self.max_frames, crop="start")


def spl_objective(
    model: SPM,
    clips: Sequence[Clip],
    features: CaptionFeatures,
    spl: SPL = SPL(),
    *,
    loss: SPMLoss = LAPTOP,
    noise: Corruption | None = MIXED,
    batch_size: int = 64,
    max_frames: int = 128,
) -> Refinement:
    """The SPM's loss plus SPL's, as the paper has it; other arguments as of ``spm_objective``.

    It refines a reward that can already retrieve: mined from a fresh one, nearly all captions
    are failures and the hardest of wrong motions stop it from learning.

    Raises:
        ValueError: A pool of ``spl.pool`` leaves nothing that could be missed.
    """
    if not 1 <= spl.top_k <= min(spl.pool, len(clips) - 1):
        raise ValueError(
            f"top {spl.top_k} of a pool of {spl.pool} out of {len(clips)} clips: top_k must be at "
            "least 1 and smaller than the pool and the corpus, or nothing can be missed"
        )
    return Refinement(
        model, clips, features, spl=spl, loss=loss, noise=noise, batch_size=batch_size,
        max_frames=max_frames,
    )  # fmt: skip


def official_spl_objective(
    model: SPM,
    clips: Sequence[Clip],
    features: CaptionFeatures,
    spl: OfficialSPL = OfficialSPL(),
    *,
    loss: SPMLoss = LAPTOP,
    noise: Corruption | None = MIXED,
    batch_size: int = 64,
    max_frames: int = 128,
) -> Objective:
    """The SPM's loss plus SPL's, as the released code has it.

    Deviation: the batch's clean motions are encoded again, where the code reuses the latents,
    noised or not, that the SPM's loss was computed from.
    """
    draw = draw_balanced(clips, batch_size, max_frames)
    device = model.mean.device

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = draw(rng).to(device)
        text = features(batch.texts).to(device)
        total, terms = spm_loss(model, batch, text, rng, loss, noise)
        drawn = [
            mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=rng).to(mu)
            for mu, logvar in (
                by_rows(model.encode_text, text),
                by_rows(model.encode_motion, batch.features, batch.mask),
            )
        ]
        caption, motion = (F.normalize(latent, dim=-1) for latent in drawn)
        preference, shares = official_spl_loss(caption @ motion.T, spl)
        return total + spl.weight * preference, terms | {"spl": preference.item()} | shares

    return objective
