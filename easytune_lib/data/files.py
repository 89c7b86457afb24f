"""Motions in files that other programs read: BVH for Blender and its like, npz for NumPy."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation

from easytune_lib.data.capture import Capture, check_size, posed
from easytune_lib.motion.arrays import arrays_in
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, KIT, Skeleton
from easytune_lib.storage import write_atomic

SKELETONS = {skeleton.name: skeleton for skeleton in (HUMANML3D, KIT)}
LARGEST = 2**28
"""Bytes of a file, or of what it unpacks to, that are read at most."""

_FAR = 1e9  # no number of a motion is as large
_CHANNELS = ("Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation")


def write_bvh(motion: Motion, path: Path) -> Path:
    """Write a motion as BVH, in metres, y up, as other programs expect it.

    The rest pose has the skeleton's directions and the motion's mean bone lengths. Each joint
    turns as the bones below it do, by the smallest turn that brings them there; what a rigid
    skeleton cannot follow, since generated bones stretch a little, is in position channels, so
    that joints are where they were. In Blender: File, Import, Motion Capture.

    Args:
        motion: Any skeleton.
        path: With the suffix ``.bvh``.
    """
    skeleton = motion.skeleton
    offsets = skeleton.raw_offsets.copy()
    children = [child for _, child in skeleton.bones]
    offsets[children] *= motion.bone_lengths.mean(0)[:, None]
    turns = _turns(motion.joints.astype(np.float64), skeleton)
    local = np.empty((len(motion), skeleton.n_joints, 6))
    for joint, parent in enumerate(skeleton.parents):
        if parent < 0:
            local[:, joint, :3], turned = motion.joints[:, joint], turns[joint]
        else:
            back = turns[parent].inv()
            local[:, joint, :3] = back.apply(motion.joints[:, joint] - motion.joints[:, parent])
            turned = back * turns[joint]
        local[:, joint, 3:] = np.unwrap(
            turned.as_euler("ZXY", degrees=True), axis=0, period=360.0, discont=180.0
        )
    order = _depth_first(skeleton)
    lines = ["HIERARCHY", *_hierarchy(skeleton, offsets)]
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.8f}"]
    lines += [
        " ".join(f"{x:.6f}" for x in frame) for frame in local[:, order].reshape(len(local), -1)
    ]
    return write_atomic(Path(path), ("\n".join(lines) + "\n").encode("ascii", "replace"))


def _turns(joints: Float[np.ndarray, "frames joints 3"], skeleton: Skeleton) -> list[Rotation]:
    """How each joint is turned in the world, per frame."""
    below: list[list[int]] = [[] for _ in skeleton.joints]
    for parent, child in skeleton.bones:
        below[parent].append(child)
    turns: list[Rotation] = []
    identity = Rotation.identity(len(joints))
    for joint, parent in enumerate(skeleton.parents):
        start = turns[parent] if parent >= 0 else identity
        if not (own := below[joint]):
            turns.append(start)
            continue
        rest = np.stack([start.apply(skeleton.raw_offsets[child]) for child in own], axis=1)
        bones = joints[:, own] - joints[:, [joint]]
        bones /= np.maximum(np.linalg.norm(bones, axis=-1, keepdims=True), 1e-9)
        turns.append(
            (_swing(rest[:, 0], bones[:, 0]) if len(own) == 1 else _fit(rest, bones)) * start
        )
    return turns


def _swing(a: Float[np.ndarray, "frames 3"], b: Float[np.ndarray, "frames 3"]) -> Rotation:
    """The smallest turn that brings each unit vector of ``a`` to that of ``b``."""
    axis = np.cross(a, b)
    length = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(length, (a * b).sum(-1, keepdims=True))
    across = np.cross(a, np.eye(3)[np.abs(a).argmin(-1)])  # any, where a turns by half a circle
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    unit = np.where(length > 1e-9, axis / np.maximum(length, 1e-12), across)
    return Rotation.from_rotvec(angle * unit)


def _fit(
    a: Float[np.ndarray, "frames bones 3"], b: Float[np.ndarray, "frames bones 3"]
) -> Rotation:
    """The turn that brings the vectors of ``a`` nearest to those of ``b`` (Kabsch, 1976)."""
    left, _, right = np.linalg.svd(np.einsum("tki,tkj->tij", b, a))
    sign = np.ones((len(a), 3))
    sign[:, 2] = np.sign(np.linalg.det(left @ right))
    return Rotation.from_matrix((left * sign[:, None]) @ right)


def _depth_first(skeleton: Skeleton, joint: int = 0) -> list[int]:
    below = [child for parent, child in skeleton.bones if parent == joint]
    return [joint, *(row for child in below for row in _depth_first(skeleton, child))]


def _hierarchy(
    skeleton: Skeleton, offsets: np.ndarray, joint: int = 0, depth: int = 0
) -> list[str]:
    pad, below = "  " * depth, [child for parent, child in skeleton.bones if parent == joint]
    numbers = " ".join(f"{x:.6f}" for x in offsets[joint])
    lines = [
        f"{pad}{'JOINT' if depth else 'ROOT'} {skeleton.joints[joint]}",
        f"{pad}{{",
        f"{pad}  OFFSET {numbers}",
        f"{pad}  CHANNELS 6 {' '.join(_CHANNELS)}",
    ]
    for child in below:
        lines += _hierarchy(skeleton, offsets, child, depth + 1)
    if not below:
        end = " ".join(f"{x:.6f}" for x in 0.3 * offsets[joint])
        lines += [f"{pad}  End Site", f"{pad}  {{", f"{pad}    OFFSET {end}", f"{pad}  }}"]
    return [*lines, f"{pad}}}"]


def read_bvh(path: Path) -> Capture:
    """Read a BVH file, ours or another program's.

    A joint's position channels stand in place of its offset, as Blender and MotionBuilder take
    them; turns are applied in the order that the file names them.

    Raises:
        ValueError: It cannot be read, is too large, or is no BVH; says in which line.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} has more than {LARGEST >> 20} MiB: cut it into clips")
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    head, found, data = text.partition("MOTION")
    if not found:
        raise ValueError(f"{path} is no BVH file: it has no line MOTION")
    names, parents, offsets, channels, ends = _parse_hierarchy(head.split(), path)
    frames, fps, numbers = _parse_motion(data, sum(map(len, channels)), path)
    try:
        check_size(frames, len(names))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    positions, turns = posed(parents, _poses(offsets, channels, numbers), frames)
    return Capture(tuple(names), tuple(parents), offsets, positions, turns, fps, ends)


