"""How memory and time grow with sampling steps, batch and frames, measured and foretold."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from statistics import median
from typing import Any, Literal

import torch

from easytune_lib.analysis.cost import MIB, Rates, calibrate, cost, saved_by_item, saved_bytes
from easytune_lib.diffusion.rollout import rollout
from easytune_lib.finetuning.loop import Batch, Update, copy_for_tuning, finetune
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod, Prompts
from easytune_lib.workbench import Workbench

Axis = Literal["n_steps", "batch_size", "frames"]

METHODS: dict[str, FineTuneMethod] = {"EasyTune": EasyTune(), "DRaFT": DRaFT()}
"""The two ends: an update at each step, and one through the whole chain."""


@dataclass(frozen=True)
class Point:
    """One size of a training step."""

    n_steps: int = 20
    batch_size: int = 8  # as large as a micro-batch, or larger
    frames: int = 64  # of every motion


def scaling_rows(
    bench: Workbench,
    axes: Mapping[Axis, Sequence[int]],
    start: Point,
    repeats: int = 3,
    updates: int = 4,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Memory of one update, and CPU seconds of one, along each axis; the others stay put.

    The model is never shown a run. Its rates are those of single calls: measured once at
    ``start`` for all numbers of steps, and at the two ends of the other axes, in between which
    they are taken to be straight.

    Args:
        bench: Whose base and reward; no weight of it is changed.
        axes: The values of each, rising.
        start: What the axes have in common.
        repeats: Of each measurement in time; the median counts.
        updates: Timed at once, of a method that makes so many of a batch.

    Returns:
        Rows of ``base``, ``axis``, ``value``, ``method`` and, in the first list, ``saved_mib``
        with what was ``foretold_mib``; in the second, ``seconds`` an update (CPU, of all threads;
        ``seconds_low`` and ``_high`` of the repeats) with ``foretold``.
    """
    model = copy_for_tuning(bench.model)
    bench = replace(bench, model=model)
    held, took = [], []
    for axis, values in axes.items():
        points = [replace(start, **{axis: value}) for value in values]
        if axis == "n_steps":
            rates = [_rates(bench, start, repeats)] * len(points)
        else:
            low, high = (_rates(bench, point, repeats) for point in (points[0], points[-1]))
            span = values[-1] - values[0]
            rates = [blend(low, high, (value - values[0]) / span) for value in values]
        for value, point, rate in zip(values, points, rates, strict=True):
            for name, method in METHODS.items():
                plan = method.plan(point.n_steps, torch.Generator())
                told = cost(plan, method, rate, available_mib=float("inf"))
                row = {"base": bench.base, "axis": axis, "value": value, "method": name}
                memory = saved_bytes(lambda m=method, p=point: list(_updates(bench, m, p, 2)))
                held.append(row | {"saved_mib": memory / MIB, "foretold_mib": told.saved_mib})
                times = sorted(_paces(bench, method, point, repeats, updates))
                took.append(row | {
                    "seconds": median(times), "seconds_low": times[0], "seconds_high": times[-1],
                    "foretold": told.seconds_per_update,
                })  # fmt: skip
    return held, took


def memory_rows(
    bench: Workbench, methods: Mapping[str, FineTuneMethod], batch_size: int = 4, seed: int = 0
) -> list[dict[str, Any]]:
    """The most memory that each method holds for backward, over its first two updates of a batch.

    Args:
        bench: Whose base, reward and prompts; no weight of it is changed.
        methods: By label.
        batch_size: Prompts.
        seed: Of the noise and the methods' choices.
    """
    bench = replace(bench, model=copy_for_tuning(bench.model))
    still = torch.optim.SGD(bench.model.denoiser.parameters(), lr=0.0)
    rows = []
    for label, method in methods.items():
        batch = _batch(bench, batch_size, None, seed)
        run = islice(finetune(bench.model, bench.reward, [batch], method, still), 2)
        memory = saved_bytes(lambda run=run: list(run)) / MIB
        rows.append({"base": bench.base, "method": label, "saved_mib": memory})
    return rows


