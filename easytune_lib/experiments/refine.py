"""SPL against plain training: what refinement does to retrieval, run by run.

All arms of a seed start from one reward and see the same batches; only the loss differs. A run
is done once, and a killed one goes on from where it last saved.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.checkpoints import fit
from easytune_lib.data.corpus import Clip, Corpus, MotionBatch
from easytune_lib.data.splits import assign_roles
from easytune_lib.metrics.retrieval import protocol_rows, r_precision
from easytune_lib.recipes import MAX_FRAMES, captions_of, fresh_reward
from easytune_lib.records import RunRecord, run_id
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.losses import spm_objective
from easytune_lib.rewards.spl import SPL, OfficialSPL, official_spl_objective, spl_objective
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.storage import load_tensors, save_tensors
from easytune_lib.text.cache import CachedEncoder
from easytune_lib.text.encoders import MiniLM
from easytune_lib.text.table import CaptionTable
from easytune_lib.training import Objective, TrainingPlan, TrainingStep, train
from easytune_lib.types import Prompts
from easytune_lib.workbench import in_parts

TOP = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Arm:
    """One way to go on from the same reward; equal arms are done once."""

    label: str  # the arm's name in figures
    spl: SPL | OfficialSPL | None  # None: no preferences, the plain loss goes on
    seed: int  # of weights, batches and noise, before and after
    corpus: str  # names the clips that reward and tests are made of
    before: int = 600  # steps of contrastive training, the same for all arms of a seed
    steps: int = 100  # of refinement
    every: int = 20  # steps between two looks at retrieval
    lr: float = 3e-4  # of refinement

    @property
    def parameters(self) -> dict[str, Any]:
        """As recorded."""
        spl = None if self.spl is None else {type(self.spl).__name__: vars(self.spl)}
        return asdict(self) | {"spl": spl}

    @property
    def record_id(self) -> str:
        """The folder of this arm's record."""
        return run_id("refine", self.parameters)


