"""Captioned motion clips, their statistics, and batches drawn from them."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from easytune_lib.motion.skeleton import Skeleton


@dataclass(frozen=True)
class Caption:
    """What one person wrote of a clip."""

    text: str
    tokens: str = ""  # "word/POS word/POS", as the T2M evaluator reads them
    start: float = 0.0  # seconds
    end: float = 0.0  # seconds; start = end = 0: the whole clip


@dataclass(frozen=True, eq=False)
class Clip:
    """One motion with its captions."""

    id: str
    split: str
    features: Float32[np.ndarray, "frames features"]  # physical units, never normalised
    captions: tuple[Caption, ...]
    label: str = ""  # "content|style"; "" where unknown

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.features)


@dataclass(frozen=True)
class Problem:
    """One thing found wrong with a data set."""

    file: str  # relative to the data set's folder
    what: str  # one sentence: what is there, what was expected
    kind: str = "other"  # a short name under which such problems are counted


@dataclass(frozen=True, eq=False)
class Corpus:
    """All clips of a data set, and what was wrong with those that are left out."""

    name: str
    skeleton: Skeleton
    fps: float
    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    @cached_property
    def splits(self) -> dict[str, int]:
        """Number of clips by split."""
        return dict(Counter(clip.split for clip in self.clips))

    @property
    def hours(self) -> float:
        """Length of all clips together."""
        return sum(map(len, self.clips)) / self.fps / 3600

    def split(self, *names: str) -> tuple[Clip, ...]:
        """Clips of one or several splits, in the corpus's order.

        Raises:
            ValueError: There is no such split; lists those there are.
        """
        missing = [name for name in names if name not in self.splits]
        if missing or not names:
            known = ", ".join(f"{name} ({count} clips)" for name, count in self.splits.items())
            raise ValueError(
                f"{self.name} has no split {', '.join(map(repr, missing)) or 'without a name'}; "
                f"it has {known or 'no clips at all'}"
            )
        return tuple(clip for clip in self.clips if clip.split in names)


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Mean of each feature, and one standard deviation for each group of features."""

    mean: Float[Tensor, " features"]
    std: Float[Tensor, " features"]  # positive

    @classmethod
    def from_clips(cls, clips: Sequence[Clip], skeleton: Skeleton) -> "FeatureStats":
        """Statistics over all frames of ``clips``.

        Standard deviations are averaged within each group of :attr:`Skeleton.groups`, as
        HumanML3D does, so that a body part that hardly moves is not blown up. A group that
        never varies gets 1.

        Raises:
            ValueError: There are no frames.
        """
        if not sum(map(len, clips)):
            raise ValueError(
                "statistics of no clips: give at least one, for instance a train split"
            )
        frames = np.concatenate([clip.features for clip in clips])
        mean, std = frames.mean(0, np.float64), frames.std(0, np.float64)
        for group in skeleton.groups.values():
            average = std[group].mean()
            std[group] = average if average > 1e-6 else 1.0
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))

    def normalise(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Physical units to zero mean and about unit variance."""
        return (x - self.mean.to(x)) / self.std.to(x)

    def denormalise(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """The inverse of :meth:`normalise`."""
        return x * self.std.to(x) + self.mean.to(x)


@dataclass(frozen=True, eq=False)
class MotionBatch:
    """Clips padded to one length, each with one of its captions."""

    features: Float[Tensor, "batch frames features"]  # physical units, zero where padded
    lengths: Int[Tensor, " batch"]  # frames
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Bool[Tensor, "batch frames"]:
        """True where a frame is real, False where it is padding."""
        frames = torch.arange(self.features.shape[1], device=self.lengths.device)
        return frames < self.lengths[:, None]

    def to(self, device: torch.device | str) -> "MotionBatch":
        """The same batch on ``device``."""
        features, lengths = self.features.to(device), self.lengths.to(device)
        return MotionBatch(features, lengths, self.texts, self.labels, self.ids)

    @classmethod
    def collate(
        cls,
        clips: Sequence[Clip],
        rng: torch.Generator,
        max_frames: int = 128,
        unit: int = 4,
        crop: Literal["random", "start"] = "random",
    ) -> "MotionBatch":
        """Cut each clip to a multiple of ``unit`` frames and draw one of its captions.

        Args:
            clips: At least one; each of at least ``unit`` frames.
            rng: Draws the caption, then the place of the cut; two numbers a clip, so that
                one clip's length or captions do not change what the others get.
            max_frames: Longer clips are cut to it (to the multiple of ``unit`` below it).
            unit: Frames a token.
            crop: Where a clip is cut: ``"start"`` keeps its first frames.

        Raises:
            ValueError: No clips, or one is shorter than ``unit`` frames.
        """
        if not clips:
            raise ValueError("a batch of no clips: give at least one")
        pieces, texts = [], []
        for clip in clips:
            which, where = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
            length = min(len(clip), max_frames) // unit * unit
            if length == 0:
                raise ValueError(
                    f"clip {clip.id!r} can not be cut to a multiple of {unit} frames: it has "
                    f"{len(clip)}, and max_frames is {max_frames}"
                )
            first = int(where * (len(clip) - length + 1)) if crop == "random" else 0
            pieces.append(torch.from_numpy(clip.features[first : first + length]))
            captions = clip.captions or (Caption(""),)
            texts.append(captions[int(which * len(captions))].text)
        return cls(
            torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True),
            torch.tensor([len(piece) for piece in pieces]),
            tuple(texts),
            tuple(clip.label for clip in clips),
            tuple(clip.id for clip in clips),
        )


def balance(clips: Sequence[Clip]) -> Float[Tensor, " clips"]:
    """A weight for each clip: a label's share then grows as the square root of its clips.

    A clip whose label is unknown counts as a label of its own.
    """
    counts = Counter(clip.label for clip in clips)
    return torch.tensor([counts[clip.label] ** -0.5 if clip.label else 1.0 for clip in clips])


def draw_balanced(
    clips: Sequence[Clip], size: int, max_frames: int, buckets: int = 1
) -> Callable[[torch.Generator], MotionBatch]:
    """Batches of ``size`` clips; a label's share grows as the square root of its clips.

    With several ``buckets``, so many batches are drawn at once, sorted by length and dealt out,
    of which one is kept: a clip is drawn as often as before, but with clips about as long as
    itself, so that little is padded.
    """
    weights = balance(clips)

    def draw(rng: torch.Generator) -> MotionBatch:
        drawn = torch.multinomial(weights, size * buckets, replacement=True, generator=rng)
        rows = drawn.tolist()
        if buckets > 1:
            rows.sort(key=lambda row: min(len(clips[row]), max_frames))
            kept = int(torch.randint(buckets, (), generator=rng))
            rows = rows[kept * size : (kept + 1) * size]
        return MotionBatch.collate([clips[i] for i in rows], rng, max_frames=max_frames)

    return draw


_OPPOSITE = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "clockwise": "counterclockwise",
}
_OPPOSITE |= {b: a for a, b in _OPPOSITE.items()} | {
    "anticlockwise": "clockwise",
    "counter-clockwise": "clockwise",
    "anti-clockwise": "clockwise",
}
_SIDES = re.compile(rf"\b({'|'.join(sorted(_OPPOSITE, key=len, reverse=True))})\b", re.IGNORECASE)


def mirror_caption(text: str) -> str:
    """The caption of the mirrored motion: left and right, and senses of rotation, swapped.

    Works on captions and on ``word/POS`` tokens. "left" as the past of "leave" is swapped too,
    as in HumanML3D.
    """

    def opposite(match: re.Match[str]) -> str:
        word = _OPPOSITE[match[0].lower()]
        return word.capitalize() if match[0][0].isupper() else word

    return _SIDES.sub(opposite, text)
