"""Fine-tuning methods against each other: one resumable run a method, rate and seed.

All runs share base model, reward, prompts, noise and batch size; a run ends when its budget
of seconds (or of updates) is spent. The judge speaks only before and after.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.finetune.loop import batches, finetune
from easytune_lib.protocols import Denoiser, FineTuneMethod
from easytune_lib.records import RunRecord, run_id
from easytune_lib.storage import (
    load_tensors,
    load_weights,
    pack_optimizer,
    save_tensors,
    unpack_optimizer,
)
from easytune_lib.workbench import Workbench, judged, open_workbench


@dataclass(frozen=True)
class Run:
    """What one run is; equal runs have equal ids and are done once."""

    base: Literal["mdm", "mld"]
    weights: str  # digest of the bench's files, so that records of other weights never mix
    label: str  # the method's name in figures
    method: FineTuneMethod
    lr: float
    seed: int  # of prompts, noise and the method's choices
    seconds: float = 0.0  # CPU seconds of fine-tuning, evaluation not counted; 0 = no limit
    updates: int = 0  # optimizer steps; 0 = no limit
    batch_size: int = 32
    n_steps: int = 50
    splits: tuple[str, ...] = ("test",)  # prompts that the judge sees
    noise_seeds: int = 2  # generations a prompt
    prompts: int = 0  # at most so many a split; 0 = all

    def __post_init__(self) -> None:
        if (self.seconds > 0) == (self.updates > 0):
            raise ValueError(
                f"a run needs one budget, got seconds={self.seconds} and updates={self.updates}"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """As recorded."""
        return asdict(self) | {"method": {type(self.method).__name__: asdict(self.method)}}

    @property
    def record_id(self) -> str:
        """The folder of this run's record."""
        return run_id("finetune", self.parameters)


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


def tuned(bench: Workbench, run: Run, runs: Path, scratch: Path) -> Iterator[Progress]:
    """Fine-tune and judge; writes ``runs/<id>/record.json`` and the weights into ``scratch``.

    A run whose record exists is done: nothing is yielded. A killed run goes on from the last
    whole batch that it saved, about every 20 seconds.
    """
    if _record(run, runs) is not None:
        return
    if run.weights != bench.digest:
        raise ValueError(f"the run is for weights {run.weights}, the bench has {bench.digest}")
    model = replace(
        bench.model, denoiser=deepcopy(bench.model.denoiser).requires_grad_(), n_steps=run.n_steps
    )
    optimizer = torch.optim.AdamW(
        model.denoiser.parameters(), lr=run.lr, weight_decay=0.0, fused=True
    )
    state = scratch / f"{run.record_id}.state.safetensors"
    curve, start, spent = _resume(state, model.denoiser, optimizer)
    began, saved_at = time.process_time() - spent, spent
    stream = batches(model, bench.prompts["finetune"].prompts, run.batch_size, run.seed, start)
    for update in finetune(model, bench.reward, stream, run.method, optimizer):
        elapsed = time.process_time() - began
        curve["reward"].append(update.reward)
        curve["seconds"].append(elapsed)
        curve["grad_norm"].append(update.grad_norm)
        curve["step"].append(float(update.step))
        count = len(curve["reward"])
        fraction = elapsed / run.seconds if run.seconds else count / run.updates
        yield Progress(run.label, run.seed, count, update.reward, elapsed, min(fraction, 1.0))
        if fraction >= 1:
            break
        if update.last and elapsed - saved_at > 20:
            saved_at = elapsed
            _save(state, model.denoiser, optimizer, curve, update.batch + 1, elapsed)
    save_tensors(
        scratch / f"{run.record_id}.safetensors",
        model.denoiser.state_dict(),
        {"run": run.parameters, "network": getattr(model.denoiser, "config", {})},
    )
    finished_record(bench, model, run, curve).save(runs)
    state.unlink(missing_ok=True)


def finished_record(
    bench: Workbench, model: MotionDiffusion, run: Run, curve: dict[str, list[float]]
) -> RunRecord:
    """The record of a tuned (or untouched) model: its curve and what the judge says."""
    rows = [
        {"split": split, "noise_seed": noise, **judged(bench, model, split, noise, run.prompts)}
        for split in run.splits
        for noise in range(run.noise_seeds)
    ]
    seconds = curve.pop("seconds", [0.0])
    return RunRecord(
        name="finetune",
        parameters=run.parameters,
        metrics={"updates": len(curve["reward"])} if curve.get("reward") else {"updates": 0},
        series=curve,
        tables={"scores": rows},
        machine={"seconds": seconds, "threads": torch.get_num_threads()},
    )


def load_tuned(bench: Workbench, run: Run, scratch: Path) -> MotionDiffusion:
    """The model that a finished run left."""
    path = scratch / f"{run.record_id}.safetensors"
    tensors, _ = load_tensors(path)
    denoiser = deepcopy(bench.model.denoiser)
    load_weights(denoiser, tensors, path)
    return replace(bench.model, denoiser=denoiser, n_steps=run.n_steps)


def _save(
    path: Path,
    denoiser: Denoiser,
    optimizer: torch.optim.Optimizer,
    curve: dict[str, list[float]],
    batch: int,
    spent: float,
) -> None:
    tensors = {f"network.{name}": value for name, value in denoiser.state_dict().items()}
    tensors |= pack_optimizer(optimizer)
    save_tensors(path, tensors, {"curve": curve, "batch": batch, "spent": spent})


def _resume(
    path: Path, denoiser: Denoiser, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, list[float]], int, float]:
    if not path.exists():
        return {"reward": [], "seconds": [], "grad_norm": [], "step": []}, 0, 0.0
    tensors, config = load_tensors(path)
    network: dict[str, Tensor] = {
        name.removeprefix("network."): value
        for name, value in tensors.items()
        if name.startswith("network.")
    }
    load_weights(denoiser, network, path)
    unpack_optimizer(optimizer, tensors)
    return config["curve"], config["batch"], config["spent"]


def run_all(
    planned: Sequence[Run],
    runs: Path,
    scratch: Path,
    report: Callable[[str], None],
    workers: int = 1,
) -> list[RunRecord]:
    """Do the runs that are not done yet, and return all records, in order.

    Args:
        planned: Runs of one or several bases.
        runs: Where records are, and where new ones go.
        scratch: For tuned weights and for the state of runs under way.
        report: Is given a line when a run begins or ends, with the time left.
        workers: Processes of one thread each, so that all runs compute at the same pace.
    """
    missing = [run for run in planned if _record(run, runs) is None]
    done, began = len(planned) - len(missing), time.monotonic()
    report(f"{done} of {len(planned)} runs are done already, {len(missing)} to go")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_work, run, runs, scratch): run for run in missing}
        for count, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            future.result()
            left = (time.monotonic() - began) / count * (len(missing) - count)
            report(
                f"[{done + count}/{len(planned)}] {run.base} {run.label}, lr {run.lr:g}, "
                f"seed {run.seed}: done, {left / 60:.1f} min left"
            )
    records = [_record(run, runs) for run in planned]
    return [record for record in records if record is not None]


def _record(run: Run, runs: Path) -> RunRecord | None:
    return RunRecord.find(runs, "finetune", run.parameters)


def _work(run: Run, runs: Path, scratch: Path) -> None:
    torch.set_num_threads(1)
    for _ in tuned(open_workbench(run.base, run.n_steps), run, runs, scratch):
        pass
