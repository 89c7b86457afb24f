"""Run notebooks one after the other, each once, and show what they drew.

An output is whole or absent: it is written beside its place and moved there when the notebook
has ended well, and only then noted as done. What is done is skipped until code, parameters or
weights change.
"""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from easytune_lib import __version__
from easytune_lib.app.execute import Finished, Job, run
from easytune_lib.app.gallery import write_gallery
from easytune_lib.app.notebook import (
    Notebook,
    Scalar,
    find_notebooks,
    parameters_of,
    parse_values,
    publish,
    read_notebook,
    read_settings,
    source_hash,
)
from easytune_lib.app.progress import Progress
from easytune_lib.records import difference
from easytune_lib.storage import alone

LIBRARY = Path(__file__).parents[1]
ROOT = LIBRARY.parent


@dataclass(frozen=True)
class Task:
    """A notebook with its parameters, and where its output belongs."""

    notebook: Path
    parameters: Mapping[str, Scalar]
    output: Path
    key: str  # changes when the result may
    expected: float | None  # seconds it took last, if known
    trial: bool = False  # parameters were given by hand, or the notebook is the user's own

    @property
    def name(self) -> str:
        """The output's name: the notebook's, and a hash where parameters were given by hand."""
        return self.output.stem

    @property
    def results(self) -> Path | None:
        """Folder of records and figures of a trial; ``None``: they go where the notebook says."""
        return self.output.with_suffix("") if self.trial else None

    @property
    def note(self) -> Path:
        """Where it is noted what was done."""
        return self.output.with_suffix(".json")


@dataclass(frozen=True)
class Result:
    """A notebook that ended well, as noted beside its output."""

    key: str
    seconds: float
    peak_mb: int
    figures: tuple[str, ...]  # names of the figures that it drew
    parameters: Mapping[str, Scalar]
    finished: str


WAITS = Result("", 0.0, 0, (), {}, "")
"""Of a notebook that needs a record which only a long run makes: nothing failed."""


def reproduce(
    size: str = "laptop",
    force: bool = False,
    only: Sequence[str] = (),
    root: Path = ROOT,
    progress: Progress | None = None,
) -> int:
    """Run all notebooks that are not done, and write ``figures/index.html``.

    Args:
        size: ``laptop`` takes the notebooks' defaults, others such as ``full`` or
            ``paper/mdm-kit`` their YAML files in ``notebooks/parameters/<size>``, where there
            is one.
        force: Run also what is done; what notebooks keep of single runs in the folder that
            their parameter ``scratch`` names is moved aside, not removed.
        only: Names of notebooks, or beginnings of names; all where empty.
        root: The repository.
        progress: What is told of it; lines on the terminal where ``None``.

    Returns:
        0, or 1 if a notebook failed; the others are run all the same.

    Raises:
        ValueError: A notebook or a parameter is not known, or another run is at work.
    """
    around = surroundings(root)
    chosen = [plan(path, size, {}, root, around) for path in find_notebooks(only, root)]
    progress = progress or Progress()
    with alone(root / "outputs" / size):
        if force:
            for moved in _set_aside(chosen):
                progress.say(f"what was kept of earlier runs is now in {moved.relative_to(root)}")
        results = _run_all(chosen, force, root, progress)
        page = write_gallery(root, size)
    progress.table(
        ("notebook", "seconds", "peak MB", "figures"),
        [_row(task, results[task.name]) for task in chosen],
    )
    progress.say(f"All figures: {page.relative_to(root)}")
    return int(None in results.values())


