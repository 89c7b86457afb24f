"""A body of tapered capsules around a skeleton; film strip, video and player draw the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import Skeleton
from easytune_lib.viz.style import mix

Side = Literal["left", "right", "trunk", "head"]

_RADII = {  # metres, by the last word of the joint's name
    "pelvis": 0.105,
    "spine1": 0.1,
    "spine2": 0.11,
    "spine3": 0.115,
    "neck": 0.055,
    "head": 0.05,
    "collar": 0.075,
    "shoulder": 0.062,
    "elbow": 0.046,
    "wrist": 0.034,
    "hip": 0.092,
    "knee": 0.06,
    "ankle": 0.044,
    "midfoot": 0.04,
    "foot": 0.036,
}
NOSE = 0.1
"""Metres from the middle of the head to the tip of the nose."""

_TRUNK = ("pelvis", "spine1", "spine2", "spine3", "neck", "head", "collar", "shoulder", "hip")


class Tip(NamedTuple):
    """A point that the skeleton lacks: ``length`` metres beyond ``joint``, away from ``base``."""

    joint: int
    base: int
    length: float


class Limb(NamedTuple):
    """A capsule between two points, with a radius in metres at each end."""

    start: int
    end: int
    start_radius: float
    end_radius: float
    side: Side


@dataclass(frozen=True)
class Body:
    """What is drawn around a skeleton.

    Points are the skeleton's joints, then ``tips``, then the tip of the nose.
    """

    tips: tuple[Tip, ...]
    nose: tuple[int, int, int, int]  # points: head, face, left shoulder, right shoulder
    limbs: tuple[Limb, ...]
    root: int = 0

    def points(self, motion: Motion) -> Float[np.ndarray, "frames points 3"]:
        """Joints, tips and nose of each frame, metres."""
        joints = motion.joints.astype(np.float64)
        tips = [joints[:, t.joint] + t.length * _unit(joints[:, t.joint] - joints[:, t.base])
                for t in self.tips]  # fmt: skip
        points = np.concatenate([joints, np.stack(tips, axis=1)], axis=1)
        head, face, left, right = (points[:, i] for i in self.nose)
        nose = face + NOSE * _unit(np.cross(left - right, face - head))
        return np.concatenate([points, nose[:, None]], axis=1)


@lru_cache
def body_of(skeleton: Skeleton) -> Body:
    """The body of a skeleton; joints are found by name."""
    index = skeleton.index
    neck, head = index("neck"), index("head")
    chest = skeleton.parents[neck]  # the neck's own bone leans forward in people who do not
    tips = [Tip(head, chest, 0.06), Tip(head, chest, 0.12)]
    for side in ("left", "right"):
        tips.append(Tip(index(f"{side}_wrist"), index(f"{side}_elbow"), 0.1))
    face, crown, left_hand, right_hand, nose = (skeleton.n_joints + i for i in range(5))

    def radius(joint: int) -> float:
        return _RADII.get(_part(skeleton.joints[joint]), 0.045)

    limbs = []
    for parent, child in skeleton.bones:
        name = skeleton.joints[child]
        side: Side = "left" if name.startswith("left_") else "right"
        if _part(name) in _TRUNK:
            side = "trunk"
        limbs.append(Limb(parent, child, radius(parent), radius(child), side))
    left_shoulder, right_shoulder = skeleton.shoulders
    limbs += [  # flanks and what crosses between them fill the trunk, in a twisted pose as well
        *(
            Limb(shoulder, hip, 0.06, 0.08, "trunk")
            for shoulder in skeleton.shoulders
            for hip in skeleton.hips
        ),
        Limb(index("left_wrist"), left_hand, 0.034, 0.03, "left"),
        Limb(index("right_wrist"), right_hand, 0.034, 0.03, "right"),
        Limb(head, crown, 0.088, 0.1, "head"),
        Limb(face, nose, 0.028, 0.018, "head"),
    ]
    return Body(tuple(tips), (head, face, left_shoulder, right_shoulder), tuple(limbs))


@dataclass(frozen=True)
class View:
    """A camera far away: no perspective, so that sizes compare across a figure."""

    yaw: float  # radians; 0 looks along -z, pi / 2 along -x
    pitch: float = 0.22  # radians, looking down

    def __call__(self, points: Float[np.ndarray, "*rest 3"]) -> Float[np.ndarray, "*rest 3"]:
        """Right, up, and towards the camera, in metres."""
        x, y, z = np.moveaxis(points, -1, 0)
        right = np.cos(self.yaw) * x - np.sin(self.yaw) * z
        near = np.sin(self.yaw) * x + np.cos(self.yaw) * z
        up = np.cos(self.pitch) * y - np.sin(self.pitch) * near
        return np.stack([right, up, np.sin(self.pitch) * y + np.cos(self.pitch) * near], axis=-1)


def facing(motion: Motion, frame: int = 0) -> float:
    """Where the chest points in a frame: radians from +z towards +x."""
    left, right = motion.skeleton.shoulders
    across = motion.joints[frame, left] - motion.joints[frame, right]
    return float(np.arctan2(-across[2], across[0]))


def focus(motions: Sequence[Motion]) -> Float[np.ndarray, "frames 2"]:
    """Where a camera looks on the ground (x and z, metres), over the longest motion.

    Stands still for motions that stay within about 3 m, and follows the others smoothly.
    The frames are those of ``motions[0].fps``.
    """
    fps = motions[0].fps
    frames = max(round(m.seconds * fps) for m in motions)
    low, high = np.full((frames, 2), np.inf), np.full((frames, 2), -np.inf)
    for motion in motions:
        joints = motion.joints[frame_at(motion, np.arange(frames) / fps)][..., [0, 2]]
        low, high = np.minimum(low, joints.min(1)), np.maximum(high, joints.max(1))
    if np.linalg.norm(high.max(0) - low.min(0)) < 3.2:
        return np.tile((high.max(0) + low.min(0)) / 2, (frames, 1)).astype(np.float64)
    reach = round(fps)
    middle = np.pad((low + high) / 2, ((reach, reach), (0, 0)), mode="edge")
    weights = np.hanning(2 * reach + 3)[1:-1]
    smooth = [np.convolve(middle[:, a], weights / weights.sum(), mode="valid") for a in (0, 1)]
    return np.stack(smooth, axis=1)


def frame_at(motion: Motion, seconds: Float[np.ndarray, " times"]) -> Int[np.ndarray, " times"]:
    """The frame shown at each time; the last one is held."""
    return np.minimum((seconds * motion.fps + 0.5).astype(int), len(motion) - 1)


def capsules(
    start: Float[np.ndarray, "limbs 2"],
    end: Float[np.ndarray, "limbs 2"],
    start_radius: Float[np.ndarray, " limbs"],
    end_radius: Float[np.ndarray, " limbs"],
    corners: int = 9,
) -> Float[np.ndarray, "limbs vertices 2"]:
    """Outlines of tapered capsules: the hulls of two circles each."""
    along = end - start
    length = np.linalg.norm(along, axis=-1)
    heading = np.arctan2(along[:, 1], along[:, 0])
    taper = (start_radius - end_radius) / np.maximum(length, 1e-9)
    open_ = np.arccos(np.clip(taper, -1.0, 1.0))[:, None]
    sweep = np.linspace(0.0, 1.0, corners)
    back = heading[:, None] + open_ + sweep * (2 * np.pi - 2 * open_)
    front = heading[:, None] - open_ + sweep * 2 * open_
    arcs = [
        centre[:, None] + radius[:, None, None] * np.stack([np.cos(a), np.sin(a)], axis=-1)
        for centre, radius, a in ((start, start_radius, back), (end, end_radius, front))
    ]
    return np.concatenate(arcs, axis=1)


class Shapes(NamedTuple):
    """Polygons to be drawn in order, with their colours (RGBA) and outlines."""

    outlines: Float[np.ndarray, "shapes vertices 2"]
    faces: Float[np.ndarray, "shapes 4"]
    edges: Float[np.ndarray, "shapes 4"]


def shapes(
    body: Body, points: Float[np.ndarray, "points 3"], color: str, alpha: float = 1.0
) -> list[tuple[float, Shapes]]:
    """One pose as shaded polygons: limbs with their depth, to be drawn from far to near.

    Args:
        body: Of the skeleton.
        points: As a :class:`View` shows them: right, up, towards the camera, metres.
        color: Of the trunk; left limbs are lighter, right limbs darker.
        alpha: 1 is opaque.
    """
    start, end, start_radius, end_radius, sides = zip(*body.limbs, strict=True)
    a, b = points[list(start)], points[list(end)]
    radii = np.array([start_radius, end_radius])
    depth = (a[:, 2] + b[:, 2]) / 2
    base = np.array([_tint(color, side) for side in sides])
    far = np.clip((points[body.root, 2] - depth) / 0.4, 0.0, 1.0)[:, None]
    base = base * (1 - 0.2 * far)
    trunk = [i for i, side in enumerate(sides) if side == "trunk"]
    base[trunk] = base[trunk].mean(0)  # one shape, of one tone
    layers = [capsules(a[:, :2] + shift * radii.mean(0)[:, None] * _LIGHT,
                       b[:, :2] + shift * radii.mean(0)[:, None] * _LIGHT,
                       size * radii[0], size * radii[1])
              for shift, size in ((0.0, 1.0), (0.12, 0.86), (0.4, 0.34), (0.3, 0.6))]  # fmt: skip
    tones = [base * 0.8, base, base + 0.22 * (1 - base), base + 0.09 * (1 - base)]
    edge = np.clip(base * 0.42, 0, 1)

    def stack(order: list[tuple[int, int, bool]]) -> Shapes:
        faces = np.array([[*tones[layer][limb], alpha] for layer, limb, _ in order])
        edges = np.array([[*edge[limb], alpha * lined] for _, limb, lined in order])
        return Shapes(np.stack([layers[layer][limb] for layer, limb, _ in order]), faces, edges)

    merged = [(k, i, lined) for k, lined in ((0, True), (0, False), (1, False)) for i in trunk]
    merged += [(3, i, False) for i in trunk if body.limbs[i].start_radius > 0.099]
    return [(float(depth[trunk].mean()), stack(merged))] + [
        (float(depth[i]), stack([(0, i, True), (1, i, False), (2, i, False)]))
        for i, side in enumerate(sides)
        if side != "trunk"
    ]


def shadow(
    body: Body, points: Float[np.ndarray, "points 3"], view: View
) -> tuple[Float[np.ndarray, "shapes vertices 2"], Float[np.ndarray, "shapes 4"]]:
    """What a pose leaves on the floor: the limbs near it, and a soft round below the root.

    Args:
        body: Of the skeleton.
        points: In the world, metres.
        view: That of the figure.

    Returns:
        Outlines as seen, and their colours.
    """
    start, end, start_radius, end_radius, _ = zip(*body.limbs, strict=True)
    a, b, root = points[list(start)], points[list(end)], points[[body.root]]
    rounds = np.array([0.2, 0.28, 0.36])
    lines = [np.concatenate([p, root.repeat(3, axis=0)]) for p in (a, b)]
    radii = [np.concatenate([r, rounds]) for r in (start_radius, end_radius)]
    squash = np.array([1.0, max(float(np.sin(view.pitch)), 0.05)])
    flat = [view(p * [1, 0, 1])[:, :2] / squash for p in lines]
    height = np.minimum(a[:, 1], b[:, 1])
    alpha = np.concatenate([0.2 * np.clip(1 - height / 0.45, 0.0, 1.0), np.full(3, 0.05)])
    faces = np.concatenate([np.zeros((len(alpha), 3)), alpha[:, None]], axis=1)
    return capsules(flat[0], flat[1], radii[0], radii[1]) * squash, faces


_LIGHT = np.array([-0.45, 0.8])


@lru_cache
def _tint(color: str, side: Side) -> tuple[float, float, float]:
    other, amount = {
        "left": ("white", 0.42), "right": ("black", 0.3), "trunk": ("white", 0.08),
        "head": ("white", 0.16),
    }[side]  # fmt: skip
    return mix(color, other, amount)


def _part(joint: str) -> str:
    return joint.removeprefix("left_").removeprefix("right_")


def _unit(vectors: Float[np.ndarray, "frames 3"]) -> Float[np.ndarray, "frames 3"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
