from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from easytune_lib.data.corpus import (
    Caption,
    Clip,
    Corpus,
    FeatureStats,
    MotionBatch,
    balance,
    draw_balanced,
    mirror_caption,
)
from easytune_lib.motion.skeleton import HUMANML3D


def clip(id: str, frames: int, split: str = "train", captions: int = 2) -> Clip:
    """Features count the frames, so that a cut shows where it was made."""
    rows = np.repeat(np.arange(1, frames + 1, dtype=np.float32)[:, None], 263, axis=1)
    texts = tuple(Caption(f"{id} {k}") for k in range(captions))
    return Clip(id, split, rows, texts, label="walk|happy")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestSplit:
    corpus = Corpus("made", HUMANML3D, 20.0, (clip("a", 40), clip("b", 60, "test"), clip("c", 44)))

    def test_keeps_order_and_joins(self):
        assert [c.id for c in self.corpus.split("train")] == ["a", "c"]
        assert [c.id for c in self.corpus.split("test", "train")] == ["a", "b", "c"]
        assert self.corpus.hours == 144 / 20 / 3600

    def test_an_unknown_split_is_answered_with_the_known_ones(self):
        with pytest.raises(
            ValueError, match=r"no split 'val'.*train \(2 clips\), test \(1 clips\)"
        ):
            self.corpus.split("train", "val")
        with pytest.raises(ValueError, match="train"):
            self.corpus.split()


class TestStatistics:
    def test_std_is_one_number_a_group_and_never_zero(self):
        rows = np.random.default_rng(0).normal(3, 2, (500, 263)).astype(np.float32)
        rows[:, HUMANML3D.groups["contacts"]] = 1
        stats = FeatureStats.from_clips([Clip("a", "train", rows, ())], HUMANML3D)
        np.testing.assert_allclose(stats.mean, rows.mean(0), atol=1e-5)
        for name, group in HUMANML3D.groups.items():
            expected = 1.0 if name == "contacts" else rows[:, group].std(0).mean()
            np.testing.assert_allclose(stats.std[group], expected, rtol=1e-5)

    def test_denormalise_undoes_normalise(self):
        stats = FeatureStats.from_clips([clip("a", 50), clip("b", 9)], HUMANML3D)
        x = torch.randn(2, 7, 263, generator=rng())
        torch.testing.assert_close(stats.denormalise(stats.normalise(x)), x, atol=1e-4, rtol=0)
        whole = stats.normalise(
            torch.from_numpy(np.concatenate([clip("a", 50).features, clip("b", 9).features]))
        )
        assert whole.mean().abs() < 1e-5
        assert abs(whole.std(0, correction=0)[0] - 1) < 1e-5

    def test_refuses_no_clips(self):
        with pytest.raises(ValueError, match="no clips"):
            FeatureStats.from_clips([], HUMANML3D)


class TestBatch:
    clips = (clip("a", 43), clip("b", 150), clip("c", 64), clip("d", 7, captions=0))

    def test_lengths_are_multiples_and_padding_is_zero(self):
        batch = MotionBatch.collate(self.clips, rng(), max_frames=128, unit=4)
        assert batch.lengths.tolist() == [40, 128, 64, 4]
        assert batch.features.shape == (4, 128, 263)
        assert (batch.mask.sum(1) == batch.lengths).all()
        assert (batch.features[~batch.mask] == 0).all()
        assert (batch.features[batch.mask] != 0).all()
        assert batch.ids == ("a", "b", "c", "d")
        assert batch.labels == ("walk|happy",) * 4
        assert batch.texts[0] in ("a 0", "a 1")
        assert batch.texts[3] == ""

    def test_a_cut_is_consecutive_and_visits_every_place(self):
        firsts = set()
        for seed in range(60):
            rows = MotionBatch.collate([clip("a", 43)], rng(seed)).features[0, :, 0]
            assert (rows.diff() == 1).all()
            firsts.add(int(rows[0]))
        assert firsts == {1, 2, 3, 4}

    def test_start_keeps_the_first_frames(self):
        batch = MotionBatch.collate(self.clips, rng(), crop="start")
        assert (batch.features[:, 0, 0] == 1).all()

    def test_same_seed_same_batch(self):
        one, same, other = (MotionBatch.collate(self.clips, rng(s)) for s in (3, 3, 4))
        assert torch.equal(one.features, same.features)
        assert one.texts == same.texts
        assert not (torch.equal(one.features, other.features) and one.texts == other.texts)

    def test_a_clip_does_not_change_what_others_get(self):
        one = MotionBatch.collate(self.clips, rng())
        other = MotionBatch.collate((clip("x", 90, captions=5), *self.clips[1:]), rng())
        assert one.texts[1:] == other.texts[1:]
        assert torch.equal(one.features[1:, :64], other.features[1:, :64])

    def test_every_caption_is_drawn(self):
        drawn = {MotionBatch.collate([clip("a", 40, captions=3)], rng(s)).texts for s in range(40)}
        assert drawn == {("a 0",), ("a 1",), ("a 2",)}

    def test_refuses_too_short_and_none(self):
        with pytest.raises(ValueError, match=r"'s' can not be cut to a multiple of 4.* 3"):
            MotionBatch.collate([clip("s", 3)], rng())
        with pytest.raises(ValueError, match="no clips"):
            MotionBatch.collate([], rng())


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left hand up, right down.", "Right hand up, left down."),
        ("turns clockwise", "turns counterclockwise"),
        ("turns counter-clockwise", "turns clockwise"),
        ("a leftover brightens", "a leftover brightens"),
        ("left/ADJ arm/NOUN", "right/ADJ arm/NOUN"),
    ],
)
def test_mirrored_captions(text: str, mirrored: str):
    assert mirror_caption(text) == mirrored


class TestBalancedDraws:
    clips = tuple(
        replace(clip(f"{i}", 8 + 4 * (i % 20)), label="one" if i < 30 else "") for i in range(40)
    )

    def test_a_clip_without_a_label_counts_as_a_label(self):
        weights = balance(self.clips)
        assert weights[:30].sum().item() == pytest.approx(30**0.5)
        assert (weights[30:] == 1).all()

    def test_buckets_hold_clips_of_like_length_and_draw_each_as_often(self):
        plain, sorted_ = (draw_balanced(self.clips, 16, 100, buckets=b) for b in (1, 4))
        spread, counts = {1: [], 4: []}, {1: Counter(), 4: Counter()}
        for seed in range(300):
            for buckets, draw in ((1, plain), (4, sorted_)):
                batch = draw(rng(seed))
                assert len(batch) == 16
                spread[buckets].append(batch.lengths.float().std().item())
                counts[buckets].update(batch.ids)
        assert np.mean(spread[4]) < 0.5 * np.mean(spread[1])
        for name in ("35", "39"):
            assert counts[4][name] == pytest.approx(counts[1][name], rel=0.2)

    def test_draws_repeat_exactly(self):
        draw = draw_balanced(self.clips, 16, 100, buckets=4)
        assert draw(rng(1)).ids == draw(rng(1)).ids != draw(rng(2)).ids
