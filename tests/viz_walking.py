"""Motions that need no data: a stick figure of either skeleton that swings and travels."""

import numpy as np

from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, Skeleton


def walking(
    frames: int = 40,
    skeleton: Skeleton = HUMANML3D,
    speed: float = 1.2,
    fps: float | None = None,
    text: str = "a person walks",
) -> Motion:
    """Bones of 0.2 m hang as in the rest pose; the legs swing; the root goes along +z."""
    fps = fps or skeleton.fps
    time = np.arange(frames) / fps
    joints = np.zeros((frames, skeleton.n_joints, 3))
    joints[:, 0] = np.stack([0 * time, 0.9 + 0.02 * np.sin(9 * time), speed * time], axis=-1)
    for parent, child in sorted(skeleton.bones, key=lambda bone: _depth(skeleton, bone[1])):
        bone = np.tile(0.2 * skeleton.raw_offsets[child], (frames, 1))
        name = skeleton.joints[child]
        if name.endswith(("knee", "ankle")):
            angle = 0.5 * np.sin(6 * time + np.pi * name.startswith("left"))
            bone = 0.4 * np.stack([0 * time, -np.cos(angle), np.sin(angle)], axis=-1)
        joints[:, child] = joints[:, parent] + bone
    return Motion(joints.astype(np.float32), fps, skeleton, text)


def _depth(skeleton: Skeleton, joint: int) -> int:
    return 0 if joint <= 0 else 1 + _depth(skeleton, skeleton.parents[joint])
