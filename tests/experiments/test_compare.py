"""One resumable run a method, rate and seed; and the rows that figures are drawn from."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import psutil
import pytest
import torch
from tiny_world import tiny_bench

from easytune_lib.experiments import compare as comparison
from easytune_lib.experiments import tune as tune_module
from easytune_lib.experiments.analyses import memory
from easytune_lib.experiments.compare import (
    Progress,
    Run,
    base_rows,
    best_rates,
    contestants,
    cost_rows,
    curve_rows,
    load_tuned,
    paired_rows,
    run_all,
    score_rows,
    seed_rows,
    summary,
    tuned,
    upper_bound_rows,
)
from easytune_lib.finetuning.methods import DRaFT, EasyTune, ReFL
from easytune_lib.records import RunRecord
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.storage import load_tensors
from easytune_lib.workbench import evaluate, upper_bound

BENCH = tiny_bench()
RUN = Run(
    "mdm", "tiny", "EasyTune", EasyTune(2), lr=1e-2, seed=0, updates=6, batch_size=3, n_steps=2,
    noise_seeds=1,
)  # fmt: skip


@pytest.fixture
def eager(monkeypatch):
    """A clock by which half a minute passes whenever it is read, so that every batch is saved."""
    ticks = count()
    clock = SimpleNamespace(process_time=lambda: 30.0 * next(ticks), monotonic=lambda: 0.0)
    monkeypatch.setattr(tune_module, "time", clock)


def weights(run, scratch):
    return load_tensors(scratch / run.record_id / "tuned.safetensors")[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Mortal(AlignmentReward):
    """The bench's reward, which dies when it is asked for the ``last`` time."""

    def __init__(self, last):
        super().__init__(BENCH.reward.model, BENCH.model.schedule)
        self.left = last

    def __call__(self, motion, prompts, t=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().__call__(motion, prompts, t)


OPTIONS = [
    {"accumulate": 2}, {"schedule": "cosine"}, {"ema": 0.5}, {"lora": 2}, {"precision": "bf16"},
    {"max_norm": 0.5},
]  # fmt: skip


class TestRun:
    @pytest.mark.parametrize("budget", [{}, {"seconds": 1.0, "updates": 2}, {"seconds": -1.0}])
    def test_needs_one_budget(self, budget):
        with pytest.raises(ValueError, match="a run needs one budget, got seconds="):
            replace(RUN, **{"seconds": 0.0, "updates": 0} | budget)

    def test_its_id_tells_apart_all_that_matters(self):
        others = [
            {"base": "mld"}, {"weights": "other"}, {"label": "a"}, {"method": EasyTune(1)},
            {"method": DRaFT(2)}, {"lr": 2e-2}, {"seed": 1}, {"updates": 7}, {"batch_size": 4},
            {"n_steps": 3}, {"splits": ("validation",)}, {"noise_seeds": 2}, {"prompts": 7},
            {"updates": 0, "seconds": 1.0}, {"anchor": 1.0}, {"reward": "latent"},
            {"method": EasyTune(2, reads="x_t")}, {"method": DRaFT(2, checkpoint=True)}, *OPTIONS,
        ]  # fmt: skip
        ids = [replace(RUN, **other).record_id for other in others]
        assert len({RUN.record_id, *ids}) == len(others) + 1
        assert replace(RUN).record_id == RUN.record_id

    def test_options_that_are_off_are_not_recorded(self):
        """As the first records were written, whose ids must not change."""
        assert RUN.parameters.keys() == {
            "base", "weights", "label", "method", "lr", "seed", "seconds", "updates", "batch_size",
            "n_steps", "splits", "noise_seeds", "prompts",
        }  # fmt: skip
        for option in OPTIONS:
            assert replace(RUN, **option).parameters == RUN.parameters | option

    def test_methods_of_equal_fields_are_told_apart(self):
        draft, refl = replace(RUN, method=DRaFT(2)), replace(RUN, method=ReFL(2))
        assert draft.parameters["method"] == {"DRaFT": {"k": 2}}
        assert refl.parameters["method"] == {"ReFL": {"window": 2}}
        chain = replace(RUN, method=EasyTune(2, updates="chain"))
        assert chain.parameters["method"]["EasyTune"]["updates"] == "chain"


@pytest.mark.parametrize("n_steps", [20, 50])
def test_contestants_are_set_for_the_length_of_the_chain(n_steps):
    plans = {
        name: method.plan(n_steps, torch.Generator().manual_seed(0))
        for name, method in contestants(n_steps).items()
    }
    rewarded = {name: len(plan.rewarded) for name, plan in plans.items()}
    assert rewarded["EasyTune"] == n_steps and rewarded["EasyTune (strided)"] == n_steps // 5
    assert all(count == 1 for name, count in rewarded.items() if name not in list(rewarded)[:2])
    assert len(plans[f"DRaFT-{n_steps}"].recorded) == n_steps
    assert len(plans["DRaFT-10"].recorded) == len(plans["DRTune"].recorded) == 10
    assert min(plans["ReFL"].recorded) >= n_steps - n_steps // 5


class TestTuned:
    def test_leaves_a_record_and_tuned_weights_and_is_done_once(self, tmp_path):
        run = replace(RUN, updates=2)
        before = {name: w.clone() for name, w in BENCH.model.denoiser.state_dict().items()}
        seen = list(tuned(BENCH, run, tmp_path))
        record = RunRecord.find(tmp_path, "finetune", run.parameters)
        assert record is not None and record.metrics == {"updates": 2}
        assert record.series["reward"] == [update.reward for update in seen]
        assert record.series["step"] == [0, 1] and len(record.series["grad_norm"]) == 2
        assert [(p.updates, p.fraction) for p in seen] == [(1, 0.5), (2, 1.0)]
        assert same(BENCH.model.denoiser.state_dict(), before), "the bench is left as it was"
        assert not same(weights(run, tmp_path), before)
        assert [path.name for path in sorted((tmp_path / run.record_id).iterdir())] == [
            "record.json", "tuned.safetensors",
        ]  # fmt: skip
        assert list(tuned(BENCH, run, tmp_path)) == [], "it is not done twice"

    def test_the_judge_hears_the_tuned_model_which_can_be_loaded_again(self, tmp_path):
        run = replace(RUN, splits=("test", "validation"), noise_seeds=2, prompts=7)
        list(tuned(BENCH, run, tmp_path))
        record = RunRecord.find(tmp_path, "finetune", run.parameters)
        model = load_tuned(BENCH, run, tmp_path)
        assert same(model.denoiser.state_dict(), weights(run, tmp_path))
        assert record is not None and record.tables["scores"] == [
            {"split": split} | row
            for split in ("test", "validation")
            for row in evaluate(BENCH, model, split, range(2), 7)
        ]
        (untouched,) = evaluate(BENCH, BENCH.model, "test", [0], 7)
        assert record.tables["scores"][0]["reward"] != untouched["reward"]

    def test_steps_are_the_run_s_not_the_bench_s(self, tmp_path):
        run = replace(RUN, method=EasyTune(), n_steps=4, updates=4)
        list(tuned(BENCH, run, tmp_path))
        record = RunRecord.find(tmp_path, "finetune", run.parameters)
        assert record is not None and record.series["step"] == [0, 1, 2, 3]
        assert load_tuned(BENCH, run, tmp_path).n_steps == 4

    def test_repeats_exactly_and_another_seed_gives_another_result(self, tmp_path):
        folders = [tmp_path / name for name in "abc"]
        runs = [RUN, RUN, replace(RUN, seed=1)]
        for run, folder in zip(runs, folders, strict=True):
            list(tuned(BENCH, run, folder))
        first, again, other = (weights(r, f) for r, f in zip(runs, folders, strict=True))
        assert same(first, again) and not same(first, other)

    @pytest.mark.parametrize(("dies_at", "goes_on_from"), [(2, 1), (4, 3), (5, 5), (6, 5)])
    def test_killed_and_resumed_equals_unbroken(self, tmp_path, eager, dies_at, goes_on_from):
        """Each batch makes two updates; a batch that was not whole is done again."""
        with pytest.raises(KeyboardInterrupt):
            list(tuned(replace(BENCH, reward=Mortal(dies_at)), RUN, tmp_path / "killed"))
        state = tmp_path / "killed" / RUN.record_id / "state.safetensors"
        assert state.exists() == (goes_on_from > 1)
        assert RunRecord.find(tmp_path / "killed", "finetune", RUN.parameters) is None
        rest = list(tuned(BENCH, RUN, tmp_path / "killed"))
        assert [update.updates for update in rest] == list(range(goes_on_from, 7))
        assert not state.exists()

        list(tuned(BENCH, RUN, tmp_path / "unbroken"))
        killed, unbroken = (tmp_path / name for name in ("killed", "unbroken"))
        assert same(weights(RUN, killed), weights(RUN, unbroken))
        records = [
            RunRecord.find(folder, "finetune", RUN.parameters) for folder in (killed, unbroken)
        ]
        assert records[0].series == records[1].series
        assert records[0].tables == records[1].tables

    @pytest.mark.parametrize("option", OPTIONS, ids=str)
    def test_no_option_is_forgotten_by_a_killed_run(self, tmp_path, eager, option):
        """Killed in its third batch; the state of all options is exact."""
        if "lora" in option:
            pytest.importorskip("peft")
        run = replace(RUN, **option)
        with pytest.raises(KeyboardInterrupt):
            list(tuned(replace(BENCH, reward=Mortal(5)), run, tmp_path / "killed"))
        assert (tmp_path / "killed" / run.record_id / "state.safetensors").exists()
        list(tuned(BENCH, run, tmp_path / "killed"))
        list(tuned(BENCH, run, tmp_path / "unbroken"))
        got, want = (weights(run, tmp_path / name) for name in ("killed", "unbroken"))
        assert same(got, want)
        list(tuned(BENCH, RUN, tmp_path))
        assert got.keys() == weights(RUN, tmp_path).keys()
        assert not same(got, weights(RUN, tmp_path)), "and does something"

    def test_a_cosine_falls_over_the_budget_whatever_it_is_of(self, tmp_path, eager, monkeypatch):
        """30 s an update, of which the first begins at 0: four updates fill 120 s."""
        rates = []
        step = torch.optim.AdamW.step
        monkeypatch.setattr(
            torch.optim.AdamW, "step",
            lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1],
        )  # fmt: skip
        for budget in ({"updates": 4}, {"updates": 0, "seconds": 120.0}):
            list(tuned(BENCH, replace(RUN, schedule="cosine", lr=1e-3, **budget), tmp_path))
        half = 0.5**0.5
        want = [1e-3, 1e-3 * (1 + half) / 2, 5e-4, 1e-3 * (1 - half) / 2]
        assert rates == pytest.approx(want * 2)

    def test_killed_while_the_judge_speaks_it_is_not_tuned_again(self, tmp_path, monkeypatch):
        def dies(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(comparison, "evaluate", dies)
            list(tuned(BENCH, RUN, tmp_path / "killed"))
        assert list(tuned(BENCH, RUN, tmp_path / "killed")) == []
        list(tuned(BENCH, RUN, tmp_path / "unbroken"))
        killed, unbroken = (
            RunRecord.find(tmp_path / name, "finetune", RUN.parameters)
            for name in ("killed", "unbroken")
        )
        assert (killed.series, killed.tables) == (unbroken.series, unbroken.tables)

    def test_a_budget_of_seconds_counts_those_of_earlier_processes(self, tmp_path, eager):
        """30 s an update: 200 s are spent by the seventh."""
        run = replace(RUN, updates=0, seconds=200.0)
        with pytest.raises(KeyboardInterrupt):
            list(tuned(replace(BENCH, reward=Mortal(5)), run, tmp_path))
        rest = list(tuned(BENCH, run, tmp_path))
        assert [round(update.seconds) for update in rest] == [150, 180, 210]
        assert rest[-1].fraction == 1.0 and rest[0].fraction == 0.75

    def test_other_weights_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="the run is for weights other, the bench has tiny"):
            list(tuned(BENCH, replace(RUN, weights="other"), tmp_path))
        assert not list(tmp_path.iterdir())

    def test_weights_that_were_never_tuned_can_not_be_loaded(self, tmp_path):
        with pytest.raises(ValueError, match="is not a readable safetensors file"):
            load_tuned(BENCH, RUN, tmp_path)


