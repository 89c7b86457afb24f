import pytest
import torch
from made_motion import made_motion
from torch import Tensor

from easytune_lib.metrics.foot import mean_jerk
from easytune_lib.motion.features import to_features, to_joints
from easytune_lib.motion.skeleton import HUMANML3D, KIT
from easytune_lib.rewards.kinematic import (
    BoneLengthDrift,
    FloorPenetration,
    FootSkating,
    Jerk,
    joints_of,
    over_frames,
)
from easytune_lib.rewards.mix import gradient_error
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts, Reward, TextFeatures

AT = HUMANML3D.groups
ALL = (
    FootSkating(),
    Jerk(),
    FloorPenetration(floor=0.3),
    BoneLengthDrift(),
    BoneLengthDrift(lengths=(0.3,) * 21),
)

each = pytest.mark.parametrize("reward", ALL, ids=["skating", "jerk", "floor", "drift", "lengths"])


def asked(*lengths: int) -> Prompts:
    sentence = torch.zeros(len(lengths), 1)
    keep = torch.ones(len(lengths), 1, dtype=torch.bool)
    texts = tuple(f"caption {i}" for i in range(len(lengths)))
    return Prompts(TextFeatures(texts, sentence, sentence[:, None], keep), torch.tensor(lengths))


def made(*lengths: int) -> tuple[Tensor, Prompts]:
    """Made motions, float64, zero where padded."""
    motion = torch.zeros(len(lengths), max(lengths), 263, dtype=torch.float64)
    for row, length in enumerate(lengths):
        motion[row, :length] = torch.from_numpy(to_features(made_motion(row, length + 1)))
    return motion, asked(*lengths)


def standing(frames: int = 21) -> tuple[Tensor, Prompts]:
    """All joints at x = z = 0 and a metre up, toes on the ground."""
    motion = torch.zeros(1, frames, 263, dtype=torch.float64)
    motion[..., AT["root_height"]] = 1.0
    positions = motion[..., AT["positions"]].unflatten(-1, (21, 3))
    positions[..., 1] = 1.0
    positions[:, :, [HUMANML3D.feet[1] - 1, HUMANML3D.feet[3] - 1], 1] = 0.0
    return motion, asked(frames)


def toe(motion: Tensor) -> Tensor:
    """Positions of the left toe, a view."""
    return motion[..., AT["positions"]].unflatten(-1, (21, 3))[:, :, HUMANML3D.feet[1] - 1]


@each
def test_it_is_a_reward_and_at_most_zero(reward):
    assert isinstance(reward, Reward)
    motion, prompts = made(24, 12, 16)
    scores = reward(motion, prompts)
    assert scores.shape == (3,) and scores.dtype == torch.float64 and (scores <= 0).all()
    assert reward(motion.float(), prompts).dtype == torch.float32
    assert torch.equal(scores, reward(motion, prompts, torch.tensor([5, 5, 5])))


@each
def test_gradients_are_finite_differences(reward):
    motion, prompts = made(24, 12, 16)
    motion += 0.02 * torch.randn(motion.shape, generator=stream(1), dtype=motion.dtype)
    assert gradient_error(reward, motion, prompts, stream(0), step=1e-7) < 1e-6


@each
def test_padding_has_no_influence_and_no_gradient(reward):
    motion, prompts = made(24, 12)
    alone = reward(motion[1:, :12].clone(), prompts[[1]])
    motion[1, 12:] = torch.randn(12, 263, generator=stream(0), dtype=torch.float64)
    motion.requires_grad_()
    scores = reward(motion, prompts)
    assert scores[1].item() == pytest.approx(alone.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(scores.sum(), motion)
    assert not gradient[1, 12:].any()
    assert gradient[1, :12].any() and gradient.isfinite().all()


@each
def test_a_motion_without_fault_has_a_gradient_that_is_a_number(reward):
    motion, prompts = standing()
    motion.requires_grad_()
    (gradient,) = torch.autograd.grad(reward(motion, prompts).sum(), motion)
    assert gradient.isfinite().all()


def test_joints_are_differentiable_in_path_and_positions():
    motion, _ = made(6)
    way = torch.randn(6, 22, 3, generator=stream(0), dtype=torch.float64)
    motion.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (to_joints(x)[0] * way).sum(), motion, fast_mode=True)
    (gradient,) = torch.autograd.grad((to_joints(motion)[0] * way).sum(), motion)
    for group, values in AT.items():
        read = group in ("root_yaw_velocity", "root_velocity", "root_height", "positions")
        assert gradient[..., values].any() == read, group


