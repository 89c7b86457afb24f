from itertools import combinations

import pytest
import torch
from torch import Tensor

from easytune_lib.metrics.retrieval import (
    Places,
    draw_groups,
    gallery,
    places,
    protocol_rows,
    r_precision,
    ranks,
)
from easytune_lib.seeding import stream


def random(n: int, dim: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=stream(seed, "embeddings", n))


def names(n: int) -> list[str]:
    return [f"label {i}" for i in range(n)]


def test_identical_embeddings_are_always_found():
    x = random(100)
    result = r_precision(x, x, names(100), rng=stream(0))
    assert result.r(1) == result.r(2) == result.r(3) == 1
    assert result.mm_dist.tolist() == [0.0] * 20
    assert result.precision.shape == (20, 3)
    assert result.groups == (3,) * 20  # 100 pairs: 4 are left over


def test_unrelated_embeddings_are_found_k_times_in_32():
    text, motion = random(3200), random(3200, seed=1)
    result = r_precision(text, motion, names(3200), rng=stream(0), repeats=2)
    for k in (1, 2, 3):
        assert result.r(k) == pytest.approx(k / 32, abs=0.015)


def test_by_hand():
    """Captions at 0, 1 and 5, motions at 0, 1.6 and 0.9, one group of three.

    Distances of caption 0: 0, 1.6, 0.9, own first. Of caption 1: 1, 0.6, 0.1, own second. Of
    caption 5: 5, 3.4, 4.1, own second. So R@1 = 1/3, R@2 = 1; MM-Dist = (0 + 0.6 + 4.1) / 3.
    """
    text = torch.tensor([[0.0], [1.0], [5.0]])
    motion = torch.tensor([[0.0], [1.6], [0.9]])
    result = r_precision(text, motion, names(3), rng=stream(0), group_size=3, top=(1, 2), repeats=4)
    assert result.precision.tolist() == [[pytest.approx(1 / 3), 1.0]] * 4
    assert result.mm_dist.tolist() == pytest.approx([4.7 / 3] * 4)
    assert result.groups == (1,) * 4


def test_captions_rank_motions_not_motions_captions():
    """All motions prefer caption 0, but each caption but the first has its own motion nearest."""
    text = torch.tensor([[0.0], [10.0], [20.0]])
    motion = torch.tensor([[-1.0], [4.0], [4.5]])
    result = r_precision(text, motion, names(3), rng=stream(0), group_size=3, top=(1,), repeats=1)
    assert result.r(1) == pytest.approx(2 / 3)  # captions 0 and 20; 10 prefers 4.5


def test_ties_count_against_us_unless_asked_otherwise():
    """A model that makes one motion for all prompts finds nothing."""
    text, motion = random(64), torch.ones(64, 8)
    kept = {"group_size": 32, "repeats": 2}
    assert r_precision(text, motion, names(64), rng=stream(0), **kept).r(3) == 0
    assert r_precision(text, motion, names(64), rng=stream(0), ties="for", **kept).r(1) == 1
    distance = torch.tensor([[[1.0, 1.0, 2.0], [1.0, 1.0, 0.0], [3.0, 2.0, 1.0]]])
    assert ranks(distance).tolist() == [[1, 2, 0]]
    assert ranks(distance, "for").tolist() == [[0, 1, 0]]


def test_equal_rows_tie_exactly_also_far_from_the_origin():
    x = random(32) + 1e4
    x[1] = x[0]
    result = r_precision(x, x, names(32), rng=stream(0), repeats=1)
    assert result.r(1) == 30 / 32 and result.r(2) == 1
    assert result.mm_dist.item() == 0


def test_a_group_never_repeats_a_label():
    labels = [f"label {i % 40}" for i in range(300)] + ["often"] * 100
    for seed in range(5):
        groups = draw_groups(labels, 32, stream(seed))
        assert groups.dtype == torch.int64 and groups.shape[1] == 32 and len(groups) >= 7
        rows = groups.flatten().tolist()
        assert len(set(rows)) == len(rows)
        for group in groups.tolist():
            assert len({labels[row] for row in group}) == 32


def test_as_many_labels_as_a_group_holds_are_enough():
    labels = ["often"] * 500 + names(31)
    for seed in range(5):
        assert draw_groups(labels, 32, stream(seed)).shape == (1, 32)


