"""The published text-to-motion evaluation to the letter, with every quirk an argument.

The codes of the field share five metrics and differ in what is fed to them. Here each such choice
has a name, and each code is one :class:`Protocol`. What the workbench itself reports is in
:mod:`~easytune_lib.metrics.report`; use this where a number has to stand beside a published one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.choices import check_choices
from easytune_lib.metrics.distribution import diversity, fid, multimodality
from easytune_lib.metrics.intervals import Interval, published_interval
from easytune_lib.metrics.retrieval import r_precision
from easytune_lib.motion.skeleton import HUMANML3D, Skeleton
from easytune_lib.seeding import stream


@dataclass(frozen=True)
class Protocol:
    """Choices by which embeddings become the five metrics; by default those of MLD and EasyTune.

    Attributes:
        groups: Of R-precision and MM-Dist. ``"shuffled"`` cuts a shuffle of the whole set (MLD,
            MotionLCM, EasyTune); ``"given"`` takes consecutive rows, the loader's own batches
            (T2M, MDM, MotionDiffuse, whose loaders shuffle real motion).
        group_size: 32 in every code. R@1 of one and the same set is .532, .418, .320 and .092 in
            groups of 16, 32, 64 and 1024. What fills no group is left out of R-precision and
            MM-Dist; FID and Diversity read all.
        top: 1, 2 and 3 in every code.
        expanded: Distances of R-precision and MM-Dist in float32 by
            ``sqrt(|a|² - 2ab + |b|²)``, as all codes have them. Where that is the root of a
            negative number, it raises here, is a NaN in T2M, MDM and MotionDiffuse, and a perfect
            match of distance 0 in MLD and MotionLCM.
        paired: FID's real motions are the very clips, captions and lengths of the generated ones
            (MLD, MotionLCM, EasyTune); else a fresh pass over the test set, of any size (T2M,
            MotionDiffuse; MDM: all of it beside about 1000 generated).
        diversity_times: 300 pairs in every code; for KIT too.
        mm_times: 10 pairs a prompt in every code, two draws that are the same for all prompts.
        mm_prompts: 100; MDM's four batches make it 128. ``None`` takes what comes.
        mm_repeats: 30 motions a prompt in every code. ``None`` takes what comes.
        replications: 20. MotionDiffuse ships 1; MDM does 20 without MModality, 5 with it.

    Not here, since it is decided before anything is embedded: whether lengths are real or
    estimated (T2M), how much of a generated motion is real frames (MDM makes all 196), and the
    evaluator's statistics (:func:`evaluator_std`).
    """

    groups: Literal["shuffled", "given"] = "shuffled"
    group_size: int = 32
    top: tuple[int, ...] = (1, 2, 3)
    expanded: bool = True
    paired: bool = True
    diversity_times: int = 300
    mm_times: int = 10
    mm_prompts: int | None = 100
    mm_repeats: int | None = 30
    replications: int = 20

    def __post_init__(self) -> None:
        """Refuse a choice that there is not."""
        check_choices(self)


EASYTUNE = Protocol()
"""MLD, MotionLCM and EasyTune."""

T2M = Protocol(groups="given", paired=False)
"""Guo et al., CVPR 2022; MotionDiffuse, but for the replications."""

MDM = Protocol(groups="given", paired=False, mm_prompts=128)
"""MDM, whose generated set has about 1000 motions."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """An evaluator's embeddings of one replication."""

    text: Float[Tensor, "n dim"]  # in the loader's order where groups are "given"
    motion: Float[Tensor, "n dim"]  # generated for row i of ``text``; or real, for the first line
    real: Float[Tensor, "m dim"]  # for FID
    repeats: Float[Tensor, "prompts repeats dim"] | None = None  # for MModality


