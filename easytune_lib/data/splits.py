"""Which network may see which clips, so that nothing is judged on what it was shown."""

from collections import defaultdict
from dataclasses import dataclass

from easytune_lib.data.corpus import Clip, Corpus
from easytune_lib.seeding import seed_of


@dataclass(frozen=True)
class Roles:
    """The clips each part of the workbench is given.

    Base model and reward never see a label of ``unseen``; the judge knows all labels. Reward
    and judge train on different halves of the clips of each label, except that a label
    with a single clip gives it to both.
    """

    base: tuple[Clip, ...]
    reward: tuple[Clip, ...]
    judge: tuple[Clip, ...]
    validation: tuple[Clip, ...]  # prompts on which settings and checkpoints are chosen
    test: tuple[Clip, ...]  # prompts that are reported: seen labels
    unseen: tuple[Clip, ...]  # prompts that are reported: labels that only the judge knows


def assign_roles(corpus: Corpus, unseen: int = 30, per_label: int = 2, seed: int = 0) -> Roles:
    """Divide a corpus into roles; depends on clip ids and ``seed`` alone.

    Args:
        corpus: With splits train, val and test; labels may be unknown (``""``). Clips without
            one are never asked, except that where no label is known, validation and test are
            the whole splits val and test, and nothing is unseen.
        unseen: Labels "content|style" held out as a compositional test: each content and
            each style of theirs is still seen, in other pairs. 0 where labels are unknown.
        per_label: Prompts a label; four times as many of an unseen one, from clips of any
            split that the judge was not trained on. Labels that occur in the train split only
            (single recordings) are shared out between validation and test, and asked with a
            training clip's caption and length.
        seed: Of the choice of unseen labels.

    Raises:
        ValueError: The corpus lacks one of the three splits.
    """
    held = _compositional(corpus, unseen, seed)
    train = corpus.split("train")
    halves: tuple[list[Clip], list[Clip]] = ([], [])
    for clips in _by_label(train).values():
        ordered = sorted(clips, key=lambda clip: seed_of(seed, "half", clip.id))
        if len(ordered) == 1 and ordered[0].label:
            halves[0].append(ordered[0])
            halves[1].append(ordered[0])
        else:
            for side in (0, 1):
                halves[side].extend(ordered[side::2])
    labels = _by_label(tuple(clip for clip in corpus.clips if clip.label))
    rare = [label for label, clips in labels.items() if {clip.split for clip in clips} == {"train"}]
    rare.sort(key=lambda label: seed_of(seed, "rare", label))
    asked = {
        "validation": _by_label(corpus.split("val")) | {x: labels[x] for x in rare[::2]},
        "test": _by_label(corpus.split("test")) | {x: labels[x] for x in rare[1::2]},
    }
    judged = {clip.id for clip in halves[1]}
    asked["unseen"] = {
        label: [clip for clip in labels[label] if clip.id not in judged] or labels[label]
        for label in held
    }

    def prompts(name: str, count: int) -> tuple[Clip, ...]:
        return tuple(
            clip
            for label, clips in sorted(asked[name].items())
            if label and (label in held) == (name == "unseen")
            for clip in sorted(clips, key=lambda c: seed_of(seed, "prompt", c.id))[:count]
        )

    return Roles(
        base=tuple(clip for clip in train if clip.label not in held),
        reward=tuple(clip for clip in halves[0] if clip.label not in held),
        judge=tuple(halves[1]),
        validation=prompts("validation", per_label) if labels else corpus.split("val"),
        test=prompts("test", per_label) if labels else corpus.split("test"),
        unseen=prompts("unseen", 4 * per_label),
    )


def _by_label(clips: tuple[Clip, ...]) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.label].append(clip)
    return dict(groups)


def _compositional(corpus: Corpus, count: int, seed: int) -> frozenset[str]:
    """Labels such that every content and style keeps at least two other pairs."""
    pairs = {tuple(clip.label.split("|", 1)) for clip in corpus.clips if "|" in clip.label}
    held: set[str] = set()
    for content, style in sorted(pairs, key=lambda pair: seed_of(seed, "unseen", *pair)):
        rest = pairs - {tuple(label.split("|", 1)) for label in held} - {(content, style)}
        kept = (sum(c == content for c, _ in rest), sum(s == style for _, s in rest))
        if len(held) < count and min(kept) >= 2:
            held.add(f"{content}|{style}")
    return frozenset(held)