def test_time_to_go():
    assert Progress("a", 0, 3, 0.5, seconds=30.0, fraction=0.25).eta == pytest.approx(90.0)


class TestRunAll:
    @pytest.fixture(autouse=True)
    def threads(self, monkeypatch):
        """Processes take seconds to start."""
        monkeypatch.setattr(
            comparison, "ProcessPoolExecutor", lambda workers, **options: ThreadPoolExecutor(1)
        )
        monkeypatch.setattr(comparison, "open_workbench", lambda *given: BENCH)

    def test_does_what_is_missing_and_returns_all_in_order(self, tmp_path):
        runs = [replace(RUN, updates=2, seed=seed) for seed in range(3)]
        list(tuned(BENCH, runs[1], tmp_path))
        said = []
        records = run_all(runs, tmp_path, said.append)
        assert [record.parameters["seed"] for record in records] == [0, 1, 2]
        assert said[0] == "1 of 3 runs are done already, 2 to go"
        assert said[1].startswith("[2/3] mdm EasyTune, lr 0.01, seed ") and len(said) == 3
        assert said[2].endswith("done, 0.0 min left")
        said.clear()
        assert run_all(runs, tmp_path, said.append) == records
        assert said == ["3 of 3 runs are done already, 0 to go"]

    def test_what_went_wrong_in_a_run_is_raised(self, tmp_path):
        runs = [replace(RUN, updates=2), replace(RUN, updates=2, weights="other")]
        with pytest.raises(ValueError, match="the run is for weights other"):
            run_all(runs, tmp_path, lambda line: None)
        assert RunRecord.find(tmp_path, "finetune", runs[0].parameters) is not None


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    """A kernel that is killed leaves nobody behind who goes on computing."""
    note = tmp_path / "pid"
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from pathlib import Path\n"
        "from easytune_lib.experiments.compare import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    context = get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)\n"
        f"    Path({str(note)!r}).write_text(str(pool.submit(os.getpid).result()))\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    with subprocess.Popen([sys.executable, str(script)]) as parent:
        while not note.exists() or not note.read_text():
            assert parent.poll() is None
            time.sleep(0.1)
        parent.kill()
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(int(note.read_text()))
        for _ in range(100):
            if worker.status() == psutil.STATUS_ZOMBIE:  # ended, and nobody has asked yet
                return
            time.sleep(0.1)
        worker.kill()
        pytest.fail("the worker outlived its parent by ten seconds")


