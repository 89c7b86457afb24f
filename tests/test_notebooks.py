"""The committed notebooks keep their contract and carry the outputs of what they hold."""

from pathlib import Path

import pytest

from easytune_lib.app.notebook import (
    code_cells,
    contract_breaches,
    parameters_of,
    read_notebook,
    read_settings,
    staleness,
)
from easytune_lib.app.runner import sizes
from easytune_lib.experiments.backbones import Backbone, six_backbones

ROOT = Path(__file__).parents[1]
PATHS = [p for p in sorted((ROOT / "notebooks").rglob("*.ipynb")) if "checkpoint" not in p.name]
SETTINGS = sorted((ROOT / "notebooks" / "parameters").glob("**/*.yaml"))

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def test_there_are_twelve_and_studies():
    main = [path.stem for path in PATHS if path.parent.name == "notebooks"]
    assert [name[:2] for name in main] == [f"{number:02}" for number in range(12)]
    assert {path.parent.name for path in PATHS} == {"notebooks", "studies"}


@each
def test_a_notebook_keeps_the_contract(path: Path):
    assert contract_breaches(read_notebook(path)) == []


@each
def test_its_outputs_are_those_of_its_code(path: Path):
    assert staleness(read_notebook(path)) == []


@each
def test_no_path_of_a_machine_is_stored(path: Path):
    text = path.read_text(encoding="utf-8")
    for place in {str(ROOT), str(Path.home()), str(Path.cwd())} - {"/"}:
        assert f"{place}/" not in text, f"{path.name} holds {place}"


@each
def test_figures_are_stored(path: Path):
    """A reader on the web sees what the notebook shows: an image, a player or a chart."""
    mimes = {
        mime
        for cell in code_cells(read_notebook(path))
        for output in cell["outputs"]
        for mime in output.get("data", ())
    }
    assert mimes & {"image/png", "image/svg+xml", "text/html"}


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_settings_belong_to_a_notebook_and_fit_its_parameters(path: Path):
    notebook = next(book for book in PATHS if book.stem == path.stem)
    values = read_settings(path, parameters_of(read_notebook(notebook)))
    assert values, f"{path} sets nothing: remove it"
    assert path.relative_to(ROOT / "notebooks" / "parameters").parts[0] in ("full", "paper")


@pytest.mark.parametrize("data", ["humanml3d", "kit"])
@pytest.mark.parametrize("backbone", six_backbones(), ids=lambda each: each.name)
def test_each_backbone_has_the_paper_s_parameters_for_both_sets(backbone: Backbone, data: str):
    """And each is found under its own name, with its own number of steps."""
    folder = f"{backbone.name.lower().replace('++', 'pp')}-{data}"
    path = ROOT / "notebooks" / "parameters" / "paper" / folder / "six_backbones.yaml"
    notebook = read_notebook(ROOT / "notebooks" / "studies/six_backbones.ipynb")
    values = read_settings(path, parameters_of(notebook))
    assert values["names"] == backbone.name and str(values["weights"]).endswith(data)
    assert values["lr"] == 1e-5 and values["batch_size"] == 256
    assert "Not stated:" in path.read_text() and f"paper/{folder}" in sizes(ROOT)
