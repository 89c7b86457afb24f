"""Nobody is judged on what it was shown."""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from easytune_lib.data.corpus import Caption, Clip, Corpus
from easytune_lib.data.splits import Roles, assign_roles
from easytune_lib.motion.skeleton import HUMANML3D

CONTENTS, STYLES = range(8), range(6)


def clip(number: int, split: str, label: str) -> Clip:
    features = np.zeros((8, 263), np.float32)
    return Clip(f"{number:04d}", split, features, (Caption(f"caption {number}"),), label)


@cache
def corpus() -> Corpus:
    """48 pairs: a third is recorded once, in train; others in all splits; some has no label."""
    labels = [f"c{c}|s{s}" for c in CONTENTS for s in STYLES]
    asked = [
        (split, label)
        for i, label in enumerate(labels)
        for split in (["train"] if i % 3 == 0 else ["train"] * 5 + ["val"] * 3 + ["test"] * 3)
    ]
    asked += [(split, "") for split in ["train"] * 7 + ["val"] * 4 + ["test"] * 4]
    clips = tuple(clip(i, split, label) for i, (split, label) in enumerate(asked))
    return Corpus("made", HUMANML3D, 20.0, clips)


@cache
def roles() -> Roles:
    return assign_roles(corpus(), unseen=6)


def ids(clips) -> set[str]:
    return {clip.id for clip in clips}


def labels(clips) -> set[str]:
    return {clip.label for clip in clips}


def in_train() -> dict[str, set[str]]:
    found = defaultdict(set)
    for clip in corpus().split("train"):
        found[clip.label].add(clip.id)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_base_and_reward_never_see_an_unseen_label(seed):
    roles = assign_roles(corpus(), unseen=6, seed=seed)
    unseen = labels(roles.unseen)
    assert len(unseen) == 6
    assert not unseen & labels(roles.base) and not unseen & labels(roles.reward)
    assert not unseen & labels(roles.validation) and not unseen & labels(roles.test)
    assert unseen <= labels(roles.judge), "the judge knows all labels"


@pytest.mark.parametrize("count", [6, 30, 1000])
def test_each_content_and_style_of_an_unseen_label_is_seen_in_two_other_pairs(count):
    roles = assign_roles(corpus(), unseen=count)
    seen = [label.split("|") for label in labels(roles.base) if label]
    contents, styles = Counter(c for c, _ in seen), Counter(s for _, s in seen)
    assert set(contents) == {f"c{c}" for c in CONTENTS} and min(contents.values()) >= 2
    assert set(styles) == {f"s{s}" for s in STYLES} and min(styles.values()) >= 2
    assert 0 < len(labels(roles.unseen)) <= count


def test_an_unseen_label_is_asked_with_clips_the_judge_was_not_trained_on():
    shown, every = ids(roles().judge), in_train()
    for clip in roles().unseen:
        assert clip.id not in shown or every[clip.label] == {clip.id}


def test_training_is_on_train_clips_alone():
    train = ids(corpus().split("train"))
    for part in (roles().base, roles().reward, roles().judge):
        assert ids(part) <= train and len(ids(part)) == len(part)
    assert ids(roles().base) == {
        clip.id for clip in corpus().split("train") if clip.label not in labels(roles().unseen)
    }


def test_reward_and_judge_share_no_clip_but_the_only_one_of_its_label():
    every, unseen = in_train(), labels(roles().unseen)
    shared = ids(roles().reward) & ids(roles().judge)
    single = {label for label, clips in every.items() if label and len(clips) == 1}
    assert shared == set().union(*(every[label] for label in single - unseen))
    assert ids(roles().base) <= ids(roles().reward) | ids(roles().judge), "none is wasted"
    for label, clips in every.items():
        if label not in unseen and label not in single:
            assert abs(len(clips & ids(roles().reward)) - len(clips & ids(roles().judge))) <= 1


def test_validation_and_test_share_no_label_among_the_rare_ones():
    splits = defaultdict(set)
    for clip in corpus().clips:
        splits[clip.label].add(clip.split)
    rare = {label for label, where in splits.items() if where == {"train"}}
    validation, test = labels(roles().validation), labels(roles().test)
    assert rare & validation and rare & test and not rare & validation & test
    assert rare - labels(roles().unseen) <= validation | test, "each is asked somewhere"
    common = set(splits) - rare - labels(roles().unseen) - {""}
    assert common <= validation and common <= test


def test_what_is_asked_of_common_labels_was_in_no_training():
    train = ids(corpus().split("train"))
    every = in_train()
    for part in (roles().validation, roles().test):
        assert all(len(every[clip.label]) == 1 for clip in part if clip.id in train)
    assert not ids(roles().validation) & ids(roles().test)


@pytest.mark.parametrize("per_label", [1, 2])
def test_labels_are_asked_equally_often_and_clips_once(per_label):
    roles = assign_roles(corpus(), unseen=6, per_label=per_label)
    for part in (roles.validation, roles.test, roles.unseen):
        assert len(ids(part)) == len(part) and "" not in labels(part)
    for part, split in ((roles.validation, "val"), (roles.test, "test")):
        counts = Counter(clip.label for clip in part if clip.split == split)
        assert set(counts.values()) == {per_label}
    assert max(Counter(clip.label for clip in roles.unseen).values()) <= 4 * per_label


def test_equal_ids_give_equal_roles_whatever_the_order_or_the_motion():
    order = np.random.default_rng(0).permutation(len(corpus()))
    clips = [corpus().clips[i] for i in order]
    moved = tuple(replace(c, features=c.features + 1.0, captions=()) for c in clips)
    again = assign_roles(replace(corpus(), clips=moved), unseen=6)
    for name, part in vars(roles()).items():
        assert ids(getattr(again, name)) == ids(part), name
    for name in ("validation", "test", "unseen"):
        twin, part = getattr(again, name), getattr(roles(), name)
        assert [clip.id for clip in twin] == [clip.id for clip in part], "in the same order"


def test_another_seed_holds_out_other_labels():
    found = {frozenset(labels(assign_roles(corpus(), unseen=6, seed=s).unseen)) for s in range(3)}
    assert len(found) == 3


def test_none_unseen():
    roles = assign_roles(corpus(), unseen=0)
    assert roles.unseen == () and ids(roles.base) == ids(corpus().split("train"))


def test_where_no_label_is_known_validation_and_test_are_the_splits():
    """As in HumanML3D."""
    unknown = replace(corpus(), clips=tuple(replace(c, label="") for c in corpus().clips))
    roles = assign_roles(unknown)
    assert roles.validation == unknown.split("val") and roles.test == unknown.split("test")
    assert roles.unseen == () and roles.base == unknown.split("train")
    assert not ids(roles.reward) & ids(roles.judge)
    assert ids(roles.reward) | ids(roles.judge) == ids(unknown.split("train"))
    assert abs(len(roles.reward) - len(roles.judge)) <= 1


def test_labels_without_a_style_are_never_held_out():
    plain = replace(
        corpus(), clips=tuple(replace(c, label=c.label.replace("|", "-")) for c in corpus().clips)
    )
    roles = assign_roles(plain)
    assert roles.unseen == () and len(labels(roles.test)) > 30


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_split_is_named(split):
    rest = tuple(clip for clip in corpus().clips if clip.split != split)
    with pytest.raises(ValueError, match=f"has no split '{split}'; it has"):
        assign_roles(replace(corpus(), clips=rest))