def test_a_toe_that_slides_by_hand():
    """1 m/s along z for all steps at height 0: contact sigmoid(5), one foot of two."""
    motion, prompts = standing()
    assert FootSkating()(motion, prompts).item() == 0
    toe(motion)[..., 2] = torch.arange(21) / HUMANML3D.fps
    contact = torch.tensor(5.0).sigmoid().item()
    assert FootSkating()(motion, prompts).item() == pytest.approx(-contact / 2, rel=1e-6)
    toe(motion)[..., 1] = 0.5
    assert FootSkating()(motion, prompts).item() == pytest.approx(0, abs=1e-12)


def test_a_foot_that_is_up_in_one_frame_of_a_step_does_not_slide():
    motion, prompts = standing()
    toe(motion)[..., 2] = torch.arange(21) / HUMANML3D.fps
    toe(motion)[:, ::2, 1] = 0.5
    assert FootSkating()(motion, prompts).item() == pytest.approx(0, abs=1e-12)


def test_jerk_is_the_metric():
    motion, prompts = made(24, 12)
    wanted = -mean_jerk(to_joints(motion), prompts.mask)
    assert torch.equal(Jerk()(motion, prompts), wanted)


def test_depth_below_the_floor():
    """4 frames of 20 at 10 cm below: 2 cm on average; the other joints are above."""
    motion, prompts = standing(20)
    toe(motion)[:, 3:7, 1] = -0.1
    assert FloorPenetration()(motion, prompts).item() == pytest.approx(-0.02)
    assert FloorPenetration(floor=-0.1)(motion, prompts).item() == 0


def test_bones_that_change_their_length():
    """The toe's bone is 1 m and 2 m long in turn: 0.5 m from its mean, one bone of 21."""
    motion, prompts = standing(20)
    assert BoneLengthDrift()(motion, prompts).item() == 0
    toe(motion)[:, ::2, 1] = -1.0
    assert BoneLengthDrift()(motion, prompts).item() == pytest.approx(-0.5 / 21)


def test_bones_of_another_length():
    """The toe's bone is 1 m where 1.5 m were asked for, the others are as they shall be."""
    motion, prompts = standing(20)
    joints = to_joints(motion)[0, 0]
    lengths = [(joints[c] - joints[p]).norm().item() for p, c in HUMANML3D.bones]
    assert BoneLengthDrift(tuple(lengths))(motion, prompts).item() == 0
    lengths[HUMANML3D.feet[1] - 1] += 0.5
    reward = BoneLengthDrift(tuple(lengths))
    assert reward(motion, prompts).item() == pytest.approx(-0.5 / 21)
    with pytest.raises(ValueError, match="20 lengths; .* has 21 bones"):
        BoneLengthDrift((0.1,) * 20)


def test_means_over_frames_and_over_steps():
    prompts = asked(4, 2)
    values = torch.tensor([[1.0, 2.0, 3.0, 6.0], [1.0, 3.0, 9.0, 9.0]])
    assert over_frames(values, prompts).tolist() == [3.0, 2.0]
    assert over_frames(values.diff(dim=1), prompts).tolist() == [pytest.approx(5 / 3), 2.0]
    with pytest.raises(ValueError, match=r"motions \[1\] have fewer than 3 frames"):
        over_frames(values.diff(n=2, dim=1), prompts)


def test_what_does_not_fit_is_refused():
    motion, prompts = made(12)
    with pytest.raises(ValueError, match="cut or pad"):
        joints_of(motion[:, :8], prompts)
    with pytest.raises(ValueError, match="263 wide"):
        Jerk(KIT)(motion, prompts)
