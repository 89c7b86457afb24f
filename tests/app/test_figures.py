import json
from dataclasses import replace
from pathlib import Path

import pytest

from easytune_lib.app.figures import draw_figures
from easytune_lib.records import RunRecord
from easytune_lib.viz.figures import FIGURES, LEFT_OUT, printed
from easytune_lib.viz.style import VENUES

RUNS = Path(__file__).parents[2] / "runs"


def run(seconds: float = 30.0, seeds: int = 1, created: str = "2026-01-01") -> RunRecord:
    return RunRecord(
        "single_run",
        {"label": "EasyTune", "base": "mld", "lr": 1e-4, "seed": 0}
        | {"seconds": seconds, "seeds": seeds},
        tables={"curves": [{"method": "EasyTune", "seed": 0, "reward": [0.1, 0.2, 0.3]}]},
        machine={"created": created, "curve_seconds": [[1.0, 2.0, 3.0]]},
    )


def test_drawn_twice_a_figure_has_the_same_bytes_and_names_its_run(tmp_path: Path):
    record = run()
    record.save(tmp_path / "runs")
    said: list[str] = []
    for out in ("a", "b"):
        (pdf,) = draw_figures(tmp_path / "runs", tmp_path / out, say=said.append)
        assert pdf.name == "single_run_mld.pdf"
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {Path(name).suffix for name in files} == {".csv", ".json", ".pdf", ".png", ".svg"}
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a" / "single_run_mld.json").read_text())["runs"] == [
        record.run_id
    ]
    assert f"laptop: single_run_mld from {record.run_id}" in said
    assert all(any(line.startswith(f"not drawn: {name}") for line in said) for name in LEFT_OUT)


def test_an_unknown_venue_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="no venue 'nature'; there are ours"):
        draw_figures(RUNS, tmp_path / "out", "nature")
    assert not (tmp_path / "out").exists()


def test_every_kind_of_figure_finds_a_committed_record():
    found = {entry.name for size in ("laptop", "full") for _, entry, _ in printed(RUNS, size)}
    on_demand = {"memory_{base}_{n_steps}", "tuning_{base}"}  # of the door's calls, not of runs/
    assert {entry.name for entry in FIGURES} - found == on_demand


def test_of_several_records_the_longest_then_most_seeds_then_the_latest_is_drawn(tmp_path: Path):
    best = run(40.0, seeds=3)
    for record in (run(30.0, seeds=9), run(40.0, seeds=1), best):
        record.save(tmp_path)
    later = replace(best, parameters=best.parameters | {"seed": 1})
    ((_, _, chosen),) = printed(tmp_path, "laptop")
    assert chosen.run_id == best.run_id
    replace(later, machine=later.machine | {"created": "2027-01-01"}).save(tmp_path)
    ((_, _, chosen),) = printed(tmp_path, "laptop")
    assert chosen.run_id == later.run_id


@pytest.mark.parametrize("venue", VENUES)
def test_a_figure_is_as_wide_as_the_venue_has_it(venue: str):
    (entry,) = (entry for entry in FIGURES if entry.kind == "single_run")
    width = entry.draw(run(), VENUES[venue]).get_figwidth()
    assert width == pytest.approx(VENUES[venue].column)
