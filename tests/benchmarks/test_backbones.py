"""The bench of the backbones' steps, with small networks."""

from pathlib import Path

import pytest

from benchmarks import backbones as benches
from benchmarks.__main__ import main as benchmark
from benchmarks.backbones import QUICK_BACKBONES, bench_backbones, table

ALL = [
    "MLD (original)", "MLD V1", "MLD++", "MotionLCM V1", "MotionLCM V2", "MDM (encoder)",
    "MDM (decoder, DistilBERT)", "MotionDiffuse",
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "NARROW", {"dim": 32})


def test_every_backbone_is_timed_and_held_against_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("benchmarks.__main__.ROOT", tmp_path)
    assert benchmark(["backbones", "--quick"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ALL)
    (file,) = (tmp_path / "outputs").glob("bench_backbones-*/record.json")
    assert str(file.parent) in said


def test_what_a_row_says():
    said: list[str] = []
    record = bench_backbones(QUICK_BACKBONES, said.append)
    rows = record.machine["steps"]
    assert len(said) == len(ALL) and list(dict.fromkeys(r["backbone"] for r in rows)) == ALL
    read_twice = {row["backbone"] for row in rows if row["guided"]}
    assert read_twice == {name for name in ALL if "LCM" not in name and name != "MotionDiffuse"}
    for row in rows:
        assert row["cpu_ms"] > 0
        assert row["of_stated"] == pytest.approx(row["cpu_ms"] / row["stated_ms"])
        assert (row["bare_ms"] is None) == (row["backbone"] == "MotionDiffuse")
        assert (row["halves"] is not None) == row["guided"]
    assert len(table(record).splitlines()) == 2 + len(rows)
