"""Memory and time along steps, batch and frames."""

import gc

import pytest
from tiny_world import tiny_bench

from easytune_lib.analysis.cost import Rates
from easytune_lib.experiments.scaling import (
    Point,
    blend,
    held_by_step,
    memory_rows,
    quality_rows,
    scaling_rows,
)
from easytune_lib.finetuning.methods import DRaFT, EasyTune, ReFL


@pytest.fixture
def counted():
    """The count must not wait for the collector."""
    gc.disable()
    yield
    gc.enable()


def test_memory_is_flat_in_steps_for_easytune_alone_and_foretold(counted):
    bench, start = tiny_bench(), Point(n_steps=2, batch_size=8, frames=16)
    axes = {"n_steps": (2, 4, 6), "batch_size": (8, 16, 24), "frames": (16, 24, 32)}
    held, took = scaling_rows(bench, axes, start, repeats=1, updates=1)
    assert len(held) == len(took) == 2 * 9
    by = {(r["axis"], r["value"], r["method"]): r["saved_mib"] for r in held}
    flat = [by["n_steps", n, "EasyTune"] for n in (2, 4, 6)]
    assert max(flat) == pytest.approx(min(flat), rel=0.02)
    chain = [by["n_steps", n, "DRaFT"] for n in (2, 4, 6)]
    assert chain[2] - chain[1] == pytest.approx(chain[1] - chain[0], rel=0.02) and chain[0] > 0
    for row in held:
        assert row["foretold_mib"] == pytest.approx(row["saved_mib"], rel=0.1), row
    assert all(0 < r["seconds_low"] <= r["seconds"] <= r["seconds_high"] for r in took)
    assert all(weight.grad is None for weight in bench.model.denoiser.parameters())


def test_two_updates_tell_the_peak(counted):
    methods = {"EasyTune": EasyTune(), "ReFL": ReFL(1), "DRaFT": DRaFT()}
    easy, refl, draft = (r["saved_mib"] for r in memory_rows(tiny_bench(n_steps=6), methods, 8))
    assert easy == pytest.approx(refl, rel=0.02) and draft > 4 * easy > 0


def test_between_two_rates_is_a_straight_line():
    first = Rates(*(float(i) for i in range(9)))
    last = Rates(*(float(i + 10) for i in range(9)))
    assert blend(first, last, 0.0) == first and blend(first, last, 1.0) == last
    assert blend(first, last, 0.25).network == 2.5


def test_a_chain_piles_up_and_a_cut_state_does_not(counted):
    methods = {"EasyTune": EasyTune(), "DRaFT-2": DRaFT(2), "DRaFT-4": DRaFT(4), "ReFL": ReFL(1)}
    rows = held_by_step(tiny_bench(n_steps=4), methods, batch_size=3)
    held = {m: [r["saved_mib"] for r in rows if r["method"] == m] for m in methods}
    one = held["EasyTune"][0]
    assert held["EasyTune"] == [one] * 4 and one > 0
    assert held["ReFL"] == [0, 0, 0, one]
    assert held["DRaFT-2"][:2] == [0, 0] and held["DRaFT-2"][3] > 1.8 * held["DRaFT-2"][2]
    assert sorted(held["DRaFT-4"]) == held["DRaFT-4"] and held["DRaFT-4"][3] > 3.5 * one
    assert [r["step"] for r in rows[:4]] == [1, 2, 3, 4]


def test_an_interval_of_a_gain_is_one_of_the_mean():
    """The base is at 0.4; a gain of 0.1 within [0.05, 0.15] ends at 0.45 and 0.55."""
    gained = {"r1_gain": 0.1, "r1_gain_low": 0.05, "r1_gain_high": 0.15}
    alone = {"r1_gain": 0.0, "r1_gain_low": None, "r1_gain_high": None}
    summary = [
        {"method": "base", "split": "test", "r1": 0.4} | alone,
        {"method": "ReFL", "split": "test", "r1": 0.5} | gained,
        {"method": "ReFL", "split": "unseen", "r1": 0.9} | gained,
        {"method": "other", "split": "test", "r1": 0.9} | gained,
    ]
    costs = [{"method": "ReFL", "saved_mib": 7.0}]
    base, refl = quality_rows(summary, costs, "mdm", ("r1",))
    assert base == {
        "base": "mdm", "method": "base", "saved_mib": 0.0, "r1": 0.4, "r1_low": None,
        "r1_high": None,
    }  # fmt: skip
    assert (refl["saved_mib"], refl["r1"]) == (7.0, 0.5)
    assert (refl["r1_low"], refl["r1_high"]) == (pytest.approx(0.45), pytest.approx(0.55))
