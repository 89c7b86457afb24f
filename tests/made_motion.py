"""Small made motions for tests: a body that turns, walks on a curve and swings its limbs."""

from functools import cache
from itertools import pairwise

import numpy as np

from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, Skeleton


@cache
def made_motion(seed: int, frames: int = 61, skeleton: Skeleton = HUMANML3D) -> Motion:
    """Bone lengths and directions vary with ``seed``; hips are narrower than shoulders."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / skeleton.fps
    yaw = rng.uniform(-3, 3) + rng.uniform(-0.6, 0.6) * time[:, 0]
    # columns are where the body's left, up and forward point
    turn = np.zeros((frames, 3, 3))
    turn[:, 1, 1] = 1
    turn[:, 0, 0] = turn[:, 2, 2] = np.cos(yaw)
    turn[:, 0, 2], turn[:, 2, 0] = np.sin(yaw), -np.sin(yaw)
    joints = np.zeros((frames, skeleton.n_joints, 3))
    joints[:, 0] = [*rng.normal(size=2), 0.5]
    joints[:, 0] += time * turn[:, :, 2]
    for chain in skeleton.chain_indices:
        for parent, child in pairwise(chain):
            name = skeleton.joints[child]
            offset = skeleton.raw_offsets[child] + 0.25 * np.sin(3 * time + rng.uniform(0, 6, 3))
            side = {"left": 1.0, "right": -1.0}.get(name.split("_")[0], 0.0)
            if name.endswith(("hip", "collar")) or (skeleton.joints[parent] == "neck" and side):
                offset[:, 0] = side
            bone = 0.1 if name.endswith("hip") else rng.uniform(0.15, 0.4)
            offset *= bone / np.linalg.norm(offset, axis=-1, keepdims=True)
            joints[:, child] = joints[:, parent] + np.einsum("tij,tj->ti", turn, offset)
    return Motion(joints.astype(np.float32), skeleton.fps, skeleton)
