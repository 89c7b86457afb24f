"""The synthetic corpus: bodies that could be, and words that are true of what they do."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from easytune_lib.data.actions import Attributes
from easytune_lib.data.corpus import Corpus
from easytune_lib.data.puppet import Person, joined, joints_of
from easytune_lib.data.synthetic import (
    ACTIONS,
    CLIPS_PER_LABEL,
    all_attributes,
    captions,
    synthetic_corpus,
    synthetic_motion,
)
from easytune_lib.motion.features import to_joints
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D

# HumanML3D's, joints 1 to 21, as published with its clips
LENGTHS = (
    *(0.1031, 0.1099, 0.1316, 0.3936, 0.3902, 0.1432, 0.4324, 0.4256, 0.0574, 0.1434, 0.1494),
    *(0.2194, 0.1375, 0.1434, 0.1030, 0.1316, 0.1230, 0.2568, 0.2631, 0.2660, 0.2699),
)
SIDES = ("left", "right")


@cache
def made(attributes: Attributes, seed: int = 0) -> Motion:
    return synthetic_motion(attributes, np.random.default_rng(seed))


@cache
def small() -> Corpus:
    return synthetic_corpus(seed=3, clips=50)


def at(motion: Motion, joint: str) -> np.ndarray:
    """Path of one joint, ``(frames, 3)``."""
    return motion.joints[:, HUMANML3D.index(joint)].astype(np.float64)


def speed(path: np.ndarray) -> np.ndarray:
    """Metres a second, from each frame to the next."""
    return np.linalg.norm(np.diff(path, axis=0), axis=-1) * HUMANML3D.fps


def heading(motion: Motion) -> np.ndarray:
    """Yaw of the hips without jumps, radians; turning left is positive."""
    across = at(motion, "left_hip") - at(motion, "right_hip")
    return np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))


def in_body(motion: Motion, joint: str) -> np.ndarray:
    """A joint seen from the pelvis: left, up, ahead."""
    way, yaw = at(motion, joint) - at(motion, "pelvis"), heading(motion)
    left = np.cos(yaw) * way[:, 0] - np.sin(yaw) * way[:, 2]
    ahead = np.sin(yaw) * way[:, 0] + np.cos(yaw) * way[:, 2]
    return np.stack([left, way[:, 1], ahead], axis=-1)


def lower_foot(motion: Motion) -> np.ndarray:
    """Height of the lower ball of the foot."""
    return np.minimum(at(motion, "left_foot")[:, 1], at(motion, "right_foot")[:, 1])


def peaks(curve: np.ndarray) -> int:
    """How often a curve rises above two thirds of its range."""
    above = curve > (curve.min() + 2 * curve.max()) / 3
    return int(above[0]) + int((above[1:] & ~above[:-1]).sum())


# What is there.


def test_there_are_enough_actions_and_captions():
    assert len(ACTIONS) >= 12
    assert {a.action for a in all_attributes()} == set(ACTIONS)
    assert len({text for a in all_attributes() for text in captions(a)}) >= 600


def test_labels_and_captions_belong_to_one_set_of_attributes():
    labels = [a.label for a in all_attributes()]
    texts = [text for a in all_attributes() for text in captions(a)]
    assert len(set(labels)) == len(labels) <= 1200 // CLIPS_PER_LABEL
    assert len(set(texts)) == len(texts)


def test_label_spells_out_the_attributes():
    walk = Attributes("walk", "forward", "quickly")
    assert walk.label == "walk|forward|quickly"
    assert replace(walk, then=Attributes("kick", side="left", count=2)).label == (
        "walk|forward|quickly then kick|left|twice"
    )


# Bodies that could be.


@pytest.fixture(scope="module")
def motions() -> list[tuple[str, Motion]]:
    """A third of all attributes, with all actions; each another person."""
    some = all_attributes()[::3]
    assert {a.action for a in some} == set(ACTIONS)
    return [(a.label, made(a, seed)) for seed, a in enumerate(some)]


def test_bones_have_humanml3ds_lengths_in_every_frame(motions):
    for label, motion in motions:
        assert np.abs(motion.bone_lengths - np.array(LENGTHS)).max() < 1e-5, label


def test_lengths_start_and_heading(motions):
    for label, motion in motions:
        assert 41 <= len(motion) <= 128, label
        assert motion.fps == 20
        assert np.abs(at(motion, "pelvis")[0, [0, 2]]).max() < 1e-6, label
        hips, shoulders = (
            at(motion, f"left_{part}")[0] - at(motion, f"right_{part}")[0]
            for part in ("hip", "shoulder")
        )
        assert abs((hips + shoulders)[2]) < 1e-4, label


def test_floor_is_stood_on_and_never_entered(motions):
    for label, motion in motions:
        assert motion.joints[..., 1].min() > -0.001, label
        for side in SIDES:
            assert at(motion, f"{side}_foot")[[0, -1], 1].max() < 0.001, label


def test_planted_feet_do_not_slide(motions):
    for label, motion in motions:
        for side in SIDES:
            foot = at(motion, f"{side}_foot")
            down = (foot[1:, 1] < 0.01) & (foot[:-1, 1] < 0.01)
            assert down.sum() > 10, label
            assert speed(foot[:, [0, 2]])[down].max() < 0.05, label


def test_a_flat_foot_stands_with_its_ankle_too(motions):
    for label, motion in motions:
        for side in SIDES:
            foot, ankle = at(motion, f"{side}_foot"), at(motion, f"{side}_ankle")
            flat = (foot[:, 1] < 0.001) & (np.abs(ankle[:, 1] - 0.045) < 0.001)
            assert speed(ankle[:, [0, 2]])[flat[1:] & flat[:-1]].max() < 0.05, label


def test_movements_are_smooth(motions):
    for label, motion in motions:
        velocity = np.diff(motion.joints.astype(np.float64), axis=0) * motion.fps
        assert np.linalg.norm(velocity, axis=-1).max() < 12, label
        jerks = np.linalg.norm(np.diff(velocity, axis=0), axis=-1)  # m/s from frame to frame
        assert jerks.max() < 9, label


def test_knees_bend_backward_and_elbows_stay_on_their_side(motions):
    for label, motion in motions:
        for side in SIDES:
            thigh = in_body(motion, f"{side}_knee") - in_body(motion, f"{side}_hip")
            shin = in_body(motion, f"{side}_ankle") - in_body(motion, f"{side}_knee")
            assert np.cross(thigh, shin)[:, 0].min() > -0.02, label
            elbow = in_body(motion, f"{side}_elbow")[:, 0] * (1 if side == "left" else -1)
            assert elbow.min() > 0, label


def test_a_seam_is_as_smooth_as_the_parts():
    who = Person.draw(np.random.default_rng(0))
    turned = ACTIONS["turn"].perform(Attributes("turn", "left"), who, np.random.default_rng(1))
    again = joined(turned, turned)
    assert len(again) == 2 * len(turned)
    assert again.yaw[-1] == pytest.approx(np.pi)
    seam = np.diff(joints_of(again), axis=0)[len(turned) - 1]
    assert np.abs(seam).max() < 0.002


# Words that are true.


@pytest.mark.parametrize("action", ["walk", "run"])
def test_quickly_is_faster_than_slowly(action):
    def pace(speeds: str, seed: int) -> float:
        motion = made(Attributes(action, "forward", speeds), seed)
        return np.percentile(speed(at(motion, "pelvis")[:, [0, 2]]), 80)

    for seed in range(3):
        slow, usual, quick = (pace(speeds, seed) for speeds in ("slowly", "", "quickly"))
        assert 1.2 * slow < usual < quick / 1.2


@pytest.mark.parametrize("action", ["squat", "bow", "kick", "punch"])
def test_quick_actions_take_less_time(action):
    side = "left" if action in ("kick", "punch") else ""

    def frames(speeds: str) -> int:
        who, rng = Person.draw(np.random.default_rng(0)), np.random.default_rng(0)
        return len(ACTIONS[action].perform(Attributes(action, "", speeds, side, 1), who, rng))

    assert frames("quickly") < frames("") < frames("slowly")


@pytest.mark.parametrize("action", ["walk", "march", "jump"])
def test_forward_and_backward(action):
    count = 2 if action == "jump" else 0
    end = at(made(Attributes(action, "forward", count=count)), "pelvis")[-1]
    assert end[2] > 0.6 and abs(end[0]) < 0.1
    if action != "march":
        end = at(made(Attributes(action, "backward", count=count)), "pelvis")[-1]
        assert end[2] < -0.4 and abs(end[0]) < 0.1


@pytest.mark.parametrize("action", ["sidestep", "jump"])
def test_left_is_plus_x(action):
    for side, sign in (("left", 1), ("right", -1)):
        end = at(made(Attributes(action, side, count=1)), "pelvis")[-1]
        assert sign * end[0] > 0.3 and abs(end[2]) < 0.1


def test_turns_yaw_to_their_side():
    for action in ("turn", "walk", "run"):
        assert heading(made(Attributes(action, "left")))[-1] == pytest.approx(np.pi / 2, abs=0.1)
        assert heading(made(Attributes(action, "right")))[-1] == pytest.approx(-np.pi / 2, abs=0.1)
    assert abs(heading(made(Attributes("turn", "around")))[-1]) == pytest.approx(np.pi, abs=0.1)


@pytest.mark.parametrize("action", ["walk", "run"])
def test_circles_come_back(action):
    for side, sign in (("left", 1), ("right", -1)):
        motion = made(Attributes(action, "circle", side=side))
        path = at(motion, "pelvis")
        assert heading(motion)[-1] == pytest.approx(sign * 2 * np.pi, abs=0.1)
        assert np.linalg.norm(path[-1] - path[0]) < 0.1
        assert np.ptp(sign * path[:, 0]) > 0.8 and (sign * path[:, 0]).min() > -0.1


def test_runners_fly_and_walkers_do_not():
    assert lower_foot(made(Attributes("run", "forward"))).max() > 0.02
    for direction in ("forward", "backward"):
        assert lower_foot(made(Attributes("walk", direction, "quickly"))).max() < 0.01


@pytest.mark.parametrize("action", ["walk", "run", "march"])
def test_arms_swing_against_the_legs(action):
    motion = made(Attributes(action, "forward"))
    wrist, ankle = (
        in_body(motion, f"left_{part}")[:, 2] - in_body(motion, f"right_{part}")[:, 2]
        for part in ("wrist", "ankle")
    )
    assert np.corrcoef(wrist, ankle)[0, 1] < -0.6
    assert np.ptp(wrist) > 0.2


def test_marching_lifts_the_knees():
    def knee(action: str) -> float:
        return at(made(Attributes(action, "forward")), "left_knee")[:, 1].max()

    assert knee("march") > knee("walk") + 0.15


@pytest.mark.parametrize("count", [1, 2, 3])
def test_how_often(count):
    """The curve that an action is known by peaks as often as is said."""

    def motion(action: str, side: str = "") -> Motion:
        return made(Attributes(action, side=side, count=count), seed=count)

    apart = np.linalg.norm(
        at(motion("clap"), "left_wrist") - at(motion("clap"), "right_wrist"), axis=-1
    )
    hands_up = at(motion("clap"), "left_wrist")[:, 1] > 1.1
    head = in_body(motion("nod"), "head") - in_body(motion("nod"), "neck")
    assert peaks(lower_foot(motion("jump"))) == count
    assert peaks(at(motion("hop", "left"), "left_foot")[:, 1]) == count
    assert peaks(-at(motion("squat"), "pelvis")[:, 1]) == count
    assert peaks(-at(motion("bow"), "head")[:, 1]) == count
    assert peaks(-head[:, 1]) == count
    assert peaks(at(motion("kick", "left"), "left_foot")[:, 1]) == count
    assert peaks(in_body(motion("punch", "left"), "left_wrist")[:, 2]) == count
    assert peaks(-apart[hands_up]) == count


def test_jumps_leave_the_floor():
    for direction in ("", "forward", "backward", *SIDES):
        motion = made(Attributes("jump", direction, count=1))
        assert lower_foot(motion).max() > 0.15
        flight = (lower_foot(motion) > 0.001).sum() / motion.fps
        assert 0.35 < flight < 0.6


@pytest.mark.parametrize("side", SIDES)
def test_the_named_side_does_it(side):
    other = SIDES[side == "left"]

    def moved(action: str, joint: str, count: int) -> float:
        """How much more the joint moves on the named side."""
        motion = made(Attributes(action, side=side, count=count))
        mine, its = (speed(in_body(motion, f"{s}_{joint}")).sum() for s in (side, other))
        return mine / its

    assert moved("wave", "wrist", 0) > 3
    assert moved("raise_arm", "wrist", 1) > 3
    assert moved("punch", "wrist", 1) > 1.2
    assert moved("throw", "wrist", 0) > 1.5
    assert moved("kick", "foot", 1) > 3
    assert at(made(Attributes("hop", side=side, count=1)), f"{other}_foot")[12:-12, 1].min() > 0.02
    lunge = made(Attributes("lunge", side=side, count=1))
    assert at(lunge, f"{side}_foot")[:, 2].max() > at(lunge, f"{other}_foot")[:, 2].max() + 0.4
    picked = made(Attributes("pick_up", side=side))
    assert at(picked, f"{side}_wrist")[:, 1].min() < min(
        0.35, at(picked, f"{other}_wrist")[:, 1].min() - 0.1
    )


def test_both_sides_do_the_same():
    for action, count in (("wave", 0), ("raise_arm", 1), ("punch", 1)):
        motion = made(Attributes(action, side="both", count=count))
        left, right = (speed(in_body(motion, f"{side}_wrist")).sum() for side in SIDES)
        assert left == pytest.approx(right, rel=0.15)


def test_sitting_is_as_low_as_a_chair():
    pelvis = at(made(Attributes("sit")), "pelvis")[:, 1]
    assert 0.4 < pelvis.min() < 0.6
    assert pelvis[[0, -1]].min() > 0.85


def test_one_thing_after_another():
    bow, kick = Attributes("bow", count=1), Attributes("kick", side="left", count=1)
    first, second = made(replace(bow, then=kick)), made(replace(kick, then=bow))
    for motion, bow_is_first in ((first, True), (second, False)):
        bowed = at(motion, "head")[:, 1].argmin()
        kicked = at(motion, "left_foot")[:, 1].argmax()
        assert (bowed < kicked) == bow_is_first


# Captions.

SAID = {
    "walk": ("walk", "pac"),
    "run": ("run",),
    "march": ("march",),
    "turn": ("turn", "rotat"),
    "sidestep": ("step",),
    "jump": ("jump", "leap"),
    "hop": ("hop", "bounc"),
    "squat": ("squat",),
    "sit": ("sits down", "sitting down", "seat"),
    "lunge": ("lung",),
    "bow": ("bow",),
    "nod": ("nod",),
    "wave": ("wav",),
    "raise_arm": ("rais", "lift"),
    "clap": ("clap",),
    "punch": ("punch",),
    "throw": ("throw",),
    "kick": ("kick",),
    "pick_up": ("pick",),
    "forward": ("forward", "ahead"),
    "backward": ("backward",),
    "left": ("left", "counterclockwise"),
    "right": ("right", " clockwise"),
    "both": ("both",),
    "circle": ("circle",),
    "around": ("around",),
    "slowly": ("slow",),
    "quickly": ("quick", "fast", "rapid"),
    "once": ("once", "one time"),
    "twice": ("twice", "two times"),
    "three times": ("three times",),
}


def test_captions_say_all_attributes():
    for a in all_attributes():
        for text in captions(a):
            for word in a.label.replace(" then ", "|").split("|"):
                assert any(said in text for said in SAID[word]), (a.label, text)


def test_captions_say_nothing_else():
    for a in all_attributes():
        unsaid = {"slowly", "quickly", "left", "right", "both", "once", "twice", "three times"}
        unsaid -= set(a.label.replace(" then ", "|").split("|"))
        for text in captions(a):
            for word in unsaid:
                assert not any(said in text for said in SAID[word]), (a.label, text)


def test_captions_keep_the_order():
    walk, bow = Attributes("walk", "forward"), Attributes("bow", count=1)
    for text in captions(replace(walk, then=bow)):
        assert min(i for i in map(text.find, SAID["walk"]) if i >= 0) < text.find("bow")


def test_captions_are_short_plain_sentences():
    for a in all_attributes():
        assert len(captions(a)) == 6
        for text in captions(a):
            assert text == text.lower() and text.endswith(".") and "  " not in text
            assert len(text.split()) <= 20, text


# The corpus.


def test_clips_hold_features_of_their_attributes():
    known = {a.label: a for a in all_attributes()}
    assert small().name == "synthetic" and small().skeleton is HUMANML3D and small().fps == 20
    assert not small().problems
    assert len({clip.id for clip in small().clips}) == len(small()) == 50
    for clip in small().clips:
        assert clip.features.shape[1] == 263 and 40 <= len(clip) <= 127
        assert np.isfinite(clip.features).all()
        assert {caption.text for caption in clip.captions} <= set(captions(known[clip.label]))
        assert len({caption.text for caption in clip.captions}) == 3


def test_features_give_the_joints_back():
    clip = small().clips[0]
    joints = to_joints(torch.from_numpy(clip.features)).numpy()
    parents, children = np.array(HUMANML3D.bones).T
    lengths = np.linalg.norm(joints[:, children] - joints[:, parents], axis=-1)
    assert np.abs(lengths - np.array(LENGTHS)).max() < 1e-4


def test_splits_are_complete_and_train_has_all_labels():
    assert small().splits == {"train": 40, "val": 4, "test": 6}
    train = {clip.label for clip in small().split("train")}
    assert train == {clip.label for clip in small().clips}
    assert len(train) == 10
    for split in ("val", "test"):
        labels = [clip.label for clip in small().split(split)]
        assert len(set(labels)) == len(labels)


def test_same_seed_same_bits_other_seed_other_motions():
    first, again = synthetic_corpus(seed=3, clips=6), synthetic_corpus(seed=3, clips=6)
    other = synthetic_corpus(seed=4, clips=1)
    for a, b in zip(first.clips, again.clips, strict=True):
        assert (a.id, a.split, a.label, a.captions) == (b.id, b.split, b.label, b.captions)
        assert a.features.tobytes() == b.features.tobytes()
    assert first.clips[0].features.tobytes() != other.clips[0].features.tobytes()


def test_two_clips_of_one_label_differ():
    label = small().clips[0].label
    one, two = [clip for clip in small().clips if clip.label == label][:2]
    assert one.features.shape != two.features.shape or not np.allclose(one.features, two.features)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        (Attributes("fly"), "no action 'fly'; there are walk, run"),
        (Attributes("walk", "up"), r"'walk\|up' is not in the corpus; expected one of walk\|"),
        (Attributes("bow", count=1, then=Attributes("squat")), "'squat' is not in the corpus"),
    ],
)
def test_what_nobody_can_do_is_refused(attributes, says):
    with pytest.raises(ValueError, match=says):
        captions(attributes)
    with pytest.raises(ValueError, match=says):
        synthetic_motion(attributes, np.random.default_rng(0))


def test_a_corpus_has_clips():
    with pytest.raises(ValueError, match="clips=0; expected at least 1"):
        synthetic_corpus(clips=0)
