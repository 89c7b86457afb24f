"""A corpus made from a seed: captioned motions of which all that is said is known to be true.

It needs no files. Tests, and notebooks that are given no data set, run on it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import combinations

import numpy as np

from easytune_lib.data import actions
from easytune_lib.data.actions import Attributes
from easytune_lib.data.corpus import Caption, Clip, Corpus
from easytune_lib.data.puppet import FPS, SIDES, Body, Person, joined, joints_of, sway
from easytune_lib.motion.features import canonicalise, to_features
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D
from easytune_lib.seeding import numpy_stream

FRAMES = (41, 128)  # of a motion; its features have one frame fewer
SHARES = {"train": 0.80, "val": 0.07, "test": 0.13}
CLIPS_PER_LABEL = 5  # at least; smaller corpora have fewer labels
CAPTIONS_PER_CLIP = 3

Forms = Mapping[tuple[str, str], tuple[str, ...]]  # (direction, side) to ways to say them
Counts = Mapping[str, tuple[int, ...]]  # speed to how often at that speed; 0: not said


def _toward(*ways: str) -> Forms:
    return {(side, ""): tuple(way.format(side) for way in ways) for side in SIDES}


def _with(*ways: str) -> Forms:
    return {("", side): tuple(way.format(side) for way in ways) for side in SIDES}


_PLAIN: Forms = {("", ""): ("",)}
_FORWARD: Forms = {("forward", ""): ("forward", "straight ahead")}
_BACKWARD: Forms = {("backward", ""): ("backward", "backwards")}
_CURVES = _toward("in a curve to the {}", "along a bend to the {}")
_CIRCLES: Forms = {
    ("circle", "left"): ("in a circle to the left", "in a counterclockwise circle"),
    ("circle", "right"): ("in a circle to the right", "in a clockwise circle"),
}
_UNCOUNTED: Counts = {"": (0,), "slowly": (0,), "quickly": (0,)}
_COUNTED: Counts = {"": (1, 2, 3), "slowly": (1, 2), "quickly": (1, 2, 3)}
_LONG: Counts = {"": (1, 2), "slowly": (1,), "quickly": (1, 2)}  # more would not fit in a clip


@dataclass(frozen=True)
class Action:
    """How an action is done and said, and which attributes it can have."""

    perform: Callable[[Attributes, Person, np.random.Generator], Body]
    verbs: tuple[tuple[str, str], ...]  # ("waves", "waving")
    forms: Forms = field(default_factory=lambda: _PLAIN)
    counts: Counts = field(default_factory=lambda: _UNCOUNTED)

    @cached_property
    def attributes(self) -> tuple[Attributes, ...]:
        """All that it can have, in a fixed order."""
        return tuple(
            Attributes(self.perform.__name__, direction, speed, side, count)
            for direction, side in self.forms
            for speed, counts in self.counts.items()
            for count in counts
        )


_ACTIONS = (
    Action(
        actions.walk,
        (("walks", "walking"), ("paces", "pacing")),
        {**_FORWARD, **_BACKWARD, **_CURVES, **_CIRCLES},
    ),
    Action(actions.run, (("runs", "running"),), {**_FORWARD, **_CURVES, **_CIRCLES}),
    Action(
        actions.march,
        (("marches", "marching"), ("marches with high knees", "marching with high knees")),
        {("", ""): ("in place", "on the spot"), **_FORWARD},
    ),
    Action(
        actions.turn,
        (("turns", "turning"), ("rotates", "rotating")),
        {**_toward("{}", "to the {}"), ("around", ""): ("around", "halfway around")},
    ),
    Action(
        actions.sidestep,
        (("steps", "stepping"), ("sidesteps", "sidestepping")),
        _toward("to the {}", "sideways to the {}"),
        _COUNTED,
    ),
    Action(
        actions.jump,
        (("jumps", "jumping"), ("leaps", "leaping")),
        {("", ""): ("up", "up and down"), **_FORWARD, **_BACKWARD, **_toward("to the {}")},
        {"": (1, 2, 3)},
    ),
    Action(
        actions.hop,
        (("hops", "hopping"), ("bounces", "bouncing")),
        _with("on the {} foot", "on the {} leg"),
        {"": (1, 2, 3)},
    ),
    Action(
        actions.squat,
        (("squats", "squatting"), ("does a squat", "doing a squat")),
        counts=_COUNTED,
    ),
    Action(
        actions.sit,
        (
            ("sits down and gets up", "sitting down and getting up"),
            ("takes a seat and stands up", "taking a seat and standing up"),
        ),
    ),
    Action(
        actions.lunge,
        (("lunges", "lunging"), ("does a lunge", "doing a lunge")),
        _with("with the {} leg", "with the {} foot ahead"),
        _LONG,
    ),
    Action(
        actions.bow,
        (("bows", "bowing"), ("bends forward in a bow", "bending forward in a bow")),
        counts={"": (1, 2, 3), "slowly": (1,), "quickly": (1, 2, 3)},
    ),
    Action(
        actions.nod,
        (("nods", "nodding"), ("nods with the head", "nodding with the head")),
        counts=_COUNTED,
    ),
    Action(
        actions.wave,
        (("waves", "waving"), ("waves hello", "waving hello")),
        {**_with("with the {} hand", "with the {} arm"), ("", "both"): ("with both hands",)},
    ),
    Action(
        actions.raise_arm,
        (("raises", "raising"), ("lifts", "lifting")),
        {**_with("the {} arm", "the {} hand"), ("", "both"): ("both arms", "both hands")},
        _LONG,
    ),
    Action(
        actions.clap,
        (("claps", "clapping"), ("claps the hands", "clapping the hands")),
        counts={"": (0, 1, 2, 3), "slowly": (0, 2), "quickly": (0, 3)},
    ),
    Action(
        actions.punch,
        (("punches", "punching"), ("throws a punch", "throwing a punch")),
        {**_with("with the {} fist", "with the {} hand"), ("", "both"): ("with both fists",)},
        {"": (1, 2, 3), "slowly": (1,), "quickly": (1, 2)},
    ),
    Action(
        actions.throw,
        (("throws a ball", "throwing a ball"), ("throws something", "throwing something")),
        _with("with the {} hand", "with the {} arm"),
    ),
    Action(
        actions.kick,
        (("kicks", "kicking"), ("does a kick", "doing a kick")),
        _with("with the {} foot", "with the {} leg"),
        {"": (1, 2, 3), "slowly": (1,), "quickly": (1, 2)},
    ),
    Action(
        actions.pick_up,
        (
            ("picks something up", "picking something up"),
            ("bends down to pick something up", "bending down to pick something up"),
        ),
        _with("with the {} hand"),
    ),
)
ACTIONS = {action.perform.__name__: action for action in _ACTIONS}

_IN_A_ROW = (  # short enough for two to fit in a clip
    Attributes("walk", "forward"),
    Attributes("jump", "", count=1),
    Attributes("turn", "left"),
    Attributes("kick", side="left", count=1),
    Attributes("wave", side="right"),
    Attributes("bow", count=1),
    Attributes("punch", side="right", count=1),
    Attributes("squat", count=1),
    Attributes("clap", count=2),
)


@cache
def all_attributes() -> tuple[Attributes, ...]:
    """All combinations in the corpus: each action alone, then one after another, both ways."""
    pairs = [pair for i, pair in enumerate(combinations(_IN_A_ROW, 2)) if i % 2 == 0]
    return (
        *(attributes for action in _ACTIONS for attributes in action.attributes),
        *(replace(a, then=b) for pair in pairs for a, b in (pair, pair[::-1])),
    )


_SPEEDS = {
    "": ("", "", "", ""),
    "slowly": ("slowly", "slowly", "at a slow pace", "slowly"),
    "quickly": ("quickly", "quickly", "at a fast pace", "rapidly"),
}
_OFTEN = {0: ("",), 1: ("once", "one time"), 2: ("twice", "two times"), 3: ("three times",)}


def captions(attributes: Attributes) -> tuple[str, ...]:
    """Six wordings, each of which says all attributes and nothing else.

    Raises:
        ValueError: There is no such action, or it can not have these attributes.
    """
    says, doing = _clauses(attributes, 0), _clauses(attributes, 1)
    if attributes.then is None:
        return (
            f"a person {says[0]}.",
            f"someone {says[1]}.",
            f"the person is {doing[2]}.",
            f"a figure {says[3]}.",
            f"a person is {doing[1]}.",
            f"the person {says[2]}.",
        )
    then_says, then_doing = _clauses(attributes.then, 0), _clauses(attributes.then, 1)
    return (
        f"a person {says[0]}, then {then_says[0]}.",
        f"someone first {says[1]} and then {then_says[1]}.",
        f"after {doing[2]}, the person {then_says[2]}.",
        f"a figure {says[3]} before {then_doing[3]}.",
        f"the person {says[0]}, followed by {then_doing[1]}.",
        f"a person {says[1]} and afterwards {then_says[0]}.",
    )


def synthetic_motion(attributes: Attributes, rng: np.random.Generator) -> Motion:
    """Somebody who does what ``attributes`` say; begins and ends in a stand.

    Who it is, and the size and pace of each movement within what the words allow, are drawn
    from ``rng``. The first frame faces +Z with the pelvis over the origin; feet stand at y = 0.

    Returns:
        Joints of HumanML3D's skeleton at 20 frames a second, with the first caption; for
        :func:`all_attributes` from 41 to 128 frames.

    Raises:
        ValueError: There is no such action, or it can not have these attributes.
    """
    text = captions(attributes)[0]
    who = Person.draw(rng, travel=(1.6, 2.2) if attributes.then else (2.6, 4.6))
    bodies, part = [who.stand(rng.uniform(0.1, 0.3))], attributes
    while part is not None:
        bodies += [ACTIONS[part.action].perform(unit, who, rng) for unit in _units(part)]
        part = part.then
    missing = (FRAMES[0] - sum(map(len, bodies))) / FPS
    body = joined(*bodies, who.stand(max(missing, rng.uniform(0.1, 0.3))))
    sway(body, rng)
    return Motion(canonicalise(joints_of(body)).astype(np.float32), FPS, HUMANML3D, text)


def synthetic_corpus(seed: int = 0, clips: int = 1200) -> Corpus:
    """Captioned motions of all attributes in turn.

    Args:
        seed: Of everything drawn: the same seed gives the same bits.
        clips: How many; below about 1,200 some attributes are left out, so that each label
            that is there has at least 5 clips.

    Returns:
        Corpus "synthetic", labels as :attr:`Attributes.label`, splits train, val and test in
        80, 7 and 13 parts, also within a label as far as its clips allow; train has all labels.

    Raises:
        ValueError: ``clips`` is not positive.
    """
    if clips < 1:
        raise ValueError(f"got clips={clips}; expected at least 1, for instance 1200")
    known = all_attributes()
    kinds = min(len(known), max(1, clips // CLIPS_PER_LABEL))
    drawn = numpy_stream(seed, "synthetic", "labels").permutation(len(known))[:kinds]
    asked = [known[drawn[number % kinds]] for number in range(clips)]
    by_label = sorted(range(clips), key=lambda number: number % kinds)
    split = dict(zip(by_label, _splits([asked[i].label for i in by_label]), strict=True))
    made = (_clip(seed, number, asked[number], split[number]) for number in range(clips))
    return Corpus("synthetic", HUMANML3D, FPS, tuple(made))


def _clip(seed: int, number: int, attributes: Attributes, split: str) -> Clip:
    rng = numpy_stream(seed, "synthetic", number)
    features = to_features(synthetic_motion(attributes, rng))
    said = captions(attributes)
    texts = [Caption(said[i]) for i in rng.permutation(len(said))[:CAPTIONS_PER_CLIP]]
    return Clip(f"synthetic_{number:05d}", split, features, tuple(texts), attributes.label)


def _splits(labels: Sequence[str]) -> Iterator[str]:
    """A split a clip: the first of a label in train, then whichever is furthest behind."""
    given, seen = dict.fromkeys(SHARES, 0), set()
    for number, label in enumerate(labels, 1):
        behind = {name: share * number - given[name] for name, share in SHARES.items()}
        split = max(behind, key=behind.__getitem__) if label in seen else "train"
        seen.add(label)
        given[split] += 1
        yield split


def _units(attributes: Attributes) -> Sequence[Attributes]:
    """What is to be performed one after another; clapping counts by itself."""
    return [attributes] * (1 if attributes.action == "clap" else max(attributes.count, 1))


def _clauses(attributes: Attributes, tense: int) -> list[str]:
    """Four wordings of verb, form, count and speed; ``tense`` 0: "waves", 1: "waving"."""
    action, clauses = _known(attributes), []
    verbs = [verb[tense] for verb in action.verbs]
    forms, often = action.forms[attributes.direction, attributes.side], _OFTEN[attributes.count]
    for i, speed in enumerate(_SPEEDS[attributes.speed]):
        said = [ways[i % len(ways)] for ways in (verbs, forms, often)]
        said.insert(0 if i == 1 else len(said), speed)
        clauses.append(" ".join(filter(None, said)))
    return clauses


def _known(attributes: Attributes) -> Action:
    if attributes.action not in ACTIONS:
        raise ValueError(f"no action {attributes.action!r}; there are {', '.join(ACTIONS)}")
    action, alone = ACTIONS[attributes.action], replace(attributes, then=None)
    if alone not in action.attributes:
        can = ", ".join(possible.label for possible in action.attributes)
        raise ValueError(f"{alone.label!r} is not in the corpus; expected one of {can}")
    return action
