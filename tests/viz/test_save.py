import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from easytune_lib.records import RunRecord
from easytune_lib.viz.save import csv_of, save_figure
from easytune_lib.viz.style import COLUMN, PaperFigure, styled

RECORD = RunRecord("demo", {"k": 10})
KINDS = ("pdf", "svg", "png", "json", "csv")


@styled()
def drawn() -> Figure:
    fig = PaperFigure(COLUMN, 1.5)
    ax = fig.subplots()
    ax.plot([0, 1, 2], [1, 3, 2], marker="o", label=r"$\hat{x}_0$ and $\alpha$")
    ax.set(xlabel="denoising step", ylabel="reward")
    fig.legend(loc="outside upper center")
    return fig


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    data = {"x": np.arange(3), "y": [1.0, np.nan], "n": np.float32(2)}
    path = save_figure(drawn(), "demo", folder / "deep", RECORD, data, "A caption.")
    return path


def test_five_files_are_written_and_nothing_else(saved):
    assert saved.name == "demo.pdf"
    assert {p.name for p in saved.parent.iterdir()} == {f"demo.{kind}" for kind in KINDS}
    starts = {
        "pdf": b"%PDF",
        "svg": b"<?xml",
        "png": b"\x89PNG",
        "json": b"{",
        "csv": b"index,n,x,y",
    }
    for kind, start in starts.items():
        assert saved.with_suffix(f".{kind}").read_bytes().startswith(start)


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    fig, data = drawn(), json.loads(saved.with_suffix(".json").read_text())["data"]
    fig._repr_png_()  # shown in between
    for _ in range(2):  # the figure is left as it was
        save_figure(fig, "demo", tmp_path, RECORD, data, "A caption.")
        for kind in KINDS:
            assert (tmp_path / f"demo.{kind}").read_bytes() == saved.with_suffix(
                f".{kind}"
            ).read_bytes(), kind


def test_a_record_in_memory_and_the_same_read_give_the_same_csv(tmp_path):
    rows = [{"seed": 1, "method": "ReFL", "fid": 0.5}, {"seed": 0, "method": "base", "r1": [1, 2]}]
    data = {"b": rows, "a": [{"k": 1.0}]}
    read = json.loads(json.dumps(data, sort_keys=True))
    tables = []
    for content in (data, read):
        save_figure(drawn(), "demo", tmp_path, RECORD, content)
        tables.append((tmp_path / "demo.csv").read_text())
    assert tables[0] == tables[1]
    assert tables[0].splitlines() == [
        "table,index,method,fid,k,r1,seed", "a,,,,1.0,,",
        "b,,ReFL,0.5,,,1", "b,0,base,,,1,0", "b,1,base,,,2,0",
    ]  # fmt: skip


def test_no_type_3_fonts_and_no_dates(saved):
    pdf = saved.read_bytes()
    assert b"/Type3" not in pdf and b"/CIDFontType2" in pdf and b"CreationDate" not in pdf
    assert b"<dc:date>" not in saved.with_suffix(".svg").read_bytes()


def test_the_data_and_the_runs_stand_beside_the_figure(saved):
    content = json.loads(saved.with_suffix(".json").read_text())
    assert content == {
        "name": "demo",
        "runs": [RECORD.run_id],
        "caption": "A caption.",
        "data": {"x": [0, 1, 2], "y": [1.0, None], "n": 2.0},
    }


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="name"):
        save_figure(drawn(), "../demo", tmp_path, RECORD, {})
    with pytest.raises(ValueError, match="no record"):
        save_figure(drawn(), "demo", tmp_path, [], {})
    with pytest.raises(ValueError, match=r"data\.a holds a set"):
        save_figure(drawn(), "demo", tmp_path, RECORD, {"a": {1}})
    assert not list(tmp_path.iterdir())


def test_the_committed_tables_behind_the_figures_are_those_of_their_json():
    figures = Path(__file__).parents[2] / "figures"
    contents = {path: json.loads(path.read_text()) for path in figures.rglob("*.json")}
    assert len(contents) > 60
    for path, content in contents.items():
        assert csv_of(content["data"]) == path.with_suffix(".csv").read_bytes(), path
