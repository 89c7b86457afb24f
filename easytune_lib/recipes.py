"""How the workbench's own networks are trained: one generator a network, from any corpus.

Each writes ``<out>/<name>.safetensors`` and, beside it, ``<name>.json``: the record that made
it. Training state lies in ``<out>/training`` until the network is finished, so that a killed
run goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from easytune_lib.checkpoints import rebuilt
from easytune_lib.choices import check_choice
from easytune_lib.data.corpus import (
    Clip,
    Corpus,
    FeatureStats,
    MotionBatch,
    balance,
    draw_balanced,
)
from easytune_lib.data.humanml3d import open_corpus
from easytune_lib.data.splits import Roles, assign_roles
from easytune_lib.data.synthetic import synthetic_corpus
from easytune_lib.distributed import is_main, size, wait_for_all
from easytune_lib.metrics.judge import Judge, judge_objective
from easytune_lib.models.mdm import MDM
from easytune_lib.models.mld import VAE, GuidedDenoiser, LatentDenoiser, mld
from easytune_lib.models.motiondiffuse import MotionDiffuse
from easytune_lib.models.objectives import consistency_loss, denoising_loss, vae_loss
from easytune_lib.records import RunRecord
from easytune_lib.rewards.losses import MIXED, LatentNoise, spm_objective
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.storage import save_tensors, write_json
from easytune_lib.text.cache import CachedEncoder
from easytune_lib.text.encoders import MiniLM
from easytune_lib.text.table import CaptionTable
from easytune_lib.training import Objective, Precision, TrainingPlan, TrainingStep, train
from easytune_lib.types import Prompts

MAX_FRAMES = 128

RewardNoise = Literal["features", "latent", "clean"]
REWARDS: dict[RewardNoise, str] = {"features": "spm", "latent": "spm_latent", "clean": "spm_clean"}
"""The file of the reward that was trained with a kind of noise."""

Kind = Literal[
    "mdm", "vae", "mld", "mld_early", "mldpp_vae", "mldpp", "motionlcm", "motiondiffuse"
]  # fmt: skip
"""A base model, or the VAE of one."""

VAES = {"mld": "vae", "mld_early": "vae", "mldpp": "mldpp_vae", "motionlcm": "vae"}
"""Whose latents a base diffuses, by its file; the others diffuse features."""

NEEDS = {base: (vae,) for base, vae in VAES.items()} | {"motionlcm": ("vae", "mld")}
"""What has to be trained before a base."""

Network = TypeVar("Network", bound=nn.Module)


def open_data(
    data: str, on_problem: Literal["raise", "skip"] = "raise", clips: int = 1200
) -> Corpus:
    """A corpus by folder, or the embedded ``"synthetic"`` one, of so many ``clips``.

    Args:
        data: HumanML3D, KIT-ML or the packed bundle; or "synthetic".
        on_problem: Stop at the first bad file, or skip and count bad files.
        clips: Of the synthetic corpus; a folder is read whole.

    Raises:
        ValueError: ``data`` is no such folder, or a file in it is bad.
    """
    if data == "synthetic":
        return synthetic_corpus(clips=clips)
    return open_corpus(data, on_problem=on_problem)


def labelled(corpus: Corpus) -> Corpus:
    """The clips whose labels are known; all, where none is.

    Reward and judge learn by contrast, and labels tell their false negatives apart.
    """
    known = tuple(clip for clip in corpus.clips if clip.label)
    return replace(corpus, clips=known) if known else corpus


def captions_of(clips: Sequence[Clip]) -> list[str]:
    """All captions, and the empty one."""
    return ["", *(caption.text for clip in clips for caption in clip.captions)]


def train_base(
    kind: Kind,
    data: str,
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    on_problem: Literal["raise", "skip"] = "raise",
    precision: Precision = "float32",
    accumulate: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[TrainingStep]:
    """Train a base model: ``mdm``, or ``vae`` and then ``mld`` on its latents.

    ``mld_early`` is ``mld`` stopped after a third of its steps: a weak base, which leaves
    fine-tuning more to gain. ``mldpp`` is another on the eight narrower latents of
    ``mldpp_vae``, ``motionlcm`` is distilled from ``mld``, and ``motiondiffuse`` is the
    published class, small, on MiniLM's token states.

    Args:
        kind: Which network. It needs those of ``NEEDS`` in ``out``.
        data: A corpus folder, or "synthetic".
        out: Where weights and record go.
        seed: Of initial weights, batches and noise.
        steps: Optimizer steps; the laptop preset where ``None``.
        on_problem: Stop at the first bad file, or skip and count bad files.
        precision: ``"bf16"`` rounds the network's matrix products; see :func:`train_reward`.
        accumulate: Batches a step.
        device: Where it is trained.

    Raises:
        ValueError: There is no such data set or it is broken; ``vae`` is missing; the state of
            a run that was ended belongs to other settings; or the loss is not finite.
    """
    check_choice("kind", kind, Kind)
    corpus = open_data(data, on_problem)
    roles = assign_roles(corpus)
    stats = FeatureStats.from_clips(corpus.split("train"), corpus.skeleton)
    table = CaptionTable(CachedEncoder(MiniLM()), captions_of(roles.base))
    if kind == "mdm":
        network, objective = _mdm(stats, roles.base, table, seed, precision)
        plan = TrainingPlan("mdm", steps or 4000, lr=1e-3, seed=seed)
    elif kind in VAES.values():
        sizes = {"latents": 8, "latent_dim": 32} if kind == "mldpp_vae" else {}
        network, objective = _vae(stats, roles.base, table, seed, precision, **sizes)
        preset = {"vae": 2600, "mldpp_vae": 1500}[kind]
        plan = TrainingPlan(kind, steps or preset, lr=1e-3, seed=seed, weight_decay=1e-4)
    elif kind == "motiondiffuse":
        network, objective = _motiondiffuse(stats, roles.base, table, seed, precision)
        plan = TrainingPlan(
            kind, steps or 1600, lr=1e-3, seed=seed, decay_steps=max(2600, steps or 0)
        )
    elif kind == "motionlcm":
        vae, teacher = (
            load_network(known, out / f"{name}.safetensors")
            for known, name in ((VAE, "vae"), (LatentDenoiser, "mld"))
        )
        network, objective = _motionlcm(vae, teacher, roles.base, table, seed, precision)
        plan = TrainingPlan(kind, steps or 500, lr=3e-4, seed=seed, ema=0.995)
    else:
        vae = load_network(VAE, out / f"{VAES[kind]}.safetensors")
        network, objective = _latent_denoiser(vae, roles.base, table, seed, precision)
        preset = {"mld": 6000, "mld_early": 2000, "mldpp": 800}[kind]
        plan = TrainingPlan(kind, steps or preset, lr=6e-4, seed=seed, ema=0.999)
    plan = replace(plan, precision=precision, accumulate=accumulate)
    finishing = {"last": _set_scale} if kind in VAES.values() else {}
    yield from _run(network, objective, plan, out, corpus, roles, device, **finishing)


def _mdm(
    stats: FeatureStats, clips: Sequence[Clip], table: CaptionTable, seed: int, precision: Precision
) -> tuple[MDM, Objective]:
    network = _fresh(lambda: MDM(len(stats.mean)), seed, stats)
    return network, _feature_objective(network, clips, table, 64, precision)


def _vae(
    stats: FeatureStats,
    clips: Sequence[Clip],
    table: CaptionTable,
    seed: int,
    precision: Precision,
    **sizes: int,
) -> tuple[VAE, Objective]:
    network = _fresh(lambda: VAE(len(stats.mean), **sizes), seed, stats)
    draw = draw_balanced(clips, 64, MAX_FRAMES)

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = draw(rng).to(_device(network))
        asked = Prompts(table(batch.texts), batch.lengths)
        return vae_loss(network, batch.features, asked, rng, precision=precision)

    return network, objective


def _latent_denoiser(
    vae: VAE, clips: Sequence[Clip], table: CaptionTable, seed: int, precision: Precision
) -> tuple[LatentDenoiser, Objective]:
    network = _fresh(lambda: LatentDenoiser(vae.latents, vae.latent_dim), seed)
    no_text, draw = table([""]), _draw_latents(vae, clips, table)
    schedule = mld(vae, network, no_text).schedule

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        at, (x0, asked) = _device(network), draw(rng)
        x0, asked, blank = x0.to(at), asked.to(at), no_text.to(at)
        loss = denoising_loss(network, schedule, x0, asked, blank, rng, precision=precision)
        return loss, {}

    return network, objective


def _motionlcm(
    vae: VAE,
    teacher: LatentDenoiser,
    clips: Sequence[Clip],
    table: CaptionTable,
    seed: int,
    precision: Precision,
) -> tuple[GuidedDenoiser, Objective]:
    network = _fresh(lambda: GuidedDenoiser(**teacher.config), seed)
    network.load_state_dict(teacher.state_dict(), strict=False)  # but for the scale's embedding
    no_text, draw = table([""]), _draw_latents(vae, clips, table)
    schedule = mld(vae, network, no_text).schedule

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        at, (x0, asked) = _device(network), draw(rng)
        x0, asked, blank = x0.to(at), asked.to(at), no_text.to(at)
        args = network, teacher.to(at), schedule, x0, asked, blank, rng
        return consistency_loss(*args, precision=precision), {}

    return network, objective


def _motiondiffuse(
    stats: FeatureStats, clips: Sequence[Clip], table: CaptionTable, seed: int, precision: Precision
) -> tuple[MotionDiffuse, Objective]:
    network = _fresh(
        lambda: MotionDiffuse(
            stats.mean.tolist(), stats.std.tolist(), dim=128, layers=4, heads=4, ff=256,
            text_dim=128, text_layers=1, text_ff=256, clip_dim=384, bypass=True,
        ), seed,
    )  # fmt: skip
    nn.init.zeros_(network.out.weight)
    return network, _feature_objective(network, clips, table, 32, precision, even=True, buckets=4)


def _feature_objective(
    network: MDM | MotionDiffuse,
    clips: Sequence[Clip],
    table: CaptionTable,
    batch_size: int,
    precision: Precision,
    even: bool = False,
    buckets: int = 1,
) -> Objective:
    """To denoise normalised features; ``even`` as of :func:`denoising_loss`."""
    no_text, draw = table([""]), draw_balanced(clips, batch_size, MAX_FRAMES, buckets)
    schedule = network.diffusion(no_text).schedule

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        at = _device(network)
        batch, blank = draw(rng).to(at), no_text.to(at)
        asked = Prompts(table(batch.texts).to(at), batch.lengths)
        x0 = network.normalise(batch.features, asked)
        args = network, schedule, x0, asked, blank, rng
        return denoising_loss(*args, even=even, precision=precision), {}

    return objective


def _draw_latents(
    vae: VAE, clips: Sequence[Clip], table: CaptionTable
) -> Callable[[torch.Generator], tuple[Tensor, Prompts]]:
    """Draws 128 latents with their captions, labels in balance."""
    latents, weights = _latents(vae, clips), balance(clips)

    def draw(rng: torch.Generator) -> tuple[Tensor, Prompts]:
        rows = torch.multinomial(weights, 128, replacement=True, generator=rng)
        crop = torch.randint(len(latents), (), generator=rng)
        mu, logvar = latents[int(crop)]
        noise = torch.randn(mu[rows].shape, generator=rng)
        x0 = mu[rows] + (0.5 * logvar[rows]).exp() * noise
        said = [_caption(clips[i], rng) for i in rows.tolist()]
        return x0, Prompts(table(said), torch.full((len(rows),), 4))  # a latent has no length

    return draw


def train_reward(
    data: str,
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    on_problem: Literal["raise", "skip"] = "raise",
    noise: RewardNoise = "features",
    buckets: int = 1,
    precision: Precision = "float32",
    accumulate: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[TrainingStep]:
    """Train the step-aware text-motion model that gives the reward.

    >>> steps = et.train_reward("synthetic", tmp, steps=2)
    >>> [step.step for step in steps]
    [1, 2]

    Other arguments and errors as of :func:`train_base`.

    Args:
        noise: What half of the motions are hidden by: noise on their ``"features"``, as in the
            released code; noise on the ``"latent"`` of ``vae`` in ``out``, decoded, as a latent
            model shows them; or none, ``"clean"``, and then the model is told no step.
        buckets: Batches that are drawn at once and sorted by length, so that little is padded;
            see :func:`~easytune_lib.data.corpus.draw_balanced`. The weights that are shipped
            had 1, and the default reproduces their steps bit for bit.
        precision: ``"bf16"`` rounds the model's matrix products, for speed where the processor
            has such instructions; where it has none, they are emulated, slowly. The weights
            that are shipped had ``"float32"``.
        accumulate: Batches a step. Each is a contrast of its own.
    """
    check_choice("noise", noise, RewardNoise)
    corpus = labelled(open_data(data, on_problem))
    roles = assign_roles(corpus)
    table = CaptionTable(CachedEncoder(MiniLM()), captions_of(roles.reward))
    network = fresh_reward(corpus, seed, "none" if noise == "clean" else "motion").to(device)
    corruption = {"features": MIXED, "clean": None}.get(noise)
    if noise == "latent":
        corruption = latent_noise(load_network(VAE, out / "vae.safetensors").to(device))
    name = REWARDS[noise]
    plan = TrainingPlan(
        name, steps or 800, lr=1e-3, seed=seed, weight_decay=1e-2, buckets=buckets,
        precision=precision, accumulate=accumulate,
    )  # fmt: skip
    objective = spm_objective(
        network, roles.reward, table, noise=corruption, buckets=buckets, precision=precision
    )
    yield from _run(network, objective, plan, out, corpus, roles, device)


def latent_noise(vae: VAE, probability: float = 0.5) -> LatentNoise:
    """Noise on the latent of a trained VAE, decoded; arguments as of :class:`LatentNoise`."""
    return LatentNoise(
        lambda motion, mask: vae.encode(motion, mask)[0], vae.decode_masked, probability
    )


def train_judge(
    data: str,
    out: Path,
    seed: int = 101,
    steps: int | None = None,
    on_problem: Literal["raise", "skip"] = "raise",
    device: torch.device | str = "cpu",
) -> Iterator[TrainingStep]:
    """Train the judge, which no fine-tuning ever sees.

    Arguments and errors as of :func:`train_base`.
    """
    corpus = labelled(open_data(data, on_problem))
    roles = assign_roles(corpus)
    stats = FeatureStats.from_clips(corpus.split("train"), corpus.skeleton)
    network = _fresh(lambda: Judge(features=corpus.skeleton.n_features), seed, stats).to(device)
    plan = TrainingPlan("judge", steps or 1200, lr=2e-3, seed=seed, weight_decay=1e-2)
    objective = judge_objective(network, roles.judge)
    yield from _run(network, objective, plan, out, corpus, roles, device)


def load_network(kind: type[Any], path: Path) -> Any:
    """Rebuild a network from the file that a recipe wrote; in eval mode.

    Raises:
        ValueError: The file is missing, or holds no such network.
    """
    return rebuilt(kind, path)


def _fresh(build: Callable[[], Network], seed: int, stats: FeatureStats | None = None) -> Network:
    """A network whose first weights depend on ``seed`` alone, with its statistics filled in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
    if stats is not None:
        network.get_buffer("mean").copy_(stats.mean)
        network.get_buffer("std").copy_(stats.std)
    return network


