"""Kill runs of every stage at random moments, go on, and compare with what nobody killed."""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import torch

from easytune_lib.data.synthetic import synthetic_corpus
from easytune_lib.experiments.compare import Run, tuned
from easytune_lib.experiments.overlong import Course, overtrained
from easytune_lib.experiments.refine import Arm, Bench, open_bench, refined, starting_point
from easytune_lib.finetuning.methods import EasyTune
from easytune_lib.recipes import train_base
from easytune_lib.records import RunRecord
from easytune_lib.rewards.spl import SPL
from easytune_lib.seeding import stream
from easytune_lib.storage import load_tensors
from easytune_lib.workbench import Workbench, open_workbench

TIMES = frozenset({"seconds", "spent", "machine", "pace"})
"""Keys of files under which clocks are, and which two equal runs need not share."""

PATIENCE = 30
"""How many times as long as the unbroken run one that is left alone may take; then it hangs."""


@dataclass(frozen=True)
class Stage:
    """A kind of run that may be killed, called again, and then goes on.

    Args:
        name: As the record has it.
        work: Does in a folder what is missing there; called again it goes on.
        share: Of all kills, in parts.
    """

    name: str
    work: Callable[[Path], None]
    share: int


@dataclass(frozen=True)
class TortureSize:
    """How much is done.

    Args:
        kills: In all, shared among the stages; each gets one at least.
        in_a_row: At most so many kills befall one run, before it is left alone.
        seed: Of the moments.
    """

    kills: int = 200
    in_a_row: int = 3
    seed: int = 0


QUICK_TORTURE = TortureSize(kills=5, in_a_row=1)


def torture(
    size: TortureSize, say: Callable[[str], None], stages: tuple[Stage, ...] | None = None
) -> RunRecord:
    """Kill runs, resume them, and compare.

    Each stage is done once by a process that nobody disturbs. Then processes at the same work are
    killed (SIGKILL, with all that they started) at moments drawn evenly from that time; what is
    left is gone on with, and the end is compared with the unbroken one: the same files, the same
    bits of every tensor, the same numbers in every record, clocks apart.

    Args:
        size: How many kills.
        say: Is given a line a stage.
        stages: All of :func:`all_stages` where ``None``.

    Returns:
        A record with ``tables["stages"]``: for each its runs, kills (those that came while it was
        at work), what differed, what hung or failed, and half-written files taken for whole.

    Raises:
        ValueError: An unbroken run fails; says why.
    """
    stages = all_stages() if stages is None else stages
    torch.set_num_threads(1)  # a process with more cannot be copied
    parts = sum(stage.share for stage in stages)
    rows, took = [], {}
    for stage in stages:
        kills = max(1, round(size.kills * stage.share / parts))
        began = time.perf_counter()
        rows.append({"stage": stage.name, **_tortured(stage, kills, size)})
        took[stage.name] = time.perf_counter() - began
        say("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return RunRecord(
        "torture", asdict(size), tables={"stages": rows},
        metrics={name: sum(row[name] for row in rows) for name in ("kills", "different", "failed")},
        machine={"seconds": took},
    )  # fmt: skip


def table(record: RunRecord) -> str:
    """The record in lines."""
    total = record.metrics
    return (
        f"{total['kills']:g} kills: {total['different']:g} results differ from the unbroken ones, "
        f"{total['failed']:g} runs failed or hung"
    )


def _tortured(stage: Stage, kills: int, size: TortureSize) -> dict[str, Any]:
    rng = stream(size.seed, "torture", stage.name)
    runs = done = different = failed = 0
    notes: list[str] = []
    with TemporaryDirectory(prefix="torture-") as name:
        top = Path(name)
        unbroken, log = top / "unbroken", top / "log"
        began = time.perf_counter()
        if _attempt(stage.work, unbroken, log) != "ended":
            raise ValueError(f"{stage.name} fails undisturbed: {log.read_text()[-2000:]}")
        whole, expected = time.perf_counter() - began, fingerprint(unbroken)
        while done < kills:
            folder = top / f"run{runs}"
            runs += 1
            for go in range(min(size.in_a_row, kills - done)):
                moment, began = whole * torch.rand((), generator=rng).item(), time.perf_counter()
                how = _attempt(stage.work, folder, log, moment)
                done += how == "killed"
                if how != "killed":
                    if go == 0:  # a machine that was busy and is no longer
                        whole = min(whole, time.perf_counter() - began)
                    break
            else:
                how = _attempt(stage.work, folder, log, PATIENCE * whole, "hung")
            if how != "ended":
                failed += 1
                notes.append(f"{how}: {log.read_text()[-500:]}")
            elif (found := fingerprint(folder)) != expected:
                different += 1
                notes += sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
    return {"runs": runs, "kills": done, "different": different, "failed": failed, "notes": notes}


