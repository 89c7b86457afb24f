from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from made_motion import made_motion

from easytune_lib.data.humanml3d import (
    check,
    open_corpus,
    read_folder,
    read_statistics,
    summarise,
)
from easytune_lib.motion.features import to_features
from easytune_lib.motion.skeleton import HUMANML3D, KIT, Skeleton

LINE = "a person walks.#a/DET person/NOUN walk/VERB#0.0#0.0\n"
SPLITS = {"train": ["000001", "000002", "M000001"], "val": ["000003"], "test": ["000004"]}


@cache
def made_rows(seed: int, frames: int, skeleton: Skeleton, folder: str) -> np.ndarray:
    """One motion as it lies on disk."""
    motion = made_motion(seed, frames + 1, skeleton)
    on_disk = motion.joints / np.float32(skeleton.unit)
    return to_features(motion) if folder == "new_joint_vecs" else on_disk


def write_folder(
    root: Path, skeleton: Skeleton = HUMANML3D, folder: str = "new_joint_vecs", frames: int = 60
) -> Path:
    """A whole data set in the published layout, five motions of ``frames`` frames."""
    for name in (folder, "texts"):
        (root / name).mkdir(parents=True)
    for split, ids in SPLITS.items():
        (root / f"{split}.txt").write_text("".join(id + "\n" for id in ids))
        for id in ids:
            rows = made_rows(int(id[-1]), frames, skeleton, folder)
            np.save(root / folder / f"{id}.npy", rows)
            (root / "texts" / f"{id}.txt").write_text(LINE + LINE.replace("walks", "strolls"))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


class TestReading:
    def test_whole_clips_captions_and_splits(self, root: Path):
        corpus = read_folder(root)
        assert corpus.skeleton is HUMANML3D
        assert corpus.splits == {"train": 3, "val": 1, "test": 1}
        assert [c.id for c in corpus.split("train")] == SPLITS["train"]
        assert [c.text for c in corpus.clips[0].captions] == [
            "a person walks.",
            "a person strolls.",
        ]
        assert corpus.clips[0].captions[0].tokens == "a/DET person/NOUN walk/VERB"
        assert corpus.clips[0].label == ""
        np.testing.assert_array_equal(corpus.clips[0].features, to_features(made_motion(1, 61)))
        assert check(root) == []

    @pytest.mark.parametrize("skeleton", [HUMANML3D, KIT], ids=str)
    def test_joints_give_the_same_as_features(self, tmp_path: Path, skeleton: Skeleton):
        vectors = read_folder(write_folder(tmp_path / "vecs", skeleton))
        joints = read_folder(write_folder(tmp_path / "joints", skeleton, "new_joints"))
        assert vectors.skeleton is joints.skeleton is skeleton
        assert vectors.fps == joints.fps == skeleton.fps
        for a, b in zip(vectors.clips, joints.clips, strict=True):
            np.testing.assert_allclose(a.features, b.features, atol=1e-5 / skeleton.unit)

    def test_extra_is_read_and_blank_lines_and_a_missing_last_newline_are_no_problem(
        self, root: Path
    ):
        (root / "extra.txt").write_text("\n000004")
        (root / "test.txt").write_text("000003")
        (root / "val.txt").unlink()
        (root / "texts" / "000003.txt").write_text(f"\n{LINE}\n{LINE.strip()}")
        corpus = read_folder(root)
        assert corpus.splits == {"train": 3, "test": 1, "extra": 1}
        assert [p.kind for p in corpus.problems] == ["missing split"]

    def test_lengths_out_of_the_limits_are_left_out_as_a_note(self, root: Path):
        for id, frames in {"000001": 39, "000002": 40, "000003": 199, "000004": 200}.items():
            rows = to_features(made_motion(0, frames + 1))
            np.save(root / "new_joint_vecs" / f"{id}.npy", rows)
        corpus = read_folder(root)
        assert [c.id for c in corpus.clips] == ["000002", "M000001", "000003"]
        assert [(p.file, p.kind) for p in corpus.problems] == [
            ("new_joint_vecs/000001.npy", "length"),
            ("new_joint_vecs/000004.npy", "length"),
        ]

    def test_kit_takes_shorter_clips(self, tmp_path: Path):
        assert len(read_folder(write_folder(tmp_path / "kit", KIT, frames=24))) == 5
        with pytest.raises(ValueError, match=r"no usable clip.*23 frames"):
            read_folder(write_folder(tmp_path / "short", KIT, frames=23))


