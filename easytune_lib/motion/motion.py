"""A motion as joints in space."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from easytune_lib.motion.skeleton import Skeleton


@dataclass(frozen=True, eq=False)
class Motion:
    """Joints of one person over time: metres, right-handed, y up.

    >>> (motion,) = bench.sample(["a person waves."], seconds=1.0)
    >>> motion.joints.shape
    (20, 22, 3)

    Raises:
        ValueError: The shape does not fit the skeleton, there are no frames, a coordinate is
            NaN or infinite (names frame and joint), or ``fps`` is not positive.
    """

    joints: Float32[np.ndarray, "frames joints 3"]
    fps: float
    skeleton: Skeleton
    text: str = ""

    def __post_init__(self) -> None:
        """Check what the annotations cannot say."""
        check_joints(self.joints, self.skeleton)
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; expected frames a second, for instance 20.0")

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.joints)

    @property
    def seconds(self) -> float:
        """How long the motion is shown."""
        return len(self) / self.fps

    @property
    def bone_lengths(self) -> Float32[np.ndarray, "frames bones"]:
        """Length of each bone in metres, ordered as ``skeleton.bones``."""
        parents, children = np.array(self.skeleton.bones).T
        return np.linalg.norm(self.joints[:, children] - self.joints[:, parents], axis=-1)


def check_joints(joints: np.ndarray, skeleton: Skeleton) -> None:
    """Accept only finite joints ``(frames, joints, 3)`` with at least one frame.

    Raises:
        ValueError: Says what came, what was expected, and where the first bad number is.
    """
    if joints.ndim != 3 or joints.shape[1:] != (skeleton.n_joints, 3) or not len(joints):
        raise ValueError(
            f"joints have shape {joints.shape}; {skeleton} expects "
            f"(frames, {skeleton.n_joints}, 3) with at least one frame"
        )
    bad = np.argwhere(~np.isfinite(joints).all(-1))
    if len(bad):
        frame, joint = bad[0]
        raise ValueError(
            f"joint {skeleton.joints[joint]!r} is not finite in frame {frame} (and {len(bad) - 1} "
            f"more places); cut the clip or leave it out"
        )
