import json

import pytest

from easytune_lib.records import SCHEMA, UPGRADES, RunRecord, difference, run_id, schema_of


@pytest.fixture
def record():
    return RunRecord(
        "gradient_norms",
        {"k": 10, "method": {"name": "EasyTune"}},
        metrics={"error": 1e-7},
        series={"norm": [1.0, 0.5]},
        tables={"steps": [{"step": 0, "share": 0.1}]},
        machine={"seconds": 1.5},
    )


def test_comes_back_from_its_file_or_its_folder(record, tmp_path):
    path = record.save(tmp_path)
    assert path == tmp_path / record.run_id / "record.json"
    for place in (path, path.parent):
        back = RunRecord.load(place)
        assert (back.name, back.parameters, back.metrics) == (
            record.name, record.parameters, record.metrics,
        )  # fmt: skip
        assert (back.series, back.tables) == (record.series, record.tables)
        assert back.run_id == record.run_id
        assert back.machine["seconds"] == 1.5 and {"python", "platform", "created"} <= {
            *back.machine
        }


def test_id_depends_on_name_and_parameters_alone(record):
    same = RunRecord(record.name, {"method": {"name": "EasyTune"}, "k": 10}, metrics={"error": 1.0})
    assert same.run_id == record.run_id == run_id(record.name, record.parameters)
    assert run_id("other", record.parameters) != record.run_id
    assert run_id(record.name, {"k": 11}) != record.run_id
    assert (
        record.run_id.startswith("gradient_norms-") and len(record.run_id) == len(record.name) + 9
    )


def test_results_are_the_same_bytes_on_a_second_run(record, tmp_path):
    """What varies by machine is in ``machine``, and nowhere else."""
    contents = []
    for folder in ("a", "b"):
        content = json.loads(record.save(tmp_path / folder).read_text())
        del content["machine"]
        contents.append(json.dumps(content))
    assert contents[0] == contents[1]


def test_find(record, tmp_path):
    assert RunRecord.find(tmp_path, record.name, record.parameters) is None
    record.save(tmp_path)
    found = RunRecord.find(tmp_path, record.name, record.parameters)
    assert found is not None and found.metrics == record.metrics
    assert RunRecord.find(tmp_path, record.name, {"k": 11}) is None


@pytest.mark.parametrize("name", ["Gradient", "a b", "a-b", "../a", ""])
def test_names_that_are_no_folder_names_are_refused(name):
    with pytest.raises(ValueError, match="lower-case"):
        RunRecord(name, {})


def test_not_a_number_is_refused_and_keeps_the_old_record(record, tmp_path):
    record.save(tmp_path)
    with pytest.raises(ValueError):
        RunRecord(record.name, record.parameters, metrics={"error": float("nan")}).save(tmp_path)
    assert RunRecord.load(tmp_path / record.run_id).metrics == record.metrics


def test_unreadable_records_are_named(record, tmp_path):
    with pytest.raises(ValueError, match=r"absent.json is not a readable run record"):
        RunRecord.load(tmp_path / "absent.json")
    path = record.save(tmp_path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="not a readable run record"):
        RunRecord.load(path)
    for content in ([1], {"name": "a"}, {"schema": "1"}, {"schema": -1}, {"schema": True}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="is not a run record: "):
            RunRecord.load(path)


def test_a_record_of_a_newer_version_is_refused_with_the_way_out(record, tmp_path):
    path = record.save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": SCHEMA + 1, "new": 1}))
    for read in (RunRecord.load, schema_of):
        with pytest.raises(ValueError, match=f"up to {SCHEMA}: a newer easytune wrote it, update"):
            read(path)


def test_records_of_every_older_schema_open_under_the_same_id(record, tmp_path):
    """Schema 0 named none, and could leave out what was empty."""
    path = tmp_path / record.run_id / "record.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"name": record.name, "parameters": record.parameters}))
    assert schema_of(path) == 0
    old = RunRecord.find(tmp_path, record.name, record.parameters)
    assert old is not None and old == RunRecord(record.name, record.parameters)
    assert (old.run_id, old.schema) == (record.run_id, SCHEMA)
    assert schema_of(old.save(tmp_path)) == SCHEMA
    assert set(UPGRADES) == set(range(SCHEMA)), "every older schema has a way to the next"


def test_the_largest_difference_of_two_records_is_found():
    old = {"metrics": {"a": 1.0}, "tables": {"t": [{"x": 2.0, "y": "s"}]}, "machine": {"s": 1}}
    new = {"metrics": {"a": 1.0}, "tables": {"t": [{"x": 2.5, "y": "s"}]}, "machine": {"s": 9}}
    assert difference(old, new) == (pytest.approx(0.2), "tables.t.x")
    assert difference(old, old)[0] == 0.0
    assert difference(old, {**new, "metrics": {}})[0] == float("inf")
