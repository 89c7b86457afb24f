"""What the hot loop gains over a plain one, as ratios within one run; and what memory scales with.

Networks have the published sizes and random weights: cost does not depend on what they know.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import gains, has_bf16, machine_now, timed
from easytune_lib.analysis.cost import MIB, calibrate, cost, live_bytes, saved_bytes
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import rollout, sample
from easytune_lib.extras.official.mld import OfficialMLD
from easytune_lib.extras.spm_official import OfficialSPM
from easytune_lib.finetuning.loop import Batch, finetune
from easytune_lib.finetuning.methods import DRaFT, EasyTune, ReFL
from easytune_lib.finetuning.precision import bf16
from easytune_lib.finetuning.two_phase import TwoPhase
from easytune_lib.finetuning.variants import EasyTunePlus
from easytune_lib.models.mdm import MDM
from easytune_lib.records import RunRecord
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod, Prompts, Reward, TextFeatures

LONGEST = 196  # frames, of the published data set
PLAIN = "plain loop"
SAMPLING = "sampling alone"  # what a method's memory is additional to


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    batch_size: int = 8
    n_steps: int = 50
    micro_batch: int = 1  # the leanest, and on a CPU the fastest: nothing is padded
    updates: int = 4  # timed at once; slopes are held for 4 at most
    repeats: int = 5
    horizons: tuple[int, ...] = (10, 25, 50)  # sampling steps whose memory is compared
    seed: int = 0


QUICK = Size(batch_size=2, n_steps=3, updates=1, repeats=1, horizons=(2, 3))


@dataclass(frozen=True)
class World:
    """A model, what scores it, and one batch."""

    model: MotionDiffusion
    spm: SPM
    batch: Batch

    @cached_property
    def reward(self) -> AlignmentReward:
        """Frozen, in eval mode, captions embedded once."""
        return AlignmentReward(self.spm)


def latent(size: Size) -> World:
    """MLD (1 x 256, 9 and 9 layers) and the SPM, both as published."""
    zeros, ones = [0.0] * 263, [1.0] * 263
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        mld, spm = OfficialMLD(zeros, ones), OfficialSPM(zeros, ones)
    no_text = made_captions(1, 768, 1024, size.seed)
    model = mld.eval().diffusion(no_text, size.n_steps)
    return World(
        model, spm, _batch(model, made_captions(size.batch_size, 768, 1024, size.seed), size)
    )


def feature(size: Size) -> World:
    """The laptop's MDM and SPM, in the space of features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        network, spm = MDM(), SPM()
    model = network.eval().diffusion(made_captions(1, 384, 384, size.seed), size.n_steps)
    return World(
        model, spm, _batch(model, made_captions(size.batch_size, 384, 384, size.seed), size)
    )


SPACES: dict[str, Callable[[Size], World]] = {"latent": latent, "feature": feature}


def plain_loop(world: World, log: Path) -> Iterator[float]:
    """EasyTune, an update at every step, in the manner of the released code.

    The reward's weights ask for gradients, its dropout and the denoiser's are on and its latents
    are sampled; captions are read anew each time; motions are padded to the longest of the data
    set; AdamW loops over weights; each reward is written to a file. What it does besides is left
    out, in its favour: the text encoder run on each batch, ``empty_cache`` at each step, and, in
    chain mode, a copy of all networks per batch.

    Source: the released code's ``mld.py`` and ``spm.py``, described in their facts, not copied.
    Deviation: the reward's mean is descended, where the released one is a vector.
    """
    model, spm, batch = world.model, world.spm.train().requires_grad_(), world.batch
    prompts = batch.prompts
    mask = torch.arange(LONGEST) < prompts.lengths[:, None]
    weights = list(model.denoiser.train().parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0)
    plan = EasyTune().plan(model.n_steps, batch.rng)
    for step in rollout(model, batch.x_T, prompts, plan):
        motion = model.decode(step.x0_hat, Padded(prompts.text, prompts.lengths))
        reward = F.cosine_similarity(
            drawn(*spm.encode_motion(motion, mask)), drawn(*spm.encode_text(prompts.text))
        ).mean()
        with log.open("a") as file:
            file.write(f"{reward.item()}\n")
        optimizer.zero_grad()
        (-reward).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        yield reward.item()


