"""Joints by name. Every index the workbench uses is looked up here, none is written as a number."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float

_AXES = {
    "": (0, 0, 0),
    "+x": (1, 0, 0),
    "-x": (-1, 0, 0),
    "+y": (0, 1, 0),
    "-y": (0, -1, 0),
    "+z": (0, 0, 1),
}


@dataclass(frozen=True)
class Skeleton:
    """A tree of named joints, and what its 263 (or 251) motion features are made of.

    Coordinates are right-handed with y up; +X is the person's left when they face +Z.
    """

    name: str
    joints: tuple[str, ...]  # the root first
    rest: tuple[str, ...]  # direction of the bone that ends in each joint, in the rest pose
    chains: tuple[tuple[str, ...], ...]  # from the root, or from a joint of an earlier chain
    left_foot: tuple[str, str]  # the two joints read for ground contact
    right_foot: tuple[str, str]
    leg: tuple[str, str]  # the bones ending in these set the scale when retargeting
    fps: float  # frames a second of the data set
    contact_threshold: float  # squared movement a frame below which a foot stands, in units²
    unit: float = 1.0  # metres in one unit of the features and of the files on disk
    frame_limits: tuple[int, int] = (40, 200)  # clips used: first <= frames < second

    def __post_init__(self) -> None:
        """Refuse a table that is not a tree."""
        named = [joint for chain in self.chains for joint in chain[1:]]
        if len(self.rest) != len(self.joints) or sorted(named) != sorted(self.joints[1:]):
            raise ValueError(
                f"skeleton {self.name!r}: give one rest direction a joint, and chains that reach "
                f"each of the {len(self.joints) - 1} joints after the root once"
            )

    def __str__(self) -> str:
        return f"{self.name} ({self.n_joints} joints)"

    def index(self, joint: str) -> int:
        """Row of a joint.

        Raises:
            ValueError: There is no such joint; lists those there are.
        """
        if joint not in self.joints:
            raise ValueError(f"{self} has no joint {joint!r}; it has {', '.join(self.joints)}")
        return self.joints.index(joint)

    def indices(self, *joints: str) -> list[int]:
        """Rows of several joints."""
        return [self.index(joint) for joint in joints]

    @property
    def n_joints(self) -> int:
        """Number of joints, the root included."""
        return len(self.joints)

    @cached_property
    def chain_indices(self) -> tuple[tuple[int, ...], ...]:
        """The kinematic chains as rows."""
        return tuple(tuple(self.indices(*chain)) for chain in self.chains)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Row of each joint's parent; -1 for the root."""
        parents = [-1] * self.n_joints
        for chain in self.chain_indices:
            for parent, child in pairwise(chain):
                parents[child] = parent
        return tuple(parents)

    @cached_property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(parent, child) rows of each bone, ordered by child."""
        return tuple((p, child) for child, p in enumerate(self.parents) if p >= 0)

    @cached_property
    def raw_offsets(self) -> Float[np.ndarray, "joints 3"]:
        """Unit direction of each bone in the rest pose; zero for the root."""
        return np.array([_AXES[axis] for axis in self.rest], dtype=np.float64)

    @cached_property
    def feet(self) -> tuple[int, ...]:
        """Rows of the four contact joints: left ankle and foot, right ankle and foot."""
        return tuple(self.indices(*self.left_foot, *self.right_foot))

    @cached_property
    def hips(self) -> tuple[int, int]:
        """Rows of the left and the right hip."""
        return self.index("left_hip"), self.index("right_hip")

    @cached_property
    def shoulders(self) -> tuple[int, int]:
        """Rows of the left and the right shoulder."""
        return self.index("left_shoulder"), self.index("right_shoulder")

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """For each joint, the row of its left-right counterpart (itself on the middle line)."""
        swap = {"left": "right", "right": "left"}
        sides = [joint.split("_", 1) for joint in self.joints]
        return tuple(self.index("_".join([swap.get(head, head), *tail])) for head, *tail in sides)

    @cached_property
    def groups(self) -> dict[str, slice]:
        """Where each group of features lies, in order.

        ==================  =============  =====================================================
        group               HumanML3D, KIT  content
        ==================  =============  =====================================================
        root_yaw_velocity   1              half the turn of the root a frame, radians
        root_velocity       2              x and z a frame, in the heading frame
        root_height         1              y of the root
        positions           63, 60         joints after the root, heading frame, root at x = z = 0
        rotations           126, 120       joints after the root, two matrix columns each
        velocities          66, 63         all joints, a frame, heading frame
        contacts            4              1 where a foot joint stands: left two, right two
        ==================  =============  =====================================================

        Lengths are in ``unit`` metres: metres for HumanML3D, millimetres for KIT.
        """
        rest = self.n_joints - 1
        sizes = {
            "root_yaw_velocity": 1,
            "root_velocity": 2,
            "root_height": 1,
            "positions": 3 * rest,
            "rotations": 6 * rest,
            "velocities": 3 * self.n_joints,
            "contacts": 4,
        }
        ends = np.cumsum(list(sizes.values())).tolist()
        return {
            name: slice(end - size, end)
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }

    @property
    def n_features(self) -> int:
        """Numbers a frame: 263 for 22 joints, 251 for 21."""
        return self.groups["contacts"].stop


HUMANML3D = Skeleton(
    name="humanml3d",
    joints=(
        *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2"),
        *("left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck"),
        *("left_collar", "right_collar", "head", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    ),
    rest=(
        *("", "+x", "-x", "+y", "-y", "-y", "+y"),
        *("-y", "-y", "+y", "+z", "+z", "+y"),
        *("+x", "-x", "+z", "-y", "-y"),
        *("-y", "-y", "-y", "-y"),
    ),
    chains=(
        ("pelvis", "right_hip", "right_knee", "right_ankle", "right_foot"),
        ("pelvis", "left_hip", "left_knee", "left_ankle", "left_foot"),
        ("pelvis", "spine1", "spine2", "spine3", "neck", "head"),
        ("spine3", "right_collar", "right_shoulder", "right_elbow", "right_wrist"),
        ("spine3", "left_collar", "left_shoulder", "left_elbow", "left_wrist"),
    ),
    left_foot=("left_ankle", "left_foot"),
    right_foot=("right_ankle", "right_foot"),
    leg=("right_knee", "right_ankle"),
    fps=20.0,
    contact_threshold=0.002,
)
"""HumanML3D: SMPL's first 22 joints, metres, 20 frames a second."""

