"""Published motion from a server on this machine, and folders of one's own."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serving
from made_capture import OWN, write_capture

from easytune_lib.app.cli import main
from easytune_lib.data import get as data
from easytune_lib.data.capture import RIGS, cut_clip, to_humanml3d
from easytune_lib.data.corpus import Caption
from easytune_lib.data.files import read_bvh
from easytune_lib.data.get import LICENCES, TABLES, Original, Wanted, get, originals, pack
from easytune_lib.data.humanml3d import open_corpus
from easytune_lib.progress import Ticker

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
REPOSITORY, COMMIT = "someone/motion", "0123abcd"
SAID = (Caption("a person bows.", "a/DET person/NOUN bow/VERB"), Caption("someone bows # low"))
BUNDLE = {  # samples in raw, by the clips that were cut from them
    "B1_bow_active_001": "bandai-namco",
    "B2_raise-up-left-hand_active_001": "bandai-namco",
    "B2_walk-turn-left_normal_001": "bandai-namco",
    "005289": "cmu",
    "011211": "cmu",
    "000133": "cmu",
    "011810": "cmu",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Two published files, three clips of them, as ``easytune data get bandai-namco`` sees it."""
    files, wanted = {}, []
    for name, cuts in (("bow", [(0, 45)]), ("walk", [(0, 41), (5, 42)])):
        made = write_capture(tmp_path / f"{name}.bvh", RIGS["bandai-namco"]).read_bytes()
        path = f"data sets/{name}.bvh"
        files[f"/{REPOSITORY}/{COMMIT}/data%20sets/{name}.bvh"] = made
        digest = hashlib.sha256(made).hexdigest()
        file = Original(REPOSITORY, COMMIT, path, len(made), digest)
        for number, (start, frames) in enumerate(cuts):
            split = "test" if number else "train"
            wanted.append(Wanted(f"{name}_{number}", split, start, frames, SAID, file))
    monkeypatch.setattr(data, "originals", lambda name: tuple(wanted))
    with serving(files) as running:
        monkeypatch.setattr(data, "HOST", running.url)
        yield running


def fetch(to: Path, *more: str) -> int:
    return main(["data", "get", "bandai-namco", "--to", str(to), *more])


def test_get_says_the_licence_first_and_writes_what_can_be_read(server, tmp_path: Path, capsys):
    to = tmp_path / "out"
    assert fetch(to) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("CC BY-NC 4.0: NON-COMMERCIAL")
    assert next(i for i, x in enumerate(lines) if "3 clips of 2 files" in x) > 1
    assert "2 of 2 files" in lines[-2] and f"easytune data check {to}" in lines[-1]
    assert (to / "LICENCE.txt").read_text().strip() == LICENCES["bandai-namco"]
    corpus = open_corpus(to)
    assert [(c.id, c.split, len(c)) for c in corpus.clips] == [
        ("bow_0", "train", 44), ("walk_0", "train", 40), ("walk_1", "test", 41),
    ]  # fmt: skip
    assert corpus.clips[0].captions == (SAID[0], Caption("someone bows low"))
    source = read_bvh(tmp_path / "walk.bvh")
    joints = cut_clip(to_humanml3d(source, RIGS["bandai-namco"]), 5, 42)
    np.testing.assert_array_equal(np.load(to / "new_joints" / "walk_1.npy"), joints)
    asked = len(server.asked)
    assert fetch(to) == 0 and len(server.asked) == asked, "what is there is not fetched again"


def test_dropped_connections_are_gone_on_with(server: FileServer, tmp_path: Path):
    largest = max(map(len, server.files.values()))
    server.cut = largest // 3 + 1
    assert fetch(tmp_path / "out") == 0
    parts = [wanted for _, path, wanted in server.asked if "bow" in path]
    assert parts == ["", f"bytes={server.cut}-", f"bytes={2 * server.cut}-"]
    assert len(open_corpus(tmp_path / "out").clips) == 3


