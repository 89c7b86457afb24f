"""Reward hacking made visible: an over-long fine-tuning, looked at again and again.

At every look the reward, which the model is trained on, stands beside what no training saw: the
judge, kinematics, diversity, and the distance from the base.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import rollout, sample
from easytune_lib.experiments.compare import with_weights
from easytune_lib.experiments.tune import Progress, resume_state, save_state
from easytune_lib.finetuning.anchor import Anchor
from easytune_lib.finetuning.loop import batches, copy_for_tuning, finetune
from easytune_lib.finetuning.methods import recorded
from easytune_lib.metrics.report import embed_motions
from easytune_lib.plan import GradientPlan
from easytune_lib.records import RunRecord, run_id
from easytune_lib.seeding import stream
from easytune_lib.storage import save_tensors
from easytune_lib.types import FineTuneMethod
from easytune_lib.workbench import Base, Workbench, evaluate, in_parts


@dataclass(frozen=True)
class Course:
    """What one over-long run is; equal courses are done once."""

    base: Base
    weights: str  # digest of the bench's files
    label: str  # its name in figures
    method: FineTuneMethod
    lr: float
    seed: int  # of prompts, noise and the method's choices
    updates: int = 300
    every: int = 30  # updates between two looks
    batch_size: int = 32
    n_steps: int = 20
    prompts: int = 96  # judged at a look, of each split; 0 = all
    anchor: float = 0.0  # see Anchor

    @property
    def parameters(self) -> dict[str, Any]:
        """As recorded."""
        return asdict(self) | {"method": recorded(self.method)}

    @property
    def record_id(self) -> str:
        """The folder of this course's record."""
        return run_id("hacking", self.parameters)


def overtrained(bench: Workbench, course: Course, scratch: Path) -> Iterator[Progress]:
    """Run a course, with a look at the start and every ``course.every`` updates.

    Writes a record with ``tables["looks"]``, the rows of every :func:`look`, and beside it the
    tuned weights. A course whose record exists is done; a killed one goes on from its last look.

    Raises:
        ValueError: The bench has other weights than the course is for.
    """
    if RunRecord.find(scratch, "hacking", course.parameters) is not None:
        return
    if course.weights != bench.digest:
        raise ValueError(
            f"the course is for weights {course.weights}, the bench has {bench.digest}"
        )
    base = replace(bench.model, n_steps=course.n_steps)
    model = copy_for_tuning(base)
    weights = list(model.denoiser.parameters())
    optimizer = torch.optim.AdamW(weights, lr=course.lr, weight_decay=0.0, fused=True)
    state = scratch / course.record_id / "state.safetensors"
    curve, start, _ = resume_state(state, model.denoiser, optimizer)
    curve.setdefault("looks", [])
    if not curve["looks"]:
        curve["looks"] += look(bench, model, 0, course.prompts)
    anchor = Anchor(base, course.anchor) if course.anchor else None
    pool = bench.prompts["finetune"].prompts
    given = batches(model, pool, course.batch_size, course.seed, start)
    updates = finetune(model, bench.reward, given, course.method, optimizer, anchor=anchor)
    for update in updates if len(curve["reward"]) < course.updates else ():
        curve["reward"].append(update.reward)
        count = len(curve["reward"])
        yield Progress(
            course.label, course.seed, count, update.reward, 0.0, min(count / course.updates, 1.0)
        )
        done = count >= course.updates
        due = count // course.every > curve["looks"][-1]["updates"] // course.every
        if update.last and (done or due):
            curve["looks"] += look(bench, model, count, course.prompts)
            save_state(state, model.denoiser, optimizer, curve, update.batch + 1, 0.0)
        if update.last and done:
            break
    network = {"network": getattr(model.denoiser, "config", {})}
    save_tensors(weights_of(course, scratch), model.denoiser.state_dict(), network)
    RunRecord(
        "hacking", course.parameters, series={"reward": curve["reward"]},
        tables={"looks": curve["looks"]},
    ).save(scratch)  # fmt: skip
    state.unlink(missing_ok=True)


def weights_of(course: Course, scratch: Path) -> Path:
    """Where the tuned weights of a finished course are."""
    return scratch / course.record_id / "tuned.safetensors"


def look(
    bench: Workbench, model: MotionDiffusion, updates: int, prompts: int = 0
) -> list[dict[str, Any]]:
    """Reward, judge, kinematics, diversity, and the distance from the base, of one model.

    One row a split ("validation" and "test"), with ``updates``, all that :func:`evaluate` says,
    ``drift`` (see :func:`drift`) and ``moved`` (see :func:`moved`).

    Args:
        bench: Whose base, reward, judge and prompts.
        model: The base itself, or one that was tuned; its number of sampling steps is taken.
        updates: What it was tuned for.
        prompts: Judged of each split; 0 takes all.
    """
    base = replace(bench.model, n_steps=model.n_steps)
    away = {"updates": updates, "drift": drift(bench, base, model), "moved": moved(base, model)}
    return [
        {"split": split, **away, **evaluate(bench, model, split, [0], prompts)[0]}
        for split in ("validation", "test")
    ]


