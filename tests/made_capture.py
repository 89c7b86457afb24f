"""A made motion as another program's BVH, its joints named as a rig has them."""

import re
from dataclasses import replace
from pathlib import Path

from made_motion import made_motion

from easytune_lib.data.capture import Rig
from easytune_lib.data.files import write_bvh
from easytune_lib.motion.skeleton import HUMANML3D

OWN = Rig({joint: joint for joint in HUMANML3D.joints})
"""Joints as we name them."""


def write_capture(
    path: Path, rig: Rig = OWN, seed: int = 0, frames: int = 70, fps: float = 30.0
) -> Path:
    """70 frames at 30 a second are 47 at 20."""
    write_bvh(replace(made_motion(seed, frames), fps=fps), path)
    text = path.read_text()
    for ours, theirs in rig.joints.items():
        text = re.sub(rf"(ROOT|JOINT) {ours}\n", rf"\1 {theirs}\n", text)
    path.write_text(text)
    return path
