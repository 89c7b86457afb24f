from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from easytune_lib.metrics.foot import foot_skate_ratio, mean_jerk
from easytune_lib.motion.skeleton import HUMANML3D, KIT

LEFT, RIGHT = HUMANML3D.feet[1], HUMANML3D.feet[3]
FPS = HUMANML3D.fps


def standing(frames: int = 21, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Feet on the ground, all other joints a metre above."""
    joints = torch.zeros(batch, frames, HUMANML3D.n_joints, 3)
    joints[..., 1] = 1.0
    joints[:, :, [LEFT, RIGHT], 1] = 0.02
    return joints, torch.ones(batch, frames, dtype=torch.bool)


def slide(joints: Tensor, foot: int, steps: range, speed: float) -> None:
    """Move ``foot`` along x by ``speed`` (m/s) in these frame steps."""
    moves = torch.zeros(joints.shape[1] - 1)
    moves[list(steps)] = speed / FPS
    joints[:, 1:, foot, 0] += moves.cumsum(0)


def test_standing_feet_do_not_slide_and_fast_ones_do():
    joints, mask = standing()
    assert foot_skate_ratio(joints, mask).tolist() == [0.0]
    slide(joints, LEFT, range(20), 1.0)
    assert foot_skate_ratio(joints, mask).tolist() == [1.0]


def test_ten_steps_of_twenty():
    """Speed 2 m/s in steps 5 to 14; the average over 5 exceeds 0.5 in all of them."""
    joints, mask = standing()
    slide(joints, RIGHT, range(5, 15), 2.0)
    assert foot_skate_ratio(joints, mask).tolist() == [0.5]


def test_a_single_jump_is_no_slide():
    """2 m/s in one step averages to 0.4 m/s over 5; without averaging the step counts."""
    joints, mask = standing()
    slide(joints, LEFT, range(9, 10), 2.0)
    assert foot_skate_ratio(joints, mask).tolist() == [0.0]
    assert foot_skate_ratio(joints, mask, window=1).tolist() == [pytest.approx(1 / 20)]


def test_a_raised_foot_may_move_and_so_may_a_slow_one():
    joints, mask = standing()
    slide(joints, LEFT, range(20), 2.0)
    joints[:, :, LEFT, 1] = 0.06
    slide(joints, RIGHT, range(20), 0.4)
    assert foot_skate_ratio(joints, mask).tolist() == [0.0]


def test_up_and_down_is_no_sliding():
    joints, mask = standing()
    joints[:, ::2, LEFT, 1] = 0.04
    joints[:, 1::2, LEFT, 1] = -0.06
    assert foot_skate_ratio(joints, mask).tolist() == [0.0]


def test_ankles_are_not_read():
    joints, mask = standing()
    for ankle in (HUMANML3D.feet[0], HUMANML3D.feet[2]):
        joints[:, :, ankle, 1] = 0.0
        slide(joints, ankle, range(20), 2.0)
    assert foot_skate_ratio(joints, mask).tolist() == [0.0]


@pytest.mark.parametrize("metric", [foot_skate_ratio, mean_jerk])
def test_padding_counts_for_nothing(metric):
    joints, mask = standing(frames=12)
    slide(joints, LEFT, range(4, 11), 1.5)
    alone = metric(joints, mask)
    padded = torch.nn.functional.pad(joints, (0, 0, 0, 0, 0, 9), value=-3.0)
    longer = torch.nn.functional.pad(mask, (0, 9))
    assert torch.allclose(metric(padded, longer), alone)
    assert alone > 0


def test_jerk_of_a_cubic():
    """x = t³ m: the third derivative is 6 m/s³ everywhere, for one joint of 22."""
    joints, mask = standing()
    joints = joints.double()
    joints[:, :, LEFT, 0] = (torch.arange(21, dtype=torch.float64) / FPS) ** 3
    assert mean_jerk(joints, mask).item() == pytest.approx(6 / 22, rel=1e-9)
    twice = replace(HUMANML3D, fps=2 * FPS)
    assert mean_jerk(joints, mask, twice).item() == pytest.approx(8 * 6 / 22, rel=1e-9)


def test_constant_acceleration_has_no_jerk():
    joints, mask = standing()
    joints = joints.double()
    joints[..., 0] = torch.arange(21, dtype=torch.float64)[:, None] ** 2
    assert mean_jerk(joints, mask).item() == pytest.approx(0, abs=1e-9)


def test_another_skeleton_has_its_own_feet():
    joints = torch.zeros(1, 10, KIT.n_joints, 3)
    joints[..., 1] = 1.0
    joints[:, :, KIT.feet[3], 1] = 0.0
    joints[:, :, KIT.feet[3], 2] = torch.from_numpy(np.arange(10) * 0.1).float()
    mask = torch.ones(1, 10, dtype=torch.bool)
    assert foot_skate_ratio(joints, mask, KIT).tolist() == [1.0]


def test_motions_that_are_too_short_are_named():
    joints, mask = standing(frames=6, batch=3)
    mask[1, 1:] = False
    mask[2, 3:] = False
    with pytest.raises(ValueError, match=r"\[1\] have fewer than 2 frames"):
        foot_skate_ratio(joints, mask)
    with pytest.raises(ValueError, match=r"\[1, 2\] have fewer than 4 frames"):
        mean_jerk(joints, mask)
    with pytest.raises(ValueError, match=r"\[0, 1, 2\] have fewer than 4 frames"):
        mean_jerk(joints[:, :3].clone(), mask[:, :3].clone())
    with pytest.raises(ValueError, match="odd number"):
        foot_skate_ratio(joints[:1], mask[:1], window=4)
