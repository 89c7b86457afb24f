"""How soon each method reaches a reward: by CPU seconds, and by reward evaluations.

A run that ends below a threshold is censored: its time is unknown, but longer than the run. It
counts as infinite in a median, which is then infinite only if half of the runs or more are.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

from easytune_lib.metrics.intervals import spread
from easytune_lib.records import RunRecord

Clock = Literal["seconds", "evaluations"]

WINDOW = 1 / 8
"""Share of the budget over which training rewards are averaged, as figures of them do."""


def first_reach(
    at: Sequence[float], reward: Sequence[float], threshold: float, window: float
) -> float:
    """When the running mean of the reward first is ``threshold`` or more; infinite if never.

    Args:
        at: Of each update, rising from 0: seconds, or evaluations.
        reward: Of each update.
        threshold: Same unit.
        window: The mean is over the updates in the ``window`` that ends with an update; before
            a whole window has passed there is none.
    """
    return next((t for t, mean in _running(at, reward, window) if mean >= threshold), math.inf)


def final_rewards(record: RunRecord, clock: Clock = "seconds") -> dict[str, float]:
    """Training reward in the last window of each method's runs, mean over seeds.

    Args:
        record: With ``tables["curves"]`` and, for seconds, ``machine["curve_seconds"]``.
        clock: As of :func:`reach_rows`.
    """
    ends: dict[str, list[float]] = {}
    for method, _, at, reward in _curves(record, clock):
        *_, (_, mean) = _running(at, reward, WINDOW * _budget(record, clock))
        ends.setdefault(method, []).append(mean)
    return {method: sum(values) / len(values) for method, values in ends.items()}


def reach_rows(
    record: RunRecord, thresholds: Sequence[float], clock: Clock = "seconds"
) -> list[dict[str, Any]]:
    """When each method reaches each threshold: how many seeds do, their median and their ends.

    ``low`` and ``high`` are the first and the last seed; between them lies the median of all
    possible seeds with probability ``1 - 2**(1 - seeds)`` (0.94 for five). ``None`` is never.

    Args:
        record: As of :func:`final_rewards`.
        thresholds: Of the training reward.
        clock: CPU seconds, or evaluations of the reward on a batch, one an update.
    """
    budget, rows = _budget(record, clock), []
    for threshold in thresholds:
        found: dict[str, list[float]] = {}
        ran: dict[str, list[float]] = {}
        for method, _, at, reward in _curves(record, clock):
            reached = first_reach(at, reward, threshold, WINDOW * budget)
            found.setdefault(method, []).append(reached)
            ran.setdefault(method, []).append(at[-1])
        rows += [
            {
                "clock": clock, "threshold": threshold, "method": method, "seeds": len(times),
                "reached": sum(map(math.isfinite, times)), "median": _or_none(median(times)),
                "low": _or_none(min(times)), "high": _or_none(max(times)),
                "ran": median(ran[method]),
            }
            for method, times in found.items()
        ]  # fmt: skip
    return rows


def pace_rows(record: RunRecord) -> list[dict[str, Any]]:
    """CPU seconds an update and updates a run of each method, with 95 % intervals over seeds."""
    paces: dict[str, list[float]] = {}
    counts: dict[str, list[int]] = {}
    for method, _, at, reward in _curves(record, "seconds"):
        paces.setdefault(method, []).append(at[-1] / len(reward))
        counts.setdefault(method, []).append(len(reward))
    rows = []
    for method, values in paces.items():
        mean, low, high = spread(values)
        updates = sum(counts[method]) / len(values)
        rows.append({
            "method": method, "seconds": mean, "seconds_low": low, "seconds_high": high,
            "updates": updates,
        })  # fmt: skip
    return rows


def speedup(
    rows: Sequence[dict[str, Any]], method: str, rival: str
) -> tuple[float | None, float | None, float | None]:
    """How many times sooner ``method`` is than ``rival``, of :func:`reach_rows` at one threshold.

    The ratio of the medians, and its worst and best case over the seeds of both. A rival that never
    gets there is given the time that it ran, so that the ratio is "at least"; the method itself
    likewise, "at most", and its worst case is then 0. ``None`` where fewer than half of the seeds
    of both get there, or one is not in the rows.
    """
    by = {row["method"]: row for row in rows}
    if method not in by or rival not in by:
        return None, None, None
    own, other = by[method], by[rival]
    if own["median"] is None and other["median"] is None:
        return None, None, None

    def time(row: dict[str, Any], key: str) -> float:
        return row["ran"] if row[key] is None else row[key]

    ratio = time(other, "median") / time(own, "median")
    worst = time(other, "low") / own["high"] if own["high"] is not None else 0.0
    return ratio, worst, time(other, "high") / time(own, "low")


def _curves(record: RunRecord, clock: Clock) -> list[tuple[str, int, list[float], list[float]]]:
    """Method, seed, place of each update on the clock, and reward of each."""
    rows = record.tables["curves"]
    if clock == "evaluations":
        places = [[float(i + 1) for i in range(len(row["reward"]))] for row in rows]
    else:
        places = record.machine["curve_seconds"]
    return [
        (row["method"], row["seed"], at, row["reward"])
        for row, at in zip(rows, places, strict=True)
    ]


def _budget(record: RunRecord, clock: Clock) -> float:
    """What each run was given."""
    return float(record.parameters["seconds" if clock == "seconds" else "updates"])


def _running(
    at: Sequence[float], reward: Sequence[float], window: float
) -> list[tuple[float, float]]:
    """Each update that has a whole window behind it, and the window's mean."""
    found, first = [], 0
    for last, t in enumerate(at):
        while at[first] <= t - window:
            first += 1
        if t >= window:
            inside = reward[first : last + 1]
            found.append((t, sum(inside) / len(inside)))
    return found


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
