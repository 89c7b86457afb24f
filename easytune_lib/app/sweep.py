"""One notebook under many parameters: jobs that are done once, resumed, watched and compared.

A sweep is a folder. Each job has a folder of its own in it, named by notebook and parameters, and
is held by one process at a time; all that is known of a job is read from its files, so that any
number of processes, on this machine or on a cluster, may work at one sweep and watch it.
"""

import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from easytune_lib.app.execute import Finished, Job, cores, run
from easytune_lib.app.notebook import (
    Parameter,
    Scalar,
    find_notebooks,
    parameters_of,
    read_notebook,
    read_settings,
    read_values,
    source_hash,
)
from easytune_lib.app.runner import sizes, surroundings
from easytune_lib.beacon import heard
from easytune_lib.storage import alone

OWN = ("runs", "figures")
"""Parameters that name a place: each job has its own."""


@dataclass(frozen=True)
class Sweep:
    """What is varied, and how the best is chosen.

    Raises:
        ValueError: Nothing is varied, or what is chosen is not; or more than a million jobs.
    """

    notebook: str  # its name
    grid: Mapping[str, Sequence[Scalar]]  # values of each parameter that is varied
    given: Mapping[str, Scalar] = field(default_factory=dict)  # parameters that are not
    size: str = "laptop"
    choose: str = ""  # a parameter of the grid, of which the best value is taken
    by: str = ""  # the metric that says which is best; of validation, never of test
    highest: bool = False  # more of it is better

    def __post_init__(self) -> None:
        if not self.grid or not all(self.grid.values()):
            raise ValueError("a sweep varies at least one parameter: give a grid, NAME=VALUE,VALUE")
        count = 1
        for values in self.grid.values():
            count *= len(values)
        if count > 1_000_000:
            raise ValueError(f"the grid has {count} combinations: a million are the most")
        if bool(self.choose) != bool(self.by):
            raise ValueError(
                "to choose, both is needed: the parameter, and the metric that decides"
            )
        if self.choose and (self.choose not in self.grid or self.choose == "seed"):
            known = ", ".join(name for name in self.grid if name != "seed") or "none"
            raise ValueError(f"{self.choose!r} is not varied; what is: {known}")
        if "test" in self.by.split("_"):
            raise ValueError(f"{self.by!r} is of the test prompts: choose by a validation metric")

    @classmethod
    def read(cls, path: Path, root: Path) -> "Sweep":
        """From a YAML file with these fields.

        Raises:
            ValueError: It is no such file, or says what a sweep cannot be.
        """
        import yaml

        try:
            if path.stat().st_size > 2**20:
                raise ValueError(f"{path} has over a MiB: expected a sweep's few lines")
            content = yaml.safe_load(path.read_bytes())
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{path} is not a sweep file: {why}") from error
        known = [name for name in cls.__dataclass_fields__]
        if not isinstance(content, dict) or not {"notebook", "grid"} <= content.keys() <= {*known}:
            raise ValueError(
                f"{path} is not a sweep file: expected fields among {', '.join(known)}"
            )
        grid = content["grid"]
        if not isinstance(grid, dict) or not all(isinstance(v, list) for v in grid.values()):
            raise ValueError(f"{path}: the grid is lines of `name: [value, value]`")
        return cls.checked(content, root)

    @classmethod
    def checked(cls, content: Mapping[str, Any], root: Path) -> "Sweep":
        """With values that have the types which the notebook declares.

        Raises:
            ValueError: The notebook, a parameter or a value is not known.
        """
        fields: dict[str, Any] = dict(content)
        kinds = {"notebook": str, "choose": str, "by": str, "highest": bool}
        for name, kind in kinds.items():
            if not isinstance(fields.get(name, kind()), kind):
                raise ValueError(f"{name} is a {kind.__name__}, got {fields[name]!r}")
        path = find_notebooks([str(fields["notebook"])], root)[0]
        declared = parameters_of(read_notebook(path))
        if fields.get("size", "laptop") not in sizes(root):
            raise ValueError(f"size is one of {', '.join(sizes(root))}, got {fields['size']!r}")
        values = {
            str(name): [read_values({str(name): v}, declared, path.stem)[str(name)] for v in given]
            for name, given in fields["grid"].items()
        }
        fields["grid"] = {name: list(dict.fromkeys(given)) for name, given in values.items()}
        given = fields.get("given") or {}
        fields["given"] = read_values(
            {str(name): v for name, v in given.items()}, declared, path.stem
        )
        if both := sorted(fields["grid"].keys() & fields["given"].keys()):
            raise ValueError(f"{', '.join(both)}: both given and varied")
        fields["notebook"] = path.stem
        return cls(**fields)

    def write(self, path: Path) -> Path:
        """To a file that :meth:`read` reads, to be kept and run again."""
        import yaml

        from easytune_lib.storage import write_atomic

        text = yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)
        return write_atomic(path, text.encode())

    def combinations(self) -> Iterator[dict[str, Scalar]]:
        """The values of each job; the last parameter of the grid varies fastest."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def with_seeds(grid: Mapping[str, Sequence[Scalar]], seeds: int) -> dict[str, Sequence[Scalar]]:
    """The grid with ``seed`` from 0 on, varying slowest: whole seeds are done one by one."""
    return {"seed": list(range(seeds)), **grid} if seeds else dict(grid)


def grid_of(texts: Sequence[str], declared: Sequence[Parameter]) -> dict[str, list[Scalar]]:
    """The grid that a command line means by ``NAME=VALUE,VALUE``.

    Raises:
        ValueError: A text is of another form, or a name or value unknown.
    """
    known = {parameter.name: parameter for parameter in declared}
    grid: dict[str, list[Scalar]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(f"a grid is NAME=VALUE,VALUE, got {text!r}")
        if name not in known:
            raise ValueError(f"no parameter {name!r}; there are: {', '.join(known)}")
        grid[name] = [known[name].parse(value.strip()) for value in values.split(",")]
    return grid


@dataclass(frozen=True)
class State:
    """How a job stands."""

    state: str  # waiting, running, done, failed
    fraction: float = 0.0
    note: str = ""  # the cell that runs, or what went wrong
    seconds: float = 0.0  # so far, or in all
    told: Mapping[str, float] = field(default_factory=dict)  # what the run says of itself
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the records it wrote
    library: str = ""  # digest of what it was done with
    wall: float = 0.0  # seconds in all, with what the sweep itself does


@dataclass(frozen=True)
class SweepJob:
    """One notebook run of a sweep, by the folder that it lives in."""

    folder: Path
    notebook: Path
    varied: Mapping[str, Scalar]
    parameters: Mapping[str, Scalar]  # all that differ from the notebook's defaults

    @property
    def key(self) -> str:
        """Changes when the notebook's code or the parameters do."""
        from easytune_lib.records import run_id

        return run_id(source_hash(read_notebook(self.notebook)), dict(self.parameters))

    def state(self) -> State:
        """As its files tell."""
        done = _read(self.folder / "done.json")
        if done.get("key") == self.key:
            return State(
                "done",
                1.0,
                "",
                done["seconds"],
                {},
                done["metrics"],
                done.get("library", ""),
                done.get("wall", done["seconds"]),
            )
        at = _read(self.folder / "at.json")
        if _held(self.folder):
            told = heard(self.folder / "told.json")
            seconds = time.time() - at.get("began", time.time())
            return State(
                "running", told.get("fraction", 0.0), at.get("cell", ""), max(seconds, 0.0), told
            )
        failed = _read(self.folder / "failed.json")
        if failed.get("key") == self.key:
            return State("failed", 0.0, failed["error"], failed["seconds"])
        return State("waiting", 0.0, "was cut short, will go on" if at else "")

    def perform(self, threads: int = 1, stop: Event | None = None, force: bool = False) -> State:
        """Do the job, unless it is done; another process that is at it is left in peace.

        What a killed one left is taken up as the notebook can: single runs go on from their last
        saved state. Nothing but this folder, and what the notebook keeps as ``scratch``, is
        written.

        Args:
            threads: Of the kernel, so that several jobs share a machine in peace.
            stop: Ends the job when set.
            force: Do it again.
        """
        from easytune_lib.storage import write_json

        with suppress(_Busy), _owned(self.folder):
            if self.state().state == "done" and not force:  # by now
                return self.state()
            _forget(self.folder, "failed.json", "told.json", *(("done.json",) if force else ()))
            began, ticks = time.time(), time.monotonic()  # the day's clock may be set meanwhile
            key, library = self.key, surroundings(_root(self.notebook))
            write_json(self.folder / "at.json", {"cell": "starting the kernel", "began": began})
            partial = self.folder / "notebook.partial.ipynb"
            own = {name: str(self.folder / name) for name in OWN if name in self._declared()}
            job = Job(
                self.notebook, {**self.parameters, **own}, partial,
                self.folder / "log.txt", threads, self.folder / "told.json",
            )  # fmt: skip
            finished: Finished | None = None
            events = run(job)
            for event in events:
                if isinstance(event, Finished):
                    finished = event
                elif event is not None:
                    write_json(self.folder / "at.json", {"cell": str(event), "began": began})
                if stop is not None and stop.is_set():
                    events.close()  # pyright: ignore[reportAttributeAccessIssue]
                    return State("waiting", note="was cut short, will go on")
            assert finished is not None
            if finished.error:
                if partial.exists():
                    partial.replace(self.folder / "notebook.failed.ipynb")
                note = {"key": key, "error": finished.error, "seconds": finished.seconds}
                write_json(self.folder / "failed.json", note)
            else:
                for suffix in (".html", ".ipynb"):
                    partial.with_suffix(suffix).replace(self.folder / f"notebook{suffix}")
                _forget(self.folder, "notebook.failed.ipynb")
                note = {
                    "key": key, "seconds": finished.seconds, "library": library,
                    "wall": round(time.monotonic() - ticks, 3),
                    "metrics": _metrics(self.folder / "runs"),
                }  # fmt: skip
                write_json(self.folder / "done.json", note)
            _forget(self.folder, "at.json", "told.json")
        return self.state()

    def _declared(self) -> list[str]:
        return [p.name for p in parameters_of(read_notebook(self.notebook))]


