"""Tune a bench's model with a method and a reward: one generator, and one call around it."""

import time
from collections.abc import Generator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from easytune_lib import distributed
from easytune_lib.checkpoints import fit
from easytune_lib.choices import check_choices
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.finetuning.anchor import Anchor
from easytune_lib.finetuning.loop import batches, copy_for_tuning, cosine, finetune
from easytune_lib.finetuning.lora import merged, with_lora
from easytune_lib.finetuning.methods import recorded
from easytune_lib.finetuning.precision import bf16
from easytune_lib.motion.motion import Motion
from easytune_lib.records import RunRecord
from easytune_lib.seeding import stream
from easytune_lib.storage import load_tensors, pack_optimizer, part, save_tensors, unpack_optimizer
from easytune_lib.training import Precision
from easytune_lib.types import Denoiser, FineTuneMethod, Prompts, Reward
from easytune_lib.workbench import Workbench, generate

Curve = dict[str, list[float]]
"""One number an update: ``reward``, ``seconds``, ``grad_norm`` and the ``step`` rewarded."""


@dataclass(frozen=True)
class TuneSettings:
    """What a fine-tuning is besides base, method and reward.

    Raises:
        ValueError: Not exactly one of ``updates`` and ``seconds`` is given, a number is out of
            range, or a choice is unknown.
    """

    updates: int = 0  # optimizer steps; 0 = no limit
    seconds: float = 0.0  # CPU seconds of tuning; 0 = no limit
    lr: float = 1e-4
    seed: int = 0  # of prompts, noise and the method's choices
    batch_size: int = 16  # prompts
    n_steps: int = 0  # denoising steps; 0: the bench's own
    _: KW_ONLY
    anchor: float = 0.0  # weight of the distance from the base; see Anchor
    max_norm: float = 1.0  # gradients are clipped to it
    accumulate: int = 1  # gradients an update
    schedule: Literal["constant", "cosine"] = "constant"  # of the rate, over the budget
    ema: float = 0.0  # decay of the average of the weights that is returned; 0 = none
    lora: int = 0  # rank of adapters, which alone are tuned; 0 = all weights are
    precision: Precision = "float32"  # of matrix products

    def __post_init__(self) -> None:
        check_choices(self)
        if (self.seconds > 0) == (self.updates > 0):
            raise ValueError(
                f"tuning needs one budget, got updates={self.updates} and seconds={self.seconds}: "
                "give the one and leave the other at 0"
            )
        for name, least in (("batch_size", 1), ("accumulate", 1), ("n_steps", 0), ("lora", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {least} or more, got {getattr(self, name)}")
        if not 0 < self.lr < 1 or not 0 <= self.ema < 1 or not self.max_norm > 0:
            raise ValueError(
                f"expected a rate in (0, 1), ema in [0, 1) and a positive max_norm, got "
                f"lr={self.lr}, ema={self.ema}, max_norm={self.max_norm}"
            )


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    label: str
    seed: int
    updates: int
    reward: float
    seconds: float
    fraction: float  # of the budget

    @property
    def eta(self) -> float:
        """CPU seconds to go."""
        return self.seconds * (1 - self.fraction) / max(self.fraction, 1e-9)


@dataclass(frozen=True, eq=False)
class Tuned:
    """A tuned model with the course of its tuning; the base that it came from is unchanged."""

    model: MotionDiffusion
    history: Curve
    settings: TuneSettings
    record: RunRecord
    bench: Workbench = field(repr=False)  # around the tuned model

    def sample(
        self, prompts: Prompts | Sequence[str], *, seconds: float = 5.0, seed: int = 0
    ) -> list[Motion]:
        """Generate one motion a prompt, from the noise that the base has under this seed."""
        skeleton = self.bench.skeleton
        return generate(self.model, prompts, skeleton, seconds=seconds, seed=seed)

    def save(self, path: Path | str) -> Path:
        """Write the tuned weights, with history and settings, as safetensors."""
        network = getattr(self.model.denoiser, "config", {})
        config = {"run": self.record.parameters, "network": network, "curve": self.history}
        save_tensors(Path(path), self.model.denoiser.state_dict(), config)
        return Path(path)


def tune(
    bench: Workbench,
    method: FineTuneMethod,
    *,
    reward: Reward | None = None,
    progress: bool = True,
    state: Path | str | None = None,
    **settings: Any,
) -> Tuned:
    """Tune a copy of the bench's model with ``method``, and return it with its history.

    >>> run = et.tune(bench, et.EasyTune(1, "random"), updates=2, batch_size=2, progress=False)
    >>> len(run.history["reward"]), run.model is bench.model
    (2, False)

    Args:
        bench: Whose model, prompts and, unless told otherwise, reward.
        method: For instance ``et.EasyTune(1, "random")`` or ``et.DRaFT(10)``.
        reward: Any differentiable ``(motion, prompts, t=None) -> (batch,)``, higher is better.
        progress: Show a bar with reward and time left.
        state: A file from which a killed call goes on; see :func:`tune_steps`.
        settings: Of :class:`TuneSettings`, by name: ``updates=20`` or ``seconds=45``, ``lr``,
            ``seed``, ``batch_size`` ... Without a budget, 20 updates.

    Raises:
        ValueError: A setting is unknown or out of range; says which there are.
    """
    chosen = settings_of(settings)
    steps = tune_steps(bench, method, chosen, reward=reward, state=state)
    bar = tqdm(total=100.0, disable=not progress, bar_format=_BAR, leave=False, mininterval=0.5)
    with bar:
        while True:
            try:
                at = next(steps)
            except StopIteration as end:
                if state is not None:
                    Path(state).unlink(missing_ok=True)
                return cast(Tuned, end.value)
            bar.set_description_str(f"{type(method).__name__}, update {at.updates}", refresh=False)
            bar.set_postfix_str(f"reward {at.reward:.3f}", refresh=False)
            bar.update(100 * at.fraction - bar.n)


_BAR = "{desc} {percentage:3.0f} %|{bar:20}| {elapsed} so far, {remaining} left{postfix}"


def settings_of(given: dict[str, Any]) -> TuneSettings:
    """Settings by name; 20 updates where no budget is given.

    Raises:
        ValueError: A name is unknown, or a value out of range.
    """
    known = [f.name for f in fields(TuneSettings) if f.name != "_"]
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"tuning has no setting {unknown[0]!r}; there are {', '.join(known)}")
    if not given.get("updates") and not given.get("seconds"):
        given = given | {"updates": 20}
    return TuneSettings(**given)


def tune_steps(
    bench: Workbench,
    method: FineTuneMethod,
    settings: TuneSettings,
    *,
    reward: Reward | None = None,
    label: str = "",
    state: Path | str | None = None,
    save_every: float = 20.0,
    device: torch.device | str = "cpu",
) -> Generator[Progress, None, Tuned]:
    """Tune step by step: yields after each update, and returns what :func:`tune` does.

    >>> from easytune_lib.experiments.tune import TuneSettings
    >>> steps = et.tune_steps(bench, et.DRaFT(1), TuneSettings(updates=2, batch_size=2))
    >>> [at.updates for at in steps]
    [1, 2]

    Notebooks, the cockpit and the command line share it. Several processes tune as one, if
    each is given the same.

    Args:
        bench: As of :func:`tune`.
        method: As of :func:`tune`.
        settings: Budget, rate, seed and options.
        reward: As of :func:`tune`.
        label: The method's name in figures; its class where "".
        state: A file for the state of the run: a killed run goes on from the last whole batch
            that it saved, to the same weights bit for bit. Remove it when the result is kept.
        save_every: CPU seconds between two such states, at least.
        device: Where it is tuned.
    """
    place, run = torch.device(device), settings
    score = bench.reward if reward is None else reward
    n_steps = run.n_steps or bench.model.n_steps
    base, pool = replace(bench.model, n_steps=n_steps), bench.prompts["finetune"].prompts
    if place.type != "cpu":
        base, score, pool = base.to(place), cast(Any, score).to(place), pool.to(place)
    model = copy_for_tuning(base)
    if run.lora:
        adapted = with_lora(base.denoiser, stream(run.seed, "lora"), run.lora, float(run.lora))
        model = replace(model, denoiser=adapted)
    denoiser = model.denoiser
    if run.precision == "bf16":
        model, score = bf16(model, score)
    weights = [weight for weight in denoiser.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=run.lr, weight_decay=0.0, fused=True)
    average = None
    if run.ema:
        average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(run.ema))
    file = None if state is None else Path(state)
    curve, start, spent = resume_state(file, denoiser, optimizer, average)
    began, saved_at = time.process_time() - spent, spent
    label = label or type(method).__name__
    updates = finetune(
        model, score, batches(model, pool, run.batch_size, run.seed, start), method, optimizer,
        max_norm=run.max_norm, anchor=Anchor(base, run.anchor) if run.anchor else None,
        accumulate=run.accumulate,
    )  # fmt: skip
    _set_rate(optimizer, run, curve)
    for update in updates:
        if average is not None:
            average.update_parameters(denoiser)
        elapsed = distributed.broadcast_float(time.process_time() - began)
        curve["reward"].append(update.reward)
        curve["seconds"].append(elapsed)
        curve["grad_norm"].append(update.grad_norm)
        curve["step"].append(float(update.step))
        fraction = _set_rate(optimizer, run, curve)
        count = len(curve["reward"])
        yield Progress(label, run.seed, count, update.reward, elapsed, min(fraction, 1.0))
        if fraction >= 1:
            break
        if file is not None and update.last and elapsed - saved_at > save_every:
            saved_at = elapsed
            if distributed.is_main():
                save_state(file, denoiser, optimizer, curve, update.batch + 1, elapsed, average)
    final: Any = denoiser if average is None else average.module
    final = merged(final) if run.lora else final
    tuned = replace(base, denoiser=final)
    given = {key: value for key, value in asdict(run).items() if key != "_"}
    record = RunRecord(
        "tuning",
        {"base": bench.base, "weights": bench.digest, "label": label, "method": recorded(method),
         "reward": "bench" if reward is None else _name_of(reward), **given, "n_steps": n_steps},
        metrics={"updates": len(curve["reward"]), "reward": curve["reward"][-1]},
        series={key: values for key, values in curve.items() if key != "seconds"},
        tables={"curves": [{"method": label, "seed": run.seed, "reward": curve["reward"]}]},
        machine={"curve_seconds": [curve["seconds"]]},
    )  # fmt: skip
    return Tuned(tuned, curve, run, record, replace(bench, model=tuned))