KIT = Skeleton(
    name="kit",
    joints=(
        *("pelvis", "spine1", "spine2", "neck", "head"),
        *("right_shoulder", "right_elbow", "right_wrist"),
        *("left_shoulder", "left_elbow", "left_wrist"),
        *("right_hip", "right_knee", "right_ankle", "right_midfoot", "right_foot"),
        *("left_hip", "left_knee", "left_ankle", "left_midfoot", "left_foot"),
    ),
    rest=(
        *("", "+y", "+y", "+y", "+y"),
        *("+x", "-y", "-y"),
        *("-x", "-y", "-y"),
        *("+x", "-y", "-y", "+z", "+z"),
        *("-x", "-y", "-y", "+z", "+z"),
    ),
    chains=(
        ("pelvis", "right_hip", "right_knee", "right_ankle", "right_midfoot", "right_foot"),
        ("pelvis", "left_hip", "left_knee", "left_ankle", "left_midfoot", "left_foot"),
        ("pelvis", "spine1", "spine2", "neck", "head"),
        ("neck", "right_shoulder", "right_elbow", "right_wrist"),
        ("neck", "left_shoulder", "left_elbow", "left_wrist"),
    ),
    left_foot=("left_midfoot", "left_foot"),
    right_foot=("right_midfoot", "right_foot"),
    leg=("left_knee", "left_ankle"),
    fps=12.5,
    contact_threshold=0.05,
    unit=0.001,
    frame_limits=(24, 200),
)
"""KIT-ML: 21 joints, millimetres on disk and in the features, 12.5 frames a second.

Sides are named as the released features take them (their face direction is drawn from the
joints called right here to those called left), and the rest pose as released, in which "right"
points to +x. With a threshold of 0.05 mm² hardly any frame counts as ground contact.
"""


def skeleton_of(features: int) -> Skeleton:
    """The skeleton whose frames have so many features.

    Raises:
        ValueError: Neither has.
    """
    known = {skeleton.n_features: skeleton for skeleton in (HUMANML3D, KIT)}
    if features not in known:
        raise ValueError(f"features is one of {sorted(known)} numbers a frame, got {features}")
    return known[features]