def test_a_connection_that_drops_again_and_again_is_a_line_and_no_byte_is_lost(
    server: FileServer, tmp_path: Path, capsys
):
    to, server.cut = tmp_path / "out", 1000
    assert fetch(to) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "was cut off after 3000 of" in error and "goes on from there" in error
    assert not (to / "train.txt").exists(), "what is not whole is no data set"
    server.cut = None
    assert fetch(to) == 0
    assert server.asked[3][2] == "bytes=3000-" and len(open_corpus(to).clips) == 3


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    "content, message",
    [
        (lambda made: made.replace(b"0.1", b"0.2"), "expected"),
        (lambda made: made + b"more", "it has more than"),
        (lambda made: made[: len(made) // 2], "expected"),
        (None, "the server says 404"),
    ],
    ids=["other bytes", "more", "fewer", "not there"],
)
def test_wrong_bytes_are_refused_or_left_out(
    server: FileServer, tmp_path: Path, capsys, content, message: str, skip: bool
):
    path = next(path for path in server.files if "bow" in path)
    made = server.files.pop(path)
    if content:
        server.files[path] = content(made)
    to = tmp_path / "out"
    assert fetch(to, *["--skip-bad"] * skip) == (1 if skip else 2)
    said = capsys.readouterr()
    (line,) = [x for x in (said.out if skip else said.err).splitlines() if message in x]
    assert "bow.bvh" in line
    assert not [each for each in to.rglob("*bow*")], "nothing of it is kept"
    if skip:
        assert [clip.id for clip in open_corpus(to).clips] == ["walk_0", "walk_1"]


def test_without_a_network_it_stops_even_where_bad_files_are_left_out(
    server: FileServer, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(data, "HOST", "http://127.0.0.1:1")
    assert fetch(tmp_path / "out", "--skip-bad") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "bow.bvh cannot be reached" in error and "is there a network?" in error


def test_a_damaged_original_is_fetched_again(server: FileServer, tmp_path: Path):
    to = tmp_path / "out"
    fetch(to)
    (to / "originals" / REPOSITORY / "data sets" / "bow.bvh").write_bytes(b"HIERARCHY")
    (to / "new_joints" / "bow_0.npy").unlink()
    asked = len(server.asked)
    assert fetch(to) == 0 and len(server.asked) == asked + 1
    assert (to / "new_joints" / "bow_0.npy").exists()


def test_a_clip_beyond_its_file_names_the_file(server: FileServer, tmp_path: Path):
    wanted = (replace(data.originals("")[0], frames=99),)
    with pytest.raises(ValueError, match=r"bow\.bvh: frames 0 to 99 of 47"):
        get("bandai-namco", tmp_path / "out", Ticker(), wanted=wanted, host=server.url)


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match="there are bandai-namco and cmu"):
        originals("../cmu")


@pytest.mark.parametrize("name, clips, files", [("bandai-namco", 3105, 3072), ("cmu", 262, 213)])
def test_the_tables_pin_every_file(name: str, clips: int, files: int):
    wanted = originals(name)
    assert len(wanted) == len({each.id for each in wanted}) == clips
    assert len({each.file for each in wanted}) == files
    for each in wanted:
        for file in (each.file, *([each.skeleton] if each.skeleton else [])):
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) and file.size > 1000
            assert re.fullmatch(r"[0-9a-f]{40}", file.commit) and ".." not in file.path
            assert file.url(data.HOST).startswith(
                f"https://raw.githubusercontent.com/{file.repository}/"
            )
        assert (each.skeleton is not None) == each.file.path.endswith(".amc")
        assert each.split in ("train", "val", "test", "extra") and each.captions
        assert 20 <= each.frames <= 200 and re.fullmatch(r"[\w-]+", each.id)


@pytest.mark.parametrize("part, name", [("bnr", "bandai-namco"), ("cmu", "cmu")])
def test_the_tables_are_those_of_the_bundle(part: str, name: str):
    if not SHARED.is_dir():
        pytest.skip("needs the bundle and its SOURCES.tsv in ../shared/data")
    assert (TABLES / f"{name}.json.gz").read_bytes()[10:] == pack(SHARED, part)[10:]


