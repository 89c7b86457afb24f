import numpy as np
import pytest
from made_motion import made_motion

from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, KIT


def test_lasts_frames_over_fps():
    joints = np.zeros((50, 22, 3), np.float32)
    assert Motion(joints, 20.0, HUMANML3D).seconds == 2.5
    assert len(Motion(joints, 20.0, HUMANML3D, "stands")) == 50


def test_bone_lengths_are_those_the_body_was_made_with():
    motion = made_motion(0)
    lengths = motion.bone_lengths
    assert lengths.shape == (61, 21)
    np.testing.assert_allclose(lengths, lengths[:1].repeat(61, 0), atol=1e-6)
    np.testing.assert_allclose(lengths[0, HUMANML3D.index("left_hip") - 1], 0.1, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_names_frame_and_joint_of_a_bad_number(bad: float):
    joints = made_motion(0).joints.copy()
    joints[7, HUMANML3D.index("left_wrist"), 1] = bad
    with pytest.raises(ValueError, match=r"'left_wrist' is not finite in frame 7"):
        Motion(joints, 20.0, HUMANML3D)


def test_refuses_joints_of_another_skeleton():
    with pytest.raises(ValueError, match=r"\(61, 22, 3\).*kit \(21 joints\).*\(frames, 21, 3\)"):
        Motion(made_motion(0).joints, 12.5, KIT)


def test_refuses_no_frames_and_no_speed():
    with pytest.raises(ValueError, match="at least one frame"):
        Motion(np.zeros((0, 22, 3), np.float32), 20.0, HUMANML3D)
    with pytest.raises(ValueError, match="fps is 0"):
        Motion(np.zeros((2, 22, 3), np.float32), 0.0, HUMANML3D)
