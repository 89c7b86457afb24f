from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from made_motion import made_motion

from easytune_lib.motion.features import (
    canonicalise,
    mirror,
    mirror_features,
    retarget,
    to_features,
    to_joints,
    to_motion,
)
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, KIT, Skeleton

REFERENCE = (
    Path(__file__).parents[2] / ".." / "shared/reference/fixtures/humanml3d_features/t2m.npz"
)
BOTH = pytest.mark.parametrize("skeleton", [HUMANML3D, KIT], ids=str)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    if not REFERENCE.is_file():
        pytest.skip("needs the reference features in ../shared")
    return dict(np.load(REFERENCE))


def turned(joints: np.ndarray, angle: float) -> np.ndarray:
    """Rotated about the vertical axis and moved elsewhere."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return (joints @ turn.T + [3.0, 0.7, -2.0]).astype(joints.dtype)


class TestReleasedFeatures:
    """Numbers computed by the released preprocessing, for made motions."""

    @pytest.mark.parametrize("case", ["A", "B", "widehips"])
    def test_features_and_joints_are_equal(self, reference: dict[str, np.ndarray], case: str):
        offsets = reference["tgt_offsets" + ("_widehips" if case == "widehips" else "")]
        lengths = np.linalg.norm(offsets[1:].astype(np.float64), axis=-1)
        joints = retarget(reference[f"joints_{case}"], lengths)
        expected = reference[f"global_positions_{case}"]
        np.testing.assert_allclose(canonicalise(joints), expected, atol=2e-6)
        np.testing.assert_allclose(to_features(joints), reference[f"features_{case}"], atol=1e-5)
        recovered = to_joints(torch.from_numpy(reference[f"features_{case}"]))
        np.testing.assert_allclose(recovered, reference[f"recovered_{case}"], atol=1e-6)

    def test_any_numbers_are_recovered_alike(self, reference: dict[str, np.ndarray]):
        recovered = to_joints(torch.from_numpy(reference["random_features"]))
        np.testing.assert_allclose(recovered, reference["random_recovered"], atol=1e-6)

    def test_wide_hips_are_recovered_only_without_the_quirk(self, reference: dict[str, np.ndarray]):
        joints = reference["joints_widehips"]
        lost = to_motion(to_features(joints)).joints - canonicalise(joints)[:-1]
        kept = to_motion(to_features(joints, released_heading=False)).joints
        assert np.abs(lost).max() > 0.1
        np.testing.assert_allclose(kept, canonicalise(joints)[:-1], atol=1e-5)


@BOTH
def test_round_trip(skeleton: Skeleton):
    motion = made_motion(1, 80, skeleton)
    again = to_motion(to_features(motion, released_heading=False), skeleton, "walks")
    expected = canonicalise(motion.joints, skeleton)[:-1]
    np.testing.assert_allclose(again.joints, expected, atol=2e-6)
    assert (again.fps, again.text) == (skeleton.fps, "walks")


def test_released_features_lose_the_heading_of_one_frame_behind_the_back():
    """A body on the spot that turns 3 degrees a frame passes -Z on frame 60."""
    turn = np.radians(3.0) * np.arange(100)
    joints = np.stack([turned(made_motion(0).joints[:1], angle)[0] for angle in turn])
    joints = canonicalise(joints)
    right = to_features(joints, released_heading=False)[:, 0]
    released = to_features(joints)[:, 0]
    # frame 0 differs too: there the heading jumps from +Z to the smoothed one
    (flipped,) = np.flatnonzero(~np.isclose(released, right, atol=1e-5))[1:]
    assert 55 < flipped < 65
    assert abs(released[flipped] + right[flipped]) < 1e-5
    recovered = to_motion(to_features(joints)).joints
    np.testing.assert_allclose(recovered[: flipped + 1], joints[: flipped + 1], atol=1e-5)
    kept = to_motion(to_features(joints, released_heading=False)).joints
    np.testing.assert_allclose(kept, joints[:-1], atol=1e-5)


@BOTH
def test_canonical_motion_stands_at_the_origin_and_faces_z(skeleton: Skeleton):
    joints = canonicalise(turned(made_motion(2, skeleton=skeleton).joints, 1.0), skeleton)
    assert abs(joints[..., 1].min()) < 1e-6
    assert np.abs(joints[0, 0, [0, 2]]).max() < 1e-6
    hips, shoulders = (joints[0, list(pair)] for pair in (skeleton.hips, skeleton.shoulders))
    across = hips[0] - hips[1] + shoulders[0] - shoulders[1]
    assert across[0] > 0.1
    assert abs(across[2]) < 1e-6
    np.testing.assert_allclose(canonicalise(joints, skeleton), joints, atol=1e-6)


@BOTH
def test_place_and_heading_do_not_matter(skeleton: Skeleton):
    motion = made_motion(3, skeleton=skeleton)
    elsewhere = Motion(turned(motion.joints, 2.0), motion.fps, skeleton)
    scale = np.where(np.arange(skeleton.n_features) < 1, 1.0, 1 / skeleton.unit)
    difference = np.abs(to_features(motion) - to_features(elsewhere)) / scale
    assert difference[:, : skeleton.groups["contacts"].start].max() < 2e-5


def test_kit_features_are_millimetres():
    features = to_features(made_motion(4, skeleton=KIT))
    assert 100 < features[:, KIT.groups["root_height"]].mean() < 2000


def test_velocities_and_contacts_describe_the_joints():
    motion = made_motion(5)
    features, at = to_features(motion), HUMANML3D.groups
    speed = np.linalg.norm(np.diff(motion.joints, axis=0), axis=-1)
    velocities = features[:, at["velocities"]].reshape(-1, 22, 3)
    np.testing.assert_allclose(np.linalg.norm(velocities, axis=-1), speed, atol=1e-5)
    sure = np.abs(speed[:, HUMANML3D.feet] ** 2 - 0.002) > 1e-5
    stands = speed[:, HUMANML3D.feet] ** 2 < 0.002
    assert 0 < stands.mean() < 1
    assert (features[:, at["contacts"]] == stands)[sure].all()


def test_rotations_place_the_bones():
    """The columns of the rotations, multiplied down each chain, give each bone's direction."""
    motion = made_motion(6)
    features, at = to_features(motion), HUMANML3D.groups
    joints = canonicalise(motion.joints)[:-1]
    six = features[:, at["rotations"]].reshape(-1, 21, 2, 3).astype(np.float64)
    a, b = six[:, :, 0], six[:, :, 1]
    local = np.stack([a, b, np.cross(a, b)], -1)
    angle = -2 * np.concatenate([[0], np.cumsum(features[:-1, 0], dtype=np.float64)])
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    # undoing the heading: world to heading frame is what the root's rotation does
    root = np.stack([cos, zero, -sin, zero, zero + 1, zero, sin, zero, cos], -1).reshape(-1, 3, 3)
    for chain in HUMANML3D.chain_indices:
        world = root
        for parent, child in pairwise(chain):
            world = world @ local[:, child - 1]
            bone = joints[:, child] - joints[:, parent]
            bone /= np.linalg.norm(bone, axis=-1, keepdims=True)
            np.testing.assert_allclose(world @ HUMANML3D.raw_offsets[child], bone, atol=2e-4)