def test_base_rows_are_the_untouched_base_under_the_noise_of_the_runs():
    rows = base_rows(BENCH, ("test", "validation"), noise_seeds=2, prompts=7)
    assert [(row["split"], row["noise_seed"]) for row in rows] == [
        ("test", 0), ("test", 1), ("validation", 0), ("validation", 1),
    ]  # fmt: skip
    want = evaluate(BENCH, BENCH.model, "test", range(2), 7)
    assert rows[1] == {"method": "base", "seed": 0, "lr": 0.0, "split": "test", **want[1]}
    assert rows[1]["noise_seed"] == 1


def test_ceilings_are_the_real_motion_and_what_a_vae_leaves_of_it():
    rows = upper_bound_rows(BENCH, ("test", "validation"), prompts=7)
    assert [(row["method"], row["split"]) for row in rows] == [
        ("real", "test"), ("real", "validation"),
    ]  # fmt: skip
    assert rows[0] == {"method": "real", "split": "test"} | upper_bound(BENCH, "real", "test", 7)
    latent = upper_bound_rows(replace(BENCH, base="mld"), ("test",))
    assert [row["method"] for row in latent] == ["real", "VAE"]


def row(method, seed, noise, r1, fid=1.0, split="test", lr=0.0):
    return {
        "method": method, "seed": seed, "lr": lr, "split": split, "noise_seed": noise,
        "r1": r1, "fid": fid,
    }  # fmt: skip


