"""HumanML3D and KIT-ML as their users have them on disk; finding and naming what is broken.

A data set is a folder with

* ``new_joint_vecs/ID.npy``, features ``(frames, 263)`` or ``(frames, 251)``, or, where that
  folder is absent, ``new_joints/ID.npy``, joints ``(frames, 22 or 21, 3)``, KIT's in millimetres;
* ``texts/ID.txt``, one ``caption#tokens#start#end`` a line, times in seconds;
* ``train.txt``, ``val.txt``, ``test.txt``, one id a line (``extra.txt`` is read too);
* ``Mean.npy`` and ``Std.npy``, optional.

Ids of mirrored motions begin with M; they are listed and read as any other.
"""

import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from easytune_lib.data.bundle import read_bundle
from easytune_lib.data.corpus import Caption, Clip, Corpus, FeatureStats, Problem
from easytune_lib.motion.arrays import array_in
from easytune_lib.motion.features import to_features
from easytune_lib.motion.skeleton import HUMANML3D, KIT, Skeleton
from easytune_lib.storage import write_atomic

SPLITS = ("train", "val", "test", "extra")
NOTES = frozenset({"length", "missing split", "unlisted motion"})
"""Kinds of problems that do not stop a reader: usual, or a choice of the user's."""

_ID = re.compile(r"[\w-][\w.-]{0,99}")

OnProblem = Literal["raise", "skip"]


@dataclass(frozen=True)
class Summary:
    """What a data set holds and what is wrong with it; ``str()`` is the text to show."""

    name: str
    skeleton: Skeleton
    clips: int
    hours: float
    captions: int
    splits: dict[str, int]  # clips by split
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items()) or "none"
        lines = [
            f"{self.name}: {self.skeleton}, {self.skeleton.n_features} features a frame, "
            f"{self.skeleton.fps:g} frames a second",
            f"{self.clips} clips usable, {self.hours:.2f} hours, {self.captions} captions",
            f"clips by split: {splits}",
        ]
        kinds: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            kinds[problem.kind].append(problem)
        for kind, found in kinds.items():
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            note = " (note)" if kind in NOTES else ""
            lines.append(f"{kind}{note}: {len(found)}")
            lines += [f"  {problem.file}: {problem.what}" for problem in found[:3]]
            lines += [f" {more}"] if more else []
        return "\n".join(lines if kinds else [*lines, "no problems found"])


def open_corpus(
    path: Path | str, *, on_problem: OnProblem = "raise", cache: Path | None = None
) -> Corpus:
    """Read a data set whatever its layout: a HumanML3D or KIT-ML folder, or the packed bundle.

    Of a bundle all parts that are there are read, in the order of their names; read fewer with
    :func:`read_bundle`.

    Args:
        path: A folder.
        on_problem: As in :func:`read_folder`.
        cache: As in :func:`read_bundle`.

    Raises:
        ValueError: The folder holds no data set, or a broken one; says what is missing.
    """
    root = _data_folder(path)
    if (root / "texts").is_dir():
        return read_folder(root, on_problem=on_problem)
    parts = sorted(p.name.removesuffix("_clips.jsonl") for p in root.glob("*_clips.jsonl"))
    return read_bundle(root, parts, cache)


def read_folder(path: Path | str, *, on_problem: OnProblem = "raise") -> Corpus:
    """Read a folder in the layout of HumanML3D or KIT-ML (see the module's text).

    Clips of fewer than 40 (KIT: 24) or 200 and more frames are left out, as published work
    does. A caption for a part of a clip becomes a clip of its own, of that part; its id is
    ``A_ID`` for the first caption of clip ID, ``B_ID`` for the second, and so on. Deviation:
    parts of KIT clips are cut at 12.5 frames a second; the released loaders cut them at 20.

    Args:
        path: The folder.
        on_problem: ``"raise"`` stops at the first broken file; ``"skip"`` leaves broken clips
            and captions out and keeps what was wrong in ``corpus.problems``. Notes (clips out
            of the length limits, motions in no split, a split that is absent) never stop.

    Raises:
        ValueError: A problem was found, or there is nothing to read.
    """
    root = _data_folder(path)
    folder, skeleton, items = _scan(root)
    clips: list[Clip] = []
    problems: list[Problem] = []
    for item in items:
        if isinstance(item, Clip):
            clips.append(item)
        elif on_problem == "raise" and item.kind not in NOTES:
            raise ValueError(
                f"{root / item.file}: {item.what}. Repair it, or leave out what is broken with "
                f'on_problem="skip"; easytune_lib.data.humanml3d.check({str(path)!r}) lists all'
            )
        else:
            problems.append(item)
    if not clips:
        raise ValueError(
            f"{root} has no usable clip in {folder}: {len(problems)} problems, the first being "
            f"{problems[0].file}: {problems[0].what}"
            if problems
            else f"{root} lists no clips in its split files"
        )
    return Corpus(root.resolve().name, skeleton, skeleton.fps, tuple(clips), tuple(problems))


