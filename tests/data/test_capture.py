import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from made_capture import OWN, write_capture
from scipy.spatial.transform import Rotation

from easytune_lib.data import capture as module
from easytune_lib.data.capture import RIGS, Capture, Rig, cut_clip, pieces, to_humanml3d
from easytune_lib.data.files import read_bvh
from easytune_lib.data.puppet import bone_length
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D

LIMBS = [j for j in HUMANML3D.joints if j.split("_")[-1] in ("knee", "ankle", "elbow", "wrist")]


@pytest.fixture
def made(tmp_path: Path) -> Capture:
    return read_bvh(write_capture(tmp_path / "a.bvh"))


def direction(joints: np.ndarray, joint: str) -> np.ndarray:
    child = HUMANML3D.index(joint)
    bone = joints[:, child] - joints[:, HUMANML3D.parents[child]]
    return bone / np.linalg.norm(bone, axis=-1, keepdims=True)


def moved(made: Capture, turn: Rotation, scale: float = 1.0) -> Capture:
    """The same in another room, of another unit."""
    places = turn.apply(made.positions.reshape(-1, 3)).reshape(made.positions.shape)
    return replace(made, positions=scale * places, turns=tuple(turn * own for own in made.turns))


def test_lengths_are_humanml3ds_and_limbs_keep_their_directions(made: Capture):
    joints = to_humanml3d(made, OWN)
    assert joints.shape == (47, 22, 3) and joints.dtype == np.float32
    lengths = [bone_length(joint) for joint in HUMANML3D.joints[1:]]
    bones = Motion(joints, 20.0, HUMANML3D).bone_lengths
    assert np.abs(bones - lengths).max() < 1e-5
    own = made.motion(HUMANML3D).joints[::3]  # of 30 frames a second, every third is one of 20
    for joint in LIMBS:
        np.testing.assert_allclose(direction(joints[::2], joint), direction(own, joint), atol=2e-4)


def test_the_middle_of_the_hips_goes_where_the_source_has_it_by_leg_length(made: Capture):
    hips = HUMANML3D.indices("left_hip", "right_hip")
    own = made.motion(HUMANML3D).joints[::3, hips].mean(1)
    new = to_humanml3d(made, OWN)[::2, hips].mean(1)
    legs = [f"{side}_{joint}" for side in ("left", "right") for joint in ("knee", "ankle")]
    bones = made.motion(HUMANML3D).bone_lengths[:, [j - 1 for j in HUMANML3D.indices(*legs)]]
    scale = sum(map(bone_length, legs)) / np.median(bones, 0).sum()
    np.testing.assert_allclose(new, scale * own, atol=1e-3)


@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_units_and_the_way_it_faces_do_not_matter(made: Capture, scale: float):
    turned = moved(made, Rotation.from_euler("y", 75, degrees=True), scale)
    new, old = (cut_clip(to_humanml3d(each, OWN)) for each in (turned, made))
    np.testing.assert_allclose(new, old, atol=1e-5)


def test_a_room_with_z_up_is_set_upright(made: Capture):
    lying = moved(made, Rotation.from_euler("x", 90, degrees=True))
    assert np.ptp(lying.positions[:, 0, 1]) > np.ptp(made.positions[:, 0, 1])
    again = to_humanml3d(lying, replace(OWN, up="z"))
    np.testing.assert_allclose(again, to_humanml3d(made, OWN), atol=1e-5)


def standing(frames: int = 25) -> Capture:
    """A body upright, facing +Z, every joint right above or beside the one before."""
    at = {"pelvis": (0, 1, 0), "spine1": (0, 1.1, 0), "spine3": (0, 1.3, 0), "neck": (0, 1.5, 0),
          "head": (0, 1.6, 0)}  # fmt: skip
    for side, x in (("left", 1), ("right", -1)):
        for joint, place in (
            ("hip", (0.1, 0.95, 0)), ("knee", (0.1, 0.5, 0)), ("ankle", (0.1, 0.1, 0)),
            ("foot", (0.1, 0.1, 0.1)), ("shoulder", (0.2, 1.45, 0)), ("elbow", (0.5, 1.45, 0)),
            ("wrist", (0.75, 1.45, 0)),
        ):  # fmt: skip
            at[f"{side}_{joint}"] = (x * place[0], *place[1:])
    places = np.tile(np.array(list(at.values()), float), (frames, 1, 1))
    still = tuple(Rotation.identity(frames) for _ in at)
    return Capture(tuple(at), (-1,) + (0,) * (len(at) - 1), places[0], places, still, 20.0)


def test_turns_and_places_of_a_standing_body_say_the_same():
    body, segments = standing(), ("pelvis", "spine1", "spine2", "chest", "head")
    rig = Rig({joint: joint for joint in body.names})
    by_turns = replace(rig, turns=dict.fromkeys(segments, "pelvis"))
    joints = to_humanml3d(body, rig)
    np.testing.assert_allclose(joints, to_humanml3d(body, by_turns), atol=1e-6)
    np.testing.assert_allclose(direction(joints, "spine1")[0], [0, 0.9540, -0.2997], atol=1e-4)
    np.testing.assert_allclose(direction(joints, "left_foot")[0], [0, 0, 1], atol=1e-6)
    left, right = direction(joints, "left_collar"), direction(joints, "right_collar")
    np.testing.assert_allclose(left, right * [-1, 1, 1], atol=1e-6)


def test_feet_are_pitched_down_about_their_sideways_axis():
    rig = Rig({joint: joint for joint in standing().names}, foot_pitch=-30.0)
    foot = direction(to_humanml3d(standing(), rig), "left_foot")[0]
    np.testing.assert_allclose(foot, [0, -0.5, np.sqrt(0.75)], atol=1e-6)


