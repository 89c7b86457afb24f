from collections import deque
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from benchmarks import finetuning as benches
from benchmarks.__main__ import main as benchmark
from benchmarks.finetuning import QUICK, World, plain_loop, product_loop, table
from easytune_lib.extras.official.mld import OfficialMLD
from easytune_lib.extras.spm_official import OfficialSPM
from easytune_lib.finetuning.methods import EasyTune
from easytune_lib.records import RunRecord

STATS = [0.0] * 263, [1.0] * 263


def small(size) -> World:
    """The published networks, at three layers of width 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"layers": 3, "ff": 16}
        wide = {"text_dim": 6, "time_dim": 8}
        mld = OfficialMLD(*STATS, dim=8, heads=2, vae=sizes, denoiser=sizes | wide)
        spm = OfficialSPM(*STATS, dim=8, heads=2, text_dim=6, **sizes)
    model = mld.eval().diffusion(benches.made_captions(1, 6, 6, 0), size.n_steps)
    text = benches.made_captions(size.batch_size, 6, 6, 0)
    return World(model, spm, benches._batch(model, text, size))


def test_the_plain_loop_does_as_the_released_code(tmp_path: Path):
    world = small(QUICK)
    with torch.random.fork_rng(devices=[]):
        rewards = list(plain_loop(world, tmp_path / "log"))
    assert len(rewards) == QUICK.n_steps
    assert [float(line) for line in (tmp_path / "log").read_text().split()] == rewards
    assert world.spm.training and world.model.denoiser.training
    assert all(p.grad is not None for p in world.spm.motion_encoder.parameters())
    assert all(p.grad is not None for p in world.spm.text_encoder.parameters())
    assert all(p.grad is None for p in world.spm.decoder.parameters())


def test_the_product_trains_the_denoiser_alone():
    world = small(QUICK)
    before = [p.clone() for p in world.model.denoiser.parameters()]
    deque(product_loop(world, EasyTune(), 1, still=True), 0)
    assert all(map(torch.equal, before, world.model.denoiser.parameters()))
    deque(islice(product_loop(world, EasyTune(), 1), 1), 0)
    assert not any(map(torch.equal, before, world.model.denoiser.parameters()))
    assert all(p.grad is None for p in world.spm.parameters())


@pytest.mark.slow
def test_a_run_says_ratios_and_is_recorded(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setattr("benchmarks.__main__.ROOT", tmp_path)
    monkeypatch.setattr(benches, "SPACES", {"latent": small})
    few = {name: benches.METHODS[name] for name in ("DRaFT", "EasyTune", "EasyTune, two-phase")}
    monkeypatch.setattr(benches, "METHODS", few)
    monkeypatch.setattr(benches, "QUICK", replace(QUICK, n_steps=2, horizons=(1, 2)))
    with torch.random.fork_rng(devices=[]):
        assert benchmark(["--quick"]) == 0
    (path,) = (tmp_path / "outputs").iterdir()
    record = RunRecord.load(path)
    assert table(record) in capsys.readouterr().out
    metrics = record.metrics
    assert 0 < metrics["memory_of_plain_loop"] < 1
    for measure in ("alive", "held"):
        plain, parted = (
            metrics[f"latent_{name}_{measure}_of_draft"]
            for name in ("easytune", "easytune_two_phase")
        )
        assert 0 < parted < plain < 1
    assert metrics["latent_easytune_spread_over_steps"] < 0.02
    assert abs(metrics["latent_worst_error_of_foretold_memory"]) < 0.05
    took = {row["way"]: row for row in record.machine["updates"]}
    assert took["plain loop"]["gain"] == 1 and took["exact tricks"]["gain"] > 0
    assert record.machine["bf16_instructions"] == benches.has_bf16()
