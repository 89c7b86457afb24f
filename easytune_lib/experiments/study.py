"""A blind preference study: which of two motions fits its caption better?

Two models move to the same captions from the same noise. A rater sees both motions as left and
right. Which stands where is drawn from the stream (seed of the study, rater, pair); a vote says
only "left", "right" or "same". So nobody who votes, or reads the file of votes, sees whose
motion was preferred before :func:`tally` looks it up.
"""

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import bdtr, betaincinv
from torch import Tensor

from easytune_lib.choices import check_choices
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import sample
from easytune_lib.metrics.judge import Judge
from easytune_lib.metrics.report import embed_motions
from easytune_lib.motion.features import to_motion
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import skeleton_of
from easytune_lib.seeding import numpy_stream, stream
from easytune_lib.storage import load_tensors, save_tensors, write_atomic
from easytune_lib.types import Prompts, Reward

Choice = Literal["left", "same", "right"]

SAME = "same"
NO_CLOCK = datetime(1970, 1, 1, tzinfo=UTC)
"""When those vote who need no time."""


@dataclass(frozen=True, eq=False)
class Study:
    """Pairs of motions, and the key to who stands where.

    Raises:
        ValueError: The systems' names are equal or "same", there are no pairs, the numbers of
            captions, lengths and motions differ, or a length is none of the motions'.
    """

    systems: tuple[str, str]  # the reference first, for instance ("base", "tuned")
    texts: tuple[str, ...]
    lengths: Int[Tensor, " pairs"]  # frames
    motion: Float[Tensor, "2 pairs frames features"]  # physical units, zero where padded
    seed: int  # of the sides, and of the order of pairs

    def __post_init__(self) -> None:
        """Check what the annotations cannot say."""
        if len({*self.systems, SAME}) < 3:
            raise ValueError(f'systems need two names, none of them "{SAME}": got {self.systems}')
        pairs, frames = len(self.texts), self.motion.shape[-2]
        if not pairs or self.lengths.shape != (pairs,) or self.motion.shape[:-2] != (2, pairs):
            raise ValueError(
                f"{pairs} captions for lengths {tuple(self.lengths.shape)} and motions "
                f"{tuple(self.motion.shape)}: expected (pairs,) and (2, pairs, frames, features)"
            )
        if not 1 <= int(self.lengths.min()) <= int(self.lengths.max()) <= frames:
            raise ValueError(f"lengths are 1 to {frames} frames, got {self.lengths.tolist()}")

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def id(self) -> str:
        """Of captions, motions, names and seed: 12 hex digits. Votes name the study they are of."""
        words = json.dumps([self.systems, self.texts, self.lengths.tolist(), self.seed])
        content = self.motion.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
        return hashlib.sha256(words.encode() + content).hexdigest()[:12]

    def order(self, rater: str) -> list[int]:
        """The pairs, in the order in which this rater sees them."""
        return numpy_stream(self.seed, "order", rater).permutation(len(self)).tolist()

    def on_the_left(self, rater: str, pair: int) -> int:
        """Which system this rater sees on the left: 0 or 1."""
        return int(numpy_stream(self.seed, "sides", rater, pair).integers(2))

    def shown(self, rater: str, pair: int) -> tuple[Motion, Motion]:
        """The left and the right motion of a pair, as this rater sees them."""
        text, length, left = (
            self.texts[pair],
            int(self.lengths[pair]),
            self.on_the_left(rater, pair),
        )
        of = [
            to_motion(motion[:length], skeleton_of(motion.shape[1]), text)
            for motion in self.motion[:, pair]
        ]
        return of[left], of[1 - left]

    def verdict(self, vote: "Vote") -> str:
        """The system that was preferred, or "same".

        Raises:
            ValueError: The vote is of another study, or of a pair that there is not.
        """
        if vote.study != self.id:
            raise ValueError(f"a vote of study {vote.study} by {vote.rater}; this is {self.id}")
        if vote.pair >= len(self):
            raise ValueError(f"a vote on pair {vote.pair} by {vote.rater}; there are {len(self)}")
        if vote.choice == SAME:
            return SAME
        left = self.on_the_left(vote.rater, vote.pair)
        return self.systems[left if vote.choice == "left" else 1 - left]

    def save(self, path: Path) -> Path:
        """Write all of it, motions and key, atomically; raters elsewhere need this file."""
        config = {"systems": self.systems, "texts": self.texts, "seed": self.seed}
        tensors = {"motion": self.motion.float(), "lengths": self.lengths}
        return save_tensors(path, tensors, {"study": config})

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: The file is missing or holds no study.
        """
        tensors, config = load_tensors(path)
        try:
            written = config["study"]
            first, second = map(str, written["systems"])
            texts, seed = tuple(map(str, written["texts"])), int(written["seed"])
            return cls((first, second), texts, tensors["lengths"], tensors["motion"], seed)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no study: write one by Study.save") from error


def build_study(models: Mapping[str, MotionDiffusion], prompts: Prompts, seed: int) -> Study:
    """Let two models move to the same prompts, from the same noise.

    Args:
        models: By name, the reference first.
        prompts: One a pair.
        seed: Of the noise, the sides and the order.

    Raises:
        ValueError: There are not two models, or no prompts.
    """
    if len(models) != 2:
        raise ValueError(f"a study compares 2 models, got {len(models)}: {', '.join(models)}")
    motion = [sample(model, prompts, stream(seed, "study")) for model in models.values()]
    first, second = models
    return Study((first, second), prompts.texts, prompts.lengths, torch.stack(motion), seed)


@dataclass(frozen=True)
class Vote:
    """What one rater said of one pair, by side.

    Raises:
        ValueError: A field is not what is expected; says which.
    """

    study: str
    rater: str  # letters, digits, - and _
    pair: int
    choice: Choice
    seconds: float  # that the pair was seen
    at: datetime = NO_CLOCK

    def __post_init__(self) -> None:
        """Check what comes from files."""
        check_choices(self)
        check_rater(self.rater)
        if self.pair < 0 or not 0 <= self.seconds < math.inf or self.at.tzinfo is None:
            raise ValueError(
                f"pair {self.pair}, {self.seconds} seconds, at {self.at}: expected numbers from 0 "
                "on, and a time with its zone"
            )

    @property
    def line(self) -> str:
        """As in the file."""
        at = self.at.astimezone(UTC).isoformat(timespec="milliseconds")
        return json.dumps(vars(self) | {"at": at})

    @classmethod
    def parse(cls, line: bytes | str) -> "Vote":
        """Read a line of a file.

        Raises:
            ValueError: It is no vote.
        """
        try:
            said = json.loads(line)
            words = [said[name] for name in ("study", "rater", "choice", "at")]
            pair, seconds = said["pair"], float(said["seconds"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(f"no vote ({error}): {line[:80]!r}") from error
        study, rater, choice, when = words
        if not all(isinstance(word, str) for word in words) or type(pair) is not int:
            raise ValueError(f"no vote: {line[:80]!r}")
        if choice not in get_args(Choice):
            raise ValueError(f"a vote is one of {', '.join(get_args(Choice))}, got {choice[:80]!r}")
        return cls(study, rater, pair, choice, seconds, datetime.fromisoformat(when))


def check_rater(name: str) -> None:
    """Accept names that are safe as part of a file's name.

    Raises:
        ValueError: The name holds anything but letters (a to z), digits, - and _; or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
        raise ValueError(
            f"a rater's name is 1 to 40 letters (a to z), digits, - and _: {name[:60]!r}"
        )


