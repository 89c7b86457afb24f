import json
from pathlib import Path

import numpy as np
import pytest

from easytune_lib.motion.skeleton import HUMANML3D, KIT, Skeleton

REFERENCE = Path(__file__).parents[2] / ".." / "shared/reference/fixtures/humanml3d_features"
BOTH = pytest.mark.parametrize("skeleton", [HUMANML3D, KIT], ids=str)


@pytest.mark.parametrize(("skeleton", "name"), [(HUMANML3D, "t2m"), (KIT, "kit")], ids=str)
def test_equals_the_published_settings(skeleton: Skeleton, name: str):
    if not REFERENCE.is_dir():
        pytest.skip("needs the reference settings in ../shared")
    official = json.loads((REFERENCE / "config.json").read_text())[name]
    assert skeleton.n_joints == official["joints"]
    assert [list(chain) for chain in skeleton.chain_indices] == official["kinematic_chain"]
    assert skeleton.raw_offsets.tolist() == official["raw_offsets"]
    assert list(skeleton.feet) == official["fid_l"] + official["fid_r"]
    assert skeleton.indices(*skeleton.leg) == [official["l_idx1"], official["l_idx2"]]
    assert skeleton.contact_threshold == official["feet_threshold"]
    (left_hip, right_hip), (left, right) = skeleton.hips, skeleton.shoulders
    assert [right_hip, left_hip, right, left] == official["face_joint_indx"]


@BOTH
def test_features_are_divided_without_gaps(skeleton: Skeleton):
    ends = [0, *(group.stop for group in skeleton.groups.values())]
    assert [group.start for group in skeleton.groups.values()] == ends[:-1]
    assert skeleton.n_features == ends[-1] == {22: 263, 21: 251}[skeleton.n_joints]


@BOTH
def test_every_joint_hangs_from_the_root(skeleton: Skeleton):
    for joint in range(skeleton.n_joints):
        path = [joint]
        while path[-1] > 0:
            path.append(skeleton.parents[path[-1]])
            assert len(path) <= skeleton.n_joints
        assert path[-1] == 0
    assert [child for _, child in skeleton.bones] == list(range(1, skeleton.n_joints))


@BOTH
def test_mirroring_twice_is_nothing_and_swaps_sides(skeleton: Skeleton):
    mirrored = np.array(skeleton.mirrored)
    assert (mirrored[mirrored] == np.arange(skeleton.n_joints)).all()
    assert [mirrored[i] for i in skeleton.hips] == list(reversed(skeleton.hips))
    assert mirrored[skeleton.index("head")] == skeleton.index("head")


def test_an_unknown_joint_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no joint 'tail'.*pelvis, left_hip"):
        HUMANML3D.index("tail")


def test_refuses_chains_that_miss_a_joint():
    pair = {"left_foot": ("a", "a"), "right_foot": ("a", "a"), "leg": ("a", "a")}
    with pytest.raises(ValueError, match="reach each of the 2 joints"):
        Skeleton(
            "x",
            ("a", "b", "c"),
            ("", "+x", "+y"),
            (("a", "b"),),
            fps=1.0,
            contact_threshold=0.0,
            **pair,
        )