def _attempt(
    work: Callable[[Path], None],
    folder: Path,
    log: Path,
    limit: float = float("inf"),
    late: str = "killed",
) -> str:
    """Work in a process of its own, killed after ``limit`` seconds: "ended", "failed" or late."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            with log.open("w") as file, _output(file):
                work(folder)
            code = 0
        except BaseException:  # whatever it is, this copy of the process must not go on
            with log.open("a") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(code)
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return "ended" if status == 0 else "failed"
        time.sleep(0.002)
    _kill_all(child)
    return late


def _kill_all(child: int) -> None:
    """The process and all of its group; a process that has not founded it yet, alone."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@contextmanager
def _output(file: TextIO) -> Iterator[None]:
    """All that is said goes into a file."""
    sys.stdout = sys.stderr = file
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    yield
    file.flush()


def fingerprint(folder: Path) -> dict[str, str]:
    """A digest of each record and file of tensors below a folder, by its place.

    Clocks (:data:`TIMES`) do not count, nor do files that were begun and never renamed.

    Raises:
        ValueError: A file under its final name cannot be read.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.suffix not in (".json", ".safetensors"):
            continue
        digest = hashlib.sha256()
        if path.suffix == ".json":
            content = json.loads(path.read_text())
        else:
            tensors, content = load_tensors(path)
            for name, tensor in sorted(tensors.items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(json.dumps(_timeless(content), sort_keys=True).encode())
        found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def _timeless(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _timeless(value) for key, value in content.items() if key not in TIMES}
    if isinstance(content, list):
        return [_timeless(value) for value in content]
    return content


def all_stages() -> tuple[Stage, ...]:
    """Base and reward training, SPL, fine-tuning, an over-long run, and a whole notebook."""
    bench, rewards = open_workbench("mdm", 2), open_bench(synthetic_corpus(clips=240))
    return (
        Stage("base", _base, 2),
        Stage("reward and SPL", partial(_reward, rewards), 4),
        Stage("fine-tuning", partial(_tune, bench), 6),
        Stage("over-long", partial(_course, bench), 6),
        Stage("notebook", _notebook, 2),
    )


def _base(folder: Path) -> None:
    _drain(train_base("mdm", "synthetic", folder, steps=3))


def _reward(bench: Bench, folder: Path) -> None:
    arm = Arm("SPL", SPL(1, pool=64), 0, bench.corpus.name, before=55, steps=4, every=2)
    _drain(starting_point(bench, arm, folder))
    _drain(refined(bench, arm, folder))


def _tune(bench: Workbench, folder: Path) -> None:
    run = Run(
        "mdm", bench.digest, "EasyTune", EasyTune(2), 1e-4, 0, updates=8, batch_size=2, n_steps=2,
        splits=("test",), noise_seeds=1, prompts=66, ema=0.9,
    )  # fmt: skip
    _drain(tuned(bench, run, folder, save_every=0.0))


def _course(bench: Workbench, folder: Path) -> None:
    course = Course(
        "mdm", bench.digest, "EasyTune", EasyTune(2), 1e-4, 0, updates=6, every=2, batch_size=2,
        n_steps=2, prompts=66,
    )  # fmt: skip
    _drain(overtrained(bench, course, folder))


def _notebook(folder: Path) -> None:
    from easytune_lib.app.cli import main

    given = {
        "updates": 2, "seconds": 0.0, "n_steps": 2, "batch_size": 2, "prompts_judged": 66,
        "runs": folder / "runs", "figures": folder / "figures", "scratch": folder / "scratch",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    if main(["run", "19", *words]):
        raise ValueError("the notebook failed")


def _drain(steps: Iterator[object]) -> None:
    for _ in steps:
        pass