class RetrievalTest:
    """Clips that no reward was trained on, by the kind of their captions.

    ``bnr``-like sets have labels and are searched in groups of distinct labels; where no label
    is known, captions are what a group must not hold twice. Since clips without labels are few,
    those that only the judge was trained on are searched, too.
    """

    def __init__(self, corpus: Corpus, table: CaptionTable):
        roles = assign_roles(corpus)
        trained = {clip.id for clip in roles.reward}
        spare = [c for c in corpus.clips if c.split != "train" or c.id not in trained]
        sets = {
            "labels": [c for c in spare if c.label and c.split == "test"],
            "human captions": [c for c in spare if not c.label],
        }
        self.table = table
        self.sets = {
            name: MotionBatch.collate(clips, stream(0, "test"), MAX_FRAMES, crop="start")
            for name, clips in sets.items()
            if len({clip.label or clip.id for clip in clips}) >= 32
        }

    @torch.no_grad()
    def embedded(
        self, model: SPM, name: str
    ) -> tuple[Float[Tensor, "n latent"], Float[Tensor, "n latent"]]:
        """Unit vectors of the captions and of the motions of a set."""
        clips, reward = self.sets[name], AlignmentReward(model)
        asked = Prompts(self.table(clips.texts), clips.lengths)
        motion = in_parts(reward.embed, clips.features, asked)
        return F.normalize(reward.embed_text(asked.text), dim=-1), F.normalize(motion, dim=-1)

    def names(self, name: str) -> Sequence[str]:
        """What no group of a set may hold twice."""
        clips = self.sets[name]
        return clips.labels if all(clips.labels) else clips.texts

    def recalls(self, model: SPM) -> list[dict[str, Any]]:
        """Recall at 1, 2, 3, 5 and 10 in groups of 32, in both directions, of each set."""
        rows = []
        for name in self.sets:
            text, motion = self.embedded(model, name)
            for direction, pair in (("t2m", (text, motion)), ("m2t", (motion, text))):
                rng = stream(0, "groups", name)
                found = r_precision(*pair, self.names(name), rng=rng, top=TOP)
                rows += [
                    {"set": name, "direction": direction, "k": k, "recall": found.r(k)} for k in TOP
                ]
        return rows

    def protocols(self, model: SPM) -> list[dict[str, Any]]:
        """Every protocol of :func:`protocol_rows`, with intervals over queries."""
        return [
            {"set": name, **row}
            for name in self.sets
            for row in protocol_rows(
                *self.embedded(model, name), rng=stream(0, "protocols", name),
                labels=self.names(name), captions=self.table(self.sets[name].texts).sentence,
                draws=500,
            )
        ]  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What all arms share: clips, captions and tests."""

    clips: tuple[Clip, ...]  # what the reward is trained on
    corpus: Corpus
    table: CaptionTable
    test: RetrievalTest


def open_bench(corpus: Corpus) -> Bench:
    """Encode a corpus's captions and set its tests aside.

    Raises:
        ValueError: A split is missing.
    """
    table = CaptionTable(CachedEncoder(MiniLM()), captions_of(corpus.clips))
    roles = assign_roles(corpus)
    return Bench(roles.reward, corpus, table, RetrievalTest(corpus, table))


def starting_point(bench: Bench, arm: Arm, scratch: Path) -> Iterator[TrainingStep]:
    """Train the reward that all arms of a seed start from; :func:`load_start` reads it."""
    path = _start(arm, scratch)
    if path.exists():
        return
    model = fresh_reward(bench.corpus, arm.seed)
    plan = _plan("spm", arm.before, 1e-3, arm.seed)
    objective = spm_objective(model, bench.clips, bench.table)
    state = path.with_suffix(".training.safetensors")
    yield from train(model, objective, plan, state)
    save_tensors(path, model.state_dict(), {"network": model.config, "plan": asdict(plan)})
    state.unlink(missing_ok=True)


def load_start(bench: Bench, arm: Arm, scratch: Path) -> SPM:
    """The reward before refinement.

    Raises:
        ValueError: It was not trained yet.
    """
    path = _start(arm, scratch)
    tensors, _ = load_tensors(path)
    model = fresh_reward(bench.corpus, arm.seed)
    fit(model, tensors, path)
    return model.eval()


def refined(bench: Bench, arm: Arm, scratch: Path) -> Iterator[TrainingStep]:
    """Refine, look at retrieval every ``arm.every`` steps, and write the arm's record.

    The record has ``tables["recall"]``, rows of :meth:`RetrievalTest.recalls` with ``step``
    (0 is before), ``tables["protocols"]`` of the end, and ``series``: the terms of the loss at
    each step, ``refined`` among them. An arm whose record exists is done: nothing is yielded.

    Raises:
        ValueError: The starting point was not trained yet.
    """
    if RunRecord.find(scratch, "refine", arm.parameters) is not None:
        return
    model = deepcopy(load_start(bench, arm, scratch)).requires_grad_()
    plan = _plan("refine", arm.steps, arm.lr, arm.seed, save_every=arm.every)
    looks = [{"step": 0, **row} for row in bench.test.recalls(model)]
    terms: list[dict[str, float]] = []
    for step in train(model, _objective(bench, model, arm), plan):
        terms.append(step.parts)
        if step.step % arm.every == 0 or step.step == arm.steps:
            model.eval()
            looks += [{"step": step.step, **row} for row in bench.test.recalls(model)]
            model.train()
        yield step
    RunRecord(
        "refine",
        arm.parameters,
        series={name: [part[name] for part in terms] for name in terms[0]},
        tables={"recall": looks, "protocols": bench.test.protocols(model)},
    ).save(scratch)


def run_arms(
    bench: Bench, arms: Sequence[Arm], scratch: Path, report: Callable[[str], None]
) -> list[RunRecord]:
    """All arms' records, in order; what is done is not done again.

    Args:
        bench: What they share.
        arms: Of any seeds.
        scratch: For starting points and records.
        report: Is given a line now and then, with the time left of the arm under way.
    """
    for number, arm in enumerate(arms, 1):
        for what, stage in (("trained", starting_point), ("refined", refined)):
            for step in stage(bench, arm, scratch):
                if step.step % 100 == 0 or step.step == step.steps:
                    report(
                        f"[{number}/{len(arms)}] {arm.label}, seed {arm.seed}: {what} for "
                        f"{step.step} of {step.steps} steps, {step.eta / 60:.1f} min left"
                    )
    return [RunRecord.load(scratch / arm.record_id) for arm in arms]


def recall_rows(arms: Sequence[Arm], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Recall of the last look of each arm, and of the start, once a seed, as model "before".

    ``trained`` is for how many steps the start was trained.
    """
    rows, seen = [], set()
    for arm, record in zip(arms, records, strict=True):
        last = max(row["step"] for row in record.tables["recall"])
        for row in record.tables["recall"]:
            model = {0: "before", last: arm.label}.get(row["step"])
            key = (model, arm.seed, arm.before, row["set"], row["direction"], row["k"])
            if model is not None and key not in seen:
                seen.add(key)
                rows.append({"model": model, "seed": arm.seed, "trained": arm.before, **row})
    return rows