class Padded(Prompts):
    """Prompts whose motions are padded to the longest of the data set."""

    @property
    def frames(self) -> int:  # pyright: ignore
        """Of every batch."""
        return LONGEST


def product_loop(
    world: World,
    method: FineTuneMethod,
    micro_batch: int | None,
    rounded: bool = False,
    still: bool = False,
    together: int = 1,
) -> Iterable[object]:
    """The same updates by :func:`~easytune_lib.finetuning.loop.finetune`.

    Args:
        world: Whose model is tuned, in place.
        method: What is recorded and rewarded.
        micro_batch: Motions that are decoded and scored at a time.
        rounded: In bf16.
        still: Weights do not move and gradients have their place already, so that activations
            alone are new.
        together: Steps that are decoded and scored as one batch.
    """
    model = replace(world.model, denoiser=world.model.denoiser.eval())
    reward: Reward = world.reward
    if rounded:
        model, reward = bf16(model, reward)
    weights = list(model.denoiser.parameters())
    if still:
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer: torch.optim.Optimizer = _InPlace(weights, lr=0.0)
    else:
        optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0, fused=True)
    batch = replace(world.batch, rng=world.batch.rng.clone_state())
    scorer = TwoPhase(micro_batch, together)
    return finetune(model, reward, [batch], method, optimizer, scorer=scorer)


def bench(size: Size, say: Callable[[str], None]) -> RunRecord:
    """Measure everything.

    Args:
        size: How much.
        say: Is given a line now and then.
    """
    began = time.perf_counter()
    worlds = {space: make(size) for space, make in SPACES.items()}
    world = worlds["latent"]
    copying = _copied(world)
    speed, seconds = _hot_loop(world, size, say)
    tables: dict[str, list[dict[str, Any]]] = {"hot_loop": speed, "methods": [], "horizon": []}
    times: list[dict[str, Any]] = []
    for space, made in worlds.items():
        rows, took = _methods(space, made, size, say)
        tables["methods"] += rows
        times += took
        tables["horizon"] += _horizons(space, made, size)
        say(f"{space}: memory by sampling steps is measured")
    machine = {
        **machine_now(),
        "updates": seconds,
        "copy_of_all_networks": copying,
        "trajectories": times,
        "seconds": round(time.perf_counter() - began, 1),
    }
    return RunRecord("bench", asdict(size), _ratios(tables), tables=tables, machine=machine)


