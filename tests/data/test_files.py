from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_motion import made_motion
from scipy.spatial.transform import Rotation

from easytune_lib.data.files import read_bvh, read_npz, write_bvh, write_npz
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, KIT


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_bvh_brings_every_joint_back(tmp_path: Path, skeleton, seed):
    motion = made_motion(seed, skeleton=skeleton)
    found = read_bvh(write_bvh(motion, tmp_path / "a.bvh"))
    again = found.motion(skeleton, motion.text)
    assert again.fps == pytest.approx(motion.fps, rel=1e-6)
    assert np.abs(again.joints - motion.joints).max() < 1e-4, "metres"
    assert set(found.names) == set(skeleton.joints)


def test_its_turns_alone_nearly_show_the_motion(tmp_path: Path):
    """For programs that read turns and the root's position only."""
    motion = made_motion(1)
    path = write_bvh(motion, tmp_path / "a.bvh")
    found, moved = read_bvh(path), []
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Frame Time")) + 1
    frames = np.array([[float(x) for x in line.split()] for line in lines[start:]])
    frames = frames.reshape(len(motion), -1, 6)
    turns: list[Rotation] = []
    for joint, parent in enumerate(found.parents):
        own = Rotation.from_euler("ZXY", frames[:, joint, 3:], degrees=True)
        if parent < 0:
            moved.append(frames[:, 0, :3])
            turns.append(own)
        else:
            moved.append(moved[parent] + turns[parent].apply(found.offsets[joint]))
            turns.append(turns[parent] * own)
    rows = [found.names.index(joint) for joint in motion.skeleton.joints]
    error = np.linalg.norm(np.stack(moved, 1)[:, rows] - motion.joints, axis=-1)
    legs = motion.skeleton.indices("left_knee", "right_knee", "left_foot", "right_foot")
    assert np.median(error[:, legs]) < 0.08
    assert np.abs(np.diff(frames[:, :, 3:], axis=0)).max() < 180, "no turn jumps"


def test_a_still_upright_body_is_written_without_nan(tmp_path: Path):
    """Bones along their rest direction, against it, and of no length."""
    motion = made_motion(0, frames=3)
    joints = motion.joints.copy()
    head, neck, wrist, elbow = HUMANML3D.indices("head", "neck", "left_wrist", "left_elbow")
    joints[:, head] = joints[:, neck]
    joints[:, wrist] = joints[:, elbow] + [0, 0.3, 0]
    still = replace(motion, joints=joints)
    found = read_bvh(write_bvh(still, tmp_path / "a.bvh")).motion(HUMANML3D)
    assert np.abs(found.joints - joints).max() < 1e-4


FOREIGN = """HIERARCHY
ROOT Hips
{
  OFFSET 1.0 2.0 3.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT Chest
  {
    OFFSET 0.0 10.0 0.0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0.0 5.0 0.0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.033333
0 90 0 0 0 0 0 0 0
0 90 0 90 0 0 0 0 0
"""


def test_another_programs_file_is_read(tmp_path: Path):
    path = tmp_path / "b.bvh"
    path.write_text(FOREIGN)
    found = read_bvh(path)
    assert found.names == ("Hips", "Chest") and found.parents == (-1, 0)
    assert found.fps == pytest.approx(30, rel=1e-4)
    np.testing.assert_allclose(found.positions[0], [[0, 90, 0], [0, 100, 0]], atol=1e-9)
    np.testing.assert_allclose(found.positions[1], [[0, 90, 0], [-10, 90, 0]], atol=1e-9)
    with pytest.raises(ValueError, match="no joint pelvis.*it has Hips, Chest"):
        found.motion(HUMANML3D)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("MOTION", "", "no line MOTION"),
        ("Frames: 2", "Frames: 3", "18 numbers; 3 frames of 9 channels have 27"),
        ("Frames: 2", "Frames: x", "not readable"),
        ("Frames: 2", "Frames: -1", "are no motion"),
        ("0.033333", "0", "are no motion"),
        ("Frames: 2", "Frames: 99999999999999999999", "numbers"),
        ("0 90 0 90", "0 90 0 nan", "not finite"),
        ("OFFSET 1.0", "OFFSET x", "three numbers"),
        ("CHANNELS 3", "CHANNELS 300", "0 to 6 channels"),
        (
            "Zrotation Xrotation Yrotation\n    End",
            "Zrotation Zrotation Yrotation\n    End",
            "among",
        ),
        ("ROOT", "JOINT", "out of place"),
        ("JOINT", "ROOT", "out of place"),
        ("HIERARCHY", "<script>", "it says '<script>'"),
        ("  }\n}\nMOTION", "}\nMOTION", "is open"),
        ("}\nMOTION", "}\n}\nMOTION", "too many"),
    ],
)
def test_a_broken_file_is_refused_in_a_line(tmp_path: Path, old, new, message):
    path = tmp_path / "b.bvh"
    assert old in FOREIGN
    path.write_text(FOREIGN.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_bvh(path)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_mutated_file_does_more_than_be_refused(tmp_path: Path, data):
    text = bytearray(FOREIGN.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(text) - 1))
        end = data.draw(st.integers(place, min(place + 30, len(text))))
        text[place:end] = data.draw(st.binary(max_size=12))
    path = tmp_path / "m.bvh"
    path.write_bytes(bytes(text))
    try:
        assert np.isfinite(read_bvh(path).positions).all()
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT], ids=str)
def test_npz_keeps_all(tmp_path: Path, skeleton):
    motion = replace(made_motion(0, skeleton=skeleton), text='a <b>"walk"</b>\n')
    again = read_npz(write_npz(motion, tmp_path / "a.npz"))
    assert again.text == motion.text and again.fps == motion.fps
    assert again.skeleton == skeleton and np.array_equal(again.joints, motion.joints)


def test_npz_of_strangers(tmp_path: Path):
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match="no motion of ours"):
        read_npz(path)
    np.savez(path, joints=np.array([{"code": 1}], dtype=object), fps=1, skeleton="kit", text="")
    with pytest.raises(ValueError, match="no motion of ours"):
        read_npz(path)
    np.savez(path, joints=np.zeros((2, 21, 3)), fps=1, skeleton="kat", text="")
    with pytest.raises(ValueError, match="skeleton 'kat'"):
        read_npz(path)
    np.savez(path, joints=np.zeros((2, 20, 3)), fps=1, skeleton="kit", text="")
    with pytest.raises(ValueError, match="expects"):
        read_npz(path)
    path.write_bytes(b"PK\x03\x04" + bytes(99))
    with pytest.raises(ValueError, match="no motion of ours"):
        read_npz(path)


def test_it_is_a_motion(tmp_path: Path):
    assert isinstance(read_npz(write_npz(made_motion(0), tmp_path / "a.npz")), Motion)
