"""Sweeps: what is done once, goes on, fails alone, and is chosen; the kernel is played."""

import io
import json
import os
import re
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny_notebook import executed, notebook, write

from easytune_lib.app import sweep as sweeps
from easytune_lib.app.cli import main
from easytune_lib.app.execute import CellStarted, Finished
from easytune_lib.app.notebook import parameters_of, read_notebook
from easytune_lib.app.progress import SweepTable
from easytune_lib.app.sweep import (
    Performed,
    State,
    Sweep,
    best,
    folder_of,
    grid_of,
    jobs_of,
    perform_all,
    submit_all,
    tidy,
    watch,
    with_seeds,
    write_results,
)
from easytune_lib.records import RunRecord

PARAMETERS = """k: int = 3  # steps
lr: float = 1e-4  # rate
seed: int = 0  # of all
runs: str = "../runs"  # records"""


class Kernel:
    """Writes a record whose metric falls with k and rises with the seed."""

    def __init__(self):
        self.jobs, self.at, self.most, self.seconds = [], 0, 0, 0.0
        self.failing: set[int] = set()
        self.lock = threading.Lock()

    def __call__(self, job):
        with self.lock:
            self.jobs.append(job)
            self.at += 1
            self.most = max(self.most, self.at)
        try:
            yield CellStarted(1, 2, "k: int = 3")
            ends = time.monotonic() + self.seconds
            while time.monotonic() < ends:
                time.sleep(0.01)
                yield None
            k, seed = job.parameters["k"], job.parameters.get("seed", 0)
            if k in self.failing:
                yield Finished(1.0, 9, "cell 2 of 2 (`x`): ValueError: no such k")
                return
            metrics = {"validation_mm": 10.0 / k + seed, "test_r1": k / 10 + seed / 100}
            RunRecord("tiny", {"k": k, "seed": seed}, metrics).save(Path(job.parameters["runs"]))
            job.output.write_text(json.dumps(executed(json.loads(job.notebook.read_text()))))
            job.output.with_suffix(".html").write_text("page")
            yield Finished(2.0, 321, "")
        finally:
            with self.lock:
                self.at -= 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "00_tiny", notebook("k + 1", parameters=PARAMETERS))
    write(tmp_path, "01_other", notebook("k + 1"))
    return tmp_path


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(sweeps, "run", kernel)
    monkeypatch.setattr(sweeps, "surroundings", lambda root: "library")
    return kernel


def swept(root: Path, **rest) -> Sweep:
    content = {"notebook": "00", "grid": {"seed": [0, 1], "k": [1, 2, 4]}} | rest
    return Sweep.checked(content, root)


def done(root: Path, sweep: Sweep, **rest):
    jobs = jobs_of(sweep, folder_of("tiny", root), root)
    return jobs, perform_all(jobs, lambda *_: None, workers=2, tick=0.01, **rest)


def test_every_combination_is_done_once_with_a_place_of_its_own(root, kernel):
    jobs, states = done(root, swept(root))
    assert [job.varied for job in jobs] == [
        {"seed": seed, "k": k} for seed in (0, 1) for k in (1, 2, 4)
    ]
    assert [state.state for state in states] == ["done"] * 6
    assert len({job.folder for job in jobs}) == 6 and kernel.most == 2
    for job, state in zip(jobs, states, strict=True):
        assert state.metrics["test_r1"] == job.varied["k"] / 10 + job.varied["seed"] / 100
        assert (job.folder / "notebook.ipynb").exists() and (job.folder / "notebook.html").exists()
        assert not list(job.folder.glob("*.partial*"))
    assert all(job.threads >= 1 for job in kernel.jobs)
    assert all(Path(j.parameters["runs"]).parent.name in {o.folder.name for o in jobs}
               for j in kernel.jobs)  # fmt: skip
    done(root, swept(root))
    assert len(kernel.jobs) == 6, "a finished sweep costs nothing"
    done(root, swept(root), force=True)
    assert len(kernel.jobs) == 12


