"""Losses of the step-aware text-motion model, and the noise that it is trained with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.data.corpus import Clip, MotionBatch, draw_balanced
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.distributed import by_rows
from easytune_lib.rewards.spm import SPM, Gaussian
from easytune_lib.training import Objective, Precision, rounded
from easytune_lib.types import TextFeatures

CaptionFeatures = Callable[[Sequence[str]], TextFeatures]
"""Looks captions up, for instance a :class:`~easytune_lib.text.table.CaptionTable`."""


@dataclass(frozen=True)
class SPMLoss:
    """Weights of the terms; the paper's by default."""

    reconstruction: float = 1.0
    kl: float = 1e-5
    latent: float = 1e-5
    contrastive: float = 0.1
    temperature: float = 0.1
    threshold: float = 0.8  # sentence cosine above which unlabelled captions mean the same


LAPTOP = SPMLoss(reconstruction=0.5, contrastive=1.0)
"""Retrieval first. A deviation from the paper: a laptop trains for minutes, not for days."""


@runtime_checkable
class Corruption(Protocol):
    """Hides motions as a diffusion does, so that a reward learns to read them at any step."""

    def __call__(
        self, model: SPM, batch: MotionBatch, rng: torch.Generator
    ) -> tuple[Float[Tensor, "batch frames features"], Int[Tensor, " batch"]]:
        """Motions in physical units, some of them noised, and each one's step (0: clean)."""
        ...


@dataclass(frozen=True)
class StepNoise:
    """Noise on the features themselves, as in the released code.

    Source: Tan et al. (2026), section on noise-aware training. Deviations from the released
    code: drawn for each motion, not for each batch; on normalised features, where it is on
    raw ones; a motion left clean is said to be clean, where it is told a random step.
    """

    probability: float = 0.5
    max_t: int = 500  # t is uniform in 0 .. max_t, of 1000

    def __call__(
        self, model: SPM, batch: MotionBatch, rng: torch.Generator
    ) -> tuple[Float[Tensor, "batch frames features"], Int[Tensor, " batch"]]:
        """See :class:`Corruption`."""
        x = model.normalise(batch.features, batch.mask)
        x, t = _noised(x, self.probability, self.max_t, rng)
        return model.denormalise(x, batch.mask), t


@dataclass(frozen=True)
class LatentNoise:
    """Noise on a latent, decoded: what a latent diffusion really shows its reward.

    A motion left clean is not sent through the decoder.
    """

    encode: Callable[[Tensor, Tensor], Tensor]  # motion in physical units and mask to a latent
    decode: Callable[[Tensor, Tensor], Tensor]  # a latent and mask to motion in physical units
    probability: float = 0.5
    max_t: int = 999  # a decoder hides much noise, so that all of the chain is worth reading

    @torch.no_grad()
    def __call__(
        self, model: SPM, batch: MotionBatch, rng: torch.Generator
    ) -> tuple[Float[Tensor, "batch frames features"], Int[Tensor, " batch"]]:
        """See :class:`Corruption`."""
        latent, t = _noised(
            self.encode(batch.features, batch.mask), self.probability, self.max_t, rng
        )
        decoded = self.decode(latent, batch.mask)
        return torch.where((t == 0)[:, None, None], batch.features, decoded), t


def _noised(
    x: Float[Tensor, "batch tokens dim"], probability: float, max_t: int, rng: torch.Generator
) -> tuple[Float[Tensor, "batch tokens dim"], Int[Tensor, " batch"]]:
    """Some states with the noise of a random step, and each one's step (0: left as it was)."""
    noised = torch.rand(len(x), generator=rng) < probability
    t = torch.randint(max_t + 1, (len(x),), generator=rng)
    noise = torch.randn(x.shape, generator=rng, dtype=x.dtype)
    noised, t, noise = noised.to(x.device), t.to(x.device), noise.to(x.device)
    x_t = NoiseSchedule.scaled_linear().add_noise(x, noise, t)
    return torch.where(noised[:, None, None], x_t, x), torch.where(noised, t, 0)


MIXED = StepNoise()
"""Half of the motions clean, half noised."""


@dataclass(frozen=True, eq=False)
class Meaning:
    """Names and sentence embeddings, by which two clips are found to mean the same."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]  # "" where unknown
    ids: tuple[str, ...]
    sentence: Float[Tensor, "clips width"]

    @classmethod
    def of(cls, batch: MotionBatch, text: TextFeatures) -> "Meaning":
        """Gather a batch's names and the sentences of its captions."""
        return cls(batch.texts, batch.labels, batch.ids, text.sentence)

    def __getitem__(self, rows: Sequence[int]) -> "Meaning":
        def pick(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names[i] for i in rows)

        return Meaning(pick(self.texts), pick(self.labels), pick(self.ids), self.sentence[rows])