@BOTH
def test_mirrored_twice_is_the_same(skeleton: Skeleton):
    motion = made_motion(7, skeleton=skeleton)
    features = to_features(motion)
    assert (mirror(mirror(motion.joints, skeleton), skeleton) == motion.joints).all()
    assert (mirror_features(mirror_features(features, skeleton), skeleton) == features).all()


@BOTH
def test_mirrored_features_are_those_of_the_mirrored_motion(skeleton: Skeleton):
    motion = made_motion(8, skeleton=skeleton)
    expected = to_features(mirror(motion.joints, skeleton), skeleton)
    mirrored = mirror_features(to_features(motion), skeleton)
    np.testing.assert_allclose(mirrored, expected, atol=1e-5, rtol=1e-5)


def test_joints_are_batched_and_differentiable():
    clips = [torch.from_numpy(to_features(made_motion(seed))) for seed in (9, 10)]
    batch = torch.stack(clips).double().requires_grad_()
    joints = to_joints(batch)
    assert joints.shape == (2, 60, 22, 3)
    torch.testing.assert_close(joints[1], to_joints(clips[1].double()))
    assert to_joints(clips[0]).dtype == torch.float32
    assert torch.autograd.gradcheck(to_joints, batch[:1, :4], fast_mode=True)


def test_retarget_gives_the_asked_lengths_and_keeps_directions():
    source, target = made_motion(11), made_motion(12)
    lengths = target.bone_lengths[0].astype(np.float64)
    new = Motion(retarget(source.joints, lengths), 20.0, HUMANML3D)
    np.testing.assert_allclose(new.bone_lengths, lengths[None].repeat(61, 0), atol=1e-6)
    same = retarget(source.joints, source.bone_lengths[0].astype(np.float64))
    np.testing.assert_allclose(same, source.joints, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(3,\) lengths.*21 bones"):
        retarget(source.joints, lengths[:3])


def test_refuses_what_has_no_features():
    motion = made_motion(13)
    with pytest.raises(ValueError, match="at least 2 frames"):
        to_features(motion.joints[:1])
    flat = motion.joints.copy()
    flat[5, HUMANML3D.index("left_knee")] = flat[5, HUMANML3D.index("left_hip")]
    with pytest.raises(ValueError, match="'left_hip' and 'left_knee' coincide in frame 5"):
        to_features(flat)
    with pytest.raises(ValueError, match="heading is undefined"):
        to_features(np.zeros((5, 22, 3)))
    with pytest.raises(ValueError, match="251 wide"):
        to_joints(torch.zeros(5, 251))


def test_opposite_directions_have_a_rotation():
    """A hand raised straight up is opposite to the rest pose's; its rotation is a half turn."""
    joints = made_motion(14).joints.copy()
    elbow, wrist = HUMANML3D.indices("left_elbow", "left_wrist")
    joints[:, wrist] = joints[:, elbow] + np.array([0, 0.3, 0], np.float32)
    assert np.isfinite(to_features(joints)).all()
