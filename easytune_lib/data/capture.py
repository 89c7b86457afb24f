"""Motion capture of any skeleton, brought to the 22 joints of HumanML3D.

Source: the procedure by which the packed bundle was made, as its README has it: limb bones keep
their directions, bones of the torso follow the segments of the source, all lengths are HumanML3D's,
the path of the middle of the hips is scaled by leg length, then 20 frames a second. What the
README leaves open (rest directions, axes of the segments) was read off the bundle and is held to
it within 1 mm by a test.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation, Slerp

from easytune_lib.data.puppet import bone_length
from easytune_lib.motion.features import canonicalise
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, Skeleton

Array = np.ndarray

LARGEST = 2**23
"""Joints times frames of one capture at most; they take about 100 bytes each."""

FASTEST = 25.0
"""Metres a second; a joint that is faster has jumped."""

SHORTEST, LONGEST, PIECE = 20, 200, 160
"""Frames: of a clip at least, of a clip at most, and of the pieces that longer ones are cut to."""

_LIMBS = ("hip", "knee", "ankle", "foot", "shoulder", "elbow", "wrist")
_TORSO = ("pelvis", "spine1", "spine3", "neck", "head")
_SEGMENTS = ("pelvis", "spine1", "spine2", "chest", "head")
_LEG = (("hip", "knee"), ("knee", "ankle"))
_UPRIGHT = {
    "y": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "z": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)),
}
_SIDES = {"left": 1.0, "right": -1.0}  # which way x points, seen from the middle

# Bones of the torso: the segment that each follows, and its direction in that segment's frame (on
# the left; x is turned about on the right). Measured: means over 222 frames of seven clips.
_RIGID = {
    "hip": ("pelvis", (0.5763, -0.8167, -0.0300)),
    "spine1": ("spine1", (0.0, 0.9540, -0.2997)),
    "spine2": ("spine2", (0.0, 0.9755, 0.2201)),
    "spine3": ("chest", (0.0, 0.9326, 0.3610)),
    "neck": ("chest", (0.0, 0.9987, -0.0502)),
    "head": ("head", (0.0, 0.7413, 0.6712)),
    "collar": ("chest", (0.5343, 0.8366, -0.1210)),
    "shoulder": ("chest", (0.9961, 0.0822, -0.0307)),
}


@dataclass(frozen=True, eq=False)
class Capture:
    """What a file of motion capture holds: a tree of named joints, and how they move."""

    names: tuple[str, ...]  # the root first
    parents: tuple[int, ...]  # -1 for the root
    offsets: Float[Array, "joints 3"]  # from the parent, at rest, in the file's unit
    positions: Float[Array, "frames joints 3"]  # in the world, in the file's unit
    turns: tuple[Rotation, ...]  # of each joint in the world, a turn a frame; none at rest
    fps: float
    ends: Mapping[str, Float[Array, " 3"]] = field(default_factory=dict[str, Array])
    """Where the last bones end, from the joint that they hang on, by that joint's name."""

    def place(self, joint: str) -> Float[Array, "frames 3"]:
        """Where a joint is; ``"NAME end"`` is the end of the last bone behind joint NAME.

        Raises:
            ValueError: There is none; says which there are.
        """
        before = joint.removesuffix(" end")
        if joint in self.names or before not in self.ends:
            (row,) = self.rows(joint)
            return self.positions[:, row]
        (row,) = self.rows(before)
        return self.positions[:, row] + self.turns[row].apply(self.ends[before])

    def motion(self, skeleton: Skeleton, text: str = "", unit: float = 1.0) -> Motion:
        """The joints that ``skeleton`` names, in metres.

        Args:
            skeleton: Whose joints; the file may hold others besides.
            text: Caption.
            unit: Metres in one unit of the file; 0.01 for centimetres.

        Raises:
            ValueError: A joint is missing.
        """
        rows = self.rows(*skeleton.joints)
        joints = (unit * self.positions[:, rows]).astype(np.float32)
        return Motion(joints, self.fps, skeleton, text)

    def rows(self, *joints: str) -> list[int]:
        """Rows of joints by their names in the file.

        Raises:
            ValueError: One is missing; says which there are.
        """
        if missing := [joint for joint in joints if joint not in self.names]:
            raise ValueError(f"the file has no joint {_some(missing)}; it has {_some(self.names)}")
        return [self.names.index(joint) for joint in joints]


def check_size(frames: int, joints: int) -> None:
    """Refuse more than :data:`LARGEST`, before memory is taken.

    Raises:
        ValueError: It is more.
    """
    if frames * joints > LARGEST:
        raise ValueError(
            f"{frames} frames of {joints} joints are more than {LARGEST} in all: cut it into clips"
        )