def published_metrics(
    embedded: Embeddings, rng: torch.Generator, protocol: Protocol = EASYTUNE
) -> dict[str, float]:
    """One replication: ``r1``, ``r2``, ``r3``, ``mm_dist``, ``fid``, ``diversity``, ``mmodality``.

    MModality is there only where ``embedded.repeats`` is.

    Args:
        embedded: Of one replication.
        rng: Draws the shuffle and the pairs.
        protocol: Which code's choices.

    Raises:
        ValueError: Sets are paired but of different sizes; there are fewer motions than the
            evaluator has dimensions + 1, than a group holds, or than pairs are asked for (T2M
            asks for one more, MotionLCM does not); prompts or repeats of MModality are not as
            many as the protocol says; or a number or distance is not finite.

    Source: Guo et al., CVPR 2022, and the released codes named in :class:`Protocol`. Deviations:
    ties of R-precision count against the model, where an unstable sort decides; FID takes roots of
    symmetric matrices in float64, and needs no offset on the diagonal.
    """
    if protocol.paired and len(embedded.real) != len(embedded.motion):
        raise ValueError(
            f"{len(embedded.motion)} motions beside {len(embedded.real)} real ones, which are no "
            "pairs: embed the same clips, or take paired=False"
        )
    found = r_precision(
        embedded.text, embedded.motion, None, rng=rng, repeats=1, top=protocol.top,
        group_size=protocol.group_size, groups=protocol.groups, expanded=protocol.expanded,
    )  # fmt: skip
    metrics = {f"r{k}": found.r(k) for k in protocol.top}
    metrics["mm_dist"] = found.mm_dist.item()
    metrics["fid"] = fid(embedded.motion, embedded.real)
    metrics["diversity"] = diversity(embedded.motion, rng, protocol.diversity_times)
    if embedded.repeats is not None:
        wanted = (protocol.mm_prompts, protocol.mm_repeats)
        for count, asked, what in zip(
            embedded.repeats.shape, wanted, ("prompts", "repeats"), strict=False
        ):
            if asked not in (None, count):
                raise ValueError(f"MModality of {asked} {what}, got {count}: give as many")
        metrics["mmodality"] = multimodality(embedded.repeats, rng, protocol.mm_times)
    return metrics


def replicate(
    measure: Callable[[torch.Generator], Mapping[str, float]], seed: int, replications: int = 20
) -> dict[str, Interval]:
    """Measure again and again; mean and ``1.96 std / sqrt(n)`` of each metric, as published.

    Args:
        measure: One whole replication, generation included if its noise shall count; given the
            replication's own stream.
        seed: Replication ``i`` draws from the stream ``(seed, "replication", i)``.
        replications: 20 in the papers.

    Raises:
        ValueError: Fewer than 2 replications; they do not measure the same; or a value is not
            finite.

    Source: see :func:`~easytune_lib.metrics.intervals.published_interval`. It is no interval over
    training seeds: for that, train again and take
    :func:`~easytune_lib.metrics.intervals.interval`.
    """
    rows = [measure(stream(seed, "replication", i)) for i in range(replications)]
    if len({frozenset(row) for row in rows}) > 1:
        raise ValueError(f"replications measured different things: {[sorted(row) for row in rows]}")
    return {name: published_interval([row[name] for row in rows]) for name in (rows or [{}])[0]}


def evaluator_std(
    std: Float[Tensor, " features"],
    skeleton: Skeleton = HUMANML3D,
    feat_bias: float = 5.0,
    times: int = 2,
) -> Float[Tensor, " features"]:
    """The standard deviations that the T2M evaluators normalise by, from a data set's.

    Root numbers (turn, movement, height) and foot contacts are divided by ``feat_bias``, so that
    they weigh more. Motions are brought to physical units by the data set's own statistics first
    and then normalised by these; to forget that is a known mistake.

    Args:
        std: Of the data set, as published (averaged within the groups of features).
        skeleton: Says which numbers are root and contacts.
        feat_bias: 5 officially.
        times: 2 officially: training and validation sets shared the array that was divided in
            place, so the shipped statistics are divided by 25 (24.9 to 25.3 when compared).

    Raises:
        ValueError: ``std`` is not as long as the skeleton's features.
    """
    if len(std) != skeleton.n_features:
        raise ValueError(f"{len(std)} numbers; {skeleton} has {skeleton.n_features}")
    scaled = std.clone()
    for group in ("root_yaw_velocity", "root_velocity", "root_height", "contacts"):
        scaled[skeleton.groups[group]] /= feat_bias**times
    return scaled
