"""Damaged files are read or refused in a line; and what once was neither stays so."""

import json
import os
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save

from easytune_lib.app.notebook import parameters_of, read_notebook, read_settings
from easytune_lib.app.runner import ROOT
from easytune_lib.app.sweep import Sweep
from easytune_lib.data.bundle import read_bundle
from easytune_lib.data.files import read_npz
from easytune_lib.data.humanml3d import read_folder, read_statistics
from easytune_lib.metrics.report import Reference
from easytune_lib.records import RunRecord
from tests.robustness.fuzz import FuzzSize, Target, all_targets, answer, damaged, fuzz, table


def target(read, name="toy"):
    def make(folder):
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps({"n": 1, "text": "some words", "list": [1, 2]}))

    return Target(name, make, lambda folder: read((folder / "a.json").read_bytes()))


def found(read, inputs=40):
    record = fuzz(FuzzSize(inputs), lambda line: None, [target(read)])
    (row,) = record.tables["targets"]
    assert row["read"] + row["refused"] + row["found"] == inputs == record.metrics["inputs"]
    return row, record


def test_every_reader_answers_some_damaged_files():
    record = fuzz(FuzzSize(len(all_targets()) * 12, seed=7), lambda line: None)
    assert record.tables["findings"] == [] and record.metrics["found"] == 0
    assert record.metrics["read"] and record.metrics["refused"]
    assert table(record).endswith("0 neither, in 0 ways")


def test_the_same_seed_damages_the_same(tmp_path):
    toy = target(bytes)
    toy.make(tmp_path / "whole")
    texts = [
        (damaged(toy, index, seed, tmp_path / "whole", tmp_path / "x") / "a.json").read_bytes()
        for seed, index in ((0, 1), (0, 1), (0, 2), (1, 1))
    ]
    assert texts[0] == texts[1] and len({*texts}) == 3


def test_an_error_of_another_kind_is_found_with_its_place_and_its_first_input():
    def careless(content):
        try:
            json.loads(content)
        except ValueError as error:
            raise KeyError("lost") from error

    row, record = found(careless)
    (finding,) = record.tables["findings"]
    assert row["refused"] == 0 and 0 < row["found"] == finding["count"] < 40
    assert finding["what"] == "KeyError: 'lost'" and finding["where"] == "beside the library"


def test_a_refusal_of_many_lines_is_found():
    def wordy(content):
        if b"some words" not in content:
            raise ValueError("no\nno")

    row, record = found(wordy)
    assert row["refused"] == 0 < row["found"]
    assert record.tables["findings"][0]["what"] == "refused in 5 characters: 'no\\nno'"


def test_a_reader_that_takes_the_process_down_is_found_and_the_rest_is_read():
    row, record = found(lambda content: os._exit(6) if b"some words" not in content else None)
    assert row["found"] > 0 and row["read"] > 0
    assert record.tables["findings"][0]["where"] == "the process"


def test_a_reader_that_hangs_or_takes_all_memory_is_found(monkeypatch):
    monkeypatch.setattr("robustness.fuzz.SLOW", 0.2)
    row, _ = found(lambda content: time.sleep(5) if b"some words" not in content else None, 8)
    assert row["read"] + row["found"] == 8

    def greedy(content):
        if b"some words" not in content:
            np.ones(2**40, np.uint8)

    row, record = found(greedy)
    assert row["found"] > 0 and "MemoryError" in record.tables["findings"][0]["what"]


def test_files_that_are_refused_before_they_are_damaged_are_an_error():
    with pytest.raises(ValueError, match="not this one"):
        found(lambda content: (_ for _ in ()).throw(ValueError("not this one")))


# What the first campaign found: (what the file holds, who reads it). All are refused in a line.
def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def statistics(path):
    np.save(path.parent / "Std.npy", np.ones(263, np.float32))
    path.rename(path.parent / "Mean.npy")
    read_statistics(path.parent)


def bundle(path):
    path.rename(path.parent / "bnr_clips.jsonl")
    read_bundle(path.parent)


def folder(path):
    root = path.parent
    for name in ("new_joint_vecs", "texts"):
        (root / name).mkdir()
    np.save(root / "new_joint_vecs" / "a.npy", np.zeros((48, 263), np.float32))
    path.rename(root / "train.txt")
    read_folder(root)


def declared(path):
    return parameters_of(read_notebook(path))


def settings(path):
    return read_settings(path, ())


def notebook(source) -> bytes:
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
    return json.dumps({"nbformat": 4, "cells": [cell]}).encode()


CLIP = {"id": "a", "split": "train", "frames": 30, "texts": [{"caption": "a"}]}
RECORD = {"name": "a", "parameters": {}, "metrics": {}, "series": {}, "tables": {}, "machine": {}}
FOUND = {
    "record, not UTF-8": (b'{"name": "\xe5"}', RunRecord.load),
    "record, unknown field": (json.dumps(RECORD | {"perameters": {}, "schema": 1}).encode(),
                              RunRecord.load),
    "record, deep": (b"[" * 100_000, RunRecord.load),
    "record, a table that is none": (json.dumps(RECORD | {"tables": 3, "schema": 1}).encode(),
                                     RunRecord.load),
    "npy, header with an open bracket": (npy(b"{'descr': '<f4', 'shape': (263,"), statistics),
    "npy, more than there is": (
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }\n"), statistics),
    "safetensors, no covariance": (save({"mean": torch.zeros(2)}, {"config": '{"reference": 1}'}),
                                   Reference.load),
    "HumanML3D, an id that leaves the folder": (b"../../secret\n", folder),
    "HumanML3D, an id as long as a book": (b"a" * 5000 + b"\n", folder),
    "npz, cut": (b"PK\3\4" + b"\0" * 60, read_npz),
    "bundle, not UTF-8": (b'{"id": "\xf5"}\n', bundle),
    "bundle, no tokens": (json.dumps(CLIP).encode(), bundle),
    "notebook, a number among its lines": (notebook(["n: int = 3  # n\n", 7]), declared),
    "notebook, no Python": (notebook(["n: int = 3f  # n\n"]), declared),
    "notebook, an open bracket": (notebook(["n: int = (3  # n\n"]), declared),
    "notebook, cells that are none": (b'{"nbformat": 4, "cells": {"a": 1}}', declared),
    "settings, not UTF-8": (b"\xd3: 1", settings),
    "settings, cut": (b"a: [1,\n b", settings),
    "sweep, cut": (b"notebook: 19\ngrid: {a: [1,\n", lambda path: Sweep.read(path, ROOT)),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_once_is_refused_in_a_line(case, tmp_path):
    content, read = FOUND[case]
    (tmp_path / "file").write_bytes(content)
    toy = Target("toy", lambda folder: None, lambda folder: read(folder / "file"))
    assert answer(toy, tmp_path) == ("refused", "", "")
