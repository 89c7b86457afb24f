"""R-precision and MM-Dist: does a caption find its own motion among others?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """What repeated draws of groups say; a draw's number is the mean over all its rows."""

    top: tuple[int, ...]
    precision: Float[Tensor, "draws top"]  # float64, in [0, 1]
    mm_dist: Float[Tensor, " draws"]  # float64; a caption to its own motion
    groups: tuple[int, ...]  # groups of each draw
    ranks: Int[Tensor, "draws n"]  # of the own motion, 0 the best; -1 where a row was left over

    def r(self, k: int) -> float:
        """R-precision top ``k``, mean over draws."""
        if k not in self.top:
            raise ValueError(f"top {k} was not computed; there are {self.top}")
        return self.precision[:, self.top.index(k)].mean().item()

    def hits(self, k: int) -> Float[Tensor, " asked"]:
        """How often each caption found its motion among ``k``; captions never drawn are left out.

        What a bootstrap over captions resamples. Its mean differs a little from :meth:`r` where
        captions were drawn unequally often.
        """
        drawn = self.ranks >= 0
        found = (drawn & (self.ranks < k)).sum(dim=0)[drawn.any(dim=0)]
        return found.double() / drawn.sum(dim=0)[drawn.any(dim=0)]


def r_precision(
    text: Float[Tensor, "n dim"],
    motion: Float[Tensor, "m dim"],
    labels: Sequence[str] | None,
    *,
    rng: torch.Generator,
    repeats: int = 20,
    group_size: int = 32,
    top: tuple[int, ...] = (1, 2, 3),
    ties: Literal["against", "for"] = "against",
) -> RetrievalResult:
    """Share of captions whose own motion is among the ``k`` closest motions of its group.

    A draw shuffles all pairs and cuts them into groups of ``group_size``; what is left over is
    dropped. Numbers compare only at equal group size: of 32, chance is ``k / 32``.

    Args:
        text: Row ``i`` embeds the caption of ``motion``'s row ``i``.
        motion: Embeddings in the same space.
        labels: What no two pairs of a group may share: labels, or the captions where labels
            are unknown. ``None``: anything goes, as in the published protocol, where a
            repeated caption counts as a mistake half of the time.
        rng: Draws the groups; equal labels and streams give equal groups for every model.
        repeats: Draws.
        group_size: Pairs a group.
        top: The ``k`` asked for.
        ties: Motions exactly as close as the own one stand before it, or behind it.

    Raises:
        ValueError: Embeddings are not finite or rows do not match; or there are too few
            distinct labels to fill a group.

    Source: Guo et al., CVPR 2022, section 5. Deviations: groups of distinct labels; repeated
    draws instead of one pass; a not-a-number is an error here, elsewhere it may become a
    distance of 0, a perfect match; ties count against us, elsewhere by position.
    """
    if text.shape != motion.shape:
        raise ValueError(f"{tuple(text.shape)} captions for {tuple(motion.shape)} motions")
    for name, rows in (("caption", text), ("motion", motion)):
        if bad := (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist():
            raise ValueError(f"{name} embeddings {bad[:10]} hold NaN or infinity ({len(bad)} rows)")
    if max(top) > group_size:
        raise ValueError(f"top {max(top)} of groups of {group_size}: ask for less")
    names = list(map(str, range(len(text)))) if labels is None else list(labels)
    if len(names) != len(text):
        raise ValueError(f"{len(names)} labels for {len(text)} pairs: give one a pair")
    if (distinct := len(set(names))) < group_size:
        raise ValueError(
            f"a group holds {group_size} distinct labels, there are {distinct} in {len(names)} "
            f"pairs: give more, or compare at a smaller group_size (chance is 1/group_size)"
        )
    precision, mm_dist, groups = [], [], []
    found = torch.full((repeats, len(text)), -1)
    for draw in range(repeats):
        rows = draw_groups(names, group_size, rng).to(text.device)
        distance = torch.cdist(
            text[rows].double(),
            motion[rows].double(),
            compute_mode="donot_use_mm_for_euclid_dist",  # equal rows are equally far
        )
        rank = ranks(distance, ties)
        precision.append([(rank < k).double().mean() for k in top])
        mm_dist.append(distance.diagonal(dim1=1, dim2=2).mean())
        groups.append(len(rows))
        found[draw, rows.flatten().cpu()] = rank.flatten().cpu()
    return RetrievalResult(
        top, torch.tensor(precision), torch.stack(mm_dist).cpu(), tuple(groups), found
    )


def draw_groups(
    labels: Sequence[str], size: int, rng: torch.Generator
) -> Int[Tensor, "groups size"]:
    """Shuffled rows in groups without a repeated label; each goes to the first that lacks it.

    Where labels are distinct, this is a shuffle cut into pieces. Groups that are not full at
    the end are dropped.
    """
    groups: list[dict[str, int]] = []
    order: list[int] = torch.randperm(len(labels), generator=rng).tolist()
    for row in order:
        label = labels[row]
        group = next((g for g in groups if len(g) < size and label not in g), None)
        if group is None:
            groups.append(group := {})
        group[label] = row
    full = [list(group.values()) for group in groups if len(group) == size]
    return torch.tensor(full, dtype=torch.int64).reshape(-1, size)


def ranks(
    distance: Float[Tensor, "groups size size"], ties: Literal["against", "for"] = "against"
) -> Int[Tensor, "groups size"]:
    """How many motions stand before a caption's own, on the diagonal; 0 is the best."""
    own = distance.diagonal(dim1=1, dim2=2)[..., None]
    before = distance <= own if ties == "against" else distance < own
    return before.sum(dim=2) - int(ties == "against")