def test_a_wider_sweep_does_what_is_new_only(root, kernel):
    done(root, swept(root))
    done(root, swept(root, grid={"k": [1, 2, 4, 8], "seed": [0, 1, 2]}))
    assert len(kernel.jobs) == 12, "2 x 3 of 3 x 4 were done, in whatever order they are named"


def test_changed_code_is_run_again(root, kernel):
    done(root, swept(root))
    write(root, "00_tiny", notebook("k + 2", parameters=PARAMETERS))
    done(root, swept(root))
    assert len(kernel.jobs) == 12


def test_one_failure_does_not_stop_the_others_and_is_tried_again(root, kernel):
    kernel.failing = {2}
    jobs, states = done(root, swept(root))
    assert [s.state for s in states] == ["done", "failed", "done"] * 2
    assert "no such k" in states[1].note
    rows = best(swept(root), tidy(jobs, states))
    assert [row["k"] for row in rows] == [1, 4]
    kernel.failing = set()
    _, states = done(root, swept(root))
    assert {s.state for s in states} == {"done"} and len(kernel.jobs) == 8


def test_what_was_cut_short_goes_on(root, kernel):
    kernel.seconds = 60.0

    def interrupt(jobs, states, left):
        if sum(state.state == "running" for state in states) == 2:
            raise KeyboardInterrupt

    jobs = jobs_of(swept(root), folder_of("tiny", root), root)
    with pytest.raises(KeyboardInterrupt):
        perform_all(jobs, interrupt, workers=2, tick=0.01)
    states = [job.state() for job in jobs]
    assert {s.state for s in states} == {"waiting"} and kernel.at == 0
    assert [s.note for s in states].count("was cut short, will go on") == 2
    kernel.seconds = 0.0
    assert {s.state for s in done(root, swept(root))[1]} == {"done"}


def test_two_sweeps_over_one_folder_share_the_work(root, kernel):
    kernel.seconds = 0.1
    other = threading.Thread(target=done, args=(root, swept(root)))
    other.start()
    done(root, swept(root))
    other.join()
    jobs = jobs_of(swept(root), folder_of("tiny", root), root)
    assert {s.state for s in watch(jobs, lambda *_: None, tick=0.01)} == {"done"}
    assert len(kernel.jobs) == 6, "none was done twice"


def test_an_owner_that_died_holds_nothing(root, kernel):
    (job, *_) = jobs_of(swept(root), folder_of("tiny", root), root)
    job.folder.mkdir(parents=True)
    (job.folder / ".lock").touch()
    (job.folder / ".owner").write_text(json.dumps({"host": "gone", "pid": os.getpid()}))
    (job.folder / "at.json").write_text(json.dumps({"cell": "3", "began": 0}))
    assert job.state() == State("waiting", note="was cut short, will go on")
    assert job.perform().state == "done"


@pytest.mark.parametrize("garbage", ["", "{", "[1]", '{"key": 3}'])
def test_half_written_notes_are_no_notes(root, kernel, garbage):
    (job, *_) = jobs_of(swept(root), folder_of("tiny", root), root)
    job.folder.mkdir(parents=True)
    for name in ("done.json", "failed.json", "told.json", "at.json"):
        (job.folder / name).write_text(garbage)
    assert job.state().state == "waiting"
    assert job.perform().state == "done"


def test_the_best_is_chosen_on_validation_and_told_with_intervals(root, kernel):
    sweep = swept(root, choose="k", by="validation_mm")
    jobs, states = done(root, sweep)
    (row,) = best(sweep, tidy(jobs, states))
    assert row["k"] == 4 and row["seeds"] == 2
    assert row["test_r1"] == pytest.approx(0.405)
    assert row["test_r1_low"] < 0.4 and row["test_r1_high"] > 0.41
    (row,) = best(swept(root, choose="k", by="validation_mm", highest=True), tidy(jobs, states))
    assert row["k"] == 1
    with pytest.raises(ValueError, match="no job has the metric 'loss'; there are: .*test_r1"):
        best(swept(root, choose="k", by="loss"), tidy(jobs, states))


