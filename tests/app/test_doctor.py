from pathlib import Path

import pytest

from easytune_lib.app import doctor
from easytune_lib.app.doctor import Finding, examine
from easytune_lib.records import RunRecord

PROJECT = """
[project]
dependencies = ["torch>=2", "numpy>=99", "easytune-no-such-package>=1"]
"""


@pytest.fixture
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """Of a folder that holds nothing but the list of packages; no text model is loaded."""
    monkeypatch.setattr(doctor, "_text", lambda: iter(()))
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return {str(finding.what).split()[0]: finding for finding in examine(tmp_path)}


def test_what_is_there_is_good_and_costs_nothing(findings: dict[str, Finding]):
    assert findings["Python"].good and findings["torch"].good
    assert str(findings["torch"]).startswith("ok      torch 2")


def test_what_is_missing_is_named_with_cost_and_way_out(findings: dict[str, Finding]):
    absent = findings["easytune-no-such-package"]
    assert not absent.good and absent.needed
    assert str(absent).startswith("MISSING easytune-no-such-package: ")
    assert "pip install 'easytune-no-such-package>=1'" in str(absent)
    assert not findings["numpy"].good and "outside numpy>=99" in findings["numpy"].cost


def test_missing_weights_and_data_are_told_apart(findings: dict[str, Finding]):
    weights = findings["weights/mld.safetensors"]
    assert not weights.good and weights.needed and "train base --base mld" in weights.cost
    data = findings["data"]
    assert not data.good and not data.needed and str(data).startswith("note ")


def test_folders_that_cannot_be_written_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    bad = list(doctor._folders(tmp_path))
    assert len(bad) == 4 and not any(finding.good for finding in bad)
    assert "EASYTUNE_CACHE" in bad[0].cost


def test_a_browser_is_asked_for_but_not_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.player.shutil.which", lambda name: None)
    found = doctor._browser()
    assert not found.good and not found.needed and str(found).startswith("note    browser: ")
    assert "playwright is not installed" in found.cost or "no Chromium on the path" in found.cost


def test_old_records_are_told_and_broken_ones_are_a_fault(tmp_path: Path):
    path = RunRecord("a", {}).save(tmp_path / "runs")
    assert doctor._records(tmp_path).good
    path.write_text('{"name": "a", "parameters": {}}')
    told = doctor._records(tmp_path)
    assert (
        not told.good and not told.needed and "1 of a schema before 1: they are read" in str(told)
    )
    path.write_text('{"schema": 99}')
    told = doctor._records(tmp_path)
    assert told.needed and "1 cannot be read" in str(told) and "update this one" in str(told)
