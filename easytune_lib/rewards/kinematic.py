"""Rewards in closed form: what any motion must not do, whatever its caption.

Each is 0 for a motion without fault and negative otherwise, in the unit its docstring names, so
that weights in a :class:`~easytune_lib.rewards.mix.Mix` can be read. They see joints recovered
from the root's path and the joints' positions; rotations, velocities and contacts in the features
are not read and get no gradient. A noised motion is no motion of a body: give these the clean
estimate. ``t`` is accepted and ignored.

None of them knows the caption, and all are pleased by a motion that stands still. Alone they are
a way to lose the text; mix them with one that reads it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from easytune_lib.metrics.foot import mean_jerk
from easytune_lib.motion.features import to_joints
from easytune_lib.motion.skeleton import HUMANML3D, Skeleton
from easytune_lib.types import Prompts


def joints_of(
    motion: Float[Tensor, "batch frames features"], prompts: Prompts, skeleton: Skeleton = HUMANML3D
) -> Float[Tensor, "batch frames joints 3"]:
    """Joints in metres, y up, ground at y = 0; differentiable. Padded frames have no meaning.

    Raises:
        ValueError: ``motion`` is not padded to ``prompts.frames``, or is of another skeleton.
    """
    prompts.check(motion)
    return to_joints(motion, skeleton)


def over_frames(values: Float[Tensor, "batch frames"], prompts: Prompts) -> Float[Tensor, " batch"]:
    """Mean over the real frames of each motion.

    Values that are one frame shorter than the motion for each difference they hold (a speed, an
    acceleration) are averaged over the steps whose frames are all real.

    Raises:
        ValueError: A motion has no such step.
    """
    fewer = prompts.frames - values.shape[1]
    real = prompts.mask[:, fewer:]
    if short := (~real.any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(f"motions {short} have fewer than {fewer + 1} frames")
    return torch.where(real, values, 0).sum(dim=1) / real.sum(dim=1)


class Kinematic:
    """A reward that is minus a fault of the joints' paths, at most 0."""

    skeleton: Skeleton

    def __call__(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """One score a motion; ``t`` is ignored.

        Raises:
            ValueError: As of :func:`joints_of`; or a motion has too few frames.
        """
        return -self.fault(joints_of(motion, prompts, self.skeleton), prompts)

    def fault(
        self, joints: Float[Tensor, "batch frames joints 3"], prompts: Prompts
    ) -> Float[Tensor, " batch"]:
        """Size of the fault of each motion, at least 0, from joints in metres."""
        raise NotImplementedError


@dataclass(frozen=True)
class FootSkating(Kinematic):
    """Minus the mean speed at which toes slide while they are on the ground, in m/s.

    Speed is in the ground plane and is weighted by contact, a sigmoid of the height of the
    *higher* of a step's two frames; the mean is over steps and both feet. The smooth sibling of
    :func:`~easytune_lib.metrics.foot.foot_skate_ratio`, which counts steps and has no gradient.
    Since contact has a gradient too, a foot may also be lifted to please it. Needs 2 frames.
    """

    max_height: float = 0.05  # metres; where contact is one half
    softness: float = 0.01  # metres over which contact fades
    skeleton: Skeleton = HUMANML3D

    def fault(
        self, joints: Float[Tensor, "batch frames joints 3"], prompts: Prompts
    ) -> Float[Tensor, " batch"]:
        """See :class:`Kinematic`."""
        toes = joints[:, :, self.skeleton.feet[1::2]]
        height = torch.maximum(toes[:, 1:, :, 1], toes[:, :-1, :, 1])
        contact = torch.sigmoid((self.max_height - height) / self.softness)
        speed = toes[..., [0, 2]].diff(dim=1).norm(dim=-1) * self.skeleton.fps
        return over_frames((contact * speed).mean(dim=-1), prompts)


@dataclass(frozen=True)
class Jerk(Kinematic):
    """Minus the mean size of the joints' third derivative, in m/s³.

    Real motion is not free of it: some hundreds are natural, and less may be a body that
    floats. Needs 4 frames.
    """

    skeleton: Skeleton = HUMANML3D

    def fault(
        self, joints: Float[Tensor, "batch frames joints 3"], prompts: Prompts
    ) -> Float[Tensor, " batch"]:
        """See :class:`Kinematic`."""
        return mean_jerk(joints, prompts.mask, self.skeleton)


@dataclass(frozen=True)
class FloorPenetration(Kinematic):
    """Minus the mean depth of the lowest joint below the floor, in metres."""

    floor: float = 0.0  # metres
    skeleton: Skeleton = HUMANML3D

    def fault(
        self, joints: Float[Tensor, "batch frames joints 3"], prompts: Prompts
    ) -> Float[Tensor, " batch"]:
        """See :class:`Kinematic`."""
        lowest = joints[..., 1].amin(dim=-1)
        return over_frames((self.floor - lowest).relu(), prompts)


@dataclass(frozen=True)
class BoneLengthDrift(Kinematic):
    """Minus the mean deviation of bone lengths, in metres, over frames and bones.

    With ``lengths``, from these; else from each bone's own mean over the motion, which a body
    that is stretched from the first frame to the last does not violate.
    """

    lengths: tuple[float, ...] | None = None  # metres, one a bone, in the order of skeleton.bones
    skeleton: Skeleton = HUMANML3D

    def __post_init__(self) -> None:
        """Refuse lengths of another skeleton."""
        if self.lengths is not None and len(self.lengths) != len(self.skeleton.bones):
            raise ValueError(
                f"{len(self.lengths)} lengths; {self.skeleton} has {len(self.skeleton.bones)} bones"
            )

    def fault(
        self, joints: Float[Tensor, "batch frames joints 3"], prompts: Prompts
    ) -> Float[Tensor, " batch"]:
        """See :class:`Kinematic`."""
        parents, children = zip(*self.skeleton.bones, strict=True)
        found = (joints[:, :, children] - joints[:, :, parents]).norm(dim=-1)
        if self.lengths is None:
            real = prompts.mask[..., None]
            wanted = torch.where(real, found, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        else:
            wanted = found.new_tensor(self.lengths)
        return over_frames((found - wanted).abs().mean(dim=-1), prompts)