def test_distinct_labels_are_a_shuffle_cut_into_pieces():
    order = torch.randperm(70, generator=stream(2))
    assert torch.equal(draw_groups(names(70), 32, stream(2)), order[:64].reshape(2, 32))


def test_without_labels_anything_goes():
    x = random(64)
    assert r_precision(x, x, None, rng=stream(0)).groups == (2,) * 20


def test_draws_repeat_with_their_stream_and_differ_among_themselves():
    text, motion = random(90), random(90, seed=1)
    first, again, other = (
        r_precision(text, motion, names(90), rng=stream(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.precision, again.precision)
    assert not torch.equal(first.mm_dist, other.mm_dist)
    assert first.mm_dist.unique().numel() == 20


def test_smaller_groups_are_easier():
    text = random(320)
    motion = text + 1.5 * random(320, seed=1)
    scores = [
        r_precision(text, motion, names(320), rng=stream(0), group_size=size).r(1)
        for size in (8, 32, 128)
    ]
    assert scores[0] > scores[1] + 0.1 and scores[1] > scores[2] + 0.1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_raises_and_names_the_row(value):
    x = random(40)
    bad = x.clone()
    bad[7, 3] = value
    with pytest.raises(ValueError, match=r"motion embeddings \[7\]"):
        r_precision(x, bad, names(40), rng=stream(0))
    with pytest.raises(ValueError, match=r"caption embeddings \[7\]"):
        r_precision(bad, x, names(40), rng=stream(0))


def test_what_cannot_be_drawn_is_refused():
    x = random(64)
    with pytest.raises(ValueError, match="32 distinct labels, there are 31 in 64 pairs"):
        r_precision(x, x, [f"{i % 31}" for i in range(64)], rng=stream(0))
    with pytest.raises(ValueError, match="63 labels for 64 pairs"):
        r_precision(x, x, names(63), rng=stream(0))
    with pytest.raises(ValueError, match=r"\(64, 8\) captions for \(63, 8\) motions"):
        r_precision(x, x[:63].clone(), names(64), rng=stream(0))
    with pytest.raises(ValueError, match="top 3 of groups of 2"):
        r_precision(x, x, names(64), rng=stream(0), group_size=2)
    with pytest.raises(ValueError, match="top 5 was not computed"):
        r_precision(x, x, names(64), rng=stream(0)).r(5)


def test_given_groups_are_consecutive_rows():
    text, motion = random(70), random(70, seed=1)
    found = r_precision(text, motion, None, rng=stream(0), repeats=2, groups="given")
    assert found.groups == (2, 2) and (found.ranks[:, 64:] == -1).all()
    distance = torch.cdist(text[:32].double(), motion[:32].double())
    nearer = (distance < distance.diagonal()[:, None]).sum(1)
    assert found.ranks[0, :32].tolist() == nearer.tolist() == found.ranks[1, :32].tolist()


def test_places_by_hand():
    """Right items at 2 and 3; wrong ones at 1, 2, 2 and 9: one before, two tied with one right."""
    distance = torch.tensor([[2.0, 3.0, 1.0, 2.0, 2.0, 9.0]])
    right = torch.tensor([[True, True, False, False, False, False]])
    found = places(distance, right)
    assert found == Places(*(torch.tensor([n]) for n in (1, 2, 1)))
    assert [found.rank(ties).item() for ties in ("for", "expected", "against")] == [1, 2, 3]
    hits = {t: [found.hit(k, t).item() for k in (1, 2, 3, 4)] for t in ("for", "against")}
    assert hits == {"for": [0, 1, 1, 1], "against": [0, 0, 0, 1]}
    expected = [found.hit(k, "expected").item() for k in (1, 2, 3, 4)]
    assert expected == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_expected_ties_are_the_mean_over_all_orders():
    """Two right items tie with three wrong ones, after one that is nearer: 10 orders."""
    found = Places(torch.tensor([1]), torch.tensor([3]), torch.tensor([2]))
    firsts = [min(pair) for pair in combinations(range(5), 2)]
    assert found.rank("expected").item() == pytest.approx(1 + sum(firsts) / 10)
    for k in range(1, 7):
        share = sum(1 + first < k for first in firsts) / 10
        assert found.hit(k, "expected").item() == pytest.approx(share)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="1 distances are not a number"):
        places(torch.tensor([[torch.nan, 1.0]]), torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="no right item"):
        places(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool))