def _poses(
    offsets: np.ndarray, channels: Sequence[tuple[str, ...]], numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, Rotation]]:
    """Of each joint, where it is from its parent and how it is turned there, in each frame."""
    frames, column = len(numbers), 0
    for offset, own in zip(offsets, channels, strict=True):
        given = dict(zip(own, numbers[:, column : column + len(own)].T, strict=True))
        column += len(own)
        place = np.tile(offset, (frames, 1))
        for axis, name in enumerate(_CHANNELS[:3]):
            if name in given:
                place[:, axis] = given[name]
        axes = "".join(name[0] for name in own if name.endswith("rotation"))
        angles = np.stack([given[f"{axis}rotation"] for axis in axes], -1) if axes else None
        yield place, (
            Rotation.identity(frames) if angles is None
            else Rotation.from_euler(axes, angles, degrees=True)
        )  # fmt: skip


def _parse_hierarchy(
    words: Sequence[str], path: Path
) -> tuple[list[str], list[int], np.ndarray, list[tuple[str, ...]], dict[str, np.ndarray]]:
    names: list[str] = []
    parents: list[int] = []
    offsets: list[tuple[float, ...]] = []
    channels: list[tuple[str, ...]] = []
    ends: dict[str, np.ndarray] = {}
    stack: list[int] = []  # open joints; -1 for an end site
    at = 0

    def take(count: int) -> Sequence[str]:
        nonlocal at
        if at + count > len(words):
            raise ValueError(f"{path} is no whole BVH file: its hierarchy ends too early")
        at += count
        return words[at - count : at]

    while at < len(words):
        (word,) = take(1)
        if word in ("ROOT", "JOINT"):
            (name,) = take(1)
            if (word == "ROOT") == bool(names) or len(names) >= 10_000:
                raise ValueError(f"{path} is no BVH file: {word} {name} is out of place")
            parents.append(stack[-1] if stack else -1)
            if names and parents[-1] < 0:
                raise ValueError(f"{path} is no BVH file: the joint {name} hangs nowhere")
            names.append(name)
            offsets.append((0.0, 0.0, 0.0))
            channels.append(())
            take(1)
            stack.append(len(names) - 1)
        elif word == "End":
            take(2)
            stack.append(-1)
        elif word == "}":
            if not stack:
                raise ValueError(f"{path} is no BVH file: a }} too many")
            stack.pop()
        elif word == "OFFSET":
            numbers = take(3)
            offset = tuple(_number(number, path) for number in numbers)
            if stack and stack[-1] >= 0:
                offsets[stack[-1]] = offset
            elif len(stack) > 1 and stack[-2] >= 0:
                ends[names[stack[-2]]] = np.array(offset)
        elif word == "CHANNELS" and stack and stack[-1] >= 0:
            count = take(1)[0]
            if count not in "0123456" or count == "":
                raise ValueError(f"{path}: a joint has 0 to 6 channels, got {count[:20]!r}")
            own = tuple(take(int(count)))
            if len(set(own)) < len(own) or not set(own) <= set(_CHANNELS):
                raise ValueError(f"{path}: channels are among {', '.join(_CHANNELS)}; got {own}")
            channels[stack[-1]] = own
        elif word != "HIERARCHY":
            raise ValueError(f"{path} is no BVH file: it says {word[:40]!r} in its hierarchy")
    if not names or stack:
        raise ValueError(f"{path} is no whole BVH file: {'a { is open' if names else 'no joint'}")
    return names, parents, np.array(offsets), channels, ends


