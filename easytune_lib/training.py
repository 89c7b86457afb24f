"""One resumable training loop for base models, rewards and judges.

Step ``i`` draws its batch and its noise from the stream ``(seed, name, i)``; so a run that
was killed and resumed has, bit for bit, the weights of one that was not.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from easytune_lib.distributed import (
    average_gradients,
    broadcast,
    broadcast_float,
    is_main,
    rank,
    size,
)
from easytune_lib.seeding import seed_of, stream
from easytune_lib.storage import load_tensors, pack_optimizer, part, save_tensors, unpack_optimizer

Objective = Callable[[torch.Generator], tuple[Tensor, dict[str, float]]]
"""Draws a batch and returns the loss and its terms. What it remembers from step to step, if
anything, are tensors in a dict ``state``, which is saved and resumed with the network."""

Precision = Literal["float32", "bf16"]
"""Of a forward pass: exact, or with matrix products in bfloat16. Weights, their gradients and the
loss stay in float32 either way."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a network is trained: AdamW, linear warm-up, cosine decay to 1 % of ``lr``."""

    name: str  # names the random streams
    steps: int
    lr: float
    seed: int = 0
    warmup: int = 100  # steps
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0  # gradient norm
    ema: float = 0.998  # decay of the averaged weights, ramped up; 0 turns averaging off
    save_every: int = 200  # steps between checkpoints
    buckets: int = 1  # what the objective was told, so that no run goes on under other settings
    precision: Precision = "float32"  # likewise
    decay_steps: int = (
        0  # steps that the cosine is laid out for, where a run ends before; 0: ``steps``
    )
    accumulate: int = 1  # batches a step, of whose gradients it takes the mean

    def lr_at(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / (self.decay_steps or self.steps)))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (0.99 * cosine + 0.01)


@dataclass(frozen=True)
class TrainingStep:
    """What one step saw."""

    step: int  # steps done, counted from 1
    steps: int
    loss: float
    parts: dict[str, float]  # the terms of the loss
    grad_norm: float
    seconds: float  # of training, earlier processes counted
    pace: float  # seconds a step, of this process

    @property
    def eta(self) -> float:
        """Seconds to go, at the pace of this process."""
        return self.pace * (self.steps - self.step)


def rounded(
    fn: Callable[..., Any], precision: Precision, device: torch.device
) -> Callable[..., Any]:
    """``fn`` with its matrix products in ``precision``; what it returns is in float32 again.

    What is in float64 stays so: autocast does not round it.
    """
    if precision == "float32":
        return fn

    def whole(part: Tensor) -> Tensor:
        return part.to(torch.promote_types(part.dtype, torch.float32))

    def call(*inputs: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            said = fn(*inputs)
        return whole(said) if isinstance(said, Tensor) else tuple(map(whole, said))

    return call


def train(
    network: nn.Module, objective: Objective, plan: TrainingPlan, checkpoint: Path | None = None
) -> Iterator[TrainingStep]:
    """Train ``network`` in place; yields after every step.

    When the generator is exhausted, ``network`` holds the averaged weights, in eval mode.
    Where ``checkpoint`` exists, training goes on from it; it is rewritten, atomically,
    every ``plan.save_every`` steps, and removed by nobody.

    Several processes (:mod:`easytune_lib.distributed`) take the steps of one, but for rounding,
    and the first of them writes; a run may go on with another number of them.

    Args:
        network: The module to train; ``objective`` closes over it.
        objective: Draws a batch from the generator it is given and returns the loss and its
            terms. Layers such as dropout draw from a global state that is seeded for the
            step and restored after it.
        plan: Steps, rates and seeds.
        checkpoint: A file for the state of training, or ``None``.

    Raises:
        ValueError: The checkpoint belongs to another plan, or the loss is not finite.
    """
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        named.values(), lr=plan.lr, betas=plan.betas, weight_decay=plan.weight_decay, fused=True
    )
    broadcast(list(network.state_dict().values()))
    average = {n: p.detach().clone() for n, p in named.items()}
    memory: dict[str, Tensor] = getattr(objective, "state", {})
    start, spent = _resume(network, average, memory, optimizer, plan, checkpoint)
    if broadcast_float(float(start)) != start:
        raise ValueError(
            f"process {rank()} of {size()} finds {start} steps done and the first one does not: "
            f"all must see the same {checkpoint}"
        )
    began = time.perf_counter()
    network.train()
    for step in range(start, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step)
        optimizer.zero_grad()
        seen = [_backward(objective, plan, step, batch) for batch in range(plan.accumulate)]
        loss = sum(loss for loss, _ in seen) / len(seen)
        parts = {name: sum(terms[name] for _, terms in seen) / len(seen) for name in seen[0][1]}
        average_gradients(named.values())
        norm = nn.utils.clip_grad_norm_(list(named.values()), plan.clip)
        optimizer.step()
        with torch.no_grad():
            decay = min(plan.ema, step / (step + 50))
            for name, parameter in named.items():
                average[name].lerp_(parameter, 1 - decay)
        done, seconds = step + 1, time.perf_counter() - began
        if checkpoint and is_main() and (done % plan.save_every == 0 or done == plan.steps):
            _save(network, average, memory, optimizer, plan, checkpoint, done, spent + seconds)
        yield TrainingStep(
            done, plan.steps, loss, parts, norm.item(), spent + seconds,
            seconds / (done - start),
        )  # fmt: skip
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(average[name])
    network.eval()


def _backward(
    objective: Objective, plan: TrainingPlan, step: int, batch: int
) -> tuple[float, dict[str, float]]:
    """Add the gradient of one of a step's batches, the first of which has the step's streams."""
    names = plan.name, step, *([batch] if batch else [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(plan.seed, plan.name, "layers", *names[1:]))
        loss, parts = objective(stream(plan.seed, *names))
    if not torch.isfinite(loss):
        raise ValueError(
            f"{plan.name}: the loss of step {step} is {loss.item()}: lower the learning rate "
            f"({plan.lr}) or look for bad clips with `easytune data check`"
        )
    (loss / plan.accumulate).backward()
    return loss.item(), parts


def _save(
    network: nn.Module,
    average: dict[str, Tensor],
    memory: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    plan: TrainingPlan,
    checkpoint: Path,
    done: int,
    seconds: float,
) -> None:
    tensors = {f"network.{n}": t for n, t in network.state_dict().items()}
    tensors |= {f"average.{n}": t for n, t in average.items()}
    tensors |= {f"memory.{n}": t for n, t in memory.items()}
    tensors |= pack_optimizer(optimizer)
    save_tensors(checkpoint, tensors, {"plan": asdict(plan), "done": done, "seconds": seconds})


def _resume(
    network: nn.Module,
    average: dict[str, Tensor],
    memory: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    plan: TrainingPlan,
    checkpoint: Path | None,
) -> tuple[int, float]:
    if checkpoint is None or not checkpoint.exists():
        return 0, 0.0
    tensors, config = load_tensors(checkpoint)
    if {"accumulate": 1} | config.get("plan", {}) != json.loads(json.dumps(asdict(plan))):
        raise ValueError(
            f"{checkpoint} was written by another plan ({config.get('plan')}): "
            f"remove it, or train with that plan instead of {asdict(plan)}"
        )

    network.load_state_dict(part(tensors, "network."), strict=True)
    for name, value in part(tensors, "average.").items():
        average[name].copy_(value)
    for name, value in part(tensors, "memory.").items():
        memory[name].copy_(value)
    unpack_optimizer(optimizer, tensors)
    return int(config["done"]), float(config.get("seconds", 0.0))