def posed(
    parents: Sequence[int], poses: Iterable[tuple[Array, Rotation]], frames: int
) -> tuple[Float[Array, "frames joints 3"], tuple[Rotation, ...]]:
    """Places and turns of all joints in the world.

    Args:
        parents: Of each joint, which come before it; -1 for the root.
        poses: Of each joint, ``(3,)`` or ``(frames, 3)`` from its parent and a turn a frame, both
            as its parent is turned.
        frames: How many.
    """
    positions = np.empty((frames, len(parents), 3))
    turns: list[Rotation] = []
    for joint, (parent, (place, turn)) in enumerate(zip(parents, poses, strict=True)):
        if parent < 0:
            positions[:, joint] = place
            turns.append(turn)
        else:
            positions[:, joint] = positions[:, parent] + turns[parent].apply(place)
            turns.append(turns[parent] * turn)
    return positions, tuple(turns)


@dataclass(frozen=True)
class Rig:
    """How the joints of a source are called, and what else must be known of it.

    Args:
        joints: Names in the file by ours. Needed are ``left_`` and ``right_`` hip, knee, ankle,
            foot, shoulder (the top of the upper arm), elbow and wrist, and, unless ``turns`` are
            given, pelvis, spine1, spine3, neck and head, from whose places the frames of the torso
            are drawn. ``"NAME end"`` stands for the End Site behind NAME.
        turns: Joints of the file whose turns are those of the segments pelvis, spine1, spine2,
            chest and head; for sources that stand upright at rest, facing +Z.
        foot_pitch: Degrees by which feet are turned down about their sideways axis, where the
            source's toe joint lies lower than HumanML3D's foot.
        skip: Frames at the start that are no part of the motion: a T-pose.
        fps: Frames a second, where the file does not say, or says wrongly; 0: what it says.
        up: Axis that points up: y, or z (then -y is ahead at rest, as in Blender).

    Raises:
        ValueError: A name is missing or unknown, or an option out of range.
    """

    joints: Mapping[str, str]
    turns: Mapping[str, str] = field(default_factory=dict[str, str])
    foot_pitch: float = 0.0
    skip: int = 0
    fps: float = 0.0
    up: str = "y"

    def __post_init__(self) -> None:
        """Refuse what is not whole."""
        known = [f"{side}_{limb}" for limb in _LIMBS for side in _SIDES]
        needed = known if self.turns else [*known, *_TORSO]
        for what, given, all_of, may_be in (
            ("joints", self.joints, needed, HUMANML3D.joints),
            ("turns", self.turns, _SEGMENTS if self.turns else (), _SEGMENTS),
        ):
            if missing := [name for name in all_of if name not in given]:
                raise ValueError(f"{what} lack {_some(missing)}: name the file's joint for each")
            if strange := [name for name in given if name not in may_be]:
                raise ValueError(f"{what} have {_some(strange)}; known are {', '.join(may_be)}")
        if not (abs(self.foot_pitch) <= 90 and self.skip >= 0 and 0 <= self.fps <= 10_000):
            raise ValueError("foot_pitch is -90 to 90, skip 0 or more, fps 0 to 10000")
        if self.up not in _UPRIGHT:
            raise ValueError(f'up is "y" or "z", got {self.up[:20]!r}')

    @classmethod
    def read(cls, path: Path) -> "Rig":
        """From JSON: an object with ``joints`` and, if need be, the other arguments.

        Raises:
            ValueError: It cannot be read, or is no such object; one line.
        """
        kinds = {"joints": dict, "turns": dict, "foot_pitch": int | float, "skip": int,
                 "fps": int | float, "up": str}  # fmt: skip
        try:
            if path.stat().st_size > 2**20:
                raise ValueError("it has more than 1 MiB")
            content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            if not isinstance(content, dict) or "joints" not in content:
                raise ValueError('expected {"joints": {"pelvis": "Hips", ...}}')
            for name, value in content.items():
                if name not in kinds:
                    raise ValueError(f"{name[:40]!r} is none of {', '.join(kinds)}")
                if not isinstance(value, kinds[name]) or isinstance(value, bool):
                    raise ValueError(f"{name} is {str(value)[:40]!r}, of the wrong kind")
                if isinstance(value, dict) and not all(isinstance(v, str) for v in value.values()):
                    raise ValueError(f"{name} are names of joints by names of joints")
            return cls(**content)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"{path} is no map of joints: {' '.join(str(error).split())}"
            ) from error