class Performed:
    """A job as a cluster calls it; preempted, it is queued again and goes on."""

    def __init__(self, job: SweepJob, threads: int):
        self.job, self.threads = job, threads

    def __call__(self) -> str:
        """Do it; returns how it ended."""
        return self.job.perform(self.threads).state

    def checkpoint(self) -> Any:
        """Called by submitit before the cluster ends the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def jobs_of(sweep: Sweep, folder: Path, root: Path) -> list[SweepJob]:
    """The jobs of a sweep that lives in ``folder``.

    Raises:
        ValueError: The notebook is not there.
    """
    from easytune_lib.records import run_id

    path = find_notebooks([sweep.notebook], root)[0]
    declared = parameters_of(read_notebook(path))
    settings = root / "notebooks" / "parameters" / sweep.size / f"{path.stem}.yaml"
    values = read_settings(settings, declared) if settings.exists() else {}
    found = []
    for varied in sweep.combinations():
        parameters = {**values, **sweep.given, **varied}
        name = run_id(re.sub(r"\W", "_", path.stem), {"size": sweep.size, **parameters})
        found.append(SweepJob(folder / name, path, varied, parameters))
    return found


def folder_of(name: str, root: Path) -> Path:
    """Where the sweep called ``name`` lives.

    Raises:
        ValueError: The name could lead elsewhere.
    """
    if not re.fullmatch(r"[\w][\w.-]{0,99}", name):
        raise ValueError(f"a sweep's name is letters, digits, _, - and ., got {name!r}")
    return root / "outputs" / "sweeps" / name


Show = Callable[[Sequence[SweepJob], Sequence[State], float | None], None]
"""Is shown jobs, how they stand, and the seconds left, if they can be told."""


def perform_all(
    jobs: Sequence[SweepJob],
    show: Show,
    workers: int = 0,
    force: bool = False,
    tick: float = 1.0,
) -> list[State]:
    """Do all jobs on this machine; one that fails does not stop the others.

    Args:
        jobs: Of :func:`jobs_of`.
        show: Is called every ``tick`` seconds.
        workers: Jobs at a time; 0: as many as there are cores. Cores are shared out evenly.
        force: Do also what is done.
        tick: Seconds.
    """
    workers = min(workers or cores(), max(len(jobs), 1))
    threads = max(cores() // workers, 1)
    stop, began = Event(), time.monotonic()
    before = sum(job.state().state == "done" for job in jobs) if not force else 0
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(job.perform, threads, stop, force) for job in jobs]
        try:
            while not all(future.done() for future in futures):
                show(jobs, [job.state() for job in jobs], _left(futures, jobs, before, began))
                stop.wait(tick)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        for future in futures:
            future.result()
    states = [job.state() for job in jobs]
    show(jobs, states, 0.0)
    return states


def submit_all(
    jobs: Sequence[SweepJob], folder: Path, cluster: str, threads: int = 1, **options: Any
) -> list[Any]:
    """Hand all jobs that are not done to a cluster, as one array.

    Args:
        jobs: Of :func:`jobs_of`.
        folder: For the cluster's scripts and logs.
        cluster: Of submitit: ``slurm``, or ``local`` and ``debug`` to try it.
        threads: Cores a job.
        options: Of submitit's ``update_parameters``, for instance ``slurm_partition``,
            ``gpus_per_node``, ``timeout_min`` and ``slurm_array_parallelism``.

    Returns:
        submitit's jobs.

    Raises:
        ValueError: There is no such cluster here, or submitit is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise ValueError("clusters need submitit: pip install submitit") from error
    waiting = [job for job in jobs if job.state().state in ("waiting", "failed")]
    if not waiting:
        return []
    try:
        executor = submitit.AutoExecutor(folder / "cluster", cluster=cluster)
    except RuntimeError as error:
        raise ValueError(f"no {cluster} here: {error}") from error
    executor.update_parameters(name=folder.name, cpus_per_task=threads, **options)
    with executor.batch():
        handles = [executor.submit(Performed(job, threads)) for job in waiting]
    return handles


