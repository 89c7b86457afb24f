"""The judge's report on a set of motions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from easytune_lib.choices import check_choice
from easytune_lib.metrics.distribution import diversity, frechet_distance, moments
from easytune_lib.metrics.foot import foot_skate_ratio, mean_jerk
from easytune_lib.metrics.judge import Judge
from easytune_lib.metrics.retrieval import r_precision
from easytune_lib.motion.features import to_joints
from easytune_lib.storage import load_tensors, save_tensors
from easytune_lib.types import Prompts

Distinct = Literal["label", "caption", "none"]


@dataclass(frozen=True)
class Scores:
    """One set of motions, one draw of noise."""

    r1: float  # R-precision top 1, 2 and 3 in groups of 32; higher is better
    r2: float
    r3: float
    mm_dist: float  # caption to its motion, in [0, 2]; lower is better
    fid: float  # to the reference; lower is better
    diversity: float  # as high as the reference's is best
    foot_skate: float | None = None  # share of steps; None where only embeddings are known
    jerk: float | None = None  # m/s³; as high as real motion's is best


@dataclass(frozen=True, eq=False)
class Reference:
    """Real motion as the judge sees it: all that FID needs, and no motion."""

    mean: Float[Tensor, " dim"]  # float64
    covariance: Float[Tensor, "dim dim"]  # float64
    count: int  # motions

    @classmethod
    def of(cls, embeddings: Float[Tensor, "n dim"]) -> "Reference":
        """Moments of the judge's embeddings of real motions.

        Raises:
            ValueError: Fewer motions than dimensions + 1.
        """
        return cls(*moments(embeddings), len(embeddings))

    def fid(self, embeddings: Float[Tensor, "n dim"]) -> float:
        """Fréchet distance of ``embeddings`` to the reference; at least dimensions + 1 rows."""
        mean, covariance = moments(embeddings)
        return frechet_distance(mean, covariance, self.mean.to(mean), self.covariance.to(mean))

    def save(self, path: Path) -> Path:
        """Write a small safetensors file, atomically."""
        tensors = {"mean": self.mean, "covariance": self.covariance}
        return save_tensors(path, tensors, {"reference": {"count": self.count}})

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: The file is missing or holds no reference.
        """
        tensors, config = load_tensors(path)
        try:
            count = int(config["reference"]["count"])
            return cls(tensors["mean"], tensors["covariance"], count)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no reference statistics") from error


@torch.no_grad()
def evaluate(
    judge: Judge,
    motion: Float[Tensor, "batch frames features"],
    prompts: Prompts,
    labels: Sequence[str],
    reference: Reference,
    rng: torch.Generator,
    *,
    distinct: Distinct = "label",
    group_size: int = 32,
    repeats: int = 20,
    embedded: Float[Tensor, "batch dim"] | None = None,
) -> Scores:
    """Judge one motion a prompt.

    Args:
        judge: In eval mode.
        motion: Features in physical units, cut or padded as ``prompts.lengths`` says.
        prompts: Captions and lengths.
        labels: One a prompt; ``""`` where unknown.
        reference: Real motion.
        rng: Draws groups and pairs; an equal stream gives every model the same.
        distinct: What no two prompts of a group of R-precision share. Where labels are
            unknown, take ``"caption"``; ``"none"`` is the published protocol.
        group_size: Of R-precision.
        repeats: Draws of R-precision's groups.
        embedded: :func:`embed_motions` of ``motion``, where they are known already.

    Raises:
        ValueError: The judge is in training mode; labels are unknown but needed; a motion is
            not finite; or there are too few prompts for groups or FID.
    """
    check_choice("distinct", distinct, Distinct)
    if judge.training:
        raise ValueError("the judge is in training mode: call judge.eval() first")
    if not len(motion) == len(prompts) == len(labels):
        raise ValueError(f"{len(motion)} motions, {len(prompts)} prompts, {len(labels)} labels")
    if distinct == "label" and (unknown := sum(not label for label in labels)):
        raise ValueError(f'{unknown} prompts have no label: give them, or distinct="caption"')
    joints = to_joints(motion, judge.skeleton)
    mask = torch.arange(motion.shape[1], device=motion.device) < prompts.lengths[:, None]
    scores = score(
        judge.embed_text(prompts.texts),
        embed_motions(judge, motion, prompts.lengths) if embedded is None else embedded,
        {"label": labels, "caption": prompts.texts, "none": None}[distinct],
        reference,
        rng,
        group_size=group_size,
        repeats=repeats,
    )
    return replace(
        scores,
        foot_skate=foot_skate_ratio(joints, mask, judge.skeleton).mean().item(),
        jerk=mean_jerk(joints, mask, judge.skeleton).mean().item(),
    )


def score(
    text: Float[Tensor, "batch dim"],
    motion: Float[Tensor, "batch dim"],
    labels: Sequence[str] | None,
    reference: Reference,
    rng: torch.Generator,
    *,
    group_size: int = 32,
    repeats: int = 20,
) -> Scores:
    """Scores from embeddings; arguments as of :func:`evaluate` and :func:`r_precision`.

    Diversity joins 300 pairs, or as many as there are motions.
    """
    found = r_precision(text, motion, labels, rng=rng, repeats=repeats, group_size=group_size)
    return Scores(
        r1=found.r(1),
        r2=found.r(2),
        r3=found.r(3),
        mm_dist=found.mm_dist.mean().item(),
        fid=reference.fid(motion),
        diversity=diversity(motion, rng, pairs=min(300, len(motion))),
    )


@torch.no_grad()
def embed_motions(
    judge: Judge,
    motion: Float[Tensor, "n frames features"],
    lengths: Int[Tensor, " n"],
    batch_size: int = 128,
) -> Float[Tensor, "n dim"]:
    """The judge's embeddings of many motions, without gradients, a batch at a time."""
    parts = [
        judge.embed_motion(motion[rows, : int(lengths[rows].max())], lengths[rows])
        for rows in torch.arange(len(motion), device=motion.device).split(batch_size)
    ]
    return torch.cat(parts)