def test_the_end_of_a_last_bone_can_be_a_joint():
    body, toe = standing(), standing().names.index("left_foot")
    names = tuple(name if row != toe else "nothing" for row, name in enumerate(body.names))
    ends = {"left_ankle": np.array([0.0, 0.0, 0.1])}
    rig = Rig({joint: joint for joint in body.names} | {"left_foot": "left_ankle end"})
    bare = replace(body, names=names, ends=ends)
    joints = to_humanml3d(bare, rig)
    np.testing.assert_allclose(direction(joints, "left_foot")[0], [0, 0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="no joint left_knee end"):
        bare.place("left_knee end")


def test_frames_at_the_start_are_left_out_and_the_rate_is_corrected(made: Capture):
    rig = replace(OWN, skip=10, fps=60.0)
    joints = to_humanml3d(made, rig)
    assert len(joints) == 20
    np.testing.assert_allclose(joints, to_humanml3d(replace(made, fps=20.0), OWN)[10::3], atol=1e-6)


def test_bones_without_direction_and_missing_joints_are_a_line(made: Capture):
    flat = made.positions.copy()
    elbow, wrist = (made.names.index(f"left_{name}") for name in ("elbow", "wrist"))
    flat[30, wrist] = flat[30, elbow]
    with pytest.raises(ValueError, match=r"^left_wrist has no direction in frame 20$"):
        to_humanml3d(replace(made, positions=flat), OWN)
    with pytest.raises(ValueError, match=r"^the file has no joint UpperLeg_L; it has pelvis"):
        to_humanml3d(made, RIGS["bandai-namco"])
    with pytest.raises(ValueError, match="too few"):
        to_humanml3d(made, replace(OWN, skip=69))


def test_more_frames_than_memory_are_refused_before_they_are_made(made: Capture, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 22 * 1000)
    with pytest.raises(ValueError, match="cut it into clips"):
        to_humanml3d(made, replace(OWN, fps=0.5))


def test_a_clip_stands_on_the_floor_at_the_origin(made: Capture):
    part = cut_clip(to_humanml3d(made, OWN), 7, 30)
    assert part.shape == (30, 22, 3) and part[..., 1].min() == 0
    assert np.abs(part[0, 0, [0, 2]]).max() == 0
    across = (part[0, 1] - part[0, 2]) + (part[0, 16] - part[0, 17])
    assert across[0] > 0 and abs(across[2]) < 1e-5


@pytest.mark.parametrize("start, frames", [(0, 19), (0, 48), (30, None), (-1, 30), (60, None)])
def test_parts_that_are_none_are_refused(made: Capture, start: int, frames: int | None):
    with pytest.raises(ValueError, match="a clip has 20 or more"):
        cut_clip(to_humanml3d(made, OWN), start, frames)


def test_jumps_and_nan_are_refused(made: Capture):
    joints = to_humanml3d(made, OWN)
    for far in (3.0, np.nan):
        broken = joints.copy()
        broken[20, 3, 0] += far
        with pytest.raises(ValueError, match=r"a joint moves at (\d+|nan) m/s"):
            cut_clip(broken)


@pytest.mark.parametrize("frames", [20, 200, 201, 360, 361, 1267])
def test_pieces_cover_all_and_are_neither_long_nor_short(frames: int):
    cut = pieces(frames)
    assert cut[0][0] == 0 and sum(length for _, length in cut) == frames
    assert all(a + n == b for (a, n), (b, _) in pairwise(cut))
    assert all(20 <= length <= 200 for _, length in cut)
    assert (len(cut) == 1) == (frames <= 200)


def test_rigs_are_read_from_json(tmp_path: Path):
    path, known = tmp_path / "map.json", RIGS["bandai-namco"]
    path.write_text(json.dumps({"joints": dict(known.joints), "foot_pitch": 22.6}))
    assert Rig.read(path) == known


GOOD = {"joints": {joint: joint for joint in HUMANML3D.joints}}


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "no map of joints"),
        ("[]", 'expected {"joints"'),
        ("[" * 100_000, "no map of joints"),
        ("{}", 'expected {"joints"'),
        ({"joints": {}}, "joints lack left_hip, right_hip"),
        ({"joints": GOOD["joints"] | {"tail": "x"}}, "joints have tail; known are pelvis"),
        ({"joints": GOOD["joints"] | {"head": 3}}, "names of joints"),
        ({"joints": ["head"]}, "of the wrong kind"),
        (GOOD | {"turns": {"head": "Head"}}, "turns lack pelvis"),
        (GOOD | {"skip": True}, "of the wrong kind"),
        (GOOD | {"skip": -1}, "skip 0 or more"),
        (GOOD | {"fps": float("nan")}, "fps 0 to 10000"),
        (GOOD | {"up": "x"}, 'up is "y" or "z"'),
        (GOOD | {"pitch": 3}, "'pitch' is none of joints"),
        (" " * (2**20 + 1), "more than 1 MiB"),
    ],
)
def test_maps_that_are_none_are_a_line(tmp_path: Path, content, message: str):
    path = tmp_path / "map.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError) as refused:
        Rig.read(path)
    text = str(refused.value)
    assert message in text and str(path) in text and "\n" not in text and len(text) < 600


def test_a_map_that_is_missing_is_a_line(tmp_path: Path):
    with pytest.raises(ValueError, match=r"map\.json cannot be read"):
        Rig.read(tmp_path / "map.json")
