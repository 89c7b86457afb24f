"""Acclaim's motion capture: a skeleton (ASF) and its motion (AMC), as CMU publishes its takes.

No library that is kept reads them. Lengths stay in the file's unit; limits are not read.
Source: the format's description, https://research.cs.wisc.edu/graphics/Courses/cs-838-1999/Jeff/ASF-AMC.html
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from easytune_lib.data.capture import Capture, check_size, posed

LARGEST = {".asf": 2**22, ".amc": 2**28}
"""Bytes of a file that are read at most."""

_FAR = 1e9  # no number of a motion is as large
_TURNS, _PLACES = ("rx", "ry", "rz"), ("tx", "ty", "tz")


@dataclass(frozen=True, eq=False)
class Acclaim:
    """A skeleton: bones, each named after its end, and turned at its start."""

    names: tuple[str, ...]  # the root first, parents before children
    parents: tuple[int, ...]  # -1 for the root
    bones: Float[np.ndarray, "bones 3"]  # from start to end at rest; zero for the root
    axes: tuple[Rotation, ...]  # in which each bone's turns are given
    channels: tuple[tuple[str, ...], ...]  # numbers of each bone in a frame: tx ... rz
    degrees: bool


def read_asf(path: Path) -> Acclaim:
    """Read a skeleton.

    Raises:
        ValueError: It cannot be read, is too large, or is no whole ASF; one line.
    """
    sections: dict[str, list[list[str]]] = {}
    for words in _lines(path):
        if words[0].startswith(":"):
            rows = sections.setdefault(words[0][1:].lower(), [])
        elif sections:
            rows.append(words)
    if missing := [s for s in ("root", "bonedata", "hierarchy") if s not in sections]:
        raise ValueError(f"{path} is no ASF file: it has no :{missing[0]}")
    units = {words[0].lower(): words[-1].lower() for words in sections.get("units", [])}
    degrees = units.get("angle", "deg").startswith("deg")
    root = {words[0].lower(): words[1:] for words in sections["root"]}
    axis, orientation = root.get("axis", ["XYZ"]), root.get("orientation", ["0", "0", "0"])
    found = {"root": _Bone(
        np.zeros(3),
        _axes([*orientation, *axis], degrees, path),
        _channels(root.get("order", []), (*_PLACES, *_TURNS), path),
    )}  # fmt: skip
    for given in _blocks(sections["bonedata"], path):
        name = " ".join(given.get("name", []))
        if not name or name in found:
            raise ValueError(f"{path}: a bone has no name, or another's: {name[:40]!r}")
        direction = np.array(_numbers(given.get("direction", []), 3, path))
        (length,) = _numbers(given.get("length", []), 1, path)
        norm = np.linalg.norm(direction)
        found[name] = _Bone(
            length * direction / (norm or 1.0),
            _axes(given.get("axis", []), degrees, path),
            _channels(given.get("dof", []), _TURNS, path),
        )
    parents = {"root": -1}
    order = ["root"]
    for words in sections["hierarchy"]:
        if words[0] in ("begin", "end"):
            continue
        if words[0] not in parents:
            raise ValueError(f"{path}: {words[0][:40]!r} has children, but hangs nowhere")
        for child in words[1:]:
            if child not in found or child in parents:
                raise ValueError(f"{path}: {child[:40]!r} is no bone, or hangs in two places")
            parents[child] = order.index(words[0])
            order.append(child)
    return Acclaim(
        tuple(order),
        tuple(parents[name] for name in order),
        np.stack([found[name].bone for name in order]),
        tuple(found[name].axes for name in order),
        tuple(found[name].channels for name in order),
        degrees,
    )


def read_amc(path: Path, skeleton: Acclaim, fps: float) -> Capture:
    """Read a motion of a skeleton.

    Joints are named after the bones that begin there, as they turn with them; where the last
    bones end is left out.

    Args:
        path: Of the motion.
        skeleton: Of the same person.
        fps: Frames a second; the file does not say.

    Raises:
        ValueError: It cannot be read, is too large, lacks a bone in a frame, or has a number that
            is none; one line.
    """
    width = {name: len(own) for name, own in zip(skeleton.names, skeleton.channels, strict=True)}
    rows: dict[str, list[list[float]]] = {name: [] for name, count in width.items() if count}
    frames = 0
    for words in _lines(path):
        if words[0].startswith(":"):
            continue
        if len(words) == 1 and words[0].isdecimal():
            _check_whole(rows, frames, path)
            frames += 1
        elif frames and words[0] in rows and len(rows[words[0]]) == frames - 1:
            rows[words[0]].append(_numbers(words[1:], width[words[0]], path))
        else:
            raise ValueError(
                f"{path}, frame {frames}: {words[0][:40]!r} is no bone of the skeleton that moves, "
                f"or comes twice"
            )
    _check_whole(rows, frames, path)
    if not frames:
        raise ValueError(f"{path} is no AMC file: it has no frame")
    try:
        check_size(frames, len(skeleton.names))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    offsets = np.stack([skeleton.bones[max(parent, 0)] for parent in skeleton.parents])
    positions, turns = posed(skeleton.parents, _poses(skeleton, offsets, rows, frames), frames)
    return Capture(skeleton.names, skeleton.parents, offsets, positions, turns, fps)


def _poses(
    skeleton: Acclaim, offsets: np.ndarray, rows: dict[str, list[list[float]]], frames: int
) -> Iterator[tuple[np.ndarray, Rotation]]:
    """Of each joint, where it is from its parent and how it is turned there, in each frame."""
    for joint, name in enumerate(skeleton.names):
        given = dict(zip(skeleton.channels[joint], np.array(rows.get(name, [])).T, strict=True))
        axes, own = "".join(n[1] for n in given if n in _TURNS), Rotation.identity(frames)
        if axes:  # lower case: about axes that stay, the first named first
            angles = np.stack([given[f"r{axis}"] for axis in axes], -1)
            own = Rotation.from_euler(axes, angles, degrees=skeleton.degrees)
        place = np.tile(offsets[joint], (frames, 1))
        for axis, channel in enumerate(_PLACES):
            if channel in given:  # of the root alone
                place[:, axis] = given[channel]
        yield place, skeleton.axes[joint] * own * skeleton.axes[joint].inv()


@dataclass(frozen=True, eq=False)
class _Bone:
    bone: np.ndarray
    axes: Rotation
    channels: tuple[str, ...]


def _lines(path: Path) -> Iterator[list[str]]:
    """Words of each line that holds any, comments left out."""
    most = LARGEST.get(path.suffix.lower(), LARGEST[".asf"])
    try:
        if path.stat().st_size > most:
            raise ValueError(f"{path} has more than {most >> 20} MiB: cut it into clips")
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if words := line.partition("#")[0].split():
                    yield words
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _blocks(lines: list[list[str]], path: Path) -> Iterator[dict[str, list[str]]]:
    """What stands between begin and end: words by the first of their line."""
    block: dict[str, list[str]] | None = None
    for words in lines:
        if words[0] == "begin":
            block = {}
        elif words[0] == "end" and block is not None:
            yield block
            block = None
        elif block is not None:
            block.setdefault(words[0].lower(), words[1:])
    if block is not None:
        raise ValueError(f"{path} is no whole ASF file: a bone has no end")


def _axes(words: list[str], degrees: bool, path: Path) -> Rotation:
    order = words[-1].lower() if words else ""
    if len(order) != 3 or set(order) != set("xyz"):
        raise ValueError(f"{path}: an axis is three angles and their order, got {words[:4]}")
    return Rotation.from_euler(order, _numbers(words[:-1], 3, path), degrees=degrees)


def _channels(words: list[str], known: tuple[str, ...], path: Path) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in words)
    if len(set(channels)) < len(channels) or not set(channels) <= set(known):
        raise ValueError(f"{path}: numbers of a frame are among {known}, got {words[:6]}")
    return channels


def _numbers(words: list[str], count: int, path: Path) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(x) and abs(x) < _FAR for x in numbers):
        shown = " ".join(words[:4])[:40]
        raise ValueError(f"{path}: expected {count} numbers below {_FAR:g}, got {shown!r}")
    return numbers


def _check_whole(rows: dict[str, list[list[float]]], frames: int, path: Path) -> None:
    if lacking := [name for name, own in rows.items() if len(own) != frames]:
        raise ValueError(f"{path}, frame {frames} has no {lacking[0][:40]}")