class TestPartsOfClips:
    def test_a_caption_of_a_part_becomes_a_clip(self, root: Path):
        text = LINE + "he stops.#he/PRON stop/VERB#0.5#2.75\n" + "he turns.#he/PRON#0.0#2.0\n"
        (root / "texts" / "000002.txt").write_text(text)
        clips = {clip.id: clip for clip in read_folder(root).clips}
        assert [c.text for c in clips["000002"].captions] == ["a person walks."]
        assert [c.text for c in clips["B_000002"].captions] == ["he stops."]
        assert clips["B_000002"].split == "train"
        whole = clips["000002"].features
        np.testing.assert_array_equal(clips["B_000002"].features, whole[10:55])
        np.testing.assert_array_equal(clips["C_000002"].features, whole[:40])

    def test_ids_do_not_depend_on_the_day(self, root: Path):
        (root / "texts" / "000002.txt").write_text("a#a/DET#0.0#2.5\n" * 30)
        ids = [clip.id for clip in read_folder(root).clips]
        assert ids == [clip.id for clip in read_folder(root).clips]
        assert len(set(ids)) == len(ids) == 4 + 30
        assert "A_000002" in ids
        assert "AA_000002" in ids
        assert "000002" not in ids

    def test_kit_parts_are_cut_at_its_own_speed(self, tmp_path: Path):
        root = write_folder(tmp_path / "kit", KIT)
        (root / "texts" / "000002.txt").write_text("a#a/DET#0.8#4.0\n")
        clips = {clip.id: clip for clip in read_folder(root).clips}
        whole = to_features(made_motion(2, 61, KIT))
        np.testing.assert_array_equal(clips["A_000002"].features, whole[10:50])

    def test_parts_too_short_are_a_note_and_nan_times_mean_the_whole(self, root: Path):
        (root / "texts" / "000002.txt").write_text("a#a/DET#0.0#1.0\nb#b/DET#nan#nan\n")
        corpus = read_folder(root)
        assert [c.text for c in corpus.split("train")[1].captions] == ["b"]
        (problem,) = corpus.problems
        assert (problem.file, problem.kind) == ("texts/000002.txt", "length")
        assert "caption 1 is for 0 to 1 s, 20 frames" in problem.what


def _rows(root: Path, change: Callable[[np.ndarray], object]) -> None:
    path = root / "new_joint_vecs" / "000002.npy"
    rows = np.load(path)
    new = change(rows)
    np.save(path, rows if new is None else np.asarray(new))


def _cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