def examined(
    bench: Workbench, files: Sequence[Path | str], label: str, seed: int = 0, prompts: int = 0
) -> list[dict[str, Any]]:
    """The same looks at models that were tuned elsewhere, by any method and any reward.

    The first look is at the base; ``updates`` counts the files. The rows are those of
    :func:`look_rows`, for :func:`parting_rows`.

    Args:
        bench: Whose base they were tuned from.
        files: Weights of its denoiser, in the order in which they were saved.
        label: Their name in figures.
        seed: Of their training, where there are several.
        prompts: Judged of each split; 0 takes all.

    Raises:
        ValueError: A file cannot be read, or holds another network; says what.
    """
    models = [bench.model, *(with_weights(bench.model, file) for file in files)]
    return [
        {"method": label, "seed": seed, "anchor": 0.0, **row}
        for count, model in enumerate(models)
        for row in look(bench, model, count, prompts)
    ]


@torch.no_grad()
def drift(
    bench: Workbench, base: MotionDiffusion, model: MotionDiffusion, count: int = 32
) -> float:
    """Mean squared distance of the two models' noise estimates along the base's rollout.

    Args:
        bench: Whose validation prompts.
        base: Whose rollout is followed.
        model: The tuned model.
        count: Prompts.
    """
    prompts = bench.prompts["validation"].first(count).prompts
    x_T = base.draw_noise(prompts, stream(0, "drift"))
    plan = GradientPlan(frozenset(), frozenset({base.n_steps - 1}))
    apart = [
        (model.noise_estimate(step.x_t, step.now, prompts) - step.noise).square().mean()
        for step in rollout(base, x_T, prompts, plan)
    ]
    return float(torch.stack(apart).mean())


@torch.no_grad()
def moved(base: MotionDiffusion, model: MotionDiffusion) -> float:
    """Euclidean distance of the denoisers' weights, relative to the base's norm."""
    pairs = zip(base.denoiser.parameters(), model.denoiser.parameters(), strict=True)
    parts = [(float((b - a).square().sum()), float(a.square().sum())) for a, b in pairs]
    apart, norm = (sum(column) for column in zip(*parts, strict=True))
    return (apart / norm) ** 0.5


def run_courses(
    bench: Workbench, courses: Sequence[Course], scratch: Path, report: Callable[[str], None]
) -> list[RunRecord]:
    """All courses' records, in order; what is done is not done again."""
    for number, course in enumerate(courses, 1):
        for step in overtrained(bench, course, scratch):
            if step.updates % course.every == 0:
                report(
                    f"[{number}/{len(courses)}] {course.label}, seed {course.seed}: "
                    f"{step.updates} of {course.updates} updates, reward {step.reward:.3f}"
                )
    return [RunRecord.load(scratch / course.record_id) for course in courses]


def look_rows(courses: Sequence[Course], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """All looks, with the course's label, seed and anchor."""
    return [
        {"method": course.label, "seed": course.seed, "anchor": course.anchor, **row}
        for course, record in zip(courses, records, strict=True)
        for row in record.tables["looks"]
    ]


def parting_rows(rows: Sequence[dict[str, Any]], metric: str = "mm_dist") -> list[dict[str, Any]]:
    """Where reward and judge part, per course; and what early stopping there would have given.

    The look with the lowest ``metric`` on *validation* is where to stop. Reward and judge have
    parted if the validation reward is higher at the end than there. What was gained and lost is
    reported on *test*.

    Args:
        rows: Of :func:`look_rows`.
        metric: A column of the judge of which less is better.
    """
    told = ("reward", "r1", metric, "fid", "diversity", "foot_skate", "jerk", "drift")
    result = []
    for label, seed in dict.fromkeys((row["method"], row["seed"]) for row in rows):
        own = [row for row in rows if (row["method"], row["seed"]) == (label, seed)]
        validation, test = (
            {row["updates"]: row for row in own if row["split"] == split}
            for split in ("validation", "test")
        )
        stop = min(validation, key=lambda updates: validation[updates][metric])
        end = max(validation)
        result.append({
            "method": label, "seed": seed, "stop": stop, "end": end,
            "parted": validation[end]["reward"] > validation[stop]["reward"],
            **{
                f"{name}_{when}": test[at][name]
                for name in told
                for when, at in (("start", 0), ("stop", stop), ("end", end))
            },
        })  # fmt: skip
    return result


@torch.no_grad()
def agreement(
    bench: Workbench,
    model: MotionDiffusion,
    split: str = "test",
    noise_seeds: int = 4,
    count: int = 0,
) -> dict[str, float]:
    """Do reward and judge rank generated motions alike? Spearman's correlation, two ways.

    ``across``: over all captions with their motions, where easy captions please both; and
    ``within``: over the motions of one caption under several noises, a mean over captions, which
    is what a fine-tuning can exploit. 1 means that the judge adds nothing to the reward.

    Args:
        bench: Whose reward, judge and prompts.
        model: What generates.
        split: Of the prompts.
        noise_seeds: Motions a caption; at least 3.
        count: Prompts; 0 takes all.
    """
    chosen = bench.prompts[split].first(count).prompts
    text = bench.judge.embed_text(chosen.texts)
    rewards, nearness = [], []
    for seed in range(noise_seeds):
        motion = sample(model, chosen, stream(seed, "agreement"))
        rewards.append(in_parts(bench.reward, motion, chosen))
        seen = embed_motions(bench.judge, motion, chosen.lengths)
        nearness.append(-(text - seen).norm(dim=1))
    a, b = torch.stack(rewards, dim=1), torch.stack(nearness, dim=1)
    within = [_spearman(x, y) for x, y in zip(a, b, strict=True)]
    return {"across": _spearman(a.flatten(), b.flatten()), "within": sum(within) / len(within)}


def _spearman(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of the ranks."""
    return float(np.corrcoef(rankdata(a.numpy()), rankdata(b.numpy()))[0, 1])