def held_by_step(
    bench: Workbench, methods: Mapping[str, FineTuneMethod], batch_size: int = 4, seed: int = 0
) -> list[dict[str, Any]]:
    """Memory held for backward after each denoising step, before anything goes backward.

    The denoiser's alone: decoder and reward come after the last step.

    Args:
        bench: Whose base and prompts.
        methods: By label.
        batch_size: Prompts.
        seed: Of the noise and the methods' choices.

    Source: Tan et al. (2026), Fig. 6.
    """
    model = copy_for_tuning(bench.model)
    rows = []
    for label, method in methods.items():
        batch = _batch(bench, batch_size, None, seed)
        plan = method.plan(model.n_steps, batch.rng)
        options = method.rollout_options
        held = saved_by_item(
            rollout(model, batch.x_T, batch.prompts, plan, batch.rng, options=options)
        )
        rows += [
            {"base": bench.base, "method": label, "step": i + 1, "saved_mib": bytes_ / MIB}
            for i, bytes_ in enumerate(held)
        ]
    return rows


def quality_rows(
    summary: Sequence[Mapping[str, Any]],
    costs: Sequence[Mapping[str, Any]],
    base: str,
    metrics: Sequence[str] = ("r1", "mm_dist"),
) -> list[dict[str, Any]]:
    """What the judge says of each method on test prompts beside the memory that it holds (Fig. 1a).

    Args:
        summary: Of a record of methods: rows with ``method``, ``split``, and of each metric mean,
            ``_gain``, ``_gain_low`` and ``_gain_high``.
        costs: Rows with ``method`` and ``saved_mib``; the untouched base needs none.
        base: For the rows.
        metrics: Columns to keep, each with the ends of its 95 % interval over training seeds.
    """
    held = {row["method"]: row["saved_mib"] for row in costs} | {"base": 0.0}
    rows = []
    for row in (row for row in summary if row["split"] == "test" and row["method"] in held):
        line: dict[str, Any] = {"base": base, "method": row["method"]}
        line["saved_mib"] = held[row["method"]]
        for metric in metrics:
            start = row[metric] - row[f"{metric}_gain"]
            line[metric] = row[metric]
            for end in ("low", "high"):
                gain = row[f"{metric}_gain_{end}"]
                line[f"{metric}_{end}"] = None if gain is None else start + gain
        rows.append(line)
    return rows


def blend(first: Rates, last: Rates, share: float) -> Rates:
    """Rates on the straight line from ``first`` (share 0) to ``last`` (share 1)."""
    pairs = ((f.name, getattr(first, f.name), getattr(last, f.name)) for f in fields(Rates))
    return Rates(**{name: (1 - share) * a + share * b for name, a, b in pairs})


def _rates(bench: Workbench, point: Point, repeats: int) -> Rates:
    batch = _batch(bench, point.batch_size, point.frames)
    model = replace(bench.model, n_steps=point.n_steps)
    return calibrate(
        model, bench.reward, batch.x_T, batch.prompts, repeats=repeats, clock=time.process_time
    )


def _updates(
    bench: Workbench, method: FineTuneMethod, point: Point, count: int
) -> Iterator[Update]:
    """At most ``count`` updates on one batch, that leave the weights where they are."""
    model = replace(bench.model, n_steps=point.n_steps)
    still = torch.optim.AdamW(model.denoiser.parameters(), lr=0.0, weight_decay=0.0, fused=True)
    batch = _batch(bench, point.batch_size, point.frames)
    return islice(finetune(model, bench.reward, [batch], method, still), count)


def _paces(
    bench: Workbench, method: FineTuneMethod, point: Point, repeats: int, updates: int
) -> list[float]:
    """CPU seconds an update, after one run to warm up."""
    found = []
    for _ in range(repeats + 1):
        began = time.process_time()
        made = len(list(_updates(bench, method, point, updates)))
        found.append((time.process_time() - began) / made)
    return found[1:]


def _batch(bench: Workbench, size: int, frames: int | None, seed: int = 0) -> Batch:
    """Prompts from the top of the pool, all of ``frames`` where it is given."""
    pool = bench.prompts["finetune"].prompts
    prompts = pool[torch.arange(size) % len(pool)]
    if frames is not None:
        prompts = Prompts(prompts.text, torch.full_like(prompts.lengths, frames))
    rng = stream(seed, "scaling")
    return Batch(0, bench.model.draw_noise(prompts, rng), prompts, rng)