def check(path: Path | str) -> list[Problem]:
    """Everything that is wrong with a data set; reads each file once and keeps none.

    Raises:
        ValueError: The folder holds no data set at all.
    """
    return list(summarise(path).problems)


def summarise(path: Path | str) -> Summary:
    """Counts of a data set, and all its problems (as :func:`check`).

    Raises:
        ValueError: The folder holds no data set at all.
    """
    root = _data_folder(path)
    if (root / "texts").is_dir():
        _, skeleton, items = _scan(root)
    else:
        corpus = open_corpus(root)
        skeleton, items = corpus.skeleton, chain(corpus.clips, corpus.problems)
    splits: Counter[str] = Counter()
    frames = captions = 0
    problems = []
    for item in items:
        if isinstance(item, Problem):
            problems.append(item)
            continue
        splits[item.split] += 1
        frames += len(item)
        captions += len(item.captions)
    hours = frames / skeleton.fps / 3600
    name = root.resolve().name
    return Summary(name, skeleton, splits.total(), hours, captions, dict(splits), tuple(problems))


def write_clip(
    root: Path, id: str, joints: Float32[np.ndarray, "frames 22 3"], captions: Iterable[Caption]
) -> None:
    """Write one motion and its captions; the motion last, so that where it is all is there.

    Args:
        root: Of the data set.
        id: Letters, digits, ``_``, ``-`` and ``.``.
        joints: Metres, y up, 20 frames a second.
        captions: A ``#`` or a line break in them becomes a space.

    Raises:
        ValueError: The id is none.
    """
    if not _ID.fullmatch(id):
        raise ValueError(f"{id[:40]!r} is no id: expected letters, digits, _, - and .")
    lines = (
        f"{_plain(each.text)}#{_plain(each.tokens)}#{each.start}#{each.end}\n" for each in captions
    )
    write_atomic(root / "texts" / f"{id}.txt", "".join(lines).encode())
    packed = io.BytesIO()
    np.save(packed, joints)
    write_atomic(root / "new_joints" / f"{id}.npy", packed.getvalue())


def write_splits(root: Path, splits: Mapping[str, Iterable[str]]) -> None:
    """Write ``train.txt`` and so on: the ids of each split."""
    for split, ids in splits.items():
        write_atomic(root / f"{split}.txt", "".join(f"{id}\n" for id in ids).encode())


def _plain(text: str) -> str:
    return " ".join(text.replace("#", " ").split())


def read_captions(path: Path) -> tuple[Caption, ...]:
    """Captions of one file: plain lines, or ``caption#tokens#start#end``.

    Raises:
        ValueError: It cannot be read, has none, more than 1 MiB, or a bad line; says which.
    """
    try:
        if path.stat().st_size > 2**20:
            raise ValueError(f"{path} has more than 1 MiB: one caption a line is expected")
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    captions = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                captions.append(_caption(line) if "#" in line else Caption(line.strip()))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} {error}") from error
    if not captions:
        raise ValueError(f"{path} has no caption: write one a line")
    return tuple(captions)


