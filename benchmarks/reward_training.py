"""What reward training gains over a plain loop, as ratios within one run; and what it learns.

Random captions stand in for those of sentence-T5 at the published size, whose weights are too
large to ship: cost does not depend on what they say.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, islice
from statistics import mean
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.finetuning import LONGEST, PLAIN, drawn, made_captions
from benchmarks.timing import gains, has_bf16, machine_now, timed
from easytune_lib.data.corpus import Clip, draw_balanced
from easytune_lib.data.splits import assign_roles
from easytune_lib.experiments.refine import RetrievalTest
from easytune_lib.extras.spm_official import OfficialSPM
from easytune_lib.recipes import captions_of, fresh_reward, labelled, open_data
from easytune_lib.records import RunRecord
from easytune_lib.rewards.losses import (
    MIXED,
    CaptionFeatures,
    SPMLoss,
    info_nce,
    kl,
    spm_objective,
)
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.text.encoders import MiniLM
from easytune_lib.text.table import CaptionTable
from easytune_lib.training import Precision, TrainingPlan, train
from easytune_lib.types import TextFeatures


@dataclass(frozen=True)
class RewardSize:
    """How much is measured."""

    clips: int = 1200  # of the synthetic corpus
    laptop_batch: int = 64  # clips; the recipe's
    laptop_steps: int = 2  # timed at once
    official_batch: int = 4  # clips; 64 were published, which no laptop holds
    official_steps: int = 2
    buckets: int = 8
    repeats: int = 3


QUICK_REWARD = RewardSize(120, 8, 1, 2, 1, 2, 1)
OFFICIAL: dict[str, Any] = {}  # sizes of the published network, where they shall be others


@dataclass(frozen=True)
class World:
    """A reward to be trained, and what it sees."""

    name: str
    model: SPM
    clips: Sequence[Clip]
    features: CaptionFeatures  # looked up
    encode: CaptionFeatures | None  # the text encoder itself, where there is one
    batch_size: int
    steps: int  # timed at once


def laptop(size: RewardSize) -> World:
    """The workbench's own SPM and its text encoder, on the synthetic corpus."""
    corpus, encoder = labelled(open_data("synthetic", clips=size.clips)), MiniLM()
    clips = assign_roles(corpus).reward
    table = CaptionTable(encoder, captions_of(clips))
    model, batch = fresh_reward(corpus, 0), size.laptop_batch
    return World("laptop", model, clips, table, encoder.encode, batch, size.laptop_steps)


