from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_world import StubEncoder, tiny_corpus
from torch.profiler import ProfilerActivity, profile

from benchmarks import reward_training as benches
from benchmarks.__main__ import main as benchmark
from benchmarks.finetuning import PLAIN
from benchmarks.reward_training import (
    QUICK_REWARD,
    fusible,
    official,
    padding,
    plain_loop,
    product_loop,
    table,
    typical_seeds,
)
from easytune_lib import recipes
from easytune_lib.records import RunRecord
from easytune_lib.rewards.spm import SPM
from easytune_lib.types import TextFeatures

FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny corpus and small networks."""
    sizes = {"dim": 8, "heads": 2, "layers": 3, "ff": 16, "text_dim": 6}
    monkeypatch.setattr(benches, "OFFICIAL", sizes)
    monkeypatch.setattr(benches, "open_data", lambda data, clips: tiny_corpus())
    monkeypatch.setattr(benches, "MiniLM", StubEncoder)
    monkeypatch.setattr(recipes, "SPM", partial(SPM, dim=16, layers=1))


def kernels(run: Callable[[], object]) -> dict[str, int]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    return {event.key: event.count for event in seen.key_averages()}


def test_the_plain_loop_does_as_the_released_code():
    world = benches.laptop(QUICK_REWARD)
    asked: list[int] = []

    def encode(texts: Sequence[str]) -> TextFeatures:
        asked.append(len(texts))
        return world.features(texts)

    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        seen = kernels(lambda: losses.extend(islice(plain_loop(world, encode, 0), 3)))
    assert asked == [8, 8, 8], "captions are encoded with each batch"
    assert FUSED not in seen and len(set(losses)) == 3
    large = official(QUICK_REWARD)
    with torch.random.fork_rng(devices=[]):
        seen = kernels(lambda: next(plain_loop(large, large.features, 0)))
    assert seen["aten::mean"] >= 3 * 3, "attention returns its weights, a mean over heads"
    assert not any(layer._forward_pre_hooks for layer in large.model.modules())


def test_both_loops_see_the_same_clips_and_train_all_of_the_network():
    for loop in (lambda w: plain_loop(w, w.features, 0), lambda w: product_loop(w, 0)):
        world = benches.laptop(QUICK_REWARD)
        before = [p.clone() for p in world.model.parameters()]
        with torch.random.fork_rng(devices=[]):
            list(islice(loop(world), 2))
        assert not any(map(torch.equal, before, world.model.parameters()))


def test_dropout_keeps_the_published_network_from_the_fused_kernel():
    """As it was published its attention is not fused in training; without that dropout it is."""
    world = official(QUICK_REWARD)
    assert FUSED not in kernels(lambda: next(iter(product_loop(world, 0))))
    lean = replace(world, model=fusible(world.model))
    assert kernels(lambda: next(iter(product_loop(lean, 0))))[FUSED] == 2 * 3 + 2 * 3


def test_buckets_save_padding_and_seeds_are_typical():
    world = replace(benches.laptop(QUICK_REWARD), steps=2)
    plain, sorted_ = (padding(world, buckets, draws=50) for buckets in (1, 4))
    assert 0 < sorted_["padding"] < plain["padding"] < 1
    assert sorted_["frames"] < plain["frames"]
    assert sorted(typical_seeds(world, 4, among=6)) == list(range(6))


@pytest.mark.slow
def test_runs_say_ratios_and_are_recorded(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setattr("benchmarks.__main__.ROOT", tmp_path)
    with torch.random.fork_rng(devices=[]):
        assert benchmark(["reward", "--quick"]) == 0
        assert benchmark(["buckets", "--quick"]) == 0
    said = capsys.readouterr().out
    records = {r.name: r for r in map(RunRecord.load, (tmp_path / "outputs").iterdir())}
    assert all(table(record) in said for record in records.values())
    steps = records["bench_reward"].machine["steps"]
    ways = {size: [r["way"] for r in steps if r["size"] == size] for size in ("laptop", "official")}
    assert ways["laptop"][0] == PLAIN and ways["official"][0] == f"{PLAIN}, captions kept"
    assert "ours, 2 buckets, bf16" in ways["laptop"]
    assert all(row["samples"] > 0 and row["cpu_gain"] > 0 for row in steps)
    assert len(records["bench_reward"].tables["padding"]) == 4
    assert [row["buckets"] for row in records["bench_buckets"].machine["training"]] == [1, 8]
