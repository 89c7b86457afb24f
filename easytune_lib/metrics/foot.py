"""Physical plausibility: sliding feet and jerky joints."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.motion.skeleton import HUMANML3D, Skeleton


def foot_skate_ratio(
    joints: Float[Tensor, "batch frames joints 3"],
    mask: Bool[Tensor, "batch frames"],
    skeleton: Skeleton = HUMANML3D,
    *,
    max_height: float = 0.05,
    max_speed: float = 0.5,
    window: int = 5,
) -> Float[Tensor, " batch"]:
    """Share of frame steps in which a foot on the ground slides; in [0, 1], lower is better.

    Args:
        joints: Metres, y up, ground at y = 0.
        mask: True where a frame is real; real frames come first.
        skeleton: Says which joints are feet, and how long a frame lasts.
        max_height: A foot below this in both frames of a step is on the ground, in metres.
        max_speed: A grounded foot faster than this, in the ground plane, slides (m/s).
        window: Frames over which the speed is averaged too; odd. Both must exceed
            ``max_speed``, so that a single jump is no slide.

    Raises:
        ValueError: A motion has fewer than 2 frames, or ``window`` is even.

    Source: GMD (Karunratanakul et al., ICCV 2023) and its published thresholds. As there, the
    average takes a foot to stand still before the first frame and after the last.
    """
    steps = _steps(mask, 2)
    if window % 2 == 0:
        raise ValueError(f"the window is an odd number of frames, got {window}")
    feet = joints[:, :, skeleton.feet[1::2]]  # the toes' joints, not the ankles
    low = feet[..., 1] < max_height
    speed = feet[..., [0, 2]].diff(dim=1).norm(dim=-1) * skeleton.fps
    speed = torch.where(steps[..., None], speed, 0)
    mean = F.avg_pool1d(speed.mT, window, stride=1, padding=window // 2).mT
    slides = low[:, 1:] & low[:, :-1] & (speed > max_speed) & (mean > max_speed)
    return (slides.any(dim=-1) & steps).sum(dim=1) / steps.sum(dim=1)


def mean_jerk(
    joints: Float[Tensor, "batch frames joints 3"],
    mask: Bool[Tensor, "batch frames"],
    skeleton: Skeleton = HUMANML3D,
) -> Float[Tensor, " batch"]:
    """Mean size of the joints' third derivative, in m/s³; real motion sets the mark.

    Raises:
        ValueError: A motion has fewer than 4 frames.
    """
    steps = _steps(mask, 4)
    jerk = joints.diff(n=3, dim=1).norm(dim=-1).mean(dim=-1) * skeleton.fps**3
    return torch.where(steps, jerk, 0).sum(dim=1) / steps.sum(dim=1)


def _steps(mask: Bool[Tensor, "batch frames"], length: int) -> Bool[Tensor, "batch steps"]:
    """True where ``length`` frames in a row are real."""
    steps = mask.unfold(1, length, 1).all(dim=-1) if mask.shape[1] >= length else mask[:, :0]
    if short := (~steps.any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(f"motions {short} have fewer than {length} frames")
    return steps