def _run(
    network: nn.Module,
    objective: Objective,
    plan: TrainingPlan,
    out: Path,
    corpus: Corpus,
    roles: Roles,
    device: torch.device | str,
    last: Callable[[Any, Sequence[Clip]], None] = lambda network, clips: None,
) -> Iterator[TrainingStep]:
    """Train on ``device``, do the ``last`` thing to the trained network, write it."""
    seconds = 0.0
    network.to(device)
    for step in train(network, objective, plan, out / "training" / f"{plan.name}.safetensors"):
        seconds = step.seconds
        yield step
    network.cpu()
    if is_main():
        last(network, roles.base)
        _finish(network, plan, out, corpus, roles, seconds)
    wait_for_all()  # the next network may need this one's file


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _finish(
    network: nn.Module,
    plan: TrainingPlan,
    out: Path,
    corpus: Corpus,
    roles: Roles,
    seconds: float,
) -> None:
    """Write weights (half precision, they are shipped) and the record that made them."""
    config = network.config
    half = {
        name: value.half() if name not in ("mean", "std", "scale") else value
        for name, value in network.state_dict().items()
    }
    save_tensors(out / f"{plan.name}.safetensors", half, {"network": config})
    record = RunRecord(
        name=f"train_{plan.name}",
        parameters={"plan": asdict(plan), "network": config, "corpus": corpus.name},
        metrics={
            "parameters": sum(p.numel() for p in network.parameters()),
            "skipped_files": len(corpus.problems),
            **{f"clips_{role}": len(clips) for role, clips in vars(roles).items()},
        },
        machine={
            "seconds": round(seconds, 1),
            "threads": torch.get_num_threads(),
            "processes": size(),
        },
    )
    write_json(out / f"{plan.name}.json", asdict(record))


