"""A person posed by curves over time: a pelvis path, joint angles, and planned footsteps.

Legs reach for their feet by two-bone inverse kinematics, so that a planted foot stays where it is
whatever the pelvis does. Spine, head and arms are forward kinematics. Lengths are metres, angles
radians, times seconds at 20 frames a second; y is up, +X the person's left, +Z ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from easytune_lib.motion.skeleton import HUMANML3D

Array = np.ndarray
Curve = Float[np.ndarray, " frames"]
Path = Float[np.ndarray, "frames 3"]

FPS = HUMANML3D.fps
SIDES = {"left": 1.0, "right": -1.0}  # which way x points, seen from the middle
ANKLE = 0.045  # height of the ankle over the ball of a flat foot
BALL = 0.07  # how far ahead of the pelvis the balls of the feet are in a stand

# Metres. Lengths are HumanML3D's (every clip of its data set has them); the directions are the
# usual ones of people standing upright.
_LENGTHS = {
    "hip": (0.1031, 0.1099),
    "knee": (0.3936, 0.3902),
    "ankle": (0.4324, 0.4256),
    "foot": (0.1434, 0.1494),
    "spine1": (0.1316, 0.1316),
    "spine2": (0.1432, 0.1432),
    "spine3": (0.0574, 0.0574),
    "neck": (0.2194, 0.2194),
    "head": (0.1030, 0.1030),
    "collar": (0.1375, 0.1434),
    "shoulder": (0.1316, 0.1230),
    "elbow": (0.2568, 0.2631),
    "wrist": (0.2660, 0.2699),
}
_DIRECTIONS = {  # on the left; x is turned about on the right
    "hip": (0.58, -0.81, 0.02),
    "spine1": (0.0, 0.93, -0.36),
    "spine2": (0.0, 0.98, 0.19),
    "spine3": (0.0, 0.92, 0.39),
    "neck": (0.0, 1.0, -0.02),
    "head": (0.0, 0.68, 0.73),
    "collar": (0.53, 0.84, -0.09),
    "shoulder": (0.99, 0.08, -0.03),
    "elbow": (0.0, -1.0, 0.0),
    "wrist": (0.0, -1.0, 0.0),
}


def bone_length(joint: str) -> float:
    """Length in metres of the bone that ends in a joint of HumanML3D's skeleton."""
    side, _, part = joint.rpartition("_")
    return _LENGTHS[part][side == "right"]


def _rest(joint: str) -> Array:
    side, _, part = joint.rpartition("_")
    direction = np.array(_DIRECTIONS[part]) * [SIDES.get(side, 1.0), 1, 1]
    return direction / np.linalg.norm(direction) * bone_length(joint)


# Offset of each joint from its parent in the rest pose; those of the legs are never needed.
_REST = {j: _rest(j) for j in HUMANML3D.joints if j.rpartition("_")[2] in _DIRECTIONS}


@dataclass
class Arm:
    """Angles of one arm; all zero: it hangs straight down, the elbow bends forward."""

    swing: Curve  # forward and up
    spread: Curve  # sideways, away from the body
    twist: Curve  # about the upper arm, outward: where the elbow bends to
    elbow: Curve  # bent, 0 to about 2.5


@dataclass
class Foot:
    """Where one foot is; heel 0 and ball[1] = 0: flat on the floor."""

    ball: Path  # metres, in the room
    yaw: Curve
    heel: Curve  # raised about the ball; negative: toes up


@dataclass
class Body:
    """All curves of one person, one number a frame; actions add to them."""

    pelvis: Path  # metres, in the room
    yaw: Curve  # of the pelvis; turning left is positive
    pitch: Curve  # of the pelvis, forward
    roll: Curve  # of the pelvis, to the right
    bend: Curve  # of the spine, forward; spread over its three joints, as the next two
    lean: Curve  # of the spine, to the right
    twist: Curve  # of the spine, to the left
    nod: Curve  # of the head, forward
    look: Curve  # of the head, to the left
    arms: dict[str, Arm]
    feet: dict[str, Foot]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.yaw)

    @property
    def time(self) -> Curve:
        """Seconds since the first frame."""
        return np.arange(len(self)) / FPS

    @property
    def phase(self) -> Curve:
        """0 at the first frame, 1 at the last."""
        return np.linspace(0.0, 1.0, len(self))


def joined(*bodies: Body) -> Body:
    """One after another, each begun where the one before ends.

    All end and begin in the same stand of the same person, which makes the seams smooth.
    """
    whole = _concatenate(bodies)
    starts = np.cumsum([len(body) for body in bodies])
    for i, j in pairwise(starts.tolist()):
        here, turned = whole.pelvis[i - 1] * [1, 0, 1], float(whole.yaw[i - 1])
        for path in (whole.pelvis, *(foot.ball for foot in whole.feet.values())):
            path[i:j] = here + headed(path[i:j], turned)
        for part in (whole, *whole.feet.values()):
            part.yaw[i:j] += turned
    return whole