def test_only_seeds_that_all_values_have_decide(root, kernel):
    rows = [
        {"k": 1, "seed": 0, "state": "done", "validation_mm": 1.0},
        {"k": 2, "seed": 0, "state": "done", "validation_mm": 2.0},
        {"k": 1, "seed": 1, "state": "done", "validation_mm": 9.0},
        {"k": 2, "seed": 1, "state": "failed"},
    ]
    (row,) = best(swept(root, choose="k", by="validation_mm"), rows)
    assert row["k"] == 1


def test_results_are_one_table_in_two_formats(root, kernel):
    jobs, states = done(root, swept(root))
    csv, parquet = write_results(tidy(jobs, states), folder_of("tiny", root))
    table = pd.read_csv(csv)
    pd.testing.assert_frame_equal(table, pd.read_parquet(parquet), check_dtype=False)
    assert list(table["k"]) == [1, 2, 4] * 2 and set(table["state"]) == {"done"}


def test_a_sweep_file_is_kept_and_read_again(root):
    sweep = swept(root, given={"lr": "1e-3"}, choose="k", by="validation_mm")
    assert sweep.given == {"lr": 1e-3}
    assert Sweep.read(sweep.write(root / "sweep.yaml"), root) == sweep


@pytest.mark.parametrize(
    "change, message",
    [
        ({"grid": {}}, "varies at least one"),
        ({"grid": {"k": []}}, "varies at least one"),
        ({"grid": {"q": [1]}}, "no parameter 'q'"),
        ({"grid": {"k": ["x"]}}, "no value for the parameter k"),
        ({"grid": {"k": 3}}, "lines of `name"),
        ({"notebook": "77"}, "0 notebooks are called"),
        ({"size": "../.."}, "size is one of"),
        ({"choose": "lr", "by": "x"}, "'lr' is not varied"),
        ({"choose": "k"}, "both is needed"),
        ({"choose": "k", "by": "test_r1"}, "of the test prompts"),
        ({"choose": ["k"], "by": "x"}, "choose is a str"),
        ({"given": {"k": 3}}, "both given and varied"),
        ({"command": "rm"}, "expected fields among"),
        ({"grid": {"k": [*range(1001)], "seed": [*range(1000)]}}, "a million are the most"),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused_in_a_line(root, change, message):
    content = {"notebook": "00", "grid": {"k": [1, 2], "seed": [0]}} | change
    path = root / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=re.escape(message)):
        Sweep.read(path, root)


@pytest.mark.parametrize(
    "text", ["", "a: [", "!!python/object/apply:os.system ['x']", "- 1", "\x00"]
)
def test_no_yaml_of_a_stranger_runs_code(root, text):
    path = root / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a sweep file"):
        Sweep.read(path, root)


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/x", "", ".hidden", "a" * 101, "a\nb"])
def test_a_sweep_stays_in_its_folder(root, name):
    with pytest.raises(ValueError, match="a sweep's name is"):
        folder_of(name, root)


def test_a_grid_is_read_from_a_command_line(root):
    declared = parameters_of(read_notebook(root / "notebooks" / "00_tiny.ipynb"))
    assert grid_of(["k=1, 2", "lr=1e-5,5e-5"], declared) == {"k": [1, 2], "lr": [1e-5, 5e-5]}
    assert list(with_seeds({"k": [1]}, 2)) == ["seed", "k"] and with_seeds({"k": [1]}, 0) == {
        "k": [1]
    }
    for text, message in (("k", "NAME=VALUE"), ("q=1", "no parameter 'q'"), ("k=x", "no value")):
        with pytest.raises(ValueError, match=message):
            grid_of([text], declared)


def test_the_command_runs_a_sweep_and_says_the_best(root, kernel, monkeypatch, capsys):
    monkeypatch.setattr("easytune_lib.app.runner.ROOT", root)
    command = ["sweep", "00", "--grid", "k=1,2", "--seeds", "2", "--choose", "k", "--lowest",
               "validation_mm", "--workers", "2"]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "seed=0 k=1: done" in said and "k is the one with the best validation_mm" in said
    folder = root / "outputs" / "sweeps" / "00_tiny"
    assert (folder / "results.csv").exists()
    kept = folder / "sweep.yaml"
    assert main(["sweep", str(kept), "--name", "00_tiny"]) == 0 and len(kernel.jobs) == 4
    kernel.failing = {5}
    assert main(["sweep", "00", "--grid", "k=5"]) == 1
    assert "failed: cell 2 of 2" in capsys.readouterr().out


def test_a_terminal_sees_one_table_drawn_over(root, kernel):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    shown = SweepTable(screen)
    jobs = jobs_of(swept(root), folder_of("tiny", root), root)
    perform_all(jobs, shown, workers=2, tick=0.01)
    frames = screen.getvalue().split("\x1b[J")
    assert "6 done" in frames[-2] and frames[-2].startswith("\x1b[7A")


@pytest.mark.slow
class TestCluster:
    """submitit's local executor plays the cluster; the scripts for SLURM are read."""

    def test_the_jobs_are_done_by_processes_of_their_own(self, root):
        write(root, "00_tiny", notebook(
            "from pathlib import Path\nfrom easytune_lib.records import RunRecord\n"
            "RunRecord('tiny', {'k': k}, {'test_r1': k / 10}).save(Path(runs))",
            parameters=PARAMETERS,
        ))  # fmt: skip
        sweep = swept(root, grid={"k": [1, 2]})
        folder = folder_of("tiny", root)
        jobs = jobs_of(sweep, folder, root)
        handles = submit_all(jobs, folder, "local", timeout_min=5)
        assert [handle.result() for handle in handles] == ["done", "done"]
        states = watch(jobs, lambda *_: None, tick=0.1)
        assert [s.metrics["test_r1"] for s in states] == [0.1, 0.2]
        assert submit_all(jobs, folder, "local", timeout_min=5) == []

    def test_what_slurm_is_asked_for(self, root, tmp_path, monkeypatch):
        """A cluster of two scripts: it takes what it is handed and runs nothing."""
        for name, says in (("srun", ""), ("sbatch", "Submitted batch job 12"), ("squeue", "")):
            script = tmp_path / "bin" / name
            script.parent.mkdir(exist_ok=True)
            script.write_text(f"#!/bin/sh\necho {says}\n")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        folder = folder_of("tiny", root)
        jobs = jobs_of(swept(root), folder, root)
        handles = submit_all(
            jobs, folder, "slurm", 2, slurm_partition="gpu", gpus_per_node=1, timeout_min=120,
            slurm_array_parallelism=3,
        )  # fmt: skip
        assert len(handles) == 6
        script, *_ = sorted((folder / "cluster").glob("*.sh"))
        for line in ("--partition=gpu", "--gpus-per-node=1", "--time=120", "--cpus-per-task=2",
                     "--array=0-5%3", "--job-name=tiny"):  # fmt: skip
            assert f"#SBATCH {line}" in script.read_text()
        assert "--signal=USR" in script.read_text(), "told before it ends, to be queued again"
        again = Performed(jobs[0], 1).checkpoint()
        assert isinstance(again.function, Performed) and again.function.job == jobs[0]

    def test_without_slurm_it_says_so(self, root, monkeypatch):
        monkeypatch.setenv("PATH", "")
        folder = folder_of("tiny", root)
        with pytest.raises(ValueError, match="no slurm here"):
            submit_all(jobs_of(swept(root), folder, root), folder, "slurm")
