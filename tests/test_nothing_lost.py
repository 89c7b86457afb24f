"""What goes wrong around a run: it ends in one line, and nothing half-written is taken for whole.

Kills are in ``test_training``, ``test_worker`` and ``easytune torture``; cells that fail and two
runs at once in ``test_runner``, ``test_sweep`` and ``test_distributed``. Run as a script, this
file is ``easytune train reward`` with a toy in place of the reward.
"""

import ast
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_training import PLAN, _network, _objective
from tiny_notebook import notebook, write

from easytune_lib import recipes
from easytune_lib.app import sweep as sweeps
from easytune_lib.app.cli import main
from easytune_lib.app.execute import Finished, Job, run
from easytune_lib.app.sweep import Sweep, folder_of, jobs_of
from easytune_lib.storage import alone, load_tensors, save_tensors, write_atomic
from easytune_lib.training import train

ROOT = Path(__file__).parents[1]
LINES = "nothing was changed; make room or choose another place"


def toy_training(way: str):
    """A recipe whose disk fills up, or that is slow enough to be interrupted."""

    def train_reward(data, out, **_):
        network = _network()
        objective = _objective(network, pause=0.05 if way == "slow" else 0.0)
        for step in train(network, objective, PLAN, out / "training" / "spm.safetensors"):
            if way == "full" and step.step == 10:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            yield step
        save_tensors(out / "spm.safetensors", network.state_dict(), {})

    return train_reward


def started(way: str, out: Path, *more: str) -> subprocess.Popen[str]:
    """The command, in a process of its own, which Ctrl-C reaches though a job may be deaf to it."""
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, __file__, way, "--out", str(out), *more],
        env=os.environ | {"PYTHONPATH": places}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def resumes_to_the_unbroken(out: Path) -> bool:
    """Whether what is left is a whole state, from which training ends as if nothing had been."""
    assert {path.name for path in (out / "training").iterdir()} <= {"spm.safetensors", ".lock"}
    assert not (out / "spm.safetensors").exists()
    again = started("well", out, "--resume")
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    network = _network()
    list(train(network, _objective(network), PLAN))
    found = load_tensors(out / "spm.safetensors")[0]
    return all(torch.equal(value, found[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_training_in_a_line_and_loses_no_state(tmp_path):
    ended = started("full", tmp_path)
    _, said = ended.communicate(timeout=300)
    assert ended.returncode == 2 and len(said.splitlines()) == 1
    assert said.startswith("error: ") and "spm.safetensors" in said and LINES in said
    assert load_tensors(tmp_path / "training" / "spm.safetensors")[1]["done"] == 8
    assert resumes_to_the_unbroken(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
def test_ctrl_c_twice_ends_at_once_without_a_traceback(tmp_path, pause):
    process = started("slow", tmp_path)
    while not (tmp_path / "training" / "spm.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in said
    assert said in ("", "\ninterrupted; what was done stays done\n")
    assert resumes_to_the_unbroken(tmp_path)


@pytest.mark.parametrize("where", ["mkstemp", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(
    tmp_path, monkeypatch, where, code
):
    """Full, read-only, not ours, over quota; at each moment."""
    path = write_atomic(tmp_path / "a.bin", b"old")

    def refused(*_, **__):
        raise OSError(code, os.strerror(code), "a name that says nothing")

    monkeypatch.setattr("tempfile.mkstemp" if where == "mkstemp" else f"os.{where}", refused)
    with pytest.raises(OSError) as error:
        write_atomic(path, b"new")
    said = str(error.value)
    assert error.value.errno == code and str(path) in said and LINES in said
    assert "says nothing" not in said and "\n" not in said
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_run(tmp_path, capsys):
    """A file where a folder should be stops every user; a mode does not stop root."""
    (tmp_path / "file").touch()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for place in [tmp_path / "file", *([closed] if os.geteuid() else [])]:
        assert main(["train", "reward", "--out", str(place / "weights")]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and str(place) in said and LINES in said
        with pytest.raises(OSError, match="make room or choose another place"), alone(place / "a"):
            pass


def test_a_clock_that_jumps_takes_no_job_from_its_owner(tmp_path, monkeypatch):
    """By days, forth and back, at every look: as clocks are set when a network comes up."""
    write(tmp_path, "00_tiny", notebook("k + 1"))
    monkeypatch.setattr(sweeps, "surroundings", lambda root: "library")
    (job,) = jobs_of(
        Sweep.checked({"notebook": "00", "grid": {"k": [1]}}, tmp_path),
        folder_of("tiny", tmp_path), tmp_path,
    )  # fmt: skip
    now, jumps = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: now() + jumps.uniform(-1e6, 1e6))
    seen = []

    def kernel(asked):
        for _ in range(20):
            seen.append(job.state())
            seen.append(job.perform())  # another one, who finds it taken
            yield None
        asked.output.write_text("{}")
        asked.output.with_suffix(".html").write_text("page")
        yield Finished(1.0, 1, "")

    monkeypatch.setattr(sweeps, "run", kernel)
    ended = job.perform()
    assert ended.state == "done" and 0 <= ended.wall < 60
    assert [state.state for state in seen] == ["running"] * 40
    assert all(state.seconds >= 0 for state in seen)


def test_nothing_is_decided_by_the_clock_of_the_day():
    """It may be set; only how long a job has run is shown by it, since its owner is elsewhere."""
    uses = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in (ROOT / "easytune_lib").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.time"
    }
    assert uses == {"easytune_lib/app/sweep.py: time.time()"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "output", "told"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "a.ipynb", "the kernel died"),
        ("import os\nos._exit(0)", "a.ipynb", "the kernel died"),
        ("raise SystemExit('enough')", "a.ipynb", "SystemExit: enough"),
        ("1 + 1", "/dev/full", "No space left on device"),
    ],
)
def test_a_cell_that_dies_or_cannot_be_stored_is_told_in_a_line(tmp_path, cell, output, told):
    path = write(tmp_path, "00_tiny", notebook(cell))
    job = Job(path, {}, tmp_path / output, tmp_path / "log", threads=1)
    *_, ended = run(job)
    assert isinstance(ended, Finished) and told in ended.error and "\n" not in ended.error
    assert not (tmp_path / "a.html").exists()


if __name__ == "__main__":
    recipes.train_reward = toy_training(sys.argv[1])
    sys.exit(main(["train", "reward", *sys.argv[2:]]))