def _name_of(reward: Reward) -> str:
    """What a record calls a reward of one's own."""
    return str(getattr(reward, "__name__", type(reward).__name__))


def _set_rate(optimizer: torch.optim.Optimizer, run: TuneSettings, curve: Curve) -> float:
    """Set the rate of the next update; returns the fraction of the budget that is spent."""
    if run.updates:
        fraction = len(curve["reward"]) / run.updates
    else:
        fraction = curve["seconds"][-1] / run.seconds if curve["seconds"] else 0.0
    factor = cosine(fraction) if run.schedule == "cosine" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = factor * run.lr
    return fraction


def save_state(
    path: Path,
    denoiser: Denoiser,
    optimizer: torch.optim.Optimizer,
    curve: dict[str, list[Any]],
    batch: int,
    spent: float,
    average: AveragedModel | None = None,
) -> None:
    """Write all that a fine-tuning needs to go on from ``batch``, atomically."""
    tensors = {f"network.{name}": value for name, value in denoiser.state_dict().items()}
    tensors |= pack_optimizer(optimizer)
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    save_tensors(path, tensors, {"curve": curve, "batch": batch, "spent": spent})


def resume_state(
    path: Path | None,
    denoiser: Denoiser,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None = None,
) -> tuple[dict[str, list[Any]], int, float]:
    """Load what :func:`save_state` wrote into what it was of; a fresh start where nothing is.

    Returns:
        The curve so far, the next batch, and the seconds spent.
    """
    if path is None or not path.exists():
        return {"reward": [], "seconds": [], "grad_norm": [], "step": []}, 0, 0.0
    tensors, config = load_tensors(path)
    fit(denoiser, part(tensors, "network."), path)
    unpack_optimizer(optimizer, tensors)
    if average is not None:
        fit(average, part(tensors, "average."), path)
    return config["curve"], config["batch"], config["spent"]