ROWS = [
    row("base", 0, 0, 0.25), row("base", 0, 1, 0.75),  # 0.5
    row("A", 0, 0, 1.0), row("A", 0, 1, 2.0),  # 1.5, a gain of 1
    row("A", 1, 0, 3.0), row("A", 1, 1, 4.0),  # 3.5, a gain of 3
    row("B", 0, 0, 1.5), row("B", 1, 0, 2.5), row("B", 2, 0, 3.5),  # gains of 1, 2 and 3
    row("C", 0, 0, 0.25, fid=0.5),
    row("A", 0, 0, 99.0, split="unseen"), row("base", 0, 0, 98.0, split="unseen"),
]  # fmt: skip


class TestSummary:
    def test_means_and_gains_are_over_training_seeds(self):
        base, a, b, c = summary(ROWS, "test", ("r1", "fid"))
        assert [line["method"] for line in (base, a, b, c)] == ["base", "A", "B", "C"]
        assert [line["seeds"] for line in (base, a, b, c)] == [1, 2, 3, 1]
        assert (base["r1"], base["r1_gain"]) == (0.5, 0.0)
        assert (a["r1"], a["r1_gain"], b["r1"], b["r1_gain"]) == (2.5, 2.0, 2.5, 2.0)
        assert (c["r1_gain"], c["fid"], c["fid_gain"]) == (-0.25, 0.5, -0.5)
        assert all(line["split"] == "test" for line in (base, a, b, c))

    def test_intervals_are_student_s(self):
        """Two seeds: 2 +- 12.706 * sqrt(2) / sqrt(2); three: 2 +- 4.3027 * 1 / sqrt(3)."""
        _, a, b, _ = summary(ROWS, "test", ("r1",))
        assert a["r1_gain_low"] == pytest.approx(2 - 12.7062, abs=1e-3)
        assert a["r1_gain_high"] == pytest.approx(2 + 12.7062, abs=1e-3)
        assert b["r1_gain_low"] == pytest.approx(2 - 2.4841, abs=1e-3)
        assert b["r1_gain_high"] == pytest.approx(2 + 2.4841, abs=1e-3)

    def test_one_seed_has_no_interval(self):
        base, *_, c = summary(ROWS, "test", ("r1",))
        for line in (base, c):
            assert line["r1_gain_low"] is None and line["r1_gain_high"] is None

    def test_splits_are_kept_apart(self):
        a, base = summary(ROWS, "unseen", ("r1",))
        assert (a["method"], a["r1_gain"], base["r1"]) == ("A", 1.0, 98.0)

    def test_a_seed_s_row_is_its_mean_over_noise(self):
        assert seed_rows(ROWS, "test")[:3] == [
            {"method": "base", "seed": 0, "r1": 0.5, "fid": 1.0},
            {"method": "A", "seed": 0, "r1": 1.5, "fid": 1.0},
            {"method": "A", "seed": 1, "r1": 3.5, "fid": 1.0},
        ]


