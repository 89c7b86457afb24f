import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from easytune_lib.checkpoints import fit
from easytune_lib.storage import (
    RESULTS,
    load_tensors,
    pack_optimizer,
    results_folder,
    save_tensors,
    unpack_optimizer,
    write_atomic,
    write_json,
)


class TestAtomicWriting:
    def test_makes_folders_and_replaces(self, tmp_path):
        path = tmp_path / "a" / "b.bin"
        assert write_atomic(path, b"one") == path and path.read_bytes() == b"one"
        write_atomic(path, b"two")
        assert path.read_bytes() == b"two"
        assert [p.name for p in path.parent.iterdir()] == ["b.bin"]

    @pytest.mark.parametrize("where", ["fsync", "chmod", "replace"])
    def test_a_failure_on_the_way_leaves_the_old_file_alone(self, tmp_path, monkeypatch, where):
        path = write_atomic(tmp_path / "a.bin", b"old")

        def fail(*_):
            raise KeyboardInterrupt(where)

        monkeypatch.setattr(os, where, fail)
        with pytest.raises(KeyboardInterrupt, match=where):
            write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["a.bin"], "no litter"

    def test_others_may_read_the_file(self, tmp_path):
        assert write_atomic(tmp_path / "a", b"").stat().st_mode & 0o777 == 0o644


class TestJson:
    def test_is_sorted_utf8_and_ends_with_a_newline(self, tmp_path):
        path = write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
        text = path.read_text(encoding="utf-8")
        assert text.index('"a"') < text.index('"b"') and "é" in text and text.endswith("}\n")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_refuses_what_json_cannot_say_and_keeps_the_old_file(self, tmp_path, value):
        path = write_json(tmp_path / "a.json", [1])
        with pytest.raises(ValueError):
            write_json(path, [value])
        assert json.loads(path.read_text()) == [1]


class TestTensors:
    def test_come_back_with_their_config(self, tmp_path):
        kept = {"a": torch.randn(2, 3).T, "b": torch.tensor(3), "c": torch.ones(2).half()}
        path = save_tensors(tmp_path / "x.safetensors", kept, {"dim": 3, "names": ["é"]})
        tensors, config = load_tensors(path)
        assert config == {"dim": 3, "names": ["é"]}
        assert tensors.keys() == kept.keys()
        for name, tensor in kept.items():
            assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype

    def test_broken_files_are_named(self, tmp_path):
        path = save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1000)}, {})
        with pytest.raises(ValueError, match=r"absent\.safetensors is not a readable"):
            load_tensors(tmp_path / "absent.safetensors")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match=r"x\.safetensors is not a readable"):
            load_tensors(path)
        path.write_bytes(b"not tensors at all")
        with pytest.raises(ValueError, match="not a readable"):
            load_tensors(path)

    def test_files_of_others_are_refused(self, tmp_path):
        save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match="not written by easytune"):
            load_tensors(tmp_path / "x.safetensors")


class TestWeights:
    def test_half_precision_is_widened(self):
        net = nn.Linear(3, 2)
        given = {"weight": torch.randn(2, 3).half(), "bias": torch.randn(2).half()}
        fit(net, given, "here")
        assert net.weight.dtype == torch.float32
        assert torch.equal(net.weight, given["weight"].float())

    def test_what_does_not_fit_is_named_and_nothing_is_changed(self):
        net = nn.Linear(3, 2)
        before = net.weight.clone()
        with pytest.raises(ValueError) as error:
            fit(net, {"weight": torch.ones(2, 4), "extra": torch.ones(1)}, "model.st")
        text = str(error.value)
        assert "model.st does not fit Linear" in text and "missing ['bias']" in text
        assert "extra ['extra']" in text and "weight: (2, 4) instead of (2, 3)" in text
        assert torch.equal(net.weight, before)


def test_an_optimizer_comes_back_through_a_file(tmp_path):
    """The step after loading is, bit for bit, the one that would have come next."""

    def start():
        weight = torch.arange(6.0).view(2, 3).requires_grad_()
        return weight, torch.optim.AdamW([weight], lr=0.1, fused=True)

    def advance(weight, optimizer, factor):
        optimizer.zero_grad()
        (factor * weight**2).sum().backward()
        optimizer.step()

    weight, optimizer = start()
    advance(weight, optimizer, 1.0)
    tensors = pack_optimizer(optimizer) | {"other": weight}
    path = save_tensors(tmp_path / "o.safetensors", tensors, {})
    twin, its_optimizer = start()
    loaded = load_tensors(path)[0]
    unpack_optimizer(its_optimizer, loaded)
    with torch.no_grad():
        twin.copy_(loaded["other"])
    for pair in ((weight, optimizer), (twin, its_optimizer)):
        advance(*pair, 2.0)
    assert torch.equal(weight, twin)


def test_a_trial_writes_records_and_figures_apart(tmp_path, monkeypatch):
    assert results_folder("a/runs") == Path("a/runs")
    monkeypatch.setenv(RESULTS, str(tmp_path))
    assert results_folder("a/runs") == tmp_path / "runs"
    assert results_folder(Path("scratch")) == Path("scratch")
