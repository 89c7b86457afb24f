"""Real motion from where it is published, or from a folder of one's own, in HumanML3D's layout."""

import gzip
import json
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from easytune_lib.data.asf import read_amc, read_asf
from easytune_lib.data.capture import RIGS, Rig, cut_clip, pieces, to_humanml3d
from easytune_lib.data.corpus import Caption, Problem
from easytune_lib.data.downloads import ConnectionLost, download, verify
from easytune_lib.data.files import read_bvh
from easytune_lib.data.humanml3d import read_captions, write_clip, write_splits
from easytune_lib.progress import Ticker, spell
from easytune_lib.seeding import seed_of
from easytune_lib.storage import alone, write_atomic

HOST = "https://raw.githubusercontent.com"
TABLES = Path(__file__).parent / "originals"
TRIES = 3
"""How often a file whose connection drops is gone on with."""

LICENCES = {
    "bandai-namco": """\
Bandai Namco Research Motiondataset 1 and 2, (c) 2022 Bandai Namco Research Inc.
CC BY-NC 4.0: NON-COMMERCIAL, attribution must stay. https://creativecommons.org/licenses/by-nc/4.0
Changed here: retargeted to 22 joints, resampled to 20 frames a second, long files cut, captions
added. Cite: Kobayashi et al., "Motion Capture Dataset for Practical Use of AI-based Motion Editing
and Stylization", 2023, arXiv:2306.08861.""",
    "cmu": """\
CMU Graphics Lab Motion Capture Database: free for research; may be part of products that are sold,
but not be sold directly, even in converted form. Say where you publish: "The data used in this
project was obtained from mocap.cs.cmu.edu. The database was created with funding from NSF
EIA-0196217." BVH files: conversion by Bruce Hahne (2010), no more restrictions.
Captions, ids and splits: HumanML3D, MIT, Copyright (c) 2022 Chuan Guo. Cite: Guo et al.,
"Generating Diverse and Natural 3D Human Motions from Text", CVPR 2022. 45 captions are CMU's.""",
}


@dataclass(frozen=True)
class Original:
    """A published file."""

    repository: str
    commit: str
    path: str
    size: int  # bytes
    sha256: str

    def url(self, host: str) -> str:
        """Where it lies on a server that has repositories as GitHub's has."""
        return f"{host}/{self.repository}/{self.commit}/{quote(self.path)}"


@dataclass(frozen=True)
class Wanted:
    """A clip: what it is cut from, and what is said of it."""

    id: str
    split: str
    start: int  # first frame at 20 a second
    frames: int
    captions: tuple[Caption, ...]
    file: Original
    skeleton: Original | None = None  # of an AMC file
    fps: int = 0  # frames a second of the file, where it does not say so


def originals(name: str) -> tuple[Wanted, ...]:
    """The clips of the packed bundle that are made of published files, from the table shipped.

    Frame ranges, splits, captions and their tags are the bundle's: those of ``cmu`` are
    HumanML3D's, tagged once; those of ``bandai-namco`` were written for the labels in the names
    of its files. Neither can be had from the motion files.

    Raises:
        ValueError: There is no such set.
    """
    if name not in LICENCES:
        raise ValueError(f"no data set is named {name!r}: there are {' and '.join(LICENCES)}")
    table = json.loads(gzip.decompress((TABLES / f"{name}.json.gz").read_bytes()))
    files = [Original(*table["origins"][origin], *rest) for origin, *rest in table["files"]]
    said = [tuple(Caption(*words) for words in texts) for texts in table["texts"]]
    return tuple(
        Wanted(id, split, start, frames, said[text], files[file], files[by] if by else None, fps)
        for id, split, start, frames, text, file, by, fps in table["clips"]
    )


