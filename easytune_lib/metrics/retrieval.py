"""Does a caption find its own motion among others? R-precision, MM-Dist and the field's recalls.

All protocols rank by :func:`places` and differ only in what is searched and in what is right:

======================  ==================================  ====================================
protocol                searched                            right
======================  ==================================  ====================================
``groups of 32``        32 motions, drawn anew each time    the own motion
``all``                 every motion                        the own motion
``all with threshold``  every motion                        motions whose captions are alike, too
======================  ==================================  ====================================

Numbers compare within one protocol and one gallery size only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.choices import check_choice
from easytune_lib.metrics.intervals import bootstrap

Ties = Literal["against", "for", "expected"]
"""Place of what is as near as the right item: before it, behind it, or in random order."""
Groups = Literal["shuffled", "given"]

_AT_ONCE = 4_000_000  # distances in memory


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """R-precision by repeated draws of groups; a draw's number is the mean over all its rows."""

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
        """Share of draws in which each caption found its motion among ``k``.

        A bootstrap over captions resamples it. Captions never drawn are left out; its mean differs
        a little from :meth:`r` where captions were drawn unequally often.
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
    groups: Groups = "shuffled",
    expanded: bool = False,
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
        groups: Drawn, or ``"given"``: consecutive rows, as a data loader had them; every draw is
            then the same, and labels are not looked at.
        expanded: Distances as the released code has them, float32 and
            ``sqrt(|a|² - 2ab + |b|²)``, where ours are exact.

    Raises:
        ValueError: Embeddings are not finite or rows do not match; there are too few
            distinct labels to fill a group; an expanded distance is not a number; or a choice
            is none.

    Source: Guo et al., CVPR 2022, section 5. Deviations: groups of distinct labels; repeated
    draws instead of one pass; a not-a-number is an error here, elsewhere it may become a
    distance of 0, a perfect match; ties count against us, elsewhere by position.
    """
    check_choice("ties", ties, Literal["against", "for"])
    check_choice("groups", groups, Groups)
    names = _checked_names(text, motion, labels, group_size, top)
    distinct = len(set(names)) if groups == "shuffled" else len(names)
    if distinct < group_size:
        raise ValueError(
            f"a group holds {group_size} distinct labels, there are {distinct} in {len(names)} "
            f"pairs: give more, or compare at a smaller group_size (chance is 1/group_size)"
        )
    precision, mm_dist, counts = [], [], []
    found = torch.full((repeats, len(text)), -1)
    for draw in range(repeats):
        if groups == "shuffled":
            rows = draw_groups(names, group_size, rng).to(text.device)
        else:
            whole = len(text) // group_size * group_size
            rows = torch.arange(whole, device=text.device).reshape(-1, group_size)
        distance = _distances(text[rows], motion[rows], expanded)
        rank = ranks(distance, ties)
        precision.append([(rank < k).double().mean() for k in top])
        mm_dist.append(distance.diagonal(dim1=1, dim2=2).double().mean())
        counts.append(len(rows))
        found[draw, rows.flatten().cpu()] = rank.flatten().cpu()
    return RetrievalResult(
        top, torch.tensor(precision), torch.stack(mm_dist).cpu(), tuple(counts), found
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


class Places(NamedTuple):
    """Where the nearest right item of each query stands; the three have one shape."""

    before: Tensor  # wrong items nearer than it
    tied: Tensor  # wrong items as near as it
    right: Tensor  # right items as near as it, itself included

    def rank(self, ties: Ties = "against") -> Tensor:
        """Items before it, 0 the best; the mean over all orders of tied ones if "expected"."""
        if ties == "expected":
            return self.before + self.tied.double() / (self.right + 1)
        return self.before + (self.tied if ties == "against" else 0)

    def hit(self, k: int, ties: Ties = "against") -> Tensor:
        """1 where it is among the nearest ``k``, else 0; a probability if "expected"."""
        if ties != "expected":
            return (self.rank(ties) < k).double()
        room, tied = k - self.before, self.tied.double()
        missed = torch.ones_like(tied)
        for place in range(k):  # the tied places that are left go to wrong items, one by one
            wrong = (tied - place).clamp(min=0) / (tied + self.right - place).clamp(min=1)
            missed = torch.where(room > place, missed * wrong, missed)
        return 1 - missed


def places(
    distance: Float[Tensor, "*batch queries gallery"], right: Bool[Tensor, "*batch queries gallery"]
) -> Places:
    """Rank each query's nearest right item among the wrong ones: what all protocols share.

    Right items farther than the nearest one never push it back, nor does it matter how many
    there are, except in a tie.

    Raises:
        ValueError: A distance is not a number, or a query has nothing right to find.
    """
    if distance.isnan().any():
        raise ValueError(
            f"{int(distance.isnan().sum())} distances are not a number: look for embeddings that "
            "are not finite, or that are too large or too much alike for float32"
        )
    if not right.any(dim=-1).all():
        raise ValueError("a query has no right item in the gallery: mark at least its own")
    own = distance.masked_fill(~right, torch.inf).amin(dim=-1, keepdim=True)
    near, equal = distance < own, distance == own
    counts = ((near & ~right).sum(-1), (equal & ~right).sum(-1), (equal & right).sum(-1))
    return Places(*counts)


def ranks(
    distance: Float[Tensor, "groups size size"], ties: Literal["against", "for"] = "against"
) -> Int[Tensor, "groups size"]:
    """Count the motions before a caption's own, on the diagonal; 0 is the best."""
    own = torch.eye(distance.shape[-1], dtype=torch.bool, device=distance.device)
    return places(distance, own.expand_as(distance)).rank(ties)


def gallery(
    queries: Float[Tensor, "n dim"],
    items: Float[Tensor, "m dim"],
    captions: Float[Tensor, "captions other"] | None = None,
    threshold: float = 0.95,
) -> Places:
    """Search all of ``items``, a block of queries at a time, so that memory stays bounded.

    Args:
        queries: Embeddings; row ``i`` looks for row ``i`` of ``items``.
        items: Embeddings in the same space.
        captions: Sentence embeddings of the captions. Where given, item ``j`` is right for query
            ``i``, too, if their captions' similarity exceeds ``threshold``.
        threshold: Of the similarity ``(1 + cosine) / 2``, in [0, 1]: 0.95 is a cosine of 0.9.

    Raises:
        ValueError: Rows do not match, or are not finite.

    Source: TMR (Petrovich et al., ICCV 2023), "all" and "all with threshold".
    """
    _check_pairs(queries, items)
    if captions is not None:
        if len(captions) != len(queries) or not captions.isfinite().all():
            raise ValueError(f"{len(captions)} captions for {len(queries)} pairs, all finite")
        captions = F.normalize(captions.double(), dim=-1)
    found = []
    rows = torch.arange(len(queries), device=queries.device)
    for block in rows.split(max(1, _AT_ONCE // len(rows))):
        right = block[:, None] == rows
        if captions is not None:
            right = right | ((1 + captions[block] @ captions.mT) / 2 > threshold)
        found.append(places(_distances(queries[block], items), right))
    return Places(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def protocol_rows(
    text: Float[Tensor, "n dim"],
    motion: Float[Tensor, "m dim"],
    *,
    rng: torch.Generator,
    labels: Sequence[str] | None = None,
    captions: Float[Tensor, "captions other"] | None = None,
    threshold: float = 0.95,
    group_size: int = 32,
    repeats: int = 20,
    ties: Ties = "against",
    top: tuple[int, ...] = (1, 2, 3, 5, 10),
    draws: int = 2000,
) -> list[dict[str, Any]]:
    """Recall at each of ``top``, and the median rank, by every protocol and in both directions.

    A row has ``protocol`` (as in the module's table), ``direction`` ("t2m": a caption looks for
    its motion, or "m2t"), ``ties``, ``metric`` ("R@1" ..., in [0, 1], or "MedR", 1 the best),
    ``value``, and ``low`` and ``high``, the ends of a 95 % bootstrap interval over queries. All
    metrics of a direction resample the same queries.

    Args:
        text: Row ``i`` embeds the caption of ``motion``'s row ``i``.
        motion: Embeddings in the same space. Where a model ranks by the cosine, give unit
            vectors: on them, the Euclidean distance used here ranks alike.
        rng: Draws groups and queries.
        labels: What no two pairs of a group may share; ``None``, the published protocol, lets
            anything go.
        captions: Sentence embeddings, from a model that is not judged here. Without them there
            is no "all with threshold".
        threshold: As of :func:`gallery`; published with 0.95.
        group_size: Of the groups.
        repeats: Draws of the groups. A query counts with its mean over them; the released codes
            draw once.
        ties: A model that makes one motion for all prompts scores 0 by "against", 1 by "for",
            and chance by "expected".
        top: The ``k`` asked for.
        draws: Of the bootstrap.

    Raises:
        ValueError: As of :func:`r_precision` and :func:`gallery`; or ``top`` exceeds what is
            searched.

    Source: Guo et al., CVPR 2022 (groups), TMR (galleries). Deviations: ties; TMR puts tied
    items at their mean place, whether they are right or wrong; pairs that fill no group are
    dropped, where the released code of EasyTune fills it with others.
    """
    check_choice("ties", ties, Ties)
    names = _checked_names(text, motion, labels, group_size, top)
    groups = [draw_groups(names, group_size, rng).to(text.device) for _ in range(repeats)]
    if not groups or not len(groups[0]):
        raise ValueError(f"{len(set(names))} distinct labels fill no group of {group_size}")
    rows = []
    for direction, pair in (("t2m", (text, motion)), ("m2t", (motion, text))):
        asked = {f"groups of {group_size}": _per_query(*_in_groups(*pair, groups), top, ties)}
        asked["all"] = _per_query(gallery(*pair), None, top, ties)
        if captions is not None:
            found = gallery(*pair, captions, threshold)
            asked["all with threshold"] = _per_query(found, None, top, ties)
        seed = int(torch.randint(2**62, (), generator=rng))
        for protocol, columns in asked.items():
            for metric, values in columns.items():
                resample = torch.Generator().manual_seed(seed)
                value, low, high = bootstrap(
                    values, resample, draws, _median if metric == "MedR" else None
                )
                rows.append({
                    "protocol": protocol, "direction": direction, "ties": ties,
                    "metric": metric, "value": value, "low": low, "high": high,
                })  # fmt: skip
    return rows


def _in_groups(
    queries: Tensor, items: Tensor, groups: Sequence[Int[Tensor, "groups size"]]
) -> tuple[Places, Int[Tensor, " asked"]]:
    """Places of all queries of all draws, and which query each is of."""
    own = torch.eye(groups[0].shape[1], dtype=torch.bool, device=queries.device)
    found = []
    for rows in groups:
        distance = _distances(queries[rows], items[rows])
        found.append(places(distance, own.expand_as(distance)))
    return (
        Places(*(torch.cat([p.flatten() for p in parts]) for parts in zip(*found, strict=True))),
        torch.cat([rows.flatten() for rows in groups]),
    )


def _per_query(
    found: Places, query: Tensor | None, top: Sequence[int], ties: Ties
) -> dict[str, Float[Tensor, " queries"]]:
    """One number a query and metric; the mean where a query was asked several times."""
    columns = {f"R@{k}": found.hit(k, ties) for k in top}
    columns["MedR"] = found.rank(ties).double() + 1
    if query is None:
        return columns
    times = torch.bincount(query)
    asked = times > 0  # a query that never was in a group has no number
    return {
        name: (torch.bincount(query, values) / times)[asked] for name, values in columns.items()
    }


def _median(rows: Tensor) -> Tensor:
    return rows.quantile(0.5, dim=1)


def _checked_names(
    text: Tensor,
    motion: Tensor,
    labels: Sequence[str] | None,
    group_size: int,
    top: Sequence[int],
) -> list[str]:
    """One label a pair; row numbers where there are none."""
    _check_pairs(text, motion)
    if max(top) > group_size:
        raise ValueError(f"top {max(top)} of groups of {group_size}: ask for less")
    names = list(map(str, range(len(text)))) if labels is None else list(labels)
    if len(names) != len(text):
        raise ValueError(f"{len(names)} labels for {len(text)} pairs: give one a pair")
    return names


def _check_pairs(text: Tensor, motion: Tensor) -> None:
    if text.shape != motion.shape:
        raise ValueError(f"{tuple(text.shape)} captions for {tuple(motion.shape)} motions")
    for name, rows in (("caption", text), ("motion", motion)):
        if bad := (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist():
            raise ValueError(f"{name} embeddings {bad[:10]} hold NaN or infinity ({len(bad)} rows)")


def _distances(
    a: Float[Tensor, "*batch n dim"], b: Float[Tensor, "*batch m dim"], expanded: bool = False
) -> Float[Tensor, "*batch n m"]:
    """Euclidean; in float64, and equal rows are exactly equally far, unless ``expanded``."""
    if expanded:
        a, b = a.float(), b.float()
        squares = a.square().sum(-1)[..., None] + b.square().sum(-1)[..., None, :]
        return (squares - 2 * a @ b.mT).sqrt()
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