def same_meaning(
    asked: Meaning, motions: Meaning, threshold: float
) -> Bool[Tensor, "texts motions"]:
    """True where a motion fits a caption as well as that caption's own motion.

    That is so where both have the same label, the same caption or the same clip; and, where
    a label is unknown, where the cosine of the sentences exceeds ``threshold``.

    Deviation from the paper, which asks the cosine alone: captions made from templates are
    alike throughout (12 % of the pairs of the laptop corpus with different labels exceed .8).
    """
    a, b = (F.normalize(part.sentence, dim=-1) for part in (asked, motions))
    alike = a @ b.T

    def equal(a: Sequence[str], b: Sequence[str]) -> Tensor:
        return torch.from_numpy(np.equal.outer(np.array(a), np.array(b))).to(alike.device)

    unknown = torch.tensor([not label for label in asked.labels], device=alike.device)[:, None]
    unknown = unknown | torch.tensor([not label for label in motions.labels], device=alike.device)
    same = torch.where(unknown, alike > threshold, equal(asked.labels, motions.labels))
    return same | equal(asked.texts, motions.texts) | equal(asked.ids, motions.ids)


def info_nce(
    similarity: Float[Tensor, "batch batch"],
    same: Bool[Tensor, "batch batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE; pairs that are ``same`` off the diagonal are no negatives.

    Source: Tan et al. (2026), after TMR (Petrovich et al., 2023), Eq. 2.
    """
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    logits = (similarity / temperature).masked_fill(same & ~own, -torch.inf)
    target = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def kl(a: Gaussian, b: Gaussian) -> Float[Tensor, ""]:
    """KL(a || b) of diagonal Gaussians, mean over batch and dimensions."""
    (mu_a, logvar_a), (mu_b, logvar_b) = a, b
    ratio = (logvar_a - logvar_b).exp() + (mu_a - mu_b) ** 2 * (-logvar_b).exp()
    return 0.5 * (ratio - 1 - logvar_a + logvar_b).mean()


def spm_loss(
    model: SPM,
    batch: MotionBatch,
    text: TextFeatures,
    rng: torch.Generator,
    loss: SPMLoss = LAPTOP,
    noise: Corruption | None = None,
    *,
    precision: Precision = "float32",
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The loss of one batch, and its terms before they are weighted.

    Both latents are decoded to the clean motion; the four KL terms tie the two Gaussians to
    each other and to the unit Gaussian. ``precision`` is that of the model's passes alone.

    Source: Tan et al. (2026), section on the reward, after TEMOS. Deviations: the contrast is
    between mean latents, as in the reward, not between sampled ones; a noised motion is
    decoded to the clean one.
    """
    mask = batch.mask
    clean = model.normalise(batch.features, mask)
    seen, t = (batch.features, None) if noise is None else noise(model, batch, rng)
    read_motion, read_text, decode = (
        rounded(part, precision, mask.device)
        for part in (model.encode_motion, model.encode_text, model.decode)
    )
    motion, caption = by_rows(read_motion, seen, mask, t), by_rows(read_text, text, t)
    unit = (torch.zeros_like(motion[0]), torch.zeros_like(motion[0]))

    def sample(gaussian: Gaussian) -> Tensor:
        mu, logvar = gaussian
        draw = torch.randn(mu.shape, generator=rng, dtype=mu.dtype).to(mu.device)
        return mu + (0.5 * logvar).exp() * draw

    z_motion, z_caption = sample(motion), sample(caption)
    real = mask.sum() * clean.shape[2]
    decoded = by_rows(decode, torch.cat([z_caption, z_motion]), mask.repeat(2, 1))
    similarity = F.normalize(caption[0], dim=-1) @ F.normalize(motion[0], dim=-1).T
    meaning = Meaning.of(batch, text)
    same = same_meaning(meaning, meaning, loss.threshold)
    terms = {
        "reconstruction": F.smooth_l1_loss(decoded, clean.repeat(2, 1, 1), reduction="sum") / real,
        "kl": kl(caption, motion) + kl(motion, caption) + kl(motion, unit) + kl(caption, unit),
        "latent": F.smooth_l1_loss(z_motion, z_caption),
        "contrastive": info_nce(similarity, same, loss.temperature),
    }
    total = torch.stack([getattr(loss, name) * term for name, term in terms.items()]).sum()
    return total, {name: term.item() for name, term in terms.items()}


def spm_objective(
    model: SPM,
    clips: Sequence[Clip],
    features: CaptionFeatures,
    *,
    loss: SPMLoss = LAPTOP,
    noise: Corruption | None = MIXED,
    batch_size: int = 64,
    max_frames: int = 128,
    buckets: int = 1,
    precision: Precision = "float32",
) -> Objective:
    """An objective for :func:`easytune_lib.training.train`.

    Args:
        model: The model to train.
        clips: What it sees.
        features: Features of each caption of ``clips``.
        loss: Weights of the terms.
        noise: ``None`` trains on clean motions only.
        batch_size: Clips a batch.
        max_frames: Longer clips are cut, at a random place.
        buckets: Batches that are drawn at once and sorted by length; see ``draw_balanced``.
        precision: Of the model's passes; "bf16" is faster only where the processor has such
            instructions.
    """
    draw = draw_balanced(clips, batch_size, max_frames, buckets)
    device = model.mean.device

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = draw(rng).to(device)
        text = features(batch.texts).to(device)
        return spm_loss(model, batch, text, rng, loss, noise, precision=precision)

    return objective