def _parse_motion(data: str, columns: int, path: Path) -> tuple[int, float, np.ndarray]:
    words = data.split()
    try:
        frames, time = (
            int(words[words.index("Frames:") + 1]),
            float(words[words.index("Time:") + 1]),
        )
        numbers = np.array(words[words.index("Time:") + 2 :], dtype=np.float64)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: frames, frame time or a number is not readable") from error
    if frames < 1 or not 0 < time < 1e3:
        raise ValueError(f"{path}: {frames} frames of {time} s each are no motion")
    if numbers.size != frames * columns:
        raise ValueError(
            f"{path} has {numbers.size} numbers; {frames} frames of {columns} channels have "
            f"{frames * columns}"
        )
    if not (np.abs(numbers) < _FAR).all():
        raise ValueError(f"{path} holds a number that is not finite, or beyond {_FAR:g}")
    return frames, 1 / time, numbers.reshape(frames, columns)


def _number(word: str, path: Path) -> float:
    try:
        if abs(number := float(word)) < _FAR:
            return number
    except ValueError:
        pass
    raise ValueError(f"{path}: an offset is three numbers below {_FAR:g}, got {word[:40]!r}")


def write_npz(motion: Motion, path: Path) -> Path:
    """Write joints (metres), frames a second, the skeleton's name, names of joints and caption."""
    import io

    packed = io.BytesIO()
    np.savez_compressed(
        packed, joints=motion.joints, fps=motion.fps, skeleton=motion.skeleton.name,
        names=np.array(motion.skeleton.joints), text=motion.text,
    )  # fmt: skip
    return write_atomic(Path(path), packed.getvalue())


def read_npz(path: Path) -> Motion:
    """Read what :func:`write_npz` wrote; no code of the file is run.

    Raises:
        ValueError: It cannot be read, is too large, or is no such file.
    """
    try:
        if Path(path).stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        content = arrays_in(Path(path).read_bytes(), LARGEST)
        joints: Float32[np.ndarray, "frames joints 3"] = content["joints"].astype(np.float32)
        name, text = str(content["skeleton"]), str(content["text"])
        fps = float(content["fps"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no motion of ours: {error}") from error
    if name not in SKELETONS:
        raise ValueError(f"{path} has the skeleton {name!r}; known: {', '.join(SKELETONS)}")
    return Motion(joints, fps, SKELETONS[name], text)