def _hot_loop(
    world: World, size: Size, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Memory of each way to make the same updates, and its seconds, all in turn."""
    chain = EasyTune(updates="chain")

    def rarely(every: int) -> EasyTunePlus:
        return EasyTunePlus(reward_every=every)

    with TemporaryDirectory() as folder:
        log = Path(folder) / "rewards.log"
        ways: dict[str, Callable[[], Iterable[object]]] = {
            PLAIN: lambda: plain_loop(world, log),
            "frozen reward": lambda: product_loop(world, EasyTune(), None),
            "exact tricks": lambda: product_loop(world, EasyTune(), size.micro_batch),
            "chain": lambda: product_loop(world, chain, size.micro_batch),
            "chain, 4 scored together": lambda: product_loop(world, chain, None, together=4),
            "slopes held for 2": lambda: product_loop(world, rarely(2), size.micro_batch),
            "slopes held for 4": lambda: product_loop(world, rarely(4), size.micro_batch),
            "exact tricks, bf16": lambda: product_loop(world, EasyTune(), size.micro_batch, True),
        }
        if not has_bf16():  # emulated, it takes minutes an update and says nothing
            del ways["exact tricks, bf16"]
        rows = []
        for name, way in ways.items():
            held = saved_bytes(lambda way=way: deque(islice(way(), 2), 0)) / MIB
            rows.append({"way": name, "saved_mib": held})
            say(f"{name}: {held:.0f} MiB held for backward")
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(size.repeats):
            for name, way in ways.items():
                taken[name].append(timed(lambda way=way: deque(islice(way(), size.updates), 0)))
            say(f"timed {turn + 1} of {size.repeats} times")
    world.spm.zero_grad()
    return rows, gains(taken, size.updates)


METHODS: dict[str, tuple[FineTuneMethod, bool]] = {  # and whether decoder and reward go in parts
    "DRaFT": (DRaFT(), False),
    "DRaFT, two-phase": (DRaFT(), True),
    "DRaFT, checkpoints": (DRaFT(checkpoint=True), False),
    "DRaFT, checkpoints, two-phase": (DRaFT(checkpoint=True), True),
    "EasyTune": (EasyTune(1, "random"), False),
    "EasyTune, two-phase": (EasyTune(1, "random"), True),
    "ReFL, two-phase": (ReFL(), True),
}


def _methods(
    space: str, world: World, size: Size, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Memory of each method and what :func:`cost` foretold; seconds of a trajectory, likewise."""
    drawn, prompts = world.batch.rng.clone_state(), world.batch.prompts
    least = live_bytes(lambda: sample(world.model, prompts, drawn)) / MIB
    rows: list[dict[str, Any]] = [{"space": space, "method": SAMPLING, "live_mib": least}]
    times = []
    rates = {
        micro: calibrate(
            world.model, world.reward, world.batch.x_T, prompts, micro_batch=micro, repeats=1
        )
        for micro in (None, size.micro_batch)
    }
    window = min(10, size.n_steps)
    for name, (method, parted) in METHODS.items():
        method = replace(method, window=window) if isinstance(method, ReFL) else method
        micro = size.micro_batch if parted else None
        plan = method.plan(size.n_steps, world.batch.rng.clone_state())
        told = cost(plan, method, rates[micro])

        def run(method: FineTuneMethod = method, micro: int | None = micro) -> None:
            deque(product_loop(world, method, micro), 0)

        def run_still(method: FineTuneMethod = method, micro: int | None = micro) -> float:
            loop = product_loop(world, method, micro, still=True)
            return live_bytes(lambda: deque(loop, 0)) / MIB

        wall, cpu = timed(run)
        spent = {"saved_mib": saved_bytes(run) / MIB, "live_mib": run_still()}
        told_saved = None if "checkpoints" in name else told.saved_mib
        rows.append({"space": space, "method": name, **spent, "foretold_mib": told_saved})
        times.append({
            "space": space, "method": name, "wall": wall, "cpu": cpu, "foretold": told.seconds,
        })  # fmt: skip
        say(f"{space}, {name}: {spent['live_mib']:.0f} MiB alive, {wall:.1f} s a trajectory")
    return rows, times


def _horizons(space: str, world: World, size: Size) -> list[dict[str, Any]]:
    """Memory against the number of sampling steps, of EasyTune and of plain DRaFT."""
    rows = []
    for n_steps in size.horizons:
        made = replace(world, model=replace(world.model, n_steps=n_steps))
        for name, method, micro in (
            ("EasyTune, two-phase", EasyTune(min(2, n_steps), "strided"), size.micro_batch),
            ("DRaFT", DRaFT(), None),
        ):
            held = saved_bytes(
                lambda made=made, method=method, micro=micro: deque(
                    product_loop(made, method, micro), 0
                )
            )
            rows.append({"space": space, "method": name, "n_steps": n_steps, "mib": held / MIB})
    return rows


def _ratios(tables: dict[str, list[dict[str, Any]]]) -> dict[str, float | int]:
    """What the tables come to; each a ratio within this run."""
    hot = {row["way"]: row["saved_mib"] for row in tables["hot_loop"]}
    found: dict[str, float | int] = {"memory_of_plain_loop": hot["exact tricks"] / hot[PLAIN]}
    for space in dict.fromkeys(row["space"] for row in tables["methods"]):
        own = {row["method"]: row for row in tables["methods"] if row["space"] == space}
        least, draft = own.pop(SAMPLING)["live_mib"], own["DRaFT"]["live_mib"]
        for name in [name for name in own if name != "DRaFT"]:
            key = name.lower().replace(", ", "_").replace("-", "_")
            found[f"{space}_{key}_alive_of_draft"] = own[name]["live_mib"] / draft
            more = (own[name]["live_mib"] - least) / (draft - least)
            found[f"{space}_{key}_additional_of_draft"] = more
            if "checkpoints" not in name:  # whose second pass is not seen as held
                held = own[name]["saved_mib"] / own["DRaFT"]["saved_mib"]
                found[f"{space}_{key}_held_of_draft"] = held
        flat = [
            row["mib"]
            for row in tables["horizon"]
            if row["space"] == space and row["method"] != "DRaFT"
        ]
        found[f"{space}_easytune_spread_over_steps"] = max(flat) / min(flat) - 1
        errors = [
            row["foretold_mib"] / row["saved_mib"] - 1
            for row in own.values()
            if row["foretold_mib"] is not None
        ]
        found[f"{space}_worst_error_of_foretold_memory"] = max(errors, key=abs)
    return found


def table(record: RunRecord) -> str:
    """The record, to be read."""
    lines = ["Updates of EasyTune at MLD's published size, against the plain loop"]
    pairs = zip(record.machine["updates"], record.tables["hot_loop"], strict=True)
    for took, held in pairs:
        lines.append(
            f"  {took['way']:20} {took['gain']:5.2f} x as fast [{took['gain_low']:.2f}, "
            f"{took['gain_high']:.2f}], by CPU time {took['cpu_gain']:.2f}; holds "
            f"{held['saved_mib']:6.0f} MiB"
        )
    lines.append("Memory of an update beside weights and gradients")
    for row in record.tables["methods"]:
        name = f"{row['space']}, {row['method']}"
        held = f", {row['saved_mib']:6.0f} held" if "saved_mib" in row else ""
        lines.append(f"  {name:40} {row['live_mib']:6.0f} MiB alive{held}")
    lines += [f"  {name}: {value:.4f}" for name, value in sorted(record.metrics.items())]
    return "\n".join(lines)


class _InPlace(torch.optim.SGD):
    """Keeps the memory of gradients from update to update."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        super().zero_grad(set_to_none=False)


def _copied(world: World) -> float:
    """Seconds of copying all networks, as the plain loop's chain mode does for each batch."""
    decode = getattr(world.model.decode, "__self__", None)
    return timed(lambda: deepcopy((world.model.denoiser, decode, world.spm)))[0]


def drawn(mu: Tensor, logvar: Tensor) -> Tensor:
    """A latent sampled from its Gaussian, as the released code samples it."""
    return torch.distributions.Normal(mu, (0.5 * logvar).exp()).rsample()


def made_captions(count: int, sentence: int, tokens: int, seed: int) -> TextFeatures:
    """Random features of so many captions, of the two widths."""
    rng = stream(seed, "captions", count)
    words = torch.randint(8, 25, (count,), generator=rng)
    mask = torch.arange(int(words.max())) < words[:, None]
    states = torch.randn(count, mask.shape[1], tokens, generator=rng) * mask[..., None]
    names = tuple(f"caption {i}" for i in range(count))
    return TextFeatures(names, torch.randn(count, sentence, generator=rng), states, mask)


def _batch(model: MotionDiffusion, text: TextFeatures, size: Size) -> Batch:
    rng = stream(size.seed, "batch")
    lengths = 4 * torch.randint(10, LONGEST // 4 + 1, (len(text),), generator=rng)
    prompts = Prompts(text, lengths)
    return Batch(0, model.draw_noise(prompts, rng), prompts, rng)
