import numpy as np
import pytest
from viz_walking import walking

from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, KIT
from easytune_lib.viz.body import View, body_of, capsules, facing, focus, frame_at, shapes


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT])
def test_every_bone_is_drawn_on_its_side(skeleton):
    body = body_of(skeleton)
    drawn = {(limb.start, limb.end): limb.side for limb in body.limbs}
    for bone in skeleton.bones:
        name = skeleton.joints[bone[1]]
        if name.endswith(("elbow", "wrist", "knee", "ankle", "foot")):
            assert drawn[bone] == name.split("_")[0]
        else:
            assert bone in drawn
    points = body.points(walking(5, skeleton))
    assert max(max(ends) for ends in drawn) == points.shape[1] - 1
    assert np.isfinite(points).all()


def test_the_nose_points_where_the_chest_does():
    motion = walking(3)
    points = body_of(HUMANML3D).points(motion)
    ahead = points[:, -1] - points[:, HUMANML3D.n_joints]
    assert facing(motion) == pytest.approx(0.0, abs=1e-6)
    assert (ahead[:, 2] > 0.05).all() and np.allclose(ahead[:, 0], 0, atol=1e-6)


def test_a_person_facing_the_camera_has_their_left_on_the_right():
    seen = View(yaw=0.0, pitch=0.0)(np.array([[1.0, 2.0, 3.0]]))
    assert np.allclose(seen, [[1.0, 2.0, 3.0]])
    turned = View(yaw=np.pi / 2, pitch=0.0)(np.array([[1.0, 0.0, 0.0]]))
    assert np.allclose(turned, [[0.0, 0.0, 1.0]])  # along -x, towards the camera


def test_a_view_keeps_lengths():
    points = np.random.default_rng(0).normal(size=(7, 3))
    seen = View(0.7, 0.3)(points)
    assert np.allclose(np.linalg.norm(seen, axis=-1), np.linalg.norm(points, axis=-1))


@pytest.mark.parametrize("radii", [(0.3, 0.1), (0.1, 0.3), (0.2, 0.2)])
@pytest.mark.parametrize("length", [0.0, 0.05, 1.0])
def test_a_capsule_is_the_hull_of_two_circles(radii, length):
    """Its reach in any direction is that of the circle that reaches farther."""
    ends = np.array([[0.0, 0.0]]), np.array([[length, 0.0]])
    outline = capsules(*ends, np.array([radii[0]]), np.array([radii[1]]), corners=200)[0]
    angles = np.linspace(0, 2 * np.pi, 30)
    ways = np.stack([np.cos(angles), np.sin(angles)])
    reach = np.maximum(radii[0], ways[0] * length + radii[1])
    assert np.allclose((outline @ ways).max(0), reach, atol=1e-3)


def test_shapes_are_finite_and_left_is_lighter_than_right():
    body = body_of(HUMANML3D)
    points = View(0.3)(body.points(walking(2))[0])
    layers = shapes(body, points, "#0072b2")
    assert all(np.isfinite(s.outlines).all() and (s.faces <= 1).all() for _, s in layers)
    limbs = [limb for limb in body.limbs if limb.side != "trunk"]
    shade = {
        side: np.mean(
            [s.faces[1, :3].mean() for (_, s), limb in zip(layers[1:], limbs, strict=True)
             if limb.side == side]
        )
        for side in ("left", "right")
    }  # fmt: skip
    assert shade["left"] > shade["right"] + 0.1


def test_the_camera_stands_still_for_short_ways_and_follows_long_ones_smoothly():
    still, far = focus([walking(40, speed=0.3)]), focus([walking(120, speed=1.2)])
    assert (still == still[0]).all()
    assert far[-1, 1] - far[0, 1] > 5
    assert np.abs(np.diff(far, axis=0)).max() < 1.5 * 1.2 / 20


def test_the_last_frame_is_held():
    motion = walking(10)
    assert frame_at(motion, np.array([0.0, 0.2, 9.0])).tolist() == [0, 4, 9]


def test_a_body_upside_down_has_no_nan():
    joints = walking(3).joints.copy()
    joints[:, 15] = joints[:, 12]  # head on the neck: no direction
    points = body_of(HUMANML3D).points(Motion(joints, 20.0, HUMANML3D))
    assert np.isfinite(points).all()