def read_statistics(path: Path | str) -> FeatureStats:
    """``Mean.npy`` and ``Std.npy`` of a folder: what published weights were trained with.

    Raises:
        ValueError: A file is missing or cut, of another width, not finite, or a standard
            deviation is not positive.
    """
    root = Path(path)
    try:
        mean, std = (_load(root / name) for name in ("Mean.npy", "Std.npy"))
    except ValueError as error:
        raise ValueError(f"{root}: Mean.npy or Std.npy {error}") from error
    if mean.shape != std.shape or mean.shape not in [(s.n_features,) for s in (HUMANML3D, KIT)]:
        raise ValueError(
            f"{root}: Mean.npy {mean.shape} and Std.npy {std.shape} should both be (263,) or (251,)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError(f"{root}: Mean.npy or Std.npy is not finite, or Std.npy not positive")
    return FeatureStats(torch.from_numpy(mean), torch.from_numpy(std))


def _data_folder(path: Path | str) -> Path:
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; give the folder of a data set")
    if not (root / "texts").is_dir() and not any(root.glob("*_clips.jsonl")):
        raise ValueError(
            f"{root} holds no data set: expected texts/ beside new_joint_vecs/ or new_joints/ "
            f"(HumanML3D, KIT-ML), or *_clips.jsonl beside *_motion.npz (the packed bundle)"
        )
    return root


def _scan(root: Path) -> tuple[str, Skeleton, Iterator[Clip | Problem]]:
    """Folder of the motions, their skeleton, and a walk over all clips and problems."""
    folder = next(
        (f for f in ("new_joint_vecs", "new_joints") if any((root / f).glob("*.npy"))), None
    )
    if folder is None:
        raise ValueError(f"{root} has no .npy file in new_joint_vecs/ or new_joints/")
    if not any((root / f"{split}.txt").is_file() for split in SPLITS):
        raise ValueError(
            f"{root} has no train.txt, val.txt or test.txt; they list the ids of each split"
        )
    skeleton = _recognise(root / folder)
    return folder, skeleton, _walk(root, folder, skeleton)


def _recognise(folder: Path) -> Skeleton:
    """The skeleton that most of the first files fit."""
    votes: Counter[Skeleton] = Counter()
    shapes: Counter[tuple[int, ...]] = Counter()
    for path in islice(sorted(folder.glob("*.npy")), 50):
        try:
            shape = array_in(path.read_bytes()).shape[1:]
        except (OSError, ValueError):
            continue
        shapes[shape] += 1
        votes.update(s for s in (HUMANML3D, KIT) if shape == _shape(folder.name, s))
    if not votes:
        raise ValueError(
            f"{folder} fits neither HumanML3D (263 features or 22 joints) nor KIT (251 or 21): "
            f"shapes of a frame found are {list(shapes) or 'none, as no file can be read'}"
        )
    return votes.most_common(1)[0][0]


def _shape(folder: str, skeleton: Skeleton) -> tuple[int, ...]:
    """Shape of one frame on disk."""
    return (skeleton.n_features,) if folder == "new_joint_vecs" else (skeleton.n_joints, 3)


def _walk(root: Path, folder: str, skeleton: Skeleton) -> Iterator[Clip | Problem]:
    seen: dict[str, str] = {}
    for split in SPLITS:
        listed = root / f"{split}.txt"
        if not listed.is_file():
            if split != "extra":
                what = "is missing; the data set has no such split"
                yield Problem(listed.name, what, "missing split")
            continue
        text = listed.read_text(encoding="utf-8-sig", errors="replace")
        ids = text.split()
        if not ids:
            yield Problem(listed.name, "lists no ids", "empty split")
        for number, id in enumerate(ids):
            if id in seen:
                what = f"{id} is listed already, in {seen[id]}.txt"
                yield Problem(listed.name, what, "duplicate id")
                continue
            seen[id] = split
            if not _ID.fullmatch(id):
                what = f"{id[:40]!r} is no id: expected letters, digits, _, - and ."
                yield Problem(listed.name, what, "bad id")
                continue
            last = number == len(ids) - 1 and not text.endswith("\n")
            if last and not (root / folder / f"{id}.npy").is_file():
                what = f"ends in the middle of a line, {id!r} is no id: the list was cut"
                yield Problem(listed.name, what, "cut split")
                continue
            yield from _clips(root, folder, skeleton, split, id)
    unlisted = sorted(path.stem for path in (root / folder).glob("*.npy") if path.stem not in seen)
    if unlisted:
        what = (
            f"{len(unlisted)} motions are in no split (first: {', '.join(unlisted[:3])}); "
            f"are the split files whole?"
        )
        yield Problem(folder, what, "unlisted motion")
    for name in ("Mean.npy", "Std.npy"):
        if (root / name).is_file():
            yield from _statistics_problems(root, name, skeleton)


def _clips(
    root: Path, folder: str, skeleton: Skeleton, split: str, id: str
) -> Iterator[Clip | Problem]:
    """The clips of one id: the whole motion, and one for each caption of a part."""
    motion, texts = Path(folder) / f"{id}.npy", Path("texts") / f"{id}.txt"
    features = _features(root, motion, skeleton, split)
    if isinstance(features, Problem):
        yield features
        return
    captions: list[Caption] = []
    for line in _captions(root, texts, split):
        if isinstance(line, Problem):
            yield line
        else:
            captions.append(line)
    shortest, limit = skeleton.frame_limits
    whole = tuple(caption for caption in captions if not caption.end)
    if whole:
        yield Clip(id, split, features, whole)
    for number, caption in enumerate(captions):
        if not caption.end:
            continue
        part = features[int(caption.start * skeleton.fps) : int(caption.end * skeleton.fps)]
        if shortest <= len(part) < limit:
            letters = chr(ord("A") + number % 26) * (1 + number // 26)
            yield Clip(f"{letters}_{id}", split, part, (caption,))
        else:
            what = (
                f"caption {number + 1} is for {caption.start:g} to {caption.end:g} s, "
                f"{len(part)} frames; parts of {shortest} to {limit - 1} frames are used"
            )
            yield Problem(texts.as_posix(), what, "length")


def _features(root: Path, motion: Path, skeleton: Skeleton, split: str) -> np.ndarray | Problem:
    """Features from one file, or what is wrong with it."""
    file = motion.as_posix()
    if not (root / motion).is_file():
        return Problem(file, f"is missing, and {split}.txt lists it", "missing motion")
    try:
        rows = _load(root / motion)
    except ValueError as error:
        return Problem(file, str(error), "unreadable motion")
    frame = _shape(motion.parent.name, skeleton)
    if rows.shape[1:] != frame:
        what = f"has shape {rows.shape}, expected (frames, {', '.join(map(str, frame))})"
        return Problem(file, what, "wrong width")
    broken = ~np.isfinite(rows.reshape(len(rows), math.prod(frame))).all(-1)
    if broken.any():
        what = f"NaN or infinite in {broken.sum()} of {len(rows)} frames, first {broken.argmax()}"
        return Problem(file, what, "not finite")
    shortest, limit = skeleton.frame_limits
    frames = len(rows) if rows.ndim == 2 else len(rows) - 1  # of features
    if not shortest <= frames < limit:
        what = f"{frames} frames; clips of {shortest} to {limit - 1} frames are used"
        return Problem(file, what, "length")
    if rows.ndim == 2:
        return rows
    try:
        return to_features(rows * np.float32(skeleton.unit), skeleton)
    except ValueError as error:
        return Problem(file, str(error), "unusable joints")


def _load(path: Path) -> np.ndarray:
    """A float32 array from disk.

    Raises:
        ValueError: The file is missing, empty, cut, or holds something else than numbers.
    """
    try:
        return array_in(path.read_bytes()).astype(np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"is empty, cut or no array of numbers ({error})") from error


def _captions(root: Path, texts: Path, split: str) -> Iterator[Caption | Problem]:
    """Captions of one file, in order, and what is wrong with others."""
    file = texts.as_posix()
    if not (root / texts).is_file():
        yield Problem(file, f"is missing, and {split}.txt lists it", "missing text")
        return
    lines = (root / texts).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    if not any(line.strip() for line in lines):
        yield Problem(file, "is empty", "empty text")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _caption(line)
        except ValueError as error:
            yield Problem(file, f"line {number} {error}", "bad caption")


def _caption(line: str) -> Caption:
    """One ``caption#tokens#start#end``; a time of nan counts as 0, as published.

    Raises:
        ValueError: The line is none; says why.
    """
    parts = line.strip().split("#")
    if len(parts) != 4:
        raise ValueError(f"has {len(parts)} parts, expected caption#tokens#start#end")
    text, tokens, *times = (part.strip() for part in parts)
    if not text:
        raise ValueError("has no caption before the first #")
    try:
        start, end = (0.0 if math.isnan(t) else t for t in map(float, times))
    except ValueError as error:
        raise ValueError(f"has times {times}, expected two numbers of seconds") from error
    if not (start == end == 0 or 0 <= start < end < math.inf):
        raise ValueError(f"is for {start:g} to {end:g} s, expected 0 <= start < end, or 0 and 0")
    return Caption(text, tokens, start, end)


def _statistics_problems(root: Path, name: str, skeleton: Skeleton) -> Iterable[Problem]:
    try:
        shape = _load(root / name).shape
    except ValueError as error:
        return [Problem(name, str(error), "bad statistics")]
    if shape == (skeleton.n_features,):
        return []
    what = f"has shape {shape}, but motions have {skeleton.n_features} features"
    return [Problem(name, what, "bad statistics")]