def _sided(**names: str) -> dict[str, str]:
    """Both sides of each limb; in names {0} stands for Left, {1} for L, {2} for l."""
    return {
        f"{side}_{limb}": name.format(side.title(), side[0].upper(), side[0])
        for limb, name in names.items()
        for side in _SIDES
    }


_HAHNE = _sided(
    hip="{0}UpLeg", knee="{0}Leg", ankle="{0}Foot", foot="{0}ToeBase",
    shoulder="{0}Arm", elbow="{0}ForeArm", wrist="{0}Hand",
)  # fmt: skip
RIGS: dict[str, Rig] = {
    "bandai-namco": Rig(
        _sided(
            hip="UpperLeg_{1}", knee="LowerLeg_{1}", ankle="Foot_{1}", foot="Toes_{1}",
            shoulder="UpperArm_{1}", elbow="LowerArm_{1}", wrist="Hand_{1}",
        )
        | {"pelvis": "Hips", "spine1": "Spine", "spine3": "Chest", "neck": "Neck", "head": "Head"},
        foot_pitch=22.6,
    ),
    "cmu-bvh": Rig(
        _HAHNE,
        turns=dict(zip(_SEGMENTS, ("Hips", "LowerBack", "Spine", "Spine1", "Neck1"), strict=True)),
        skip=1,
    ),
    "cmu-poser": Rig(
        _sided(
            hip="{2}Thigh", knee="{2}Shin", ankle="{2}Foot", foot="{2}Foot end",
            shoulder="{2}Shldr", elbow="{2}ForeArm", wrist="{2}Hand",
        ),
        turns=dict(zip(_SEGMENTS, ("hip", "hip", "abdomen", "chest", "neck"), strict=True)),
        skip=1,
    ),
    "cmu-asf": Rig(
        _sided(
            hip="{2}femur", knee="{2}tibia", ankle="{2}foot", foot="{2}toes",
            shoulder="{2}humerus", elbow="{2}radius", wrist="{2}wrist",
        ),
        turns=dict(zip(
            _SEGMENTS, ("root", "lowerback", "upperback", "thorax", "upperneck"), strict=True
        )),
    ),
    "mixamo": Rig(
        {ours: f"mixamorig:{name}" for ours, name in (
            _HAHNE | {"pelvis": "Hips", "spine1": "Spine", "spine3": "Spine2", "neck": "Neck",
                      "head": "Head"}
        ).items()}
    ),
}  # fmt: skip
"""Known sources. ``cmu-bvh`` (for MotionBuilder) and ``cmu-poser`` (for Daz and Poser) are Bruce
Hahne's conversions, with a T-pose in front; all say 120 frames a second, and some are of 60."""


def to_humanml3d(capture: Capture, rig: Rig) -> Float32[Array, "frames 22 3"]:
    """A capture as HumanML3D has motions: metres, y up, 20 frames a second.

    Between frames of the source, places are interpolated linearly and turns along the sphere.

    Args:
        capture: Of any unit and frame rate.
        rig: Of its skeleton.

    Returns:
        Where the source has it; :func:`cut_clip` sets it on the floor.

    Raises:
        ValueError: A joint is missing, there are fewer than two frames, or a bone or an axis of
            the torso has no direction.
    """
    frames = len(capture.positions) - rig.skip
    if frames < 2:
        raise ValueError(f"{frames} frames behind the {rig.skip} that are left out: too few")
    rate = rig.fps or capture.fps
    if abs(rate - round(rate)) < 0.01:  # files write 1/30 as 0.0333333
        rate = float(round(rate))
    count = int((frames - 1) * HUMANML3D.fps / rate + 1e-6) + 1
    check_size(count, len(capture.names))
    at = np.minimum(rig.skip + np.arange(count) * rate / HUMANML3D.fps, frames + rig.skip - 1)
    below = np.minimum(at.astype(int), frames + rig.skip - 2)
    share = (at - below)[:, None]
    upright = np.array(_UPRIGHT[rig.up])

    def place(joint: str) -> Array:
        path = capture.place(rig.joints[joint])
        return ((1 - share) * path[below] + share * path[below + 1]) @ upright.T

    def long(*ends: str) -> float:  # of a bone; interpolated places would shorten it
        a, b = (capture.place(rig.joints[end])[rig.skip :] for end in ends)
        return float(np.median(np.linalg.norm(a - b, axis=-1)))

    def turn(segment: str) -> Array:
        (row,) = capture.rows(rig.turns[segment])
        every = Slerp(np.arange(frames + rig.skip), capture.turns[row])(at)
        return upright @ every.as_matrix() @ upright.T

    limbs = {f"{side}_{limb}": place(f"{side}_{limb}") for limb in _LIMBS for side in _SIDES}
    segments = {name: turn(name) for name in rig.turns} or _segments(
        limbs | {joint: place(joint) for joint in _TORSO}
    )
    bones = {}
    for parent, child in HUMANML3D.bones:
        joint = HUMANML3D.joints[child]
        side, _, part = joint.rpartition("_")
        if part in _RIGID:
            segment, rest = _RIGID[part]
            rest = np.array(rest) * [_SIDES.get(side, 1.0), 1, 1]
            bones[joint] = segments[segment] @ (rest / np.linalg.norm(rest))
        else:
            bones[joint] = _unit(limbs[joint] - limbs[HUMANML3D.joints[parent]], joint)
    for side in _SIDES:
        shin, foot = bones[f"{side}_ankle"], bones[f"{side}_foot"]
        if rig.foot_pitch:
            axis = _unit(np.cross(shin, foot), f"{side}_foot")
            pitch = Rotation.from_rotvec(np.radians(rig.foot_pitch) * axis)
            bones[f"{side}_foot"] = pitch.apply(foot)

    legs = [(f"{side}_{a}", f"{side}_{b}") for side in _SIDES for a, b in _LEG]
    scale = sum(bone_length(b) for _, b in legs) / sum(long(a, b) for a, b in legs)
    middle = scale * (limbs["left_hip"] + limbs["right_hip"]) / 2
    hips = [bone_length(f"{side}_hip") * bones[f"{side}_hip"] for side in _SIDES]
    joints = np.empty((count, HUMANML3D.n_joints, 3))
    joints[:, 0] = middle - sum(hips) / 2
    for parent, child in HUMANML3D.bones:
        joint = HUMANML3D.joints[child]
        joints[:, child] = joints[:, parent] + bone_length(joint) * bones[joint]
    return joints.astype(np.float32)


