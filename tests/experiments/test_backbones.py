"""The six backbones, and what is reported of each."""

from dataclasses import replace

import pytest
import torch
from tiny_world import tiny_bench

from easytune_lib.experiments.backbones import (
    FALLBACK,
    RATE_SEED,
    RATES,
    backbone_rows,
    chosen_rates,
    rate_search,
    recorded_rates,
    runs_of,
    six_backbones,
)
from easytune_lib.finetuning.loop import batches, copy_for_tuning, finetune
from easytune_lib.finetuning.methods import EasyTune
from easytune_lib.records import RunRecord
from easytune_lib.seeding import stream

BENCH = tiny_bench()


def scores(method, seed, r1, mm_dist):
    rest = {"split": "test", "lr": 1e-4, "fid": 1.0, "reward": 0.5}
    return {"method": method, "seed": seed, "r1": r1, "mm_dist": mm_dist} | rest


def test_the_two_methods_are_one_where_there_is_one_step():
    (single,) = (each for each in six_backbones() if each.n_steps == 1)
    bench, tuned = tiny_bench(n_steps=1), []
    for method in single.methods.values():
        model = copy_for_tuning(bench.model)
        optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=0.1)
        pool = batches(model, bench.prompts["finetune"].prompts, 4, seed=0)
        next(finetune(model, bench.reward, pool, method, optimizer))
        tuned.append(model.denoiser.state_dict())
    assert all(torch.equal(tuned[0][name], tuned[1][name]) for name in tuned[0])
    assert any((tuned[0][n] != w).any() for n, w in bench.model.denoiser.state_dict().items())


@pytest.mark.parametrize("n_steps", [5, 50])
def test_every_method_has_a_plan_for_its_number_of_steps(n_steps):
    for each in six_backbones(n_steps):
        easytune, draft = (m.plan(each.n_steps, stream(0)) for m in each.methods.values())
        assert len(easytune.recorded) == 1 and easytune.detach_state
        assert len(draft.recorded) == min(10, each.n_steps) and draft.last == each.n_steps - 1
        assert easytune.reads == ("x_t" if each.name == "MotionDiffuse" else "x0_hat")


def test_gains_are_over_the_backbone_s_own_base_and_memory_is_that_of_each_method():
    bench = replace(BENCH, model=replace(BENCH.model, n_steps=5))
    backbone = replace(six_backbones(5)[4], easytune=EasyTune(1))
    rows = backbone_rows(
        backbone, bench,
        [scores("base", 0, 0.5, 2.0), scores("EasyTune", 0, 0.6, 1.8),
         scores("EasyTune", 1, 0.8, 1.4), scores("DRaFT", 0, 0.4, 2.2)],
    )  # fmt: skip
    base, easytune, draft = rows
    assert [row["method"] for row in rows] == ["base", "EasyTune", "DRaFT"]
    assert {row["backbone"] for row in rows} == {"MDM"}
    assert easytune["r1_gain"] == pytest.approx(0.2)
    assert easytune["mm_dist_percent"] == pytest.approx(20.0)
    assert easytune["mm_dist_percent_low"] < 20 < easytune["mm_dist_percent_high"]
    assert draft["mm_dist_percent"] == pytest.approx(-10.0)
    assert draft["mm_dist_percent_low"] is None and base["mm_dist_percent"] == 0
    assert base["saved_mib"] is None and 0 < easytune["saved_mib"] < draft["saved_mib"]


def searched(run):
    """A record in which EasyTune is best at the second rate, DRaFT at the last."""
    far = {"EasyTune": RATES[1], "DRaFT": RATES[3]}[run.label]
    row = scores(run.label, run.seed, 0.5, 1.0 + abs(run.lr - far))
    return RunRecord("finetune", run.parameters, tables={"scores": [row | {"lr": run.lr}]})


def test_rates_are_searched_on_validation_prompts_and_read_back(tmp_path):
    mld, other = six_backbones(5)[0], six_backbones(5)[1]
    assert set(recorded_rates(mld, BENCH, tmp_path).values()) == {FALLBACK}
    planned = rate_search(mld, BENCH, seconds=1.0, batch_size=4, noise_seeds=7)
    assert {(run.label, run.lr) for run in planned} == {
        (label, rate) for label in ("EasyTune", "DRaFT") for rate in RATES
    }
    for run in planned:
        assert run.splits == ("validation",) and run.seed == RATE_SEED
        assert (run.noise_seeds, run.batch_size, run.seconds) == (1, 4, 1.0)
    chosen_rates(mld, BENCH, planned, [searched(run) for run in planned]).save(tmp_path)
    found = recorded_rates(mld, BENCH, tmp_path)
    assert found == {"EasyTune": RATES[1], "DRaFT": RATES[3]}
    assert recorded_rates(replace(mld, n_steps=50), BENCH, tmp_path) == found
    assert set(recorded_rates(other, BENCH, tmp_path).values()) == {FALLBACK}
    assert set(recorded_rates(mld, tiny_bench(digest="new"), tmp_path).values()) == {FALLBACK}


def test_runs_take_each_method_s_own_rate_and_know_their_folder():
    rates = {"EasyTune": 1e-3, "DRaFT": 1e-4}
    options = {"seconds": 1.0, "folder": "some/where", "guidance": 2.0}
    runs = runs_of(six_backbones(5)[0], BENCH, rates, range(2), **options)
    assert [(run.label, run.lr, run.seed) for run in runs] == [
        ("EasyTune", 1e-3, 0), ("DRaFT", 1e-4, 0), ("EasyTune", 1e-3, 1), ("DRaFT", 1e-4, 1)
    ]  # fmt: skip
    assert runs[0].parameters["guidance"] == 2.0 and "folder" not in runs[0].parameters
    assert replace(runs[0], folder="else/where").record_id == runs[0].record_id
    assert "guidance" not in replace(runs[0], guidance=None).parameters