class Votes:
    """The votes of one rater on one study, and their file, to which each is added as a line.

    Places are counted in the rater's own order. A kill loses at most the vote under way: a last
    line that is not whole is cut off, and ``notice`` says so.

    Args:
        study: What is voted on.
        rater: Whose votes.
        folder: Where ``<study>-<rater>.jsonl`` is, or will be.

    Raises:
        ValueError: The name is none, or the file holds something else.
    """

    def __init__(self, study: Study, rater: str, folder: Path) -> None:
        check_rater(rater)
        self.study, self.rater = study, rater
        self.path = Path(folder) / f"{study.id}-{rater}.jsonl"
        self.order = study.order(rater)
        self.cast_so_far: list[Vote] = []
        self.notice = ""
        if self.path.exists():
            self.cast_so_far, self.notice = read_votes(self.path)
            for vote in self.cast_so_far:
                study.verdict(vote)
                if vote.rater != rater:  # names may differ in case alone, files may not
                    raise ValueError(f"{self.path} holds votes of {vote.rater!r}, not of {rater!r}")
            if self.notice:
                whole = self.path.read_bytes().rpartition(b"\n")
                os.truncate(self.path, len(whole[0]) + len(whole[1]))

    @cached_property
    def pairs(self) -> list[tuple[Motion, Motion]]:
        """Left and right motion, in the rater's order."""
        return [self.study.shown(self.rater, pair) for pair in self.order]

    @property
    def answers(self) -> dict[int, Choice]:
        """The choice at each place that was voted on."""
        place = {pair: i for i, pair in enumerate(self.order)}
        return {place[vote.pair]: vote.choice for vote in latest(self.cast_so_far)}

    def cast(self, place: int, choice: Choice, seconds: float) -> Vote:
        """Add a vote; a second one at the same place replaces the first.

        Raises:
            ValueError: There is no such place or choice.
            OSError: The file cannot be written; it is left as it was.
        """
        if not 0 <= place < len(self.order):
            raise ValueError(f"place {place} of {len(self.order)}")
        pair, now = self.order[place], datetime.now(UTC)
        at = max([now, *(vote.at for vote in self.cast_so_far)])  # clocks may be set back
        vote = Vote(self.study.id, self.rater, pair, choice, round(seconds, 2), at)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (vote.line + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) != len(line):
                    raise OSError(f"{self.path} takes no more: is the disk full?")
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(start)
                raise
        self.cast_so_far.append(vote)
        return vote