def _segments(places: Mapping[str, Array]) -> dict[str, Array]:
    """Frames ``(frames, 3, 3)`` of the torso from places: x to the left, y along the spine."""
    hips = _unit(places["left_hip"] - places["right_hip"], "pelvis")
    shoulders = _unit(places["left_shoulder"] - places["right_shoulder"], "chest")

    def frame(name: str, x: Array, below: str, above: str) -> Array:
        x = _unit(x, name)
        z = _unit(np.cross(x, places[above] - places[below]), name)
        return np.stack([x, np.cross(z, x), z], -1)

    pelvis = frame("pelvis", hips, "pelvis", "spine1")
    return {
        "pelvis": pelvis,
        "spine1": pelvis,
        "spine2": frame("spine2", hips + shoulders, "spine1", "spine3"),
        "chest": frame("chest", shoulders, "spine3", "neck"),
        "head": frame("head", shoulders, "neck", "head"),
    }


def cut_clip(
    joints: Float32[Array, "frames 22 3"], start: int = 0, frames: int | None = None
) -> Float32[Array, "cut 22 3"]:
    """A part of a motion on the floor, at the origin, facing +Z, or a refusal of what is no motion.

    Args:
        joints: At 20 frames a second.
        start: First frame.
        frames: How many; all that follow where ``None``.

    Raises:
        ValueError: The part is not there, is shorter than :data:`SHORTEST`, not finite, or has a
            joint faster than :data:`FASTEST`.
    """
    end = len(joints) if frames is None else start + frames
    if not 0 <= start <= end - SHORTEST or end > len(joints):
        raise ValueError(
            f"frames {start} to {end} of {len(joints)}, at 20 a second: a clip has {SHORTEST} or "
            f"more"
        )
    part = joints[start:end].astype(np.float64)
    speed = np.linalg.norm(np.diff(part, axis=0), axis=-1).max() * HUMANML3D.fps
    if not speed <= FASTEST:
        raise ValueError(f"a joint moves at {speed:.0f} m/s; up to {FASTEST:g} are possible")
    return canonicalise(part).astype(np.float32)


def pieces(frames: int) -> list[tuple[int, int]]:
    """(start, frames) of the clips that a motion is cut into; one where it is short enough."""
    starts = [0]
    while frames - starts[-1] > LONGEST:
        starts.append(starts[-1] + PIECE)
    return [(a, b - a) for a, b in zip(starts, [*starts[1:], frames], strict=True)]


def _unit(vectors: Array, what: str) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (length > 1e-9).all():
        raise ValueError(f"{what} has no direction in frame {length[:, 0].argmin()}")
    return vectors / length


def _some(names: Iterable[str]) -> str:
    """Names for an error of one line, as many as there is room for."""
    return shorten(", ".join(name[:40] for name in names), 400, placeholder=" ...")