def _caption(clip: Clip, rng: torch.Generator) -> str:
    return clip.captions[int(torch.randint(len(clip.captions), (), generator=rng))].text


@torch.no_grad()
def _latents(vae: VAE, clips: Sequence[Clip], crops: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Mean and log-variance of the latents of all clips, for a few random crops."""
    result = []
    for crop in range(crops):
        rng = torch.Generator().manual_seed(crop)
        parts = []
        for i in range(0, len(clips), 128):
            batch = MotionBatch.collate(clips[i : i + 128], rng, max_frames=MAX_FRAMES)
            parts.append(vae.encode(batch.features, batch.mask))
        result.append((torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])))
    return result


def _set_scale(vae: VAE, clips: Sequence[Clip]) -> None:
    """Give latents unit variance."""
    mu = torch.cat([mu for mu, _ in _latents(vae, clips, crops=1)])
    vae.scale.mul_(mu.std())


@torch.no_grad()
def prepare_evaluation(data: str, out: Path, seed: int = 0) -> Path:
    """Write ``evaluation.safetensors``: prompts, and real motions as the judge sees them.

    It needs ``judge`` in ``out``; where ``vae`` is there too, its reconstructions of the same
    motions are judged as well. Only captions with labels are written, so that the captions of
    HumanML3D stay where they are; but where no label is known at all, as in HumanML3D alone,
    captions are all there is to write.

    Args:
        data: A corpus folder, or "synthetic".
        out: Where the judge is, and where the file goes.
        seed: Of captions, and of the prompts of fine-tuning.

    Raises:
        ValueError: There is no such data set or it is broken, or no judge.
    """
    corpus = open_data(data)
    roles = assign_roles(corpus)
    judge = load_network(Judge, out / "judge.safetensors")
    vae = load_network(VAE, out / "vae.safetensors") if (out / "vae.safetensors").exists() else None
    rng = stream(seed, "evaluation")
    shown = [clip for clip in roles.base if clip.label] or roles.base
    sets = {"finetune": draw_balanced(shown, 1024, MAX_FRAMES)(rng)}
    for name, clips in (
        ("validation", roles.validation), ("test", roles.test), ("unseen", roles.unseen),
    ):  # fmt: skip
        if clips:
            sets[name] = MotionBatch.collate(clips, rng, max_frames=MAX_FRAMES, crop="start")
    tensors: dict[str, Tensor] = {}
    for name, batch in sets.items():
        tensors[f"{name}.lengths"] = batch.lengths.int()
        if name == "finetune":
            continue
        parts = [
            (batch.features[i : i + 64], batch.lengths[i : i + 64])
            for i in range(0, len(batch.texts), 64)
        ]
        parts = [(motion[:, : int(length.max())], length) for motion, length in parts]
        tensors[f"{name}.real"] = torch.cat([judge.embed_motion(*part) for part in parts])
        if vae is not None:
            rebuilt = []
            for motion, length in parts:
                mask = torch.arange(motion.shape[1]) < length[:, None]
                latent, _ = vae.encode(motion, mask)
                rebuilt.append(judge.embed_motion(vae.decode_masked(latent, mask), length))
            tensors[f"{name}.vae"] = torch.cat(rebuilt)
    names = {n: {"texts": list(b.texts), "labels": list(b.labels)} for n, b in sets.items()}
    return save_tensors(
        out / "evaluation.safetensors", tensors, {"sets": names, "corpus": corpus.name}
    )


def fresh_reward(
    corpus: Corpus, seed: int, time_token: Literal["motion", "none"] = "motion"
) -> SPM:
    """An untrained SPM with the corpus's statistics; equal seeds give equal weights."""
    stats = FeatureStats.from_clips(corpus.split("train"), corpus.skeleton)
    width = corpus.skeleton.n_features
    return _fresh(lambda: SPM(features=width, time_token=time_token), seed, stats)
