"""Which network may see which clips, so that nothing is judged on what it was shown."""

from collections import defaultdict
from dataclasses import dataclass

from easytune_lib.motion.corpus import Clip, Corpus
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
        corpus: With splits train, val and test; labels may be unknown (``""``).
        unseen: Labels "content|style" held out as a compositional test: each content and
            each style of theirs is still seen, in other pairs. 0 where labels are unknown.
        per_label: Test prompts a label; four times as many of an unseen one, from clips of
            any split that the judge was not trained on. Labels without clips in the test
            split (single recordings) are asked with a training clip's caption and length.
        seed: Of the choice of unseen labels.
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
    judged = {clip.id for clip in halves[1]}
    asked = {label: clips for label, clips in _by_label(train).items() if label}
    asked |= {label: clips for label, clips in _by_label(corpus.split("test")).items() if label}
    for label in held:
        clips = [clip for clip in corpus.clips if clip.label == label]
        asked[label] = [clip for clip in clips if clip.id not in judged] or clips

    def chosen(seen: bool, count: int) -> tuple[Clip, ...]:
        return tuple(
            clip
            for label, clips in sorted(asked.items())
            if (label not in held) == seen
            for clip in sorted(clips, key=lambda c: seed_of(seed, "prompt", c.id))[:count]
        )

    return Roles(
        base=tuple(clip for clip in train if clip.label not in held),
        reward=tuple(clip for clip in halves[0] if clip.label not in held),
        judge=tuple(halves[1]),
        validation=tuple(c for c in corpus.split("val") if c.label and c.label not in held),
        test=chosen(True, per_label),
        unseen=chosen(False, 4 * per_label),
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