def pack(bundle: Path, part: str) -> bytes:
    """The table of a data set, from the packed bundle and its list of sources.

    Args:
        bundle: Its folder, with SOURCES.tsv.
        part: ``"bnr"`` or ``"cmu"``.
    """
    rows = [row.split("\t") for row in (bundle / "SOURCES.tsv").read_text().splitlines()[1:]]
    known = {(repository, path): (commit, int(size), digest)
             for repository, commit, path, size, digest in rows}  # fmt: skip
    origins: dict[tuple[str, str], int] = {}
    files: dict[tuple[str, str], int] = {}
    texts: dict[tuple[tuple[str, str], ...], int] = {}
    listed, clips, used = [], [], dict[tuple[str, str], int]()

    def number(repository: str, path: str) -> int:
        key = repository, path
        if key not in files:
            commit, size, digest = known[key]
            origin = origins.setdefault((repository, commit), len(origins))
            listed.append((origin, path, size, digest))
            files[key] = len(files)
        return files[key]

    for line in (bundle / f"{part}_clips.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        repository, path = record["source"]["repo"], record["source"]["path"]
        file = number(repository, path)
        by = number(repository, re.sub(r"_\d+\.amc$", ".asf", path)) if path.endswith("amc") else 0
        said = tuple((text["caption"], text["tokens"]) for text in record["texts"])
        start = record.get("take_start", used.get((repository, path), 0))
        used[repository, path] = start + record["frames"]
        clips.append((
            record["id"], record["split"], start, record["frames"],
            texts.setdefault(said, len(texts)), file, by, record.get("capture_fps", 0),
        ))  # fmt: skip
    table = {"origins": list(origins), "files": listed, "texts": list(texts), "clips": clips}
    packed = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    return gzip.compress(packed, 9, mtime=0)


def get(
    name: str, to: Path, ticker: Ticker, *, skip_bad: bool = False, host: str = "",
    wanted: tuple[Wanted, ...] | None = None,
) -> list[Problem]:  # fmt: skip
    """Fetch published motion and write it in HumanML3D's layout; goes on with what is there.

    Args:
        name: A key of :data:`LICENCES`.
        to: A folder; the files as published stay in ``originals`` in it.
        ticker: Is told the licence first, then the progress.
        skip_bad: Leave out what is not there, not as published, or cannot be read, instead of
            stopping at it. A network that fails stops all the same.
        host: Where the repositories are; :data:`HOST` where empty.
        wanted: Clips; all of the set where ``None``.

    Returns:
        What was left out.

    Raises:
        ValueError: A file cannot be had, is not the published one, or cannot be read; or another
            process fetches into the same folder.
    """
    wanted, host = originals(name) if wanted is None else wanted, host or HOST
    by_file: dict[Original, list[Wanted]] = {}
    for each in wanted:
        by_file.setdefault(each.file, []).append(each)
    total = sum(file.size for file in by_file)
    ticker.say(LICENCES[name])
    ticker.say(f"{len(wanted)} clips of {len(by_file)} files, {total / 1e6:.0f} MB, from {host}")
    problems: list[Problem] = []
    done: dict[str, list[str]] = {}
    began, came, past = time.monotonic(), 0, 0
    with alone(to, "download"):
        write_atomic(to / "LICENCE.txt", (LICENCES[name] + "\n").encode())
        for number, (file, clips) in enumerate(by_file.items(), 1):
            try:
                if not all(_is_written(to, each.id) for each in clips):
                    came += _convert(name, clips, to, host)
                for each in clips:
                    done.setdefault(each.split, []).append(each.id)
            except ValueError as error:
                if not skip_bad or isinstance(error, ConnectionLost):
                    raise
                problems.append(Problem(file.path, str(error), "left out"))
                ticker.say(f"left out: {error}")
            past += file.size
            seconds = time.monotonic() - began
            left = f", about {spell(seconds * (total - past) / past)} left" if came else ""
            ticker.passing(
                f"{number} of {len(by_file)} files, {past / 1e6:.1f} of {total / 1e6:.1f} MB{left}",
                urgent=number == len(by_file),
            )
        if not done:
            raise ValueError(f"no clip could be made; the first: {problems[0].what}")
        write_splits(to, done)
    ticker.say(f"next: easytune data check {to}; {to / 'originals'} can be removed")
    return problems


def _is_written(root: Path, id: str) -> bool:
    return (root / "new_joints" / f"{id}.npy").is_file()


def _convert(name: str, clips: list[Wanted], to: Path, host: str) -> int:
    """Fetch one file, and write its clips; the bytes that came."""
    file, skeleton, fps = clips[0].file, clips[0].skeleton, clips[0].fps
    came, path = _fetch(file, to, host)
    if skeleton is None:
        capture = read_bvh(path)
        cmu = "cmu-poser" if "abdomen" in capture.names else "cmu-bvh"
        rig = RIGS[cmu if name == "cmu" else name]
    else:
        more, by = _fetch(skeleton, to, host)
        came += more
        rig, capture = RIGS["cmu-asf"], read_amc(path, read_asf(by), float(fps))
    try:
        joints = to_humanml3d(capture, replace(rig, fps=float(fps)))
        cut = [(each, cut_clip(joints, each.start, each.frames)) for each in clips]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for each, part in cut:
        write_clip(to, each.id, part, each.captions)
    return came


def _fetch(file: Original, to: Path, host: str) -> tuple[int, Path]:
    """The bytes that came, and where the whole file is."""
    path, came = to / "originals" / file.repository / file.path, 0
    checksum = f"sha256:{file.sha256}"
    if path.exists():
        try:
            verify(path, checksum)
            return 0, path
        except ValueError:
            path.unlink()  # damaged since
    for left in reversed(range(TRIES)):
        try:
            for step in download(file.url(host), path, checksum, file.size):
                came = step.done
            break
        except ConnectionLost:
            if not left:
                raise
    return came, path


def import_folder(
    folder: Path, rig: Rig, out: Path, ticker: Ticker, *, caption: str = "", skip_bad: bool = False
) -> list[Problem]:
    """Bring a folder of BVH files into HumanML3D's layout.

    Files of subfolders are read too; a clip is named after its file, with ``_0``, ``_1`` ... where
    it is cut because it is too long. Captions are read from ``texts/NAME.txt`` in the folder, or
    from ``NAME.txt`` beside the file: one a line, plain, or as HumanML3D has them. Tags of words
    are left empty where they are not given; the T2M evaluator alone reads them. By a hash of the
    name, 80 of 100 files are for training, 5 for validation and 15 for testing.

    Args:
        folder: Of ``.bvh`` files.
        rig: Of their skeleton.
        out: A folder that is not there yet, or is empty; whole or absent afterwards.
        ticker: Is told the progress.
        caption: Of files that have none.
        skip_bad: Leave bad files out, instead of stopping at one.

    Returns:
        What was left out.

    Raises:
        ValueError: There is nothing to read, ``out`` holds something, or a file cannot be used.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one of .bvh files")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: give --out a new folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".bvh")
    if not files:
        raise ValueError(f"{folder} holds no .bvh file")
    part = out.with_name(f".{out.name}.part")  # renamed when it is whole
    shutil.rmtree(part, ignore_errors=True)
    problems: list[Problem] = []
    splits: dict[str, list[str]] = {}
    taken: dict[str, Path] = {}
    for number, path in enumerate(files, 1):
        try:
            name = _name(path, folder)
            if taken.setdefault(name, path) != path:
                raise ValueError(f"{path} would be named {name}, as {taken[name]}: rename one")
            ids = _import(path, name, folder, rig, part, caption)
            splits.setdefault(_split(name), []).extend(ids)
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{error} (--skip-bad leaves such files out)") from error
            problems.append(Problem(path.relative_to(folder).as_posix(), str(error), "left out"))
            ticker.say(f"left out: {error}")
        ticker.passing(f"{number} of {len(files)} files", urgent=number == len(files))
    if not splits:
        raise ValueError(f"no file of {folder} can be used; the first: {problems[0].what}")
    write_splits(part, splits)
    os.replace(part, out)
    counts = ", ".join(f"{split} {len(ids)}" for split, ids in splits.items())
    ticker.say(f"{out}: {counts}; next: easytune data check {out}")
    return problems


def _name(path: Path, folder: Path) -> str:
    """An id without anything that could lead out of a folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link that leads out of the folder")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.relative_to(folder).with_suffix("").as_posix())
    if len(name) > 90:
        raise ValueError(f"{path.name[:40]}... has a name of more than 90 characters")
    return name


def _split(name: str) -> str:
    place = seed_of(0, "split", name) % 100
    return "val" if place < 5 else "test" if place < 20 else "train"


def _import(path: Path, name: str, folder: Path, rig: Rig, out: Path, caption: str) -> list[str]:
    """Write the clips of a file; their ids."""
    places = (folder / "texts" / f"{path.stem}.txt", path.with_suffix(".txt"))
    said = next((place for place in places if place.is_file()), None)
    if said is None and not caption:
        raise ValueError(f"{path} has no caption: write {places[1]}, or give --caption")
    captions = read_captions(said) if said else (Caption(caption),)
    capture = read_bvh(path)
    try:
        joints = to_humanml3d(capture, rig)
        cut = pieces(len(joints))
        if len(cut) > 1 and any(each.end for each in captions):
            raise ValueError(f"{len(joints)} frames are cut, so captions cannot be for a part")
        parts = [cut_clip(joints, *piece) for piece in cut]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    ids = [f"{name}_{number}" for number in range(len(parts))] if len(parts) > 1 else [name]
    for id, part in zip(ids, parts, strict=True):
        write_clip(out, id, part, captions)
    return ids