def read_votes(path: Path) -> tuple[list[Vote], str]:
    """The votes of a file, and a message if its last line is not whole and was left out.

    Raises:
        ValueError: The file cannot be read, or a whole line is no vote; says which.
    """
    try:
        whole, _, half = Path(path).read_bytes().rpartition(b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    votes = []
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            votes.append(Vote.parse(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    cut = f"{Path(path).name}: the last line was written by half and left out: vote again"
    return votes, cut if half else ""


def latest(votes: Iterable[Vote]) -> list[Vote]:
    """One vote a rater and pair: the last."""
    last: dict[tuple[str, int], Vote] = {}
    for vote in sorted(votes, key=lambda vote: vote.at):  # stable: equal times keep their order
        last[vote.rater, vote.pair] = vote
    return list(last.values())


def merge(study: Study, paths: Iterable[Path]) -> tuple[list[Vote], list[str]]:
    """The votes of several files, each rater's last vote on a pair once; and what was left out.

    Args:
        study: What all of them must be of.
        paths: Files of :class:`Votes`, in any order; copies of one file count once.

    Raises:
        ValueError: A file is of another study, or is no file of votes.
    """
    votes, notices = [], []
    for path in paths:
        found, notice = read_votes(path)
        for vote in found:
            try:
                study.verdict(vote)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        votes += found
        notices += [notice] if notice else []
    return latest(votes), notices


def export_csv(study: Study, votes: Iterable[Vote], path: Path) -> Path:
    """Write votes with captions and what the sides stood for: the blind ends here."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(
        ["study", "rater", "pair", "caption", "left", "right", "choice", "preferred", "seconds",
         "at"]
    )  # fmt: skip
    for vote in latest(votes):
        preferred, left = study.verdict(vote), study.on_the_left(vote.rater, vote.pair)
        names = (study.systems[left], study.systems[1 - left])
        caption = study.texts[vote.pair]
        if caption.startswith(("=", "+", "-", "@", "\t", "\r")):
            caption = f"'{caption}"  # a caption is no formula of a spreadsheet
        table.writerow(
            [vote.study, vote.rater, vote.pair, caption, *names, vote.choice, preferred,
             vote.seconds, vote.at.isoformat()]
        )  # fmt: skip
    return write_atomic(Path(path), text.getvalue().encode())


@dataclass(frozen=True)
class Share:
    """A count of votes, and the exact 95 % interval of its share."""

    count: int
    of: int

    @property
    def share(self) -> float | None:
        """0 to 1; ``None`` of no votes."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson (1934): covers the truth in at least 95 % of studies."""
        wins, losses = self.count, self.of - self.count
        low = float(betaincinv(wins, losses + 1, 0.025)) if wins else 0.0
        high = float(betaincinv(wins + 1, losses, 0.975)) if losses else 1.0
        return low, high

    def row(self, name: str) -> dict[str, Any]:
        """As columns ``name``, ``name_share``, ``name_low``, ``name_high``."""
        low, high = self.interval
        return {name: self.count, f"{name}_share": self.share, f"{name}_low": low,
                f"{name}_high": high}  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """What was preferred how often.

    The intervals take votes as independent. Several raters on one pair are not quite: then read
    each rater's own tally, or that of their :func:`consensus`.
    """

    systems: tuple[str, str]
    first: Share
    same: Share
    second: Share
    left: Share  # of the votes for a side: far from one half is a bias
    sign_test: float  # two-sided p that both systems win equally often, ties left out

    def row(self, rater: str) -> dict[str, Any]:
        """As a row of a table, with columns named after the systems."""
        names = (self.systems[0], SAME, self.systems[1])
        shares = zip(names, (self.first, self.same, self.second), strict=True)
        columns = [share.row(name) for name, share in shares] + [self.left.row("left")]
        row = {"rater": rater, "votes": self.same.of, "sign_test": self.sign_test}
        return row | {key: value for part in columns for key, value in part.items()}


def tally(votes: Iterable[Vote], study: Study) -> Tally:
    """Count what the votes stand for; each rater's last vote on a pair counts.

    Raises:
        ValueError: A vote is of another study.
    """
    votes = latest(votes)
    found = [study.verdict(vote) for vote in votes]
    first, same, second = (found.count(k) for k in (study.systems[0], SAME, study.systems[1]))
    lefts, sided = sum(vote.choice == "left" for vote in votes), first + second
    return Tally(
        study.systems, Share(first, len(votes)), Share(same, len(votes)), Share(second, len(votes)),
        Share(lefts, sided), min(1.0, 2 * float(bdtr(min(first, second), sided, 0.5))),
    )  # fmt: skip


def consensus(votes: Iterable[Vote], study: Study) -> list[Vote]:
    """One vote a pair, by a rater "consensus": the system with more votes, else "same".

    Pairs are independent where votes of several raters are not, so this is what exact intervals
    are for.
    """
    worth = {study.systems[0]: -1.0, SAME: 0.0, study.systems[1]: 1.0}
    balance: dict[int, float] = {}
    for vote in latest(votes):
        balance[vote.pair] = balance.get(vote.pair, 0.0) + worth[study.verdict(vote)]
    return [_vote_for(study, "consensus", pair, sign) for pair, sign in sorted(balance.items())]


def votes_by_score(
    study: Study, rater: str, scores: Float[Tensor, "2 pairs"], same: float = 0.0
) -> list[Vote]:
    """Votes of a rater who is a formula: the higher score of a pair is preferred.

    Args:
        study: What is voted on.
        rater: Its name.
        scores: Of both systems' motions.
        same: Share of pairs, 0 to 1, that it calls the same: those whose scores differ least.

    Raises:
        ValueError: A score is not finite; there are not as many as pairs; ``same`` is no share.
    """
    if scores.shape[1] != len(study) or not scores.isfinite().all():
        raise ValueError(f"{scores.shape[1]} pairs of scores for {len(study)} pairs, or NaN")
    if not 0 <= same <= 1:
        raise ValueError(f"same is a share of pairs, 0 to 1, got {same}")
    gain = scores[1] - scores[0]
    gain[gain.abs().argsort(stable=True)[: round(same * len(study))]] = 0
    return [_vote_for(study, rater, pair, float(g)) for pair, g in enumerate(gain)]


def _vote_for(study: Study, rater: str, pair: int, sign: float) -> Vote:
    """A vote for the second system (positive), the first (negative) or none."""
    if sign == 0:
        return Vote(study.id, rater, pair, SAME, 0.0)
    left = study.on_the_left(rater, pair) == (sign > 0)
    return Vote(study.id, rater, pair, "left" if left else "right", 0.0)


@torch.no_grad()
def judge_scores(judge: Judge, study: Study) -> Float[Tensor, "2 pairs"]:
    """The judge's distance of caption and motion (MM-Dist), negative: higher is better."""
    text = judge.embed_text(study.texts)
    embedded = [embed_motions(judge, motion, study.lengths) for motion in study.motion]
    return torch.stack([-(text - motion).norm(dim=1) for motion in embedded])


@torch.no_grad()
def reward_scores(reward: Reward, prompts: Prompts, study: Study) -> Float[Tensor, "2 pairs"]:
    """The reward of every motion; ``prompts`` are those that the study was built on.

    Raises:
        ValueError: They are not.
    """
    if prompts.texts != study.texts or not prompts.lengths.equal(study.lengths):
        raise ValueError("these are not the study's prompts: captions or lengths differ")
    return torch.stack([reward(motion, prompts) for motion in study.motion])


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on the pairs that all of them voted on."""

    statistic: str  # "Cohen's kappa" of two raters, "Fleiss' kappa" of more
    raters: tuple[str, ...]
    pairs: int
    raw: float | None  # share of equal verdicts, over pairs of raters; None of no pairs
    kappa: float | None  # beyond chance: 0 is chance, 1 is full; None where chance is full
    low: float | None  # 95 % bootstrap over pairs
    high: float | None


def agreement(
    votes: Iterable[Vote], study: Study, rng: np.random.Generator, draws: int = 2000
) -> Agreement:
    """Cohen's kappa of two raters, Fleiss' of more, over base, same and tuned.

    Args:
        votes: Of at least two raters.
        study: What they voted on.
        rng: For the bootstrap over pairs.
        draws: Of the bootstrap.

    Raises:
        ValueError: There are fewer than two raters, or a vote is of another study.

    Source: Cohen, 1960; Fleiss, 1971.
    """
    kinds = (study.systems[0], SAME, study.systems[1])
    said = {(v.pair, v.rater): kinds.index(study.verdict(v)) for v in latest(votes)}
    raters = tuple(sorted({rater for _, rater in said}))
    shared = [p for p in range(len(study)) if all((p, r) in said for r in raters)]
    if len(raters) < 2:
        raise ValueError(f"agreement needs at least two raters, got {len(raters)}: {raters}")
    name = "Cohen's kappa" if len(raters) == 2 else "Fleiss' kappa"
    if not shared:
        return Agreement(name, raters, 0, None, None, None, None)
    codes = np.array([[said[p, r] for r in raters] for p in shared])
    raw, kappa = _kappa(codes)
    again = rng.integers(len(codes), size=(draws, len(codes)))
    drawn = [k for rows in again if (k := _kappa(codes[rows])[1]) is not None]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist() if drawn else (None, None)
    return Agreement(name, raters, len(shared), raw, kappa, low, high)


def _kappa(codes: Int[np.ndarray, "pairs raters"]) -> tuple[float, float | None]:
    """Raw agreement, and what of it is beyond chance."""
    pairs, raters = codes.shape
    hits = codes[..., None] == np.arange(3)  # pairs, raters, kinds
    counts = hits.sum(1)
    raw = float(((counts**2).sum(1) - raters).mean() / (raters * (raters - 1)))
    if raters == 2:
        chance = float(hits.mean(0).prod(0).sum())
    else:
        chance = float(((counts.sum(0) / (pairs * raters)) ** 2).sum())
    return raw, (raw - chance) / (1 - chance) if chance < 1 else None


def raters_of(votes: Sequence[Vote]) -> dict[str, list[Vote]]:
    """The votes of each rater."""
    names = dict.fromkeys(vote.rater for vote in votes)
    return {name: [vote for vote in votes if vote.rater == name] for name in names}
