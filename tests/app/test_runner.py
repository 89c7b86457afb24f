"""What is run, what is skipped, and what is kept; the kernel is played by a function."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_notebook import executed, notebook, write

from easytune_lib.app import runner
from easytune_lib.app.execute import CellStarted, Finished, Job
from easytune_lib.app.notebook import read_notebook, staleness
from easytune_lib.app.progress import Progress
from easytune_lib.app.runner import reproduce, run_notebook

CHANGES = ("code", "prose", "weights", "library", "runner", "figure", "output", "note")
NAMES = ("00_first", "01_second", "02_third")


class Kernel:
    """Stands in for the worker: writes what it would, and remembers what it was asked."""

    def __init__(self):
        self.jobs: list[Job] = []
        self.failing: set[str] = set()
        self.folder = ""  # of figures

    @property
    def names(self) -> list[str]:
        return [job.notebook.stem for job in self.jobs]

    def __call__(self, job: Job) -> Iterator[CellStarted | Finished | None]:
        self.jobs.append(job)
        name = job.notebook.stem
        yield None
        yield CellStarted(1, 2, "k: int = 3")
        job.output.write_text(json.dumps(executed(json.loads(job.notebook.read_text()))))
        if name in self.failing:
            yield Finished(1.0, 90, "cell 1 of 2 (`k`): ValueError: no")
            return
        job.output.with_suffix(".html").write_text("page")
        figures = job.notebook.parents[1] / "figures" / self.folder
        figures.mkdir(parents=True, exist_ok=True)
        figure = figures / f"{name}.json"
        figure.write_text(json.dumps({"runs": ["r-1"], "caption": name}))
        figure.with_suffix(".svg").touch()
        os.utime(figure, ns=(len(self.jobs), len(self.jobs)))
        yield Finished(2.0, 321, "")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(runner, "LIBRARY", tmp_path / "library")
    monkeypatch.setattr(runner, "run", kernel)
    return kernel


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        write(tmp_path, name, notebook("print(k)"))
    return tmp_path


def said(call, *args, **options) -> tuple[int, str]:
    stream = io.StringIO()
    code = call(*args, progress=Progress(stream), **options)
    return code, stream.getvalue()


def test_all_are_run_in_order_with_defaults_and_listed(kernel: Kernel, root: Path):
    code, text = said(reproduce, root=root)
    assert code == 0 and kernel.names == list(NAMES)
    assert all(not job.parameters for job in kernel.jobs)
    for name in NAMES:
        assert (root / "outputs/laptop" / f"{name}.ipynb").exists()
        assert (root / "outputs/laptop" / f"{name}.html").exists()
    rows = [line.split() for line in text.splitlines()[-4:-1]]
    assert rows == [[name, "2", "321", name] for name in NAMES]
    assert "All figures: figures/index.html" in text
    assert (root / "figures/index.html").read_text().count("<figure") == 3


def test_a_second_run_skips_and_force_does_not(kernel: Kernel, root: Path):
    said(reproduce, root=root)
    code, text = said(reproduce, root=root)
    assert code == 0 and len(kernel.jobs) == 3 and text.count("done before, in 2 s") == 3
    said(reproduce, force=True, root=root)
    assert len(kernel.jobs) == 6


def test_one_that_fails_does_not_stop_the_rest_and_is_run_again(kernel: Kernel, root: Path):
    kernel.failing = {"01_second"}
    code, text = said(reproduce, root=root)
    assert code == 1 and kernel.names == list(NAMES)
    assert "FAILED after 1 s in cell 1 of 2 (`k`): ValueError: no." in text
    assert [line for line in text.splitlines() if line.startswith("01_second")] == [
        "01_second   failed"
    ]
    assert not (root / "outputs/laptop/01_second.ipynb").exists()
    failed = root / "outputs/laptop/01_second.failed.ipynb"
    assert failed.exists() and str(failed) in text
    kernel.failing = set()
    code, _ = said(reproduce, root=root)
    assert code == 0 and kernel.names[3:] == ["01_second"]
    assert not failed.exists()


def test_a_failure_leaves_the_earlier_output_in_place(kernel: Kernel, root: Path):
    said(reproduce, root=root)
    before = (root / "outputs/laptop/01_second.ipynb").read_text()
    kernel.failing = {"01_second"}
    assert said(reproduce, force=True, root=root)[0] == 1
    assert (root / "outputs/laptop/01_second.ipynb").read_text() == before


@pytest.mark.parametrize("change", CHANGES)
def test_what_depends_on_a_change_is_run_again(kernel: Kernel, root: Path, change: str):
    files = {
        "weights": root / "weights/mdm.safetensors",
        "library": root / "library/viz/player.js",
        "runner": root / "library/app/runner.py",
    }
    for file in files.values():
        file.parent.mkdir(parents=True)
        file.write_text("1")
    said(reproduce, root=root)
    kernel.jobs.clear()
    if change == "code":
        write(root, "01_second", notebook("print(k + 1)"))
    elif change == "prose":
        write(root, "01_second", notebook("print(k)", heading="# Does it still run?"))
    elif change in files:
        files[change].write_text("2")
    elif change == "figure":
        (root / "figures/01_second.json").unlink()
    elif change == "output":
        (root / "outputs/laptop/01_second.ipynb").unlink()
    else:
        (root / "outputs/laptop/01_second.json").write_text('{"key":')
    said(reproduce, root=root)
    everything = {"weights": list(NAMES), "library": list(NAMES), "runner": []}
    assert kernel.names == everything.get(change, ["01_second"])


def test_a_run_that_was_ended_in_the_middle_is_not_done(kernel: Kernel, root: Path, monkeypatch):
    def ended(job: Job):
        job.output.write_text("half a noteb")
        raise KeyboardInterrupt
        yield

    said(reproduce, only=["00"], root=root)
    monkeypatch.setattr(runner, "run", ended)
    with pytest.raises(KeyboardInterrupt):
        said(reproduce, root=root)
    assert not (root / "outputs/laptop/01_second.ipynb").exists()
    monkeypatch.setattr(runner, "run", kernel)
    code, _ = said(reproduce, root=root)
    assert code == 0 and kernel.names == list(NAMES)
    assert not list((root / "outputs/laptop").glob("*.partial.*"))


def test_sizes_take_their_parameters_from_yaml_and_keep_outputs_apart(kernel: Kernel, root: Path):
    settings = root / "notebooks/parameters/full/01_second.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("k: 50")
    said(reproduce, size="full", root=root)
    assert [dict(job.parameters) for job in kernel.jobs] == [{}, {"k": 50}, {}]
    assert (root / "outputs/full/01_second.ipynb").exists()
    settings.write_text("k: 60")
    said(reproduce, size="full", root=root)
    assert kernel.names[3:] == ["01_second"]
    settings.write_text("k: 1.5")
    with pytest.raises(ValueError, match=r"1\.5 is no value for the parameter k: int = 3"):
        reproduce("full", root=root)


def test_one_notebook_with_other_parameters_has_an_output_of_its_own(kernel: Kernel, root: Path):
    code, text = said(run_notebook, "01", [("k", "7")], root=root)
    assert code == 0 and dict(kernel.jobs[0].parameters) == {"k": 7}
    outputs = list((root / "outputs/laptop").glob("*.ipynb"))
    assert len(outputs) == 1 and outputs[0].stem.startswith("01_second-")
    assert str(outputs[0]) in text
    said(reproduce, root=root)
    assert len(kernel.jobs) == 4
    said(run_notebook, str(root / "notebooks/01_second.ipynb"), [("k", "7")], root=root)
    assert len(kernel.jobs) == 4


def test_figures_in_a_folder_are_found_too(kernel: Kernel, root: Path):
    kernel.folder = "full"
    code, text = said(reproduce, root=root, only=["01"])
    assert code == 0 and "full/01_second" in text
    said(reproduce, root=root, only=["01"])
    assert len(kernel.jobs) == 1
    (root / "figures/full/01_second.json").unlink()
    said(reproduce, root=root, only=["01"])
    assert len(kernel.jobs) == 2


@pytest.mark.parametrize("given", [[("kk", "7")], [("k", "7.5")], [("k", "true")]])
def test_unknown_and_ill_typed_parameters_never_reach_a_kernel(kernel: Kernel, root: Path, given):
    with pytest.raises(ValueError, match="k: int = 3"):
        run_notebook("01_second", given, root=root)
    assert kernel.jobs == []


def test_in_place_stores_the_outputs_of_the_defaults(kernel: Kernel, root: Path):
    path = root / "notebooks/01_second.ipynb"
    said(reproduce, root=root)
    assert staleness(read_notebook(path))
    code, _ = said(run_notebook, "01_second", inplace=True, root=root)
    assert code == 0 and len(kernel.jobs) == 3  # it was done: its output is only stored
    assert not staleness(read_notebook(path))
    assert said(reproduce, root=root)[0] == 0 and len(kernel.jobs) == 3
    for options in ({"given": [("k", "4")]}, {"size": "full"}):
        with pytest.raises(ValueError, match="--inplace"):
            run_notebook("01_second", inplace=True, root=root, **options)


def test_a_failed_notebook_is_not_stored(kernel: Kernel, root: Path):
    kernel.failing = {"01_second"}
    path = root / "notebooks/01_second.ipynb"
    before = path.read_text()
    assert said(run_notebook, "01_second", inplace=True, root=root)[0] == 1
    assert path.read_text() == before


def test_earlier_durations_give_the_time_left(kernel: Kernel, root: Path):
    assert "left" not in said(reproduce, root=root, only=["00"])[1]
    assert "[1/3] 00_first, about 6 s left" in said(reproduce, root=root, force=True)[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [("0", "3 notebooks are called '0'"), ("09", "0 notebooks are called '09'")],
)
def test_names_that_fit_none_or_several_are_refused(root: Path, name: str, message: str):
    with pytest.raises(ValueError, match=f"{message}, expected one of 00_first, 01_second"):
        reproduce(only=[name], root=root)


def test_where_there_are_no_notebooks_it_says_so(tmp_path: Path):
    with pytest.raises(ValueError, match="there are no notebooks in"):
        reproduce(root=tmp_path)
    folder = tmp_path / "notebooks" / "parameters" / "paper" / "mdm-kit"
    folder.mkdir(parents=True)
    (folder / "00_x.yaml").write_text("k: 4")
    with pytest.raises(ValueError, match="size is one of laptop, paper/mdm-kit, got 'big'"):
        write(tmp_path, "00_x", notebook())
        reproduce("big", root=tmp_path)


def test_a_folder_of_parameters_in_a_folder_is_a_size(kernel: Kernel, root: Path):
    settings = root / "notebooks/parameters/paper/mdm-kit/01_second.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("k: 9")
    assert said(run_notebook, "01", size="paper/mdm-kit", root=root)[0] == 0
    assert dict(kernel.jobs[-1].parameters) == {"k": 9}
    assert (root / "outputs/paper/mdm-kit/01_second.ipynb").exists()


def test_two_runs_never_share_a_folder(kernel: Kernel, root: Path):
    with (
        runner.alone(root / "outputs/laptop"),
        pytest.raises(ValueError, match="another run is at work"),
    ):
        reproduce(root=root)
    assert said(reproduce, root=root)[0] == 0


def test_force_moves_single_runs_aside_and_loses_none(kernel: Kernel, root: Path):
    content = notebook(
        "print(k)", parameters='k: int = 3  # steps\nscratch: str = "../outputs/tuned"  # kept'
    )
    write(root, "03_fourth", content)
    kept = root / "outputs" / "tuned" / "run"
    kept.mkdir(parents=True)
    (kept / "record.json").write_text("a record")
    said(reproduce, root=root)
    assert kept.is_dir(), "without force they stay"
    _, text = said(reproduce, force=True, root=root)
    assert not kept.exists()
    (aside,) = (root / "outputs").glob("tuned.*")
    assert (aside / "run" / "record.json").read_text() == "a record"
    assert f"what was kept of earlier runs is now in outputs/{aside.name}" in text


def test_parameters_given_by_hand_touch_neither_figures_nor_what_is_done(
    kernel: Kernel, root: Path
):
    """And two notebooks of one name, in different folders, have outputs of their own."""
    said(reproduce, root=root)
    said(run_notebook, "01", [("k", "7")], root=root)
    own = root / "elsewhere" / "01_second.ipynb"
    own.parent.mkdir()
    own.write_text((root / "notebooks/01_second.ipynb").read_text())
    said(run_notebook, str(own), root=root)
    *default, trial, other = kernel.jobs
    assert {job.results for job in default} == {None}
    assert trial.results != other.results and trial.output != other.output
    assert all(root / "outputs" in job.results.parents for job in (trial, other))
    kernel.jobs.clear()
    said(reproduce, root=root)
    assert kernel.jobs == []