@dataclass(frozen=True)
class Person:
    """Habits that hold for a whole clip."""

    height: float  # of the pelvis in a stand, metres
    stance: float  # half the distance between the feet, metres
    toe_out: float
    slump: float  # how far the spine is bent
    spread: float  # of the hanging arms
    elbow: float  # bend of the hanging arms
    tempo: float  # durations are multiplied by it
    vigour: float  # sizes of movements are multiplied by it
    travel: float  # how long a walk or run lasts, seconds

    @classmethod
    def draw(cls, rng: np.random.Generator, travel: tuple[float, float] = (2.6, 4.6)) -> "Person":
        """Somebody; ``travel`` is the range of that habit."""
        ranges = {
            "height": (0.922, 0.94),
            "stance": (0.085, 0.12),
            "toe_out": (0.05, 0.25),
            "slump": (-0.02, 0.1),
            "spread": (0.12, 0.24),
            "elbow": (0.2, 0.45),
            "tempo": (0.93, 1.07),
            "vigour": (0.9, 1.1),
            "travel": travel,
        }
        return cls(**{name: float(rng.uniform(*ends)) for name, ends in ranges.items()})

    def stand(self, seconds: float) -> Body:
        """Standing still at the origin, facing +Z, at least two frames; what actions start from."""
        n = max(2, round(seconds * FPS))
        straight = ("yaw", "pitch", "roll", "lean", "twist", "look")
        return Body(
            pelvis=np.tile([0.0, self.height, 0.0], (n, 1)),
            bend=np.full(n, self.slump),
            nod=np.full(n, -0.5 * self.slump),
            arms={
                side: Arm(
                    swing=np.zeros(n),
                    spread=np.full(n, self.spread),
                    twist=np.full(n, -0.25),
                    elbow=np.full(n, self.elbow),
                )
                for side in SIDES
            },
            feet={
                side: Foot(
                    ball=np.tile([x * self.stance, 0.0, BALL], (n, 1)),
                    yaw=np.full(n, x * self.toe_out),
                    heel=np.zeros(n),
                )
                for side, x in SIDES.items()
            },
            **{name: np.zeros(n) for name in straight},
        )


# Shapes of curves in time.


def ease(x: Array, start: float, end: float) -> Array:
    """0 before ``start``, 1 after ``end``; in between the change with the least jerk."""
    s = np.clip((x - start) / (end - start), 0.0, 1.0)
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2)


def pulse(x: Array, rise: float, up: float, fall: float, down: float) -> Array:
    """0, then 1 between ``up`` and ``fall``, then 0 again after ``down``."""
    return ease(x, rise, up) - ease(x, fall, down)


def keys(x: Array, *points: tuple[float, float]) -> Array:
    """Ease through ``(place, value)`` points, with rest at each of them."""
    value = np.full_like(x, points[0][1])
    for (a, before), (b, after) in pairwise(points):
        value += (after - before) * ease(x, a, b)
    return value


def headed(path: Float[Array, "*any 3"], yaw: float | Array) -> Float[Array, "*turned 3"]:
    """Points or directions turned about y, to the left if positive; the shapes are broadcast."""
    x, y, z = path[..., 0], path[..., 1], path[..., 2]
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([cos * x + sin * z, y + 0.0 * cos, cos * z - sin * x], axis=-1)


# Feet.


def step(
    body: Body,
    side: str,
    lift: float,
    land: float,
    to: Float[Array, "3"],
    yaw: float,
    *,
    height: float,
    heel: float,
    knee: float = 0.0,
) -> None:
    """Set a foot down elsewhere.

    Args:
        body: Changed in place. Steps of one foot are added in the order of time.
        side: Which foot.
        lift: When the ball leaves the floor; the heel rises before, the ball still stands then.
        land: When the ball stands again.
        to: Where the ball goes, in the room; y is not read.
        yaw: Which way the foot points then.
        height: How high the ball is raised on its way.
        heel: How far the heel rises.
        knee: How far the foot is carried ahead of its way, for high knees.
    """
    foot, time, middle = body.feet[side], body.time, lift + 0.2 * (land - lift)
    s = np.clip((time - lift) / (land - lift), 0.0, 1.0)
    arc, way = 4.0 * s * (1.0 - s), ease(time, lift, land)[:, None]
    foot.ball += way * ((to - foot.ball[-1]) * [1, 0, 1])
    foot.ball += headed(np.stack([0 * arc, height * arc, knee * arc**3], axis=-1), yaw)
    foot.yaw += way[:, 0] * (yaw - foot.yaw[-1])
    before = min(0.4 * (land - lift), 0.15)
    foot.heel += heel * pulse(time, lift - before, middle, middle, land)


