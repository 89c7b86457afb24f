"""HumanML3D motion features: joints to 263 (KIT: 251) numbers a frame, and back.

The layout is in :attr:`Skeleton.groups`. The numbers equal the released ones, so that published
statistics and weights fit; joints are always metres, y up.

Source: Guo et al., "Generating Diverse and Natural 3D Human Motions from Text", CVPR 2022,
section 5 and its released preprocessing. Two quirks of it are kept on purpose; both concern the
heading, and ``released_heading=False`` is without them:

* The hips enter with the wrong sign (left minus right is added to right minus left of the
  shoulders). Shoulders are wider than hips, so the heading is right for people; for a body with
  hips as wide as its shoulders it turns about, and recovered joints differ from the given ones.
* Where the heading passes -Z (the back, as seen on the first frame), the yaw velocity of that one
  frame has the wrong sign, and joints recovered after it are turned by twice that frame's turn.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.motion.motion import Motion, check_joints
from easytune_lib.motion.skeleton import HUMANML3D, Skeleton

Array = np.ndarray
_UP = np.array([0.0, 1.0, 0.0])
_FORWARD = np.array([0.0, 0.0, 1.0])
_SMOOTHING = 20.0  # frames; standard deviation of the heading's Gaussian filter


def to_features(
    motion: Motion | Float[Array, "frames joints 3"],
    skeleton: Skeleton = HUMANML3D,
    *,
    released_heading: bool = True,
) -> Float[Array, "rows features"]:
    """Motion features in physical units; one frame fewer, as they hold velocities.

    The motion is made canonical first (:func:`canonicalise`), so where it stands and which way
    it faces does not matter. Bone lengths are kept; to unify them use :func:`retarget` before.

    Args:
        motion: A motion (whose skeleton is then used), or joints in metres, y up.
        skeleton: Of plain joints.
        released_heading: Keep the quirks of the released features (see the module's text).

    Returns:
        float32 ``(frames - 1, features)``.

    Raises:
        ValueError: Fewer than two frames, a wrong shape, a number that is not finite, or a bone
            without length, which has no direction.
    """
    if isinstance(motion, Motion):
        motion, skeleton = motion.joints, motion.skeleton
    check_joints(motion, skeleton)
    if len(motion) < 2:
        raise ValueError("features hold velocities and need at least 2 frames; got 1")
    joints = canonicalise(motion.astype(np.float64), skeleton)
    heading = _facing(joints, skeleton, sign=-1.0 if released_heading else 1.0)
    smooth = _unit(_gaussian(heading, _SMOOTHING))
    root = _between(smooth, np.broadcast_to(_FORWARD, smooth.shape))
    root[0] = [1.0, 0.0, 0.0, 0.0]  # as released: the first frame faces forward already

    def headed(x: Array, rotation: Array) -> Array:
        return _rotate(np.broadcast_to(rotation[:, None], (*x.shape[:-1], 4)), x)

    moved = np.diff(joints, axis=0) / skeleton.unit
    turned = _multiply(root[1:], _inverse(root[:-1]))
    if not released_heading:  # of the two quaternions of a rotation, the one that turns less
        turned *= np.where(turned[:, :1] < 0, -1.0, 1.0)
    local = joints / skeleton.unit
    local -= local[:, :1] * [1.0, 0.0, 1.0]
    local = headed(local, root)[:-1]
    feet = (moved[:, skeleton.feet] ** 2).sum(-1) < skeleton.contact_threshold
    parts = {
        "root_yaw_velocity": np.arcsin(np.clip(turned[:, 2:3], -1.0, 1.0)),
        "root_velocity": _rotate(root[1:], moved[:, 0])[:, [0, 2]],
        "root_height": local[:, 0, 1:2],
        "positions": local[:, 1:],
        "rotations": _six(_bone_rotations(joints, root, skeleton)[:-1, 1:]),
        "velocities": headed(moved, root[:-1]),
        "contacts": feet,
    }
    rows = [parts[group].reshape(len(moved), -1) for group in skeleton.groups]
    return np.concatenate(rows, axis=-1, dtype=np.float32)


def to_joints(
    features: Float[Tensor, "*batch frames features"], skeleton: Skeleton = HUMANML3D
) -> Float[Tensor, "*batch frames joints 3"]:
    """Joints in metres, from the root velocities and the positions; differentiable.

    The root starts at x = z = 0 facing +Z and is integrated in float64. Rotations, velocities
    and contacts are not read. Padded frames have no meaning: mask what is computed from them.

    Raises:
        ValueError: The last axis is not ``skeleton.n_features`` long.
    """
    if features.shape[-1] != skeleton.n_features:
        raise ValueError(
            f"features are {features.shape[-1]} wide; {skeleton} has {skeleton.n_features} "
            f"(263 numbers are HumanML3D's, 251 KIT's)"
        )
    at, x = skeleton.groups, features.double()

    def delayed(v: Tensor) -> Tensor:  # velocities lead from a frame to the next
        return torch.nn.functional.pad(v[..., :-1, :], (0, 0, 1, 0))

    turn = 2.0 * delayed(x[..., at["root_yaw_velocity"]]).cumsum(-2)
    cos, sin = turn.cos(), turn.sin()
    unhead = torch.stack([torch.cat([cos, sin], -1), torch.cat([-sin, cos], -1)], -2)  # acts on x z
    root = (delayed(x[..., at["root_velocity"]])[..., None, :] @ unhead).cumsum(-3)
    positions = x[..., at["positions"]].unflatten(-1, (skeleton.n_joints - 1, 3))
    ground = torch.cat([root, root + positions[..., [0, 2]] @ unhead], -2)
    height = torch.cat([x[..., at["root_height"]], positions[..., 1]], -1)
    joints = torch.stack([ground[..., 0], height, ground[..., 1]], -1)
    return (joints * skeleton.unit).to(features.dtype)


def to_motion(
    features: Float[Tensor, "frames features"] | Float[Array, "frames features"],
    skeleton: Skeleton = HUMANML3D,
    text: str = "",
    fps: float | None = None,
) -> Motion:
    """One clip's features as a :class:`Motion`; ``fps`` is the skeleton's where not given."""
    joints = to_joints(torch.as_tensor(features).detach().float().cpu(), skeleton).numpy()
    return Motion(joints, fps or skeleton.fps, skeleton, text)


def canonicalise(
    joints: Float[Array, "frames joints 3"], skeleton: Skeleton = HUMANML3D
) -> Float[Array, "frames joints 3"]:
    """Lowest joint of the clip at y = 0; on frame 0 the root at x = z = 0, facing +Z.

    Raises:
        ValueError: Frame 0 has no heading, as hips and shoulders coincide.
    """
    moved = joints - joints[0, 0] * [1.0, 0.0, 1.0]
    moved[..., 1] -= moved[..., 1].min()
    turn = _between(_unit(_facing(moved[:1], skeleton)[0]), _FORWARD)
    return _rotate(np.broadcast_to(turn, (*moved.shape[:-1], 4)), moved).astype(joints.dtype)


def retarget(
    joints: Float[Array, "frames joints 3"],
    lengths: Float[Array, " bones"],
    skeleton: Skeleton = HUMANML3D,
) -> Float[Array, "frames joints 3"]:
    """The same bone directions with other bone lengths; the root path is scaled by leg length.

    Args:
        joints: Metres.
        lengths: Of the bones that end in joints 1, 2, ..., metres: one row of
            :attr:`Motion.bone_lengths`.
        skeleton: Of both.

    Raises:
        ValueError: A bone has no length and so no direction.

    Source: ``uniform_skeleton`` of the released preprocessing.
    """
    if lengths.shape != (len(skeleton.bones),):
        raise ValueError(f"got {lengths.shape} lengths; {skeleton} has {len(skeleton.bones)} bones")
    directions, own = _bones(joints.astype(np.float64), skeleton)
    leg = [joint - 1 for joint in skeleton.indices(*skeleton.leg)]
    new = np.empty(joints.shape)
    new[:, 0] = joints[:, 0] * (lengths[leg].sum() / own[0, leg].sum())
    for row in _from_root(skeleton):
        new[:, row] = new[:, skeleton.parents[row]] + directions[:, row - 1] * lengths[row - 1]
    return new.astype(joints.dtype)


def mirror(
    joints: Float[Array, "frames joints 3"], skeleton: Skeleton = HUMANML3D
) -> Float[Array, "frames joints 3"]:
    """Left and right swapped: the motion seen in a mirror at x = 0."""
    return joints[:, list(skeleton.mirrored)] * np.array([-1, 1, 1], joints.dtype)


def mirror_features(
    features: Float[Array, "frames features"], skeleton: Skeleton = HUMANML3D
) -> Float[Array, "frames features"]:
    """Features of the mirrored motion, without a detour through joints."""
    swap, at = np.array(skeleton.mirrored), skeleton.groups
    flip = np.array([-1, 1, 1], features.dtype)
    six = np.array([1, -1, -1, -1, 1, 1], features.dtype)  # M R M, first two columns
    new = features.copy()

    def swapped(group: str, rows: Array, signs: Array) -> None:
        block = features[:, at[group]].reshape(len(features), len(rows), len(signs))
        new[:, at[group]] = (block[:, rows] * signs).reshape(len(features), -1)

    new[:, at["root_yaw_velocity"]] *= -1
    new[:, at["root_velocity"].start] *= -1
    swapped("positions", swap[1:] - 1, flip)
    swapped("rotations", swap[1:] - 1, six)
    swapped("velocities", swap, flip)
    swapped("contacts", np.array([2, 3, 0, 1]), np.ones(1, features.dtype))
    return new


def _facing(joints: Array, skeleton: Skeleton, sign: float = 1.0) -> Array:
    """Heading of each frame from hips (times ``sign``) and shoulders; shorter where they tilt."""
    (left_hip, right_hip), (left, right) = skeleton.hips, skeleton.shoulders
    across = sign * (joints[:, right_hip] - joints[:, left_hip])
    across += joints[:, right] - joints[:, left]
    return np.cross(_UP, _unit(across))


def _bones(joints: Array, skeleton: Skeleton) -> tuple[Array, Array]:
    """Unit direction ``(frames, bones, 3)`` and length ``(frames, bones)`` of each bone."""
    parents, children = np.array(skeleton.bones).T
    vectors = joints[:, children] - joints[:, parents]
    lengths = np.linalg.norm(vectors, axis=-1)
    if not lengths.all():
        frame, bone = np.argwhere(lengths == 0)[0]
        parent, child = (skeleton.joints[i] for i in skeleton.bones[bone])
        raise ValueError(
            f"joints {parent!r} and {child!r} coincide in frame {frame}: the bone has no "
            f"direction; check that the joints are in {skeleton.name} order"
        )
    return vectors / lengths[..., None], lengths


def _bone_rotations(joints: Array, root: Array, skeleton: Skeleton) -> Array:
    """Rotation of each joint relative to the one before it in its chain, as quaternions.

    A chain begins with the root's rotation, also where it begins at another joint.
    """
    directions, _ = _bones(joints, skeleton)
    rest = np.broadcast_to(skeleton.raw_offsets[1:], directions.shape)
    world = np.concatenate([root[:, None], _between(rest, directions)], axis=1)
    before = np.zeros(skeleton.n_joints, int)
    for chain in skeleton.chain_indices:
        for previous, joint in pairwise(chain[1:]):
            before[joint] = previous
    local = _multiply(_inverse(world[:, before]), world)
    local[:, 0] = root
    return local


def _from_root(skeleton: Skeleton) -> list[int]:
    """All joints but the root, parents first."""
    return [joint for chain in skeleton.chain_indices for joint in chain[1:]]


def _gaussian(x: Array, sigma: float) -> Array:
    """Smooth along axis 0 with the edge values held; cut at four standard deviations."""
    radius = int(4.0 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(x, ((radius, radius), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0)
    return windows @ (kernel / kernel.sum())


def _unit(x: Array) -> Array:
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    if not norm.all():
        raise ValueError("the heading is undefined: hips and shoulders give no direction")
    return x / norm


# Quaternions are (w, x, y, z), arrays (..., 4); vectors (..., 3).


def _multiply(a: Array, b: Array) -> Array:
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by + ay * bw + az * bx - ax * bz,
            aw * bz + az * bw + ax * by - ay * bx,
        ],
        axis=-1,
    )


def _inverse(q: Array) -> Array:
    return q * [1.0, -1.0, -1.0, -1.0]


def _rotate(q: Array, v: Array) -> Array:
    twice = 2.0 * np.cross(q[..., 1:], v)
    return v + q[..., :1] * twice + np.cross(q[..., 1:], twice)


def _between(a: Array, b: Array) -> Array:
    """The shortest rotation from unit vectors ``a`` to unit vectors ``b``."""
    q = np.concatenate([1.0 + (a * b).sum(-1, keepdims=True), np.cross(a, b)], axis=-1)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    opposite = norm[..., 0] < 1e-8  # any half turn about an axis across a will do
    if opposite.any():
        across = np.cross(a[opposite], np.eye(3)[np.abs(a[opposite]).argmin(-1)])
        q[opposite] = np.concatenate([np.zeros((len(across), 1)), _unit(across)], axis=-1)
        norm[opposite] = 1.0
    return q / norm


def _six(q: Array) -> Array:
    """First two columns of the rotation matrix, one after the other: ``(..., 6)``."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    return np.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)),
            *(2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)),
        ],
        axis=-1,
    )