def run_notebook(
    name: str,
    given: Sequence[Sequence[str]] = (),
    size: str = "laptop",
    force: bool = False,
    inplace: bool = False,
    root: Path = ROOT,
    progress: Progress | None = None,
) -> int:
    """Run one notebook, with parameters given as pairs of name and text.

    Args:
        name: Name of a notebook, its beginning, or a path.
        given: Parameters that differ from those of ``size``.
        size: As in :func:`reproduce`.
        force: Run also what is done.
        inplace: Store the outputs in the committed notebook too.
        root: The repository.
        progress: What is told of it.

    Returns:
        0, or 1 if the notebook failed.

    Raises:
        ValueError: As in :func:`reproduce`; or outputs other than those of the defaults
            would be stored in the committed notebook.
    """
    if inplace and (given or size != "laptop"):
        raise ValueError("--inplace stores the outputs of the defaults: give no -p and no --size")
    path = Path(name) if name.endswith(".ipynb") else find_notebooks([name], root)[0]
    values = parse_values(given, _parameters(path, read_notebook(path)), path.stem)
    task = plan(path.resolve(), size, values, root, surroundings(root))
    progress = progress or Progress()
    with alone(root / "outputs" / size):
        result = _run_all([task], force, root, progress)[task.name]
    if result is None:
        return 1
    if result is WAITS:
        return 0
    if inplace:
        publish(path, task.output, result.seconds, result.peak_mb)
    progress.say(f"Notebook: {path if inplace else task.output}")
    return 0


def sizes(root: Path) -> tuple[str, ...]:
    """What ``size`` may be: ``laptop``, and each folder of parameters."""
    top = root / "notebooks" / "parameters"
    folders = {file.parent.relative_to(top).as_posix() for file in top.glob("**/*.yaml")}
    return ("laptop", *sorted(folders))


def plan(path: Path, size: str, given: Mapping[str, Scalar], root: Path, around: str) -> Task:
    """What is to be run for a notebook of this size, with these parameters changed.

    ``around`` is the digest of all that the result depends on beside the notebook.
    """
    if size not in sizes(root):
        raise ValueError(f"size is one of {', '.join(sizes(root))}, got {size!r}")
    notebook = read_notebook(path)
    declared = _parameters(path, notebook)
    settings = root / "notebooks" / "parameters" / size / f"{path.stem}.yaml"
    values = read_settings(settings, declared) if settings.exists() else {}
    values |= given
    foreign = (root / "notebooks").resolve() not in path.resolve().parents
    apart = [values if given else {}, str(path.resolve()) if foreign else ""]
    label = path.stem + (f"-{_digest(apart)[:8]}" if given or foreign else "")
    output = root / "outputs" / size / f"{label}.ipynb"
    prose = [cell["source"] for cell in notebook["cells"]]
    key = _digest([source_hash(notebook), prose, values, around])
    last = _read_note(output.with_suffix(".json"))
    expected = last.seconds if last else None
    if expected is None and not values:
        expected = notebook["metadata"].get("easytune", {}).get("seconds")
    return Task(path, values, output, key, expected, bool(given) or foreign)


def _set_aside(tasks: Sequence[Task]) -> list[Path]:
    """Move folders of single runs away, so that each of them is done again."""
    folders = {}
    for task in tasks:
        defaults = {
            p.name: p.default for p in _parameters(task.notebook, read_notebook(task.notebook))
        }
        scratch = {**defaults, **task.parameters}.get("scratch")
        if isinstance(scratch, str):
            folders[(task.notebook.parent / scratch).resolve()] = None
    moved = []
    for folder in folders:
        if folder.is_dir() and any(folder.iterdir()):
            aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            moved.append(folder.rename(aside))
    return moved


def _run_all(
    tasks: Sequence[Task], force: bool, root: Path, progress: Progress
) -> dict[str, Result | None]:
    """Results by name, ``None`` where a notebook failed."""
    results: dict[str, Result | None] = {}
    done = {task.name: done_before(task, root) for task in tasks} if not force else {}
    progress.begin({t.name: t.expected for t in tasks if not done.get(t.name)}, len(tasks))
    for task in tasks:
        if (result := done.get(task.name)) is not None:
            progress.skipped(task.name, result.seconds)
        else:
            result = _run_task(task, root, progress)
        results[task.name] = result
    return results


