"""Time to a reward: by hand, with runs that never get there."""

import math

import pytest

from easytune_lib.experiments.time_to_reward import (
    final_rewards,
    first_reach,
    pace_rows,
    reach_rows,
    speedup,
)
from easytune_lib.records import RunRecord


def test_the_mean_of_a_whole_window_must_reach_it():
    """Windows of two: 0.5, 1.0, 2.0 at 2, 3, 4; a lone high reward is not enough."""
    at, reward = [1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 3.0]
    assert first_reach(at, reward, 0.5, window=2.0) == 2
    assert first_reach(at, reward, 1.0, window=2.0) == 3
    assert first_reach(at, reward, 1.1, window=2.0) == 4
    assert first_reach(at, reward, 2.1, window=2.0) == math.inf
    assert first_reach([1.0, 2.0], [9.0, 0.0], 5.0, window=2.0) == math.inf


def test_before_a_whole_window_nothing_is_reached():
    assert first_reach([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], 1.0, window=2.5) == 3
    assert first_reach([1.0, 2.0], [5.0, 5.0], 1.0, window=8.0) == math.inf


def record(curves):
    """Runs of 8 s, windows of one second."""
    rows = [
        {"method": method, "seed": seed, "reward": reward}
        for method, runs in curves.items() for seed, (_, reward) in enumerate(runs)
    ]  # fmt: skip
    seconds = [at for runs in curves.values() for at, _ in runs]
    return RunRecord(
        "a", {"seconds": 8.0, "updates": 8}, tables={"curves": rows},
        machine={"curve_seconds": seconds},
    )  # fmt: skip


QUICK = ([2.0, 4.0, 6.0, 8.0], [0.1, 0.6, 0.7, 0.8])
LATE = ([2.0, 4.0, 6.0, 8.0], [0.1, 0.2, 0.3, 0.6])
NEVER = ([4.0, 9.0], [0.1, 0.2])


def test_a_run_that_never_gets_there_counts_as_infinite_in_the_median():
    rows = reach_rows(record({"A": [QUICK, LATE, NEVER], "B": [NEVER, NEVER, LATE]}), [0.5])
    a, b = rows
    assert (a["seeds"], a["reached"], a["median"], a["low"], a["high"]) == (3, 2, 8.0, 4.0, None)
    assert (b["reached"], b["median"], b["low"], b["high"], b["ran"]) == (1, None, 8.0, None, 9.0)


def test_evaluations_are_one_an_update():
    (row,) = reach_rows(record({"A": [QUICK]}), [0.65], clock="evaluations")
    assert (row["median"], row["ran"], row["clock"]) == (3.0, 4.0, "evaluations")


def test_the_final_reward_is_that_of_the_last_window():
    assert final_rewards(record({"A": [QUICK, LATE]}))["A"] == pytest.approx(0.7)


def test_pace_is_seconds_an_update():
    (row,) = pace_rows(record({"A": [QUICK, QUICK]}))
    assert (row["seconds"], row["seconds_low"], row["updates"]) == (2.0, 2.0, 4.0)
    (single,) = pace_rows(record({"A": [NEVER]}))
    assert (single["seconds"], single["seconds_low"]) == (4.5, None)


def reached(method, low, middle, high, ran=45.0):
    return {"method": method, "low": low, "median": middle, "high": high, "ran": ran}


def test_a_speedup_has_a_worst_and_a_best_case():
    own, rival = reached("A", 4.0, 5.0, 8.0), reached("B", 16.0, 20.0, 40.0)
    assert speedup([own, rival], "A", "B") == (4.0, 2.0, 10.0)
    assert speedup([own, rival], "B", "A") == (0.25, 0.1, 0.5)


def test_what_never_comes_bounds_the_speedup():
    """The rival ran 45 s in vain: at least 9 times. One's own lost seed: nothing is excluded."""
    own, never = reached("A", 4.0, 5.0, 9.0), reached("B", None, None, None)
    assert speedup([own, never], "A", "B") == (9.0, 5.0, 11.25)
    ratio, low, high = speedup([own, never], "B", "A")
    assert (ratio, low, high) == (pytest.approx(1 / 9), 0.0, pytest.approx(0.2))
    assert speedup([never | {"method": "A"}, never], "A", "B") == (None, None, None)
    assert speedup([own], "A", "B") == (None, None, None)
    lost = reached("A", 4.0, 5.0, None)
    assert speedup([lost, reached("B", 16.0, 20.0, 40.0)], "A", "B") == (4.0, 0.0, 10.0)