class TestPaired:
    def test_differences_are_of_a_seed_with_itself(self):
        """B - A: 1.5 - 1.5 and 2.5 - 3.5; the mean -0.5 +- 12.706 / 2; B's third seed is alone."""
        (b, c) = paired_rows(ROWS, "test", "A", ("r1", "fid"))
        assert (b["method"], b["rival"], b["seeds"], b["r1"], b["fid"]) == ("B", "A", 2, -0.5, 0.0)
        assert b["r1_high"] - b["r1"] == pytest.approx(12.7062 / 2, abs=1e-3)
        assert (c["seeds"], c["r1"], c["r1_low"]) == (1, -1.25, None)

    def test_a_rival_that_did_not_run_is_named(self):
        with pytest.raises(ValueError, match="no rows of 'ReFL' on test: there are"):
            paired_rows(ROWS, "test", "ReFL", ("r1",))


def finished(label, lr, mm_dist, seed=0):
    run = replace(RUN, label=label, lr=lr, seed=seed)
    scores = [{"split": "validation", "noise_seed": 0, "mm_dist": mm_dist, "r1": 1 - mm_dist}]
    record = RunRecord(
        "finetune", run.parameters, series={"reward": [0.123456, 0.2]},
        tables={"scores": scores}, machine={"seconds": [0.501, 1.234]},
    )  # fmt: skip
    return run, record


