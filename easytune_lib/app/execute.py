"""One notebook in a process of its own: papermill runs it there, and its progress comes back."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from easytune_lib.app.notebook import Scalar
from easytune_lib.beacon import PLACE
from easytune_lib.storage import RESULTS


@dataclass(frozen=True)
class Job:
    """What is run, and where its parts go while it is not known to be whole."""

    notebook: Path
    parameters: Mapping[str, Scalar]
    output: Path  # the executed notebook; beside it, with suffix .html, a page of it
    log: Path  # what the process and its kernel say outside of cells
    threads: int = 0  # of the kernel; 0: OMP_NUM_THREADS, or as many as there are cores
    beacon: Path | None = None  # where what is run tells how far it is
    results: Path | None = None  # of a trial: where its records and figures go


@dataclass(frozen=True)
class CellStarted:
    """A code cell begins to run."""

    number: int  # counted from 1
    cells: int
    line: str  # the cell's first one

    def __str__(self) -> str:
        return f"cell {self.number} of {self.cells} (`{self.line}`)"


@dataclass(frozen=True)
class Finished:
    """The notebook ended, well if ``error`` is empty."""

    seconds: float
    peak_mb: int  # the largest resident set of the kernel; 0 where unknown
    error: str  # a sentence: which cell, what happened


def run(job: Job, tick: float = 1.0) -> Iterator[CellStarted | Finished | None]:
    """Run a notebook; yields its events, the last one :class:`Finished`, and ``None`` at ticks.

    The notebook's folder is its working directory, as in JupyterLab. Its kernel uses as many
    threads as there are cores, unless ``OMP_NUM_THREADS`` says otherwise. No process outlives
    this one, even if it is killed.

    Args:
        job: What to run.
        tick: Seconds of silence after which ``None`` is yielded.
    """
    context = multiprocessing.get_context("spawn")
    events, other_end = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, other_end), daemon=True)
    began = time.monotonic()
    process.start()
    other_end.close()
    try:
        event = None
        while not isinstance(event, Finished):
            event = events.recv() if events.poll(tick) else None
            yield event
        process.join(10)
    except EOFError:
        process.join(10)
        error = f"its process ended with exit code {process.exitcode}"
        yield Finished(time.monotonic() - began, 0, error)
    finally:
        if process.is_alive():
            process.terminate()
            process.join(10)
            process.kill()


def _work(job: Job, events: Connection) -> None:
    """The child: run the job and tell what happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with job.log.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if job.threads:
        os.environ["OMP_NUM_THREADS"] = str(job.threads)
    if job.beacon is not None:
        os.environ[PLACE] = str(job.beacon)
    if job.results is not None:
        os.environ[RESULTS] = str(job.results.resolve())
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not the user's
    os.environ["IPYTHONDIR"] = str(job.log.parent / ".ipython")  # nor the user's start-up files

    current: CellStarted | None = None

    def report(event: CellStarted) -> None:
        nonlocal current
        current = event
        events.send(event)

    began = time.monotonic()
    error = _execute(job, report)
    seconds = time.monotonic() - began
    where = str(current) if current else "the kernel's start"
    events.send(Finished(seconds, _peak_mb(), f"{where}: {error}" if error else ""))


def _execute(job: Job, report: Callable[[CellStarted], None]) -> str:
    """Run the notebook; returns what went wrong."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError

    from easytune_lib.app.page import page

    class Reporting(NBClientEngine):
        """papermill's engine, which also says which cell it is at."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
            code = [cell for cell in nb_man.nb.cells if cell.cell_type == "code"]
            begin = nb_man.cell_start

            def cell_start(cell: Any, *args: Any, **rest: Any) -> None:
                for number, other in enumerate(code, 1):
                    if cell is other:
                        line = cell.source.strip().partition("\n")[0]
                        report(CellStarted(number, len(code), line[:60]))
                begin(cell, *args, **rest)

            nb_man.cell_start = cell_start
            super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("reporting", Reporting)
    try:
        executed = papermill.execute_notebook(
            str(job.notebook),
            str(job.output),
            parameters=dict(job.parameters),
            engine_name="reporting",
            kernel_name="python3",
            progress_bar=False,
            start_timeout=120,
            store_widget_state=False,  # pages show the explorers' own, which need no network
            cwd=str(job.notebook.parent),
            # ipykernel 7 warns of TCP, and the interrupt that comes with every shutdown may reach
            # it as an "error". What a cell raises, and a kernel that dies, are told otherwise.
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
        job.output.with_suffix(".html").write_text(page(executed))
    except DeadKernelError:
        return "the kernel died; the system may have ended it for want of memory"
    except PapermillExecutionError as error:
        return _plain(f"{error.ename}: {error.evalue}")
    except OSError as error:
        return _plain(f"{error}; what it wrote so far is not taken for whole")
    return ""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _peak_mb() -> int:
    """Peak memory of the largest child that has ended; here, of the kernel."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def _end_with_parent() -> None:
    """End when the parent does, however that ends; the kernel then ends by itself."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _plain(text: str) -> str:
    """Text without terminal colours, on one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
