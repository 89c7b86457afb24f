from pathlib import Path

import numpy as np
import pytest

from easytune_lib.data import asf as module
from easytune_lib.data import capture
from easytune_lib.data.asf import read_amc, read_asf
from tests.robustness.fuzz import _ASF

# A femur along x, a tibia along -y; the femur's axes are turned by 90 degrees about z.
SKELETON = """:units
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    name femur
    direction 2 0 0
    length 3
    axis 0 0 90 XYZ
    dof rx rz
  end
  begin
    name tibia
    direction 0 -1 0
    length 5
    axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root femur
    femur tibia
  end
"""
MOTION = "#!OML\n:DEGREES\n1\nroot 1 2 3 0 0 0\nfemur 0 0\n2\nroot 1 2 3 0 0 90\nfemur 90 0\n"


def read(folder: Path, skeleton: str = SKELETON, motion: str = MOTION):
    (folder / "a.asf").write_text(skeleton)
    (folder / "a.amc").write_text(motion)
    return read_amc(folder / "a.amc", read_asf(folder / "a.asf"), 120.0)


def test_bones_turn_about_their_own_axes(tmp_path: Path):
    found = read(tmp_path)
    assert found.names == ("root", "femur", "tibia") and found.parents == (-1, 0, 1)
    assert found.fps == 120
    # still: the femur is 3 long, whatever the length of its direction
    np.testing.assert_allclose(found.positions[0], [[1, 2, 3], [1, 2, 3], [4, 2, 3]], atol=1e-9)
    # the root turned left: the femur's x is the world's y before, so its bone, along x, goes by
    # 90 degrees about y to -z, and stays there as the root turns about z
    np.testing.assert_allclose(found.positions[1], [[1, 2, 3], [1, 2, 3], [1, 2, 0]], atol=1e-9)
    np.testing.assert_allclose(found.offsets, [[0, 0, 0], [0, 0, 0], [3, 0, 0]])


def test_turns_come_in_the_order_x_y_z_about_axes_that_stay(tmp_path: Path):
    motion = MOTION.replace("root 1 2 3 0 0 90", "root 0 0 0 90 0 90").replace(
        "femur 90", "femur 0"
    )
    turn = read(tmp_path, motion=motion).turns[0][1]
    np.testing.assert_allclose(turn.apply([0, 1, 0]), [0, 0, 1], atol=1e-9)  # x first: y to z
    np.testing.assert_allclose(turn.apply([1, 0, 0]), [0, 1, 0], atol=1e-9)  # then z: x to y


def test_radians_are_radians(tmp_path: Path):
    radians = SKELETON.replace("angle deg", "angle rad").replace("0 0 90 XYZ", "0 0 1.5707963 XYZ")
    motion = MOTION.replace(" 90", " 1.5707963")
    one, other = read(tmp_path, radians, motion), read(tmp_path)
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (":bonedata", ":bones", "no :bonedata"),
        ("length 3", "length nan", "expected 1 numbers"),
        ("length 3", "length 1e300", "expected 1 numbers"),
        ("direction 2 0 0", "direction 2 0", "expected 3 numbers"),
        ("axis 0 0 90 XYZ", "axis 0 0 90 XXZ", "an axis is three angles"),
        ("axis 0 0 90 XYZ", "", "an axis is three angles"),
        ("dof rx rz", "dof rx rx", "are among"),
        ("dof rx rz", "dof rx l", "are among"),
        ("name tibia", "name femur", "has no name, or another's"),
        ("root femur", "root tail", "is no bone"),
        ("femur tibia", "femur tibia femur", "hangs in two places"),
        ("root femur", "tail femur", "hangs nowhere"),
        ("  end\n:hierarchy", ":hierarchy", "has no end"),
    ],
)
def test_broken_skeletons_are_a_line(tmp_path: Path, old: str, new: str, message: str):
    assert old in SKELETON
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, SKELETON.replace(old, new))
    assert str(tmp_path / "a.asf") in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("femur 0 0\n", "", "frame 1 has no femur"),
        ("femur 90 0\n", "", "frame 2 has no femur"),
        ("femur 0 0", "femur 0", "expected 2 numbers"),
        ("femur 0 0", "femur 0 x", "expected 2 numbers"),
        ("femur 0 0", "tibia 0 0", "'tibia' is no bone of the skeleton that moves"),
        ("femur 0 0", "femur 0 0\nfemur 0 0", "or comes twice"),
        ("1\nroot", "root", "frame 0"),
        (MOTION, ":DEGREES\n", "has no frame"),
    ],
)
def test_broken_motions_are_a_line(tmp_path: Path, old: str, new: str, message: str):
    assert old in MOTION
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, motion=MOTION.replace(old, new, 1))
    assert str(tmp_path / "a.amc") in str(refused.value) and "\n" not in str(refused.value)


def test_large_files_are_refused_before_they_are_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(capture, "LARGEST", 5)
    with pytest.raises(ValueError, match=r"a\.amc: 2 frames of 3 joints"):
        read(tmp_path)
    monkeypatch.setitem(module.LARGEST, ".amc", 20)
    with pytest.raises(ValueError, match=r"a\.amc has more than"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"b\.asf cannot be read"):
        read_asf(tmp_path / "b.asf")


def test_the_skeleton_that_is_damaged_by_the_fuzzer_is_whole(tmp_path: Path):
    (tmp_path / "a.asf").write_text(_ASF)
    assert read_asf(tmp_path / "a.asf").names == ("root", "lfemur", "ltibia")