def test_the_best_rate_is_each_method_s_own():
    planned, records = zip(
        finished("A", 1e-5, 0.9), finished("A", 5e-5, 0.7), finished("A", 2e-4, 0.8),
        finished("B", 1e-5, 0.3), finished("B", 5e-5, 0.4),
        strict=True,
    )  # fmt: skip
    rates, tried = best_rates(planned, records)
    assert rates == {"A": 5e-5, "B": 1e-5}
    assert tried == score_rows(planned, records) and len(tried) == 5
    assert tried[1] == {
        "method": "A", "seed": 0, "lr": 5e-5, "split": "validation", "noise_seed": 0,
        "mm_dist": 0.7, "r1": pytest.approx(0.3),
    }  # fmt: skip
    assert best_rates(planned, records, "r1")[0] == {"A": 1e-5, "B": 5e-5}


def test_a_grid_may_be_widened():
    first = zip(finished("A", 5e-5, 0.7), finished("B", 5e-5, 0.4), strict=True)
    _, tried = best_rates(*first)
    more = zip(finished("A", 1e-5, 0.6), finished("B", 1e-5, 0.5), strict=True)
    rates, both = best_rates(*more, earlier=tried)
    assert rates == {"A": 1e-5, "B": 5e-5} and len(both) == 4
    again = zip(finished("A", 5e-5, 0.9), strict=True)
    rates, both = best_rates(*again, earlier=tried)
    assert rates == {"A": 5e-5, "B": 5e-5} and [row["mm_dist"] for row in both] == [0.9, 0.4]
    other_seed = zip(finished("A", 1e-5, 0.8, seed=1), strict=True)
    assert best_rates(*other_seed, earlier=tried)[0] == {"A": 1e-5}


def test_one_lucky_seed_does_not_choose_the_rate():
    planned, records = zip(
        finished("A", 1e-5, 0.1, 0), finished("A", 1e-5, 0.9, 1),
        finished("A", 5e-5, 0.3, 0), finished("A", 5e-5, 0.4, 1),
        strict=True,
    )  # fmt: skip
    assert best_rates(planned, records)[0] == {"A": 5e-5}


def test_curves_are_rounded_and_their_seconds_kept_apart():
    planned, records = zip(finished("A", 1e-5, 0.9), finished("A", 1e-5, 0.9, 1), strict=True)
    rows, seconds = curve_rows(planned, records)
    assert rows[1] == {"method": "A", "seed": 1, "reward": [0.1235, 0.2]}
    assert seconds == [[0.5, 1.23], [0.5, 1.23]]


class TestCost:
    def test_memory_is_flat_for_easytune_and_linear_for_draft(self):
        rows = memory(tiny_bench(n_steps=4), (1, 2, 4), batch_size=2).tables["memory"]
        held = {(row["method"], row["steps"]): row["saved_mib"] for row in rows}
        assert held["EasyTune", 1] == held["EasyTune", 2] == held["EasyTune", 4] > 0
        assert held["EasyTune", 1] == pytest.approx(held["DRaFT", 1], rel=0.01)
        step = held["DRaFT", 2] - held["DRaFT", 1]
        assert step > 0 and held["DRaFT", 4] - held["DRaFT", 2] == pytest.approx(2 * step, rel=0.01)

    def test_the_bench_is_left_as_it_was(self):
        before = {name: w.clone() for name, w in BENCH.model.denoiser.state_dict().items()}
        one, two = cost_rows(BENCH, {"a": EasyTune(2), "b": ReFL(1)}, batch_size=2)
        assert (one["method"], one["updates"], two["updates"]) == ("a", 2, 1)
        assert one["cpu_seconds"] > 0 and (one["batch_size"], one["n_steps"]) == (2, 2)
        assert same(BENCH.model.denoiser.state_dict(), before)
        assert all(p.grad is None for p in BENCH.model.denoiser.parameters())