def step_along(
    body: Body,
    who: Person,
    start: float,
    steps: int,
    period: float,
    swing: float,
    *,
    first: str = "left",
    height: float = 0.1,
    heel: float = 0.8,
    knee: float = 0.0,
) -> None:
    """Alternate steps under the path of the pelvis, the last two to a stand at its end.

    A foot is put where the pelvis, in its heading, will be in the middle of the foot's stance.

    Args:
        body: With pelvis path and yaw; its feet are changed in place.
        who: Whose stance.
        start: When the first foot is lifted.
        steps: At least two.
        period: From one step to the next.
        swing: How long a foot is in the air.
        first: Which foot is lifted first.
        height: As in :func:`step`, as are ``heel`` and ``knee``.
        heel: Radians.
        knee: Metres.
    """
    order = [first, *(side for side in SIDES if side != first)]
    for i in range(steps):
        lift, side = start + i * period, order[i % 2]
        land = lift + swing
        when = (land + lift + 2 * period) / 2 if i < steps - 2 else body.time[-1]
        at = np.array([np.interp(when, body.time, axis) for axis in body.pelvis.T])
        yaw, sign = float(np.interp(when, body.time, body.yaw)), SIDES[side]
        to = at + headed(np.array([sign * who.stance, 0, BALL]), yaw)
        size = dict(height=height, heel=heel, knee=knee)
        step(body, side, lift, land, to, yaw + sign * who.toe_out, **size)


def raise_foot(
    body: Body, side: str, much: Curve, by: tuple[float, float, float], heel: float = 0.0
) -> None:
    """Carry a foot through the air by ``much`` (0 to 1) times ``by``: left, up, ahead."""
    foot = body.feet[side]
    foot.ball += headed(much[:, None] * np.array(by), body.yaw)
    foot.heel += heel * much


def ahead(body: Body, side: str) -> Curve:
    """How far a foot is ahead of where it is in a stand, seen from the pelvis."""
    return headed(body.feet[side].ball - body.pelvis, -body.yaw)[:, 2] - BALL


def swing_arms(body: Body, gain: float, turn: float = 0.15) -> None:
    """Swing each arm with the opposite foot, and turn hips and chest against each other.

    Args:
        body: Changed in place.
        gain: Radians a metre that the opposite foot is ahead.
        turn: The same, for the hips.
    """
    left, right = (smoothed(ahead(body, side), 1.5) for side in SIDES)
    body.arms["left"].swing += gain * right
    body.arms["right"].swing += gain * left
    body.yaw -= turn * (left - right)
    body.twist += 2.0 * turn * (left - right)


def sway(body: Body, rng: np.random.Generator) -> None:
    """Move a little, slowly and at random, as nobody stands quite still; feet are left alone."""
    rate, start = rng.uniform(0.15, 0.5, (14, 3)), rng.uniform(0, 2 * np.pi, (14, 3))
    drift = iter(np.sin(2 * np.pi * rate * body.time[:, None, None] + start).mean(-1).T)
    body.pelvis += np.stack([size * next(drift) for size in (0.02, 0.004, 0.02)], axis=-1)
    body.bend += 0.03 * next(drift)
    body.lean += 0.03 * next(drift)
    body.twist += 0.04 * next(drift)
    body.nod += 0.08 * next(drift)
    body.look += 0.15 * next(drift)
    for arm in body.arms.values():
        arm.swing += 0.08 * next(drift)
        arm.spread += 0.04 * next(drift)
        arm.elbow += 0.08 * next(drift)


# From curves to joints.