def official(size: RewardSize) -> World:
    """The published SPM on the same clips, with random captions of sentence-T5's widths."""
    clips = assign_roles(labelled(open_data("synthetic", clips=size.clips))).reward
    names = sorted(set(captions_of(clips)))
    row = {name: i for i, name in enumerate(names)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OfficialSPM([0.0] * 263, [1.0] * 263, **OFFICIAL)
    table = made_captions(len(names), 768, model.text_embedding.in_features, 0)

    def features(texts: Sequence[str]) -> TextFeatures:
        return table[[row[text] for text in texts]]

    return World("official", model, clips, features, None, size.official_batch, size.official_steps)


WORLDS: tuple[Callable[[RewardSize], World], ...] = (laptop, official)


def plain_loop(world: World, encode: CaptionFeatures, seed: int) -> Iterator[float]:
    """The SPM's training in the manner of the released code; yields each step's loss.

    Captions go through ``encode`` with each batch; attention also returns its weights, which
    PyTorch's fused kernels can not; the two latents are sampled by distributions and decoded one
    after the other; AdamW loops over weights. Batches are those of ours, clip for clip: padded
    to the longest of each, as the released configuration does. What else the released code does
    for a batch is left out, in its favour: captions are encoded once more for SPL.

    Source: the code released with Tan et al. (2026), ``train_spm.py`` and ``spm.py``, described,
    not copied. It neither clips gradients nor averages weights, as ours does.
    """
    model, weights = world.model.train(), SPMLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    draw = draw_balanced(world.clips, world.batch_size, LONGEST)
    for step in count():
        rng = stream(seed, "spm", step)
        batch = draw(rng)
        text, mask = encode(batch.texts), batch.mask
        clean = model.normalise(batch.features, mask)
        seen, t = MIXED(model, batch, rng)
        with sdpa_kernel(SDPBackend.MATH), returning_attention(model):
            motion, caption = model.encode_motion(seen, mask, t), model.encode_text(text)
            z_motion, z_caption = drawn(*motion), drawn(*caption)
            rebuilt = [model.decode(z, mask) for z in (z_caption, z_motion)]
        unit = (torch.zeros_like(motion[0]), torch.zeros_like(motion[0]))
        sentence = F.normalize(text.sentence, dim=-1)
        a, b = F.normalize(z_caption, dim=-1), F.normalize(z_motion, dim=-1)
        gaussians = (caption, motion), (motion, caption), (motion, unit), (caption, unit)
        loss = (
            torch.stack([F.smooth_l1_loss(motion, clean) for motion in rebuilt]).sum()
            + weights.kl * torch.stack([kl(*pair) for pair in gaussians]).sum()
            + weights.latent * F.smooth_l1_loss(z_motion, z_caption)
            + weights.contrastive
            * info_nce(a @ b.T, sentence @ sentence.T > weights.threshold, weights.temperature)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


@contextmanager
def returning_attention(model: nn.Module) -> Iterator[None]:
    """PyTorch's attention layers compute the weights that their callers do not ask for."""

    def ask(layer: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, options | {"need_weights": True}

    layers = [layer for layer in model.modules() if isinstance(layer, nn.MultiheadAttention)]
    handles = [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def product_loop(
    world: World, seed: int, buckets: int = 1, precision: Precision = "float32"
) -> Iterator[object]:
    """The same by :func:`~easytune_lib.training.train`."""
    plan = TrainingPlan("spm", 1000, 1e-3, seed, buckets=buckets, precision=precision)
    objective = spm_objective(
        world.model, world.clips, world.features, batch_size=world.batch_size,
        max_frames=LONGEST, buckets=buckets, precision=precision,
    )  # fmt: skip
    return train(world.model, objective, plan)


def padding(world: World, buckets: int, draws: int = 200) -> dict[str, Any]:
    """The share of frames that is padding, and the padded frames of a mean batch."""
    draw = draw_balanced(world.clips, world.batch_size, LONGEST, buckets)
    batches = [draw(stream(0, "padding", i)) for i in range(draws)]
    real, all_ = (sum(int(x) for x in part) for part in zip(
        *((batch.lengths.sum(), batch.mask.numel()) for batch in batches), strict=True
    ))  # fmt: skip
    told = {"size": world.name, "batch_size": world.batch_size, "buckets": buckets}
    return told | {"padding": 1 - real / all_, "frames": all_ / draws}


def typical_seeds(world: World, buckets: int, among: int = 48) -> list[int]:
    """Seeds in order of how near their first batches are to the mean size.

    Batches of like lengths differ in size from step to step, and few are timed.
    """
    draw = draw_balanced(world.clips, world.batch_size, LONGEST, buckets)
    frames = [
        sum(draw(stream(seed, "spm", step)).features.shape[1] for step in range(world.steps))
        for seed in range(among)
    ]
    return sorted(range(among), key=lambda seed: abs(frames[seed] - mean(frames)))


def bench_reward(size: RewardSize, say: Callable[[str], None]) -> RunRecord:
    """Samples a second of each way to train, at both sizes.

    Each way is timed on batches of its own mean size, all ways in turn. ``machine["steps"]`` has
    the rows of :func:`~benchmarks.timing.gains`, with ``size`` and ``samples``: clips a
    CPU second. bf16 is timed at the laptop's size even where it is emulated, and at the
    published size only where it is not.

    Args:
        size: How much.
        say: Is given a line now and then.
    """
    began = time.perf_counter()
    padded: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for make in WORLDS:
        world = make(size)
        padded += [padding(world, buckets) for buckets in (1, size.buckets)]
        steps += _steps(world, size, say)
    machine = machine_now() | {"steps": steps, "seconds": round(time.perf_counter() - began, 1)}
    metrics: dict[str, float | int] = {
        f"{row['size']}_padding_buckets_{row['buckets']}": row["padding"] for row in padded
    }
    return RunRecord(
        "bench_reward", asdict(size), metrics, tables={"padding": padded}, machine=machine
    )


def _steps(world: World, size: RewardSize, say: Callable[[str], None]) -> list[dict[str, Any]]:
    sorted_ = f"{size.buckets} buckets"
    ways: dict[str, tuple[int, Callable[[int], Iterator[object]]]] = {}
    if world.encode is not None:
        ways[PLAIN] = (1, partial(plain_loop, world, world.encode))
    ways[f"{PLAIN}, captions kept"] = (1, partial(plain_loop, world, world.features))
    ways["ours"] = (1, partial(product_loop, world))
    ways[f"ours, {sorted_}"] = (size.buckets, partial(product_loop, world, buckets=size.buckets))
    if isinstance(world.model, OfficialSPM):
        fused = replace(world, model=fusible(deepcopy(world.model)))
        ways[f"ours, {sorted_}, fused"] = (
            size.buckets, partial(product_loop, fused, buckets=size.buckets),
        )  # fmt: skip
    if has_bf16() or world.name == "laptop":
        ways[f"ours, {sorted_}, bf16"] = (
            size.buckets,
            partial(product_loop, world, buckets=size.buckets, precision="bf16"),
        )
    seeds = {buckets: typical_seeds(world, buckets) for buckets in (1, size.buckets)}
    next(iter(product_loop(world, 0)))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(size.repeats):
        for name, (buckets, way) in ways.items():
            loop = way(seeds[buckets][turn])
            taken[name].append(timed(lambda loop=loop: deque(islice(loop, world.steps), 0)))
        say(f"{world.name}: timed {turn + 1} of {size.repeats} times")
    rows = gains(taken, world.steps)
    told = {"size": world.name, "batch_size": world.batch_size}
    return [told | row | {"samples": world.batch_size / float(row["cpu"])} for row in rows]


def fusible(model: SPM) -> SPM:
    """The same model, in place, without dropout on attention weights.

    The published network has such dropout, of which PyTorch's fused kernel for CPUs knows none:
    in training its attention falls back to plain products.
    """
    for layer in model.modules():
        if isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0
    return model


def table(record: RunRecord) -> str:
    """The record, to be read: of either bench."""
    lines = []
    for row in record.machine.get("steps", []):
        lines.append(
            f"  {row['size']:9} {row['way']:28} {row['samples']:6.1f} clips a CPU second, "
            f"{row['cpu_gain']:5.2f} x the first [{row['cpu_gain_low']:.2f}, "
            f"{row['cpu_gain_high']:.2f}]"
        )
    for row in record.machine.get("training", []):
        lines.append(f"  buckets {row['buckets']}, seed {row['seed']}: {row['cpu']:.3f} s a step")
    lines += [f"  {name}: {value:.4f}" for name, value in sorted(record.metrics.items())]
    instructions = "has" if record.machine["bf16_instructions"] else "emulates bf16: it has no"
    return "\n".join([*lines, f"  this processor {instructions} bf16 instructions"])


@dataclass(frozen=True)
class LearningSize:
    """How much is trained to see what length buckets change."""

    clips: int = 1200  # of the synthetic corpus
    steps: int = 400
    buckets: tuple[int, ...] = (1, 8)
    seeds: int = 2


QUICK_LEARNING = LearningSize(clips=300, steps=2, seeds=1)


def bench_buckets(size: LearningSize, say: Callable[[str], None]) -> RunRecord:
    """Train the laptop's reward with and without length buckets, as its recipe does.

    The record has ``tables["recall"]``: R@k on held-out clips, as of
    :meth:`~easytune_lib.experiments.refine.RetrievalTest.recalls`, with ``buckets`` and
    ``seed``; and ``machine["training"]``: CPU seconds a step.

    Args:
        size: How much.
        say: Is given a line now and then.
    """
    corpus = labelled(open_data("synthetic", clips=size.clips))
    clips, table = assign_roles(corpus).reward, CaptionTable(MiniLM(), captions_of(corpus.clips))
    test = RetrievalTest(corpus, table)
    recall: list[dict[str, Any]] = []
    seconds: list[dict[str, float]] = []
    for seed in range(size.seeds):
        for buckets in size.buckets:
            model = fresh_reward(corpus, seed)
            plan = TrainingPlan("spm", size.steps, 1e-3, seed, weight_decay=1e-2, buckets=buckets)
            loop = train(model, spm_objective(model, clips, table, buckets=buckets), plan)
            wall, cpu = timed(lambda loop=loop: deque(loop, 0))
            told = {"buckets": buckets, "seed": seed}
            recall += [{**told, **row} for row in test.recalls(model)]
            seconds.append({**told, "wall": wall / size.steps, "cpu": cpu / size.steps})
            say(f"{buckets} buckets, seed {seed}: {cpu / size.steps:.3f} CPU seconds a step")
    metrics: dict[str, float | int] = {
        f"r1_{direction}_buckets_{buckets}": mean(
            row["recall"]
            for row in recall
            if (row["k"], row["direction"], row["buckets"]) == (1, direction, buckets)
        )
        for direction in ("t2m", "m2t")
        for buckets in size.buckets
        if recall
    }
    machine = machine_now() | {"training": seconds}
    return RunRecord(
        "bench_buckets", asdict(size), metrics, tables={"recall": recall}, machine=machine
    )
