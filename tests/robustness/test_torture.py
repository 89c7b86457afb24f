"""Runs that are killed end as those that are not; and the harness sees it where they do not."""

import json
import os
import time

import pytest
import torch

from easytune_lib.storage import save_tensors, write_json
from tests.robustness.__main__ import main
from tests.robustness.torture import (
    QUICK_TORTURE,
    Stage,
    TortureSize,
    all_stages,
    fingerprint,
    table,
    torture,
)

SIZE = TortureSize(kills=4, in_a_row=2)


def counted(folder, steps=4, pause=0.05):
    """Adds up to ``steps``, one file a step; goes on from the last."""
    start = max((int(path.stem) for path in folder.glob("*.json")), default=0)
    for step in range(start, steps):
        time.sleep(pause)
        write_json(folder / f"{step + 1}.json", {"step": step + 1, "seconds": time.time()})


def row_of(work, size=SIZE):
    record = torture(size, lambda line: None, (Stage("toy", work, 1),))
    (row,) = record.tables["stages"]
    assert record.metrics == {key: row[key] for key in ("kills", "different", "failed")}
    return row, record


def test_work_that_resumes_is_the_same_after_kills():
    row, record = row_of(counted)
    assert row["kills"] == 4 and row["runs"] >= 2
    assert row["different"] == row["failed"] == 0 and row["notes"] == []
    assert table(record).startswith("4 kills: 0 results differ")


def test_work_that_begins_where_it_does_not_belong_is_seen():
    def forgetful(folder):
        folder.mkdir(exist_ok=True)
        tries = len(list(folder.glob("try*")))
        (folder / f"try{tries}").touch()
        time.sleep(0.15)
        write_json(folder / "end.json", {"tries": tries})

    row, _ = row_of(forgetful)
    assert row["different"] >= 1 and set(row["notes"]) == {"end.json"}


def test_a_half_written_file_that_stops_the_next_try_is_seen():
    def careless(folder):
        folder.mkdir(exist_ok=True)
        if (folder / "state").exists():
            json.loads((folder / "state").read_text())
        (folder / "state").write_text("{")
        time.sleep(0.15)
        (folder / "state").write_text("{}")

    row, _ = row_of(careless)
    assert row["failed"] >= 1 and "JSONDecodeError" in row["notes"][0]


def test_a_run_that_waits_for_ever_after_a_kill_is_seen(monkeypatch):
    monkeypatch.setattr("robustness.torture.PATIENCE", 3)

    def stuck(folder):
        folder.mkdir(exist_ok=True)
        lock = folder / "lock"
        while lock.exists():
            time.sleep(0.01)
        lock.touch()
        time.sleep(0.1)
        lock.unlink()

    row, _ = row_of(stuck, TortureSize(kills=1, in_a_row=1))
    assert row["failed"] == 1 and row["notes"][0].startswith("hung")


def test_what_a_killed_run_started_ends_with_it(tmp_path):
    def parent(folder):
        folder.mkdir(exist_ok=True)
        attempt = f"{folder.name}-{len(list(folder.glob('begun*')))}"
        (folder / f"begun-{attempt}").touch()
        if os.fork() == 0:
            time.sleep(0.6)
            (tmp_path / attempt).touch()
            os._exit(0)
        time.sleep(0.4)

    row, _ = row_of(parent, TortureSize(kills=1, in_a_row=1))
    time.sleep(1)
    assert row["kills"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"unbroken-0", "run0-1"}


def test_work_that_fails_undisturbed_is_refused():
    with pytest.raises(ValueError, match=r"toy fails undisturbed: (?s:.)*no such luck"):
        row_of(lambda folder: (_ for _ in ()).throw(RuntimeError("no such luck")))


def test_clocks_and_begun_files_do_not_count_and_bits_do(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, seconds in ((one, 1.0), (two, 2.0)):
        write_json(
            folder / "a" / "record.json", {"machine": seconds, "deep": [{"seconds": seconds}]}
        )
        save_tensors(
            folder / "w.safetensors", {"w": torch.ones(2)}, {"curve": {"seconds": [seconds]}}
        )
    (two / ".w.safetensors.x.tmp").write_text("half")
    assert fingerprint(one) == fingerprint(two) and len(fingerprint(one)) == 2
    save_tensors(two / "w.safetensors", {"w": torch.tensor([1.0, 1.0 + 1e-7])}, {"curve": {}})
    assert fingerprint(one)["w.safetensors"] != fingerprint(two)["w.safetensors"]


@pytest.mark.slow
def test_reward_and_fine_tuning_survive(capsys):
    """The quick ones of the stages; `make torture` kills them all."""
    stages = tuple(s for s in all_stages() if s.name in ("reward and SPL", "fine-tuning"))
    assert len(stages) == 2
    record = torture(QUICK_TORTURE, print, stages)
    assert record.metrics["different"] == record.metrics["failed"] == 0, record.tables
    assert record.metrics["kills"] >= len(stages)


def test_a_command_says_how_many(capsys):
    with pytest.raises(SystemExit):
        main(["torture", "--count", "none"])
    assert "--count" in capsys.readouterr().err