VECTORS, TEXTS = "new_joint_vecs/000002.npy", "texts/000002.txt"
BROKEN: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "nan": (
        lambda root: _rows(root, lambda x: x[7:9].fill(np.nan)),
        *(VECTORS, "not finite", "in 2 of 60 frames, first 7"),
    ),
    "infinite": (
        lambda root: _rows(root, lambda x: x[3].fill(np.inf)),
        *(VECTORS, "not finite", "first 3"),
    ),
    "width": (
        lambda root: _rows(root, lambda x: x[:, :251]),
        *(VECTORS, "wrong width", r"\(60, 251\), expected \(frames, 263\)"),
    ),
    "rank": (
        lambda root: _rows(root, lambda x: x.ravel()),
        *(VECTORS, "wrong width", r"expected \(frames, 263\)"),
    ),
    "words": (
        lambda root: _rows(root, lambda x: np.array(["walk"])),
        *(VECTORS, "unreadable motion", "no array of numbers"),
    ),
    "missing motion": (
        lambda root: (root / VECTORS).unlink(),
        *(VECTORS, "missing motion", "train.txt lists it"),
    ),
    "empty motion": (
        lambda root: _cut(root / VECTORS, 0),
        *(VECTORS, "unreadable motion", "is empty, cut"),
    ),
    "cut motion": (
        lambda root: _cut(root / VECTORS, 5000),
        *(VECTORS, "unreadable motion", "is empty, cut"),
    ),
    "missing text": (
        lambda root: (root / TEXTS).unlink(),
        *(TEXTS, "missing text", "train.txt lists it"),
    ),
    "empty text": (lambda root: _cut(root / TEXTS, 0), TEXTS, "empty text", "is empty"),
    "cut caption": (
        lambda root: (root / TEXTS).write_text(LINE + LINE[:20]),
        *(TEXTS, "bad caption", "line 2 has 2 parts"),
    ),
    "no words": (
        lambda root: (root / TEXTS).write_text("#a/DET#0.0#0.0\n" + LINE),
        *(TEXTS, "bad caption", "line 1 has no caption"),
    ),
    "times": (
        lambda root: (root / TEXTS).write_text(LINE + "a#a/DET#0.0#soon\n"),
        *(TEXTS, "bad caption", "line 2 has times .*'soon'"),
    ),
    "backwards": (
        lambda root: (root / TEXTS).write_text(LINE + "a#a/DET#3.0#1.0\n"),
        *(TEXTS, "bad caption", "line 2 is for 3 to 1 s"),
    ),
    "cut split": (
        lambda root: (root / "val.txt").write_text("000003\n0000"),
        *("val.txt", "cut split", "'0000' is no id"),
    ),
    "id without files": (
        lambda root: (root / "val.txt").write_text("000003\n000099\n"),
        *("new_joint_vecs/000099.npy", "missing motion", "val.txt lists it"),
    ),
    "empty split": (
        lambda root: (root / "extra.txt").write_text("\n"),
        *("extra.txt", "empty split", "lists no ids"),
    ),
    "leak": (
        lambda root: (root / "val.txt").write_text("000003\n000001\n"),
        *("val.txt", "duplicate id", "000001 is listed already, in train.txt"),
    ),
    "statistics": (
        lambda root: np.save(root / "Mean.npy", np.zeros(251)),
        *("Mean.npy", "bad statistics", r"\(251,\)"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_makes_exactly_the_named_problem(root: Path, name: str):
    breaks, file, kind, what = BROKEN[name]
    breaks(root)
    (problem,) = check(root)
    assert (problem.file, problem.kind) == (file, kind)
    with pytest.raises(ValueError, match=what) as caught:
        read_folder(root)
    assert str(root / file) in str(caught.value)
    assert 'on_problem="skip"' in str(caught.value)
    corpus = read_folder(root, on_problem="skip")
    assert corpus.problems == (problem,)
    assert len(corpus) in (4, 5)
    assert all(np.isfinite(clip.features).all() for clip in corpus.clips)


def test_joints_that_have_no_features_are_named(tmp_path: Path):
    root = write_folder(tmp_path / "data", folder="new_joints")
    np.save(root / "new_joints" / "000002.npy", np.zeros((60, 22, 3), np.float32))
    (problem,) = check(root)
    assert (problem.file, problem.kind) == ("new_joints/000002.npy", "unusable joints")


def test_motions_that_no_split_lists_hint_at_a_cut_split(root: Path):
    (root / "train.txt").write_text("000001\n")
    (problem,) = check(root)
    assert problem.kind == "unlisted motion"
    assert "2 motions are in no split (first: 000002, M000001)" in problem.what
    assert len(read_folder(root)) == 3  # a note: it may be a choice


def test_summary_counts_and_names(root: Path):
    whole = str(summarise(root))
    assert "humanml3d (22 joints), 263 features" in whole
    assert "5 clips usable" in whole
    assert "10 captions" in whole
    assert "train 3, val 1, test 1" in whole
    assert "no problems found" in whole
    for id in SPLITS["train"]:
        (root / "new_joint_vecs" / f"{id}.npy").write_bytes(b"")
    (root / "texts" / "000003.txt").unlink()
    summary = summarise(root)
    assert (summary.clips, summary.captions, summary.splits) == (1, 2, {"test": 1})
    assert summary.hours == 60 / 20 / 3600
    assert "unreadable motion: 3" in str(summary)
    assert "new_joint_vecs/M000001.npy" in str(summary)
    assert "missing text: 1" in str(summary)


class TestOpening:
    def test_knows_the_layout(self, root: Path):
        assert len(open_corpus(root)) == len(open_corpus(str(root), on_problem="skip")) == 5

    def test_on_problem_is_handed_on(self, root: Path):
        (root / TEXTS).unlink()
        with pytest.raises(ValueError, match=r"000002.txt.*is missing"):
            open_corpus(root)
        assert len(open_corpus(root, on_problem="skip")) == 4

    def test_refuses_other_folders(self, tmp_path: Path):
        with pytest.raises(ValueError, match="is no folder"):
            open_corpus(tmp_path / "nowhere")
        with pytest.raises(ValueError, match=r"no data set: expected texts/"):
            open_corpus(tmp_path)
        (tmp_path / "texts").mkdir()
        with pytest.raises(ValueError, match=r"no .npy file in new_joint_vecs/"):
            open_corpus(tmp_path)

    def test_refuses_no_splits_and_unknown_motions(self, root: Path):
        for path in (root / "new_joint_vecs").iterdir():
            np.save(path, np.zeros((60, 24, 3)))
        with pytest.raises(ValueError, match=r"fits neither.*\(24, 3\)"):
            open_corpus(root)
        for split in SPLITS:
            (root / f"{split}.txt").unlink()
        with pytest.raises(ValueError, match=r"no train.txt"):
            open_corpus(root)


class TestStatistics:
    def test_are_read(self, root: Path):
        np.save(root / "Mean.npy", np.full(263, 2.0))
        np.save(root / "Std.npy", np.full(263, 0.5))
        stats = read_statistics(root)
        assert stats.normalise(stats.mean).abs().max() == 0
        assert check(root) == []

    @pytest.mark.parametrize("std", [np.zeros(263), np.full(263, np.nan), np.ones(100)])
    def test_refuses_useless_ones(self, root: Path, std: np.ndarray):
        np.save(root / "Mean.npy", np.ones(263))
        with pytest.raises(ValueError, match=r"Std.npy"):
            read_statistics(root)
        np.save(root / "Std.npy", std)
        with pytest.raises(ValueError, match=r"Std.npy"):
            read_statistics(root)
