import pytest
import torch
from torch import Tensor

from easytune_lib.metrics.retrieval import draw_groups, r_precision, ranks
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
