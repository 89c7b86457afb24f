import json
from pathlib import Path

import numpy as np
import pytest
from made_motion import made_motion

from easytune_lib.data.bundle import read_bundle
from easytune_lib.data.humanml3d import check, open_corpus
from easytune_lib.motion.features import to_features

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
STEP = 0.00025


def write_part(root: Path, part: str, lengths: dict[str, int]) -> dict[str, np.ndarray]:
    """A packed part as the bundle's builder writes it; returns the joints packed."""
    joints, packed, records = {}, [], []
    for seed, (id, frames) in enumerate(lengths.items()):
        whole = np.round(made_motion(seed, frames).joints / STEP).astype(np.int64)
        packed.append(np.diff(whole, axis=0, prepend=0).astype(np.int16))
        joints[id] = (whole * STEP).astype(np.float32)
        text = {"caption": f"{id} walks", "tokens": "walk/VERB", "start": 0.0, "end": 0.0}
        record = {"id": id, "split": "train", "frames": frames, "texts": [text]}
        records.append(record | ({"content": "walk", "style": id} if part == "bnr" else {}))
    np.savez(
        root / f"{part}_motion.npz",
        ids=list(lengths),
        dq=np.concatenate(packed),
        length=np.array(list(lengths.values()), np.int32),
        step=STEP,
        fps=20,
    )
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / f"{part}_clips.jsonl").write_text(lines)
    return joints


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_part(tmp_path, "bnr", {"happy": 30, "brief": 20, "sad": 45})
    write_part(tmp_path, "cmu", {"01": 25})
    return tmp_path


def test_features_are_those_of_the_packed_joints(tmp_path: Path):
    joints = write_part(tmp_path, "bnr", {"happy": 30, "sad": 45})
    corpus = read_bundle(tmp_path)
    assert [clip.id for clip in corpus.clips] == ["happy", "sad"]
    assert [clip.label for clip in corpus.clips] == ["walk|happy", "walk|sad"]
    assert corpus.clips[0].captions[0].text == "happy walks"
    for clip in corpus.clips:
        np.testing.assert_array_equal(clip.features, to_features(joints[clip.id]))


def test_short_clips_are_named(root: Path):
    corpus = read_bundle(root)
    assert [clip.id for clip in corpus.clips] == ["happy", "sad"]
    (problem,) = corpus.problems
    assert "brief has 20 frames" in problem.what
    assert problem.kind == "length"
    assert check(root) == [problem]


def test_parts_are_joined_and_only_bnr_has_labels(root: Path):
    corpus = read_bundle(root, ("cmu", "bnr"))
    assert [(clip.id, clip.label) for clip in corpus.clips] == [
        ("01", ""),
        ("happy", "walk|happy"),
        ("sad", "walk|sad"),
    ]


def test_cache_holds_the_same_and_notices_other_data(root: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    fresh, written, cached = (read_bundle(root, cache=c) for c in (None, cache, cache))
    assert len(list(cache.iterdir())) == 1
    for a, b, c in zip(fresh.clips, written.clips, cached.clips, strict=True):
        assert (a.features == b.features).all()
        assert (a.features == c.features).all()
    write_part(root, "bnr", {"happy": 33})
    assert len(read_bundle(root, cache=cache).clips[0]) == 32


def test_open_corpus_reads_all_parts_that_are_there(root: Path):
    assert open_corpus(root).name == "bnr+cmu"
    (root / "bnr_clips.jsonl").unlink()
    assert open_corpus(root).name == "cmu"


class TestRefuses:
    def test_a_part_that_is_absent(self, root: Path):
        with pytest.raises(ValueError, match=r"no part 'xyz'.*\['bnr', 'cmu'\]"):
            read_bundle(root, ("xyz",))

    def test_a_cut_motion_file(self, root: Path):
        packed = root / "bnr_motion.npz"
        packed.write_bytes(packed.read_bytes()[:-100])
        with pytest.raises(ValueError, match=r"bnr_motion.npz is missing, cut"):
            read_bundle(root)
        packed.unlink()
        with pytest.raises(ValueError, match=r"bnr_motion.npz is missing, cut"):
            read_bundle(root)

    def test_a_cut_record(self, root: Path):
        records = root / "bnr_clips.jsonl"
        records.write_text(records.read_text()[:-40])
        with pytest.raises(ValueError, match=r"bnr_clips.jsonl, line 3 is cut"):
            read_bundle(root)

    def test_files_that_do_not_belong_together(self, root: Path):
        (root / "bnr_clips.jsonl").write_text((root / "cmu_clips.jsonl").read_text())
        with pytest.raises(ValueError, match="list other clips"):
            read_bundle(root)


@pytest.mark.slow
def test_the_real_cmu_part():
    if not SHARED.is_dir():
        pytest.skip("needs the data bundle in ../shared")
    corpus = read_bundle(SHARED, ("cmu",))
    assert corpus.splits == {"train": 168, "val": 16, "test": 33, "extra": 45}
    assert not corpus.problems
    assert all(np.isfinite(clip.features).all() for clip in corpus.clips)