def watch(jobs: Sequence[SweepJob], show: Show, tick: float = 5.0) -> list[State]:
    """Show how jobs stand until all have ended, whoever does them."""
    while True:
        states = [job.state() for job in jobs]
        show(jobs, states, None)
        if all(state.state in ("done", "failed") for state in states):
            return states
        time.sleep(tick)


def tidy(jobs: Sequence[SweepJob], states: Sequence[State]) -> list[dict[str, Any]]:
    """One row a job: what was varied, how it stands, and its metrics."""
    return [
        {**job.varied, "state": state.state, "seconds": state.seconds, "job": job.folder.name,
         **state.metrics}
        for job, state in zip(jobs, states, strict=True)
    ]  # fmt: skip


def write_results(rows: Sequence[Mapping[str, Any]], folder: Path) -> tuple[Path, Path]:
    """All rows as ``results.csv`` and ``results.parquet``."""
    import io

    import pandas as pd

    from easytune_lib.storage import write_atomic

    table = pd.DataFrame(list(rows))
    packed = io.BytesIO()
    table.to_parquet(packed, index=False)
    csv = write_atomic(folder / "results.csv", table.to_csv(index=False).encode())
    return csv, write_atomic(folder / "results.parquet", packed.getvalue())


def best(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each combination of the rest, the value of ``choose`` that is best by ``by``.

    By the mean over seeds, of which only those count that all values have. Metrics come with the
    95 % interval of their mean over seeds.

    Raises:
        ValueError: No finished job has the metric that decides.
    """
    from easytune_lib.metrics.intervals import spread

    done = [row for row in rows if row["state"] == "done"]
    if done and sweep.by and not any(sweep.by in row for row in done):
        known = sorted({n for row in done for n, v in row.items() if isinstance(v, int | float)})
        raise ValueError(f"no job has the metric {sweep.by!r}; there are: {', '.join(known)}")
    rest = [name for name in sweep.grid if name not in ("seed", sweep.choose)]
    groups: dict[tuple[Any, ...], dict[Any, list[Mapping[str, Any]]]] = {}
    for row in done:
        value = row[sweep.choose] if sweep.choose else None
        groups.setdefault(tuple(row[n] for n in rest), {}).setdefault(value, []).append(row)
    found = []
    for place, values in groups.items():
        chosen = next(iter(values))
        if sweep.choose:
            shared = set.intersection(*({r.get("seed") for r in own} for own in values.values()))
            means = {
                value: _mean([row[sweep.by] for row in own if row.get("seed") in shared])
                for value, own in values.items()
            }
            chosen = (max if sweep.highest else min)(means, key=lambda value: means[value])
        own = values[chosen]
        picked = {sweep.choose: chosen} if sweep.choose else {}
        metrics = [n for n, v in own[0].items() if isinstance(v, float) and n not in sweep.grid]
        numbers: dict[str, Any] = {}
        for name in metrics:
            if all(name in row for row in own):
                ends = spread([row[name] for row in own])
                numbers |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        found.append(
            {**dict(zip(rest, place, strict=True)), **picked, "seeds": len(own), **numbers}
        )
    return found


def record_of(
    sweep: Sweep, jobs: Sequence[SweepJob], states: Sequence[State], wall: float, again: float
) -> Any:
    """The record of a sweep: every job, the best, and what the sweep itself cost.

    Args:
        sweep: What was varied.
        jobs: Its jobs.
        states: How they ended.
        wall: Seconds that it took to get here, this time.
        again: Seconds to find out that all is done.
    """
    from easytune_lib.records import RunRecord

    rows = tidy(jobs, states)
    took = [{"job": row["job"], "seconds": row.pop("seconds")} for row in rows]
    beside = [state.wall - state.seconds for state in states if state.state == "done"]
    ended = [row["state"] for row in rows]
    counts: dict[str, float | int] = {name: ended.count(name) for name in ("done", "failed")}
    return RunRecord(
        "sweep", asdict(sweep), counts,
        tables={"jobs": rows, "best": best(sweep, rows)},
        machine={
            "jobs": took, "wall": wall, "finished_again": again, "threads": cores(),
            "overhead_per_job": _mean(beside) if beside else 0.0,
        },
    )  # fmt: skip


def table(jobs: Sequence[SweepJob], states: Sequence[State]) -> list[dict[str, Any]]:
    """What a live view shows of each job, as plain text."""
    rows = []
    for job, state in zip(jobs, states, strict=True):
        told = {k: v for k, v in state.told.items() if k != "fraction"}
        shown = told or dict(list(state.metrics.items())[:3])
        rows.append({
            **{name: str(value) for name, value in job.varied.items()},
            "state": state.state,
            "progress": f"{state.fraction:.0%}" if state.state != "waiting" else "",
            "seconds": f"{state.seconds:.0f}" if state.seconds else "",
            "so far": ", ".join(f"{name} {value:.4g}" for name, value in shown.items()),
            "note": state.note,
        })  # fmt: skip
    return rows


class _Busy(Exception):
    """Another process is at the job."""


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold a job's folder, and write down who does.

    Raises:
        _Busy: Another process holds it; one that only looks lets go within moments.
    """
    with ExitStack() as stack:
        for last in (False, False, True):
            try:
                stack.enter_context(alone(folder))
                break
            except ValueError as error:
                if last:
                    raise _Busy(_read(folder / ".owner")) from error
                time.sleep(0.1)
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        (folder / ".owner").write_text(json.dumps(who))
        yield


def _held(folder: Path) -> bool:
    """Whether a process that lives is at the job; the owner's name alone proves nothing."""
    import fcntl

    try:
        with (folder / ".lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _forget(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _root(notebook: Path) -> Path:
    return notebook.parents[1]


def _metrics(runs: Path) -> dict[str, float]:
    """The metrics of all records that a job wrote; where names meet, the record's name leads."""
    from easytune_lib.records import RunRecord

    records = [RunRecord.load(path) for path in sorted(runs.glob("*/record.json"))]
    names = [name for record in records for name in record.metrics]
    return {
        (name if names.count(name) == 1 else f"{record.name}.{name}"): float(value)
        for record in records
        for name, value in record.metrics.items()
    }


def _left(
    futures: Sequence[Any], jobs: Sequence[SweepJob], before: int, began: float
) -> float | None:
    """Seconds left, if what is to come goes on as what has been."""
    ended = sum(future.done() for future in futures) - before
    if ended <= 0:
        return None
    todo = len(jobs) - before - ended
    return (time.monotonic() - began) / ended * todo


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("inf")