def joints_of(body: Body) -> Float[Array, "frames 22 3"]:
    """Joints of HumanML3D's skeleton, metres; the pelvis is lowered where a leg would not reach."""
    hips = _turn(body.yaw, body.pitch, body.roll)
    height = _within_reach(body, hips)
    at = {"pelvis": np.stack([body.pelvis[:, 0], height, body.pelvis[:, 2]], axis=-1)}
    third, chest = _turn(body.twist / 3, body.bend / 3, body.lean / 3), hips
    for joint, parent in (("spine1", "pelvis"), ("spine2", "spine1"), ("spine3", "spine2")):
        at[joint] = at[parent] + chest @ _REST[joint]
        chest = chest @ third
    at["neck"] = at["spine3"] + chest @ _REST["neck"]
    at["head"] = at["neck"] + chest @ _about(1, body.look) @ _about(0, body.nod) @ _REST["head"]
    for side, sign in SIDES.items():
        arm, foot = body.arms[side], body.feet[side]
        upper = _about(0, -arm.swing) @ _about(2, sign * arm.spread)
        shrug = _about(2, sign * 0.12 * (1.0 - upper[:, 1, 1]))
        upper = chest @ upper @ _about(1, sign * arm.twist)
        for joint, parent, rotation in (
            ("collar", "spine3", chest),
            ("shoulder", f"{side}_collar", chest @ shrug),
            ("elbow", f"{side}_shoulder", upper),
            ("wrist", f"{side}_elbow", upper @ _about(0, -arm.elbow)),
            ("hip", "pelvis", hips),
        ):
            at[f"{side}_{joint}"] = at[parent] + rotation @ _REST[f"{side}_{joint}"]
        sole = _sole(foot, side)
        axis = hips[:, :, 0] + headed(np.array([1.0, 0.0, 0.0]), foot.yaw)  # of the knee
        knee, ankle = _reach(at[f"{side}_hip"], foot.ball - sole, axis, side)
        at |= {f"{side}_knee": knee, f"{side}_ankle": ankle, f"{side}_foot": ankle + sole}
    return np.stack([at[joint] for joint in HUMANML3D.joints], axis=1)


def smoothed(curve: Curve, frames: float) -> Curve:
    """Gaussian average over time; the ends are held."""
    radius = int(3 * frames + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / frames) ** 2)
    padded = np.pad(curve, radius, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _sole(foot: Foot, side: str) -> Path:
    """From ankle to ball."""
    length = bone_length(f"{side}_foot")
    angle = np.arcsin(ANKLE / length) + foot.heel
    return length * headed(np.stack([0 * angle, -np.sin(angle), np.cos(angle)], -1), foot.yaw)


def _within_reach(body: Body, hips: Array) -> Curve:
    """Height of the pelvis, lowered smoothly to where both legs reach their ankles."""
    excess = np.zeros(len(body))
    for side in SIDES:
        hip = body.pelvis + hips @ _REST[f"{side}_hip"]
        ankle = body.feet[side].ball - _sole(body.feet[side], side)
        reach = 0.998 * (bone_length(f"{side}_knee") + bone_length(f"{side}_ankle"))
        flat = ((hip - ankle)[:, [0, 2]] ** 2).sum(-1)
        top = ankle[:, 1] + np.sqrt(np.maximum(reach**2 - flat, 0.0))
        excess = np.maximum(excess, hip[:, 1] - top)
    radius = 3  # a weighted mean of maxima is nowhere less than what it covers
    padded = np.pad(excess, 2 * radius, mode="edge")
    kernel = np.hanning(2 * radius + 3)[1:-1]
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1).max(-1)
    return body.pelvis[:, 1] - np.convolve(highest, kernel / kernel.sum(), mode="valid")


def _reach(hip: Path, ankle: Path, left: Path, side: str) -> tuple[Path, Path]:
    """Knee, and ankle as near to its target as the leg can go; ``left`` is the knee's axis."""
    thigh, shin = bone_length(f"{side}_knee"), bone_length(f"{side}_ankle")
    way = ankle - hip
    far = np.linalg.norm(way, axis=-1, keepdims=True)
    way, far = way / far, np.clip(far, abs(thigh - shin) + 0.05, thigh + shin - 1e-6)
    bend = np.cross(way, left)
    bend /= np.linalg.norm(bend, axis=-1, keepdims=True)
    along = (thigh**2 - shin**2 + far**2) / (2 * far)
    knee = hip + along * way + np.sqrt(np.maximum(thigh**2 - along**2, 0.0)) * bend
    return knee, hip + far * way


def _about(axis: int, angle: Curve) -> Float[Array, "frames 3 3"]:
    """Rotation about x, y or z."""
    matrix = np.zeros((len(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, axis, axis] = 1.0
    matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
    matrix[:, j, i], matrix[:, i, j] = np.sin(angle), -np.sin(angle)
    return matrix


def _turn(left: Curve, forward: Curve, right: Curve) -> Float[Array, "frames 3 3"]:
    """Rotation by yaw, then pitch, then roll, each in the frame the one before leaves."""
    return _about(1, left) @ _about(0, forward) @ _about(2, right)


def _concatenate(parts: Sequence[Any]) -> Any:
    """Curves, or what is made of curves, joined along time."""
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    if isinstance(first, dict):
        return {name: _concatenate([part[name] for part in parts]) for name in first}
    names = [field.name for field in fields(first)]
    return type(first)(**{n: _concatenate([getattr(part, n) for part in parts]) for n in names})