def _run_task(task: Task, root: Path, progress: Progress) -> Result | None:
    """Run one notebook; its output takes its place only if it ended well."""
    figures = _figures_of(task, root)
    before, written = _stamps(figures), _stamps(root / "runs")
    partial = task.output.with_suffix(".partial.ipynb")
    progress.started(task.name)
    finished = Finished(0.0, 0, "nothing was run")
    log = task.output.with_suffix(".log")
    for event in run(Job(task.notebook, task.parameters, partial, log, results=task.results)):
        if isinstance(event, Finished):
            finished = event
        else:
            progress.cell(event)
    if "MissingRecord: " in finished.error:
        partial.unlink(missing_ok=True)
        progress.say(f"  waits: {finished.error.partition('MissingRecord: ')[2]}")
        return WAITS
    if finished.error:
        failed = task.output.with_suffix(".failed.ipynb")
        if partial.exists():
            partial.replace(failed)
        progress.failed(finished, failed)
        return None
    from easytune_lib.storage import write_json

    drawn = sorted(name for name, stamp in _stamps(figures).items() if before.get(name) != stamp)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    seconds = round(finished.seconds, 1)
    result = Result(task.key, seconds, finished.peak_mb, tuple(drawn), dict(task.parameters), when)
    for suffix in (".html", ".ipynb"):
        partial.with_suffix(suffix).replace(task.output.with_suffix(suffix))
    task.output.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    write_json(task.note, asdict(result))
    progress.done(finished, len(drawn))
    if not task.trial:
        rewritten = [n for n, t in _stamps(root / "runs").items() if written.get(n) != t]
        progress.say(f"  {compare_committed(root, rewritten)}")
    return result


def done_before(task: Task, root: Path) -> Result | None:
    """The noted result, if nothing has changed since and its figures are still there."""
    result = _read_note(task.note)
    if result is None or result.key != task.key or not task.output.exists():
        return None
    figures = _figures_of(task, root)
    there = all((figures / f"{name}.json").exists() for name in result.figures)
    return result if there else None


def compare_committed(root: Path, names: Sequence[str], tolerance: float = 1e-3) -> str:
    """Say in one line how far the numbers of records are from those that are committed."""
    farthest, where, known = 0.0, "", 0
    if shutil.which("git") is None:
        return "without git, nothing says how far its numbers are from the committed ones"
    for name in names:
        path = root / "runs" / f"{name}.json"
        place = path.relative_to(root).as_posix()
        shown = subprocess.run(["git", "show", f"HEAD:{place}"], cwd=root, capture_output=True)
        if shown.returncode:
            continue
        known += 1
        far, key = difference(json.loads(shown.stdout), json.loads(path.read_text()))
        if far > farthest:
            farthest, where = far, f" in {key} of {path.parent.name}"
    if not known:
        return "no committed record was computed anew"
    verdict = "within" if farthest <= tolerance else "NOT within"
    return f"{known} records: largest difference {farthest:.1e}{where}, {verdict} {tolerance:g}"


def _figures_of(task: Task, root: Path) -> Path:
    return root / "figures" if task.results is None else task.results / "figures"


def _read_note(path: Path) -> Result | None:
    try:
        content = json.loads(path.read_text())
        return Result(**content | {"figures": tuple(content["figures"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None  # a note of another version is no note


def _parameters(path: Path, notebook: Notebook) -> tuple[Any, ...]:
    try:
        return parameters_of(notebook)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _row(task: Task, result: Result | None) -> tuple[str, ...]:
    if result is None or result is WAITS:
        return (task.name, "failed" if result is None else "waits", "", "")
    return (
        task.name,
        f"{result.seconds:.0f}",
        str(result.peak_mb or "?"),
        ", ".join(result.figures) or "-",
    )


def _stamps(figures: Path) -> dict[str, int]:
    """When each figure was last written, by its path without suffix."""
    return {
        path.relative_to(figures).with_suffix("").as_posix(): path.stat().st_mtime_ns
        for path in figures.rglob("*.json")
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def surroundings(root: Path) -> str:
    """Digest of the weights and of the library, but for ``app``, which notebooks never see."""
    library = sorted(LIBRARY.rglob("*"))
    files = [
        p for p in library if "__pycache__" not in p.parts and LIBRARY / "app" not in p.parents
    ]
    files += sorted((root / "weights").rglob("*"))
    content = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()
    }
    return _digest([__version__, content])