def win_rows(
    arms: Sequence[Arm], records: Sequence[RunRecord], label: str, against: str
) -> list[dict[str, Any]]:
    """How often one arm's checkpoint is better than the other's of the same seed and step.

    The analogue of the paper's Figure 8. A tie counts half.

    Args:
        arms: With both labels.
        records: Of the arms.
        label: The arm that may win.
        against: The other one.
    """
    looks: dict[tuple[str, int], Mapping[tuple[Any, ...], float]] = {
        (arm.label, arm.seed): {
            (row["step"], row["set"], row["direction"], row["k"]): row["recall"]
            for row in record.tables["recall"]
            if row["step"]
        }
        for arm, record in zip(arms, records, strict=True)
    }
    counts: dict[tuple[str, int], list[float]] = {}
    for seed in sorted({arm.seed for arm in arms if (label, arm.seed) in looks}):
        mine, theirs = looks[label, seed], looks[against, seed]
        for key, value in mine.items():
            won = 0.5 if value == theirs[key] else float(value > theirs[key])
            counts.setdefault((key[1], key[3]), []).append(won)
    return [
        {"set": name, "k": k, "wins": sum(won), "pairs": len(won), "rate": sum(won) / len(won)}
        for (name, k), won in counts.items()
    ]


def sweep_rows(arms: Sequence[Arm], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Of each arm with SPL: ``k``, ``pool``, the mean share ``refined``, and the ``gain``.

    The gain is in points of R@1 from the first look to the last, a mean over sets and directions.
    """

    def r1(record: RunRecord, step: int) -> float:
        looks = [r for r in record.tables["recall"] if (r["k"], r["step"]) == (1, step)]
        return sum(row["recall"] for row in looks) / len(looks)

    return [
        {
            "k": arm.spl.top_k,
            "pool": arm.spl.pool,
            "seed": arm.seed,
            "refined": sum(record.series["refined"]) / arm.steps,
            "gain": 100 * (r1(record, arm.steps) - r1(record, 0)),
        }
        for arm, record in zip(arms, records, strict=True)
        if isinstance(arm.spl, SPL)
    ]


def share_series(
    arms: Sequence[Arm], records: Sequence[RunRecord], names: Sequence[str] = ("refined", "pulled")
) -> dict[str, list[float]]:
    """Per arm, the share of captions a step that are refined (or pulled), a mean over seeds."""
    series: dict[str, list[list[float]]] = {}
    for arm, record in zip(arms, records, strict=True):
        for name in names:
            if name in record.series:
                series.setdefault(f"{name}/{arm.label}", []).append(record.series[name])
    return {
        key: [sum(step) / len(step) for step in zip(*seeds, strict=True)]
        for key, seeds in series.items()
    }


def _objective(bench: Bench, model: SPM, arm: Arm) -> Objective:
    if isinstance(arm.spl, SPL):
        return spl_objective(model, bench.clips, bench.table, arm.spl)
    if isinstance(arm.spl, OfficialSPL):
        return official_spl_objective(model, bench.clips, bench.table, arm.spl)
    return spm_objective(model, bench.clips, bench.table)


def _plan(name: str, steps: int, lr: float, seed: int, save_every: int = 50) -> TrainingPlan:
    return TrainingPlan(
        name, steps, lr, seed, warmup=20, weight_decay=1e-2, ema=0.0, save_every=save_every
    )


def _start(arm: Arm, scratch: Path) -> Path:
    asked = asdict(replace(arm, label="", spl=None, steps=0, every=0, lr=0.0))
    return scratch / f"{run_id('start', asked)}.safetensors"