@pytest.mark.parametrize("id", BUNDLE)
def test_samples_equal_the_bundle_within_a_millimetre(id: str, tmp_path: Path):
    """From the samples as published, by way of a server, against what was packed from them."""
    if not SHARED.is_dir():
        pytest.skip("needs the bundle and its samples in ../shared/data")
    name = BUNDLE[id]
    (wanted,) = [each for each in originals(name) if each.id == id]
    files = [wanted.file, *([wanted.skeleton] if wanted.skeleton else [])]
    found = {path.name: path for path in (SHARED / "raw").rglob("*.*")}
    served = {file.url(""): found[Path(file.path).name].read_bytes() for file in files}
    with serving(served) as server:
        get(name, tmp_path, Ticker(), wanted=(wanted,), host=server.url)
    made = np.load(tmp_path / "new_joints" / f"{id}.npy")
    with np.load(SHARED / f"{'cmu' if name == 'cmu' else 'bnr'}_motion.npz") as packed:
        ids, length, step = packed["ids"].tolist(), packed["length"], float(packed["step"])
        at = ids.index(id)
        start = length[:at].sum()
        rows = packed["dq"][start : start + length[at]]
    joints = np.cumsum(rows, 0, dtype=np.int64) * step
    assert made.shape == joints.shape
    assert np.linalg.norm(made - joints, axis=-1).max() < 1e-3, "metres"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, with a caption beside, in texts, and none; the joints as Mixamo names them."""
    root = tmp_path / "mine"
    (root / "deep").mkdir(parents=True)
    (root / "texts").mkdir()
    for seed, name in enumerate(("hop.bvh", "deep/a turn.BVH", "walk.bvh")):
        write_capture(root / name, RIGS["mixamo"], seed)
    (root / "hop.txt").write_text("a person hops.\n\na hop#a/DET hop/NOUN#0.0#0.0\n")
    (root / "texts" / "a turn.txt").write_text("someone turns\n")
    return root


def bring(folder: Path, *more: str, joints: str = "mixamo") -> int:
    out = folder.parent / "out"
    return main(["data", "import", str(folder), "--joints", joints, "--out", str(out), *more])


def test_import_writes_what_can_be_read(folder: Path, capsys):
    assert bring(folder, "--caption", "a person moves.") == 0
    assert "next: easytune data check" in capsys.readouterr().out
    clips = {clip.id: clip for clip in open_corpus(folder.parent / "out").clips}
    assert {id: [c.text for c in clip.captions] for id, clip in clips.items()} == {
        "hop": ["a person hops.", "a hop"],
        "deep_a_turn": ["someone turns"],
        "walk": ["a person moves."],
    }
    assert clips["hop"].captions[1].tokens == "a/DET hop/NOUN"
    assert {id: clip.split for id, clip in clips.items()} == {
        id: data._split(id) for id in clips
    }  # fmt: skip
    source = to_humanml3d(read_bvh(folder / "walk.bvh"), RIGS["mixamo"])
    joints = np.load(folder.parent / "out" / "new_joints" / "walk.npy")
    np.testing.assert_array_equal(joints, cut_clip(source))


def test_splits_are_of_the_size_that_they_should_be():
    splits = [data._split(f"clip_{number}") for number in range(2000)]
    assert [round(splits.count(x) / 2000, 1) for x in ("train", "val", "test")] == [0.8, 0.1, 0.1]
    assert splits == [data._split(f"clip_{number}") for number in range(2000)]


def test_long_files_are_cut_and_stay_in_one_split(tmp_path: Path):
    root = tmp_path / "mine"
    root.mkdir()
    path = write_capture(root / "long.bvh", frames=250, fps=20.0)
    path.with_suffix(".txt").write_text("a long walk")
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"joints": dict(OWN.joints)}))
    assert bring(root, joints=str(own)) == 0
    clips = open_corpus(tmp_path / "out").clips
    assert [(clip.id, len(clip)) for clip in clips] == [("long_0", 159), ("long_1", 89)]
    assert len({clip.split for clip in clips}) == 1


def break_(folder: Path, how: str) -> None:
    path = folder / "hop.bvh"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:9000])
    elif how == "short":
        write_capture(path, RIGS["mixamo"], frames=20)
    elif how == "other joints":
        write_capture(path, RIGS["bandai-namco"])
    elif how == "caption":
        (folder / "hop.txt").write_text("hop#hop/NOUN#3")
    elif how == "no caption":
        (folder / "hop.txt").unlink()
    elif how == "part":
        write_capture(path, RIGS["mixamo"], frames=400)
        (folder / "hop.txt").write_text("hop##0.0#3.0")
    elif how == "link":
        path.rename(folder.parent / "elsewhere.bvh")
        path.symlink_to(folder.parent / "elsewhere.bvh")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "same name":
        write_capture(folder / "h@p.bvh", RIGS["mixamo"]).with_suffix(".txt").write_text("a hop")
        path.rename(folder / "h+p.bvh").with_suffix(".txt").write_text("a hop")


@pytest.mark.parametrize(
    "how, message",
    [
        ("cut", "no whole BVH file|numbers"),
        ("short", "a clip has 20 or more"),
        ("other joints", "the file has no joint mixamorig:LeftUpLeg"),
        ("caption", r"hop\.txt: line 1 has 3 parts"),
        ("no caption", r"write .*hop\.txt, or give --caption"),
        ("part", "captions cannot be for a part"),
        ("link", "leads out of the folder"),
        ("folder", "cannot be read"),
        ("same name", "would be named h_p"),
    ],
)
def test_bad_files_are_a_line_and_can_be_left_out(folder: Path, how: str, message: str, capsys):
    (folder / "walk.txt").write_text("a walk")
    break_(folder, how)
    assert bring(folder) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.search(message, error) and "--skip-bad" in error and len(error) < 700
    assert not (folder.parent / "out").exists(), "it is whole or absent"
    assert bring(folder, "--skip-bad") == 1
    assert re.search(message, capsys.readouterr().out)
    clips = {clip.id for clip in open_corpus(folder.parent / "out").clips}
    assert clips == {"deep_a_turn", "walk"} | ({"h_p"} if how == "same name" else set())


def test_nothing_is_written_over_and_nothing_read_is_said(folder: Path, tmp_path: Path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").touch()
    assert bring(folder) == 2 and "is there already" in capsys.readouterr().err
    (tmp_path / "out" / "a.txt").unlink()
    for path in folder.rglob("*.[bB]*"):
        path.write_text("HIERARCHY")
    assert bring(folder, "--skip-bad", "--caption", "x") == 2
    assert "no file of" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert bring(tmp_path / "empty") == 2 and "no .bvh file" in capsys.readouterr().err
    assert bring(tmp_path / "none") == 2 and "is no folder" in capsys.readouterr().err
    assert (
        bring(folder, joints="unknown") == 2 and "unknown cannot be read" in capsys.readouterr().err
    )