def test_a_gallery_by_hand():
    """Captions at 0, 1 and 5, motions at 0, 1.6 and 0.9: places 0, 1 and 1."""
    text, motion = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.0], [1.6], [0.9]])
    assert gallery(text, motion).rank().tolist() == [0, 1, 1]
    # motions look for captions: 0 finds 0; 1.6 finds 1; 0.9 has 1, 0 before 5
    assert gallery(motion, text).rank().tolist() == [0, 0, 2]


def test_alike_captions_count_as_right():
    """As above, and captions 1 and 2 mean the same: similarity (1 + cos) / 2 of 1 and 0.95."""
    text, motion = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.0], [1.6], [0.9]])
    near = torch.tensor([[1.0, 0.0], [0.0, 1.0], [(1 - 0.91**2) ** 0.5, 0.91]])  # cosine 0.91
    assert gallery(text, motion, near).rank().tolist() == [0, 0, 0]
    assert gallery(text, motion, near, threshold=0.96).rank().tolist() == [0, 1, 1]


def test_a_gallery_is_searched_in_blocks(monkeypatch):
    text, motion = random(50), random(50, seed=1)
    whole = gallery(text, motion, text)
    monkeypatch.setattr("easytune_lib.metrics.retrieval._AT_ONCE", 120)  # two queries a block
    assert all(torch.equal(a, b) for a, b in zip(gallery(text, motion, text), whole, strict=True))


def table(rows: list[dict]) -> dict[tuple, float]:
    return {(r["protocol"], r["direction"], r["metric"]): r["value"] for r in rows}


def test_rows_of_all_protocols():
    text = random(96)
    motion = text + 0.6 * random(96, seed=1)
    rows = protocol_rows(text, motion, rng=stream(0), captions=text, draws=200)
    assert len(rows) == 3 * 2 * 6
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    found = table(rows)
    for direction in ("t2m", "m2t"):
        easy, hard, kind = (
            [found[protocol, direction, f"R@{k}"] for k in (1, 2, 3, 5, 10)]
            for protocol in ("groups of 32", "all", "all with threshold")
        )
        for values in (easy, hard, kind):
            assert values == sorted(values)
        assert easy[0] > hard[0] and all(k >= h for k, h in zip(kind, hard, strict=True))
        assert found["all", direction, "MedR"] >= found["groups of 32", direction, "MedR"] >= 1
    once = protocol_rows(text, motion, rng=stream(0), captions=text, draws=200)
    assert once == rows


def test_groups_agree_with_r_precision():
    text, motion = random(70), random(70, seed=1)
    found = table(protocol_rows(text, motion, rng=stream(3), draws=2))
    same = r_precision(text, motion, None, rng=stream(3), top=(1, 10))
    for k in (1, 10):
        mean = same.hits(k).mean().item()
        assert found["groups of 32", "t2m", f"R@{k}"] == pytest.approx(mean)
    assert ("all with threshold", "t2m", "R@1") not in found


def test_one_motion_for_all_prompts_is_at_chance_if_ties_are_expected():
    text, motion = random(64), torch.ones(64, 8)
    for ties, recall, median in (("for", 1, 1), ("against", 0, 64), ("expected", 10 / 64, 32.5)):
        found = table(protocol_rows(text, motion, rng=stream(0), ties=ties, draws=2))
        assert found["all", "t2m", "R@10"] == pytest.approx(recall)
        assert found["all", "t2m", "MedR"] == median


def test_protocols_that_cannot_be_asked_are_refused():
    x = random(40)
    with pytest.raises(ValueError, match="1 distinct labels fill no group of 32"):
        protocol_rows(x, x, rng=stream(0), labels=["a"] * 40)
    with pytest.raises(ValueError, match="top 10 of groups of 8"):
        protocol_rows(x, x, rng=stream(0), group_size=8)
    with pytest.raises(ValueError, match="39 labels for 40 pairs"):
        protocol_rows(x, x, rng=stream(0), labels=names(39))
    with pytest.raises(ValueError, match="39 captions for 40 pairs"):
        protocol_rows(x, x, rng=stream(0), captions=x[:39])
