"""Time, calls and memory of a fine-tuning method, measured or foretold."""

import os
import resource
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import Step, rollout, score_state
from easytune_lib.plan import GradientPlan
from easytune_lib.types import FineTuneMethod, Prompts, Reward

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """The cost of some updates of one method. Varies by machine, but for the first two.

    ``saved_mib`` does not see what gradient checkpoints keep and compute again;
    :func:`live_bytes` does.
    """

    updates_per_trajectory: float
    saved_mib: float  # peak of :func:`saved_bytes`, in 2**20 bytes
    cpu_seconds: float  # of all threads, per update
    wall_seconds: float  # per update
    process_mib: float  # peak of the whole process, from its start
    gpu_mib: float | None  # ``torch.cuda.max_memory_allocated`` of the run; None without a GPU


def saved_bytes(fn: Callable[[], object]) -> int:
    """The most bytes that ``fn`` holds for backward at any one time.

    Counts each storage once, for as long as some graph holds it; so a method that frees
    its graph after every update does not add up. Parameters are left out: they are there
    anyway. Unlike the process's peak memory, the count repeats exactly.
    """
    meter = _Saved()
    with meter.hooks():
        fn()
    return meter.peak


def saved_by_item(items: Iterable[object]) -> list[int]:
    """The bytes held for backward when each item has been made, the ones before it let go.

    For instance of the steps of a rollout, none of which goes backward: how memory grows along
    a trajectory. Counted as by :func:`saved_bytes`.

    Source: Tan et al. (2026), Fig. 6 ("without backpropagation").
    """
    meter, found = _Saved(), []
    with meter.hooks():
        for item in items:  # noqa: B007 - held until the next one is there
            found.append(meter.now)
    return found


class _Saved:
    """Counts storages that graphs hold."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}  # storage -> graph nodes that hold it
        self.now = self.peak = 0

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """To be entered while graphs are made."""
        return torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Kept(self, tensor), lambda kept: kept.tensor
        )


class _Kept:
    """A tensor that a graph holds, counted for as long as it does."""

    def __init__(self, meter: _Saved, tensor: Tensor) -> None:
        self.meter, self.storage = meter, tensor.untyped_storage()
        self.tensor = tensor.detach()  # or a result that its own graph holds would never be let go
        self.counted = not _is_parameter(tensor)
        if self.counted:
            key = self.storage.data_ptr()
            if key not in meter.held:
                meter.now += self.storage.nbytes()
                meter.peak = max(meter.peak, meter.now)
            meter.held[key] = meter.held.get(key, 0) + 1

    def __del__(self) -> None:
        if self.counted:
            meter, key = self.meter, self.storage.data_ptr()
            meter.held[key] -= 1
            if not meter.held[key]:
                del meter.held[key]
                meter.now -= self.storage.nbytes()


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)


def measure(run: Callable[[], Iterable[Any]]) -> Cost:
    """Run a fine-tuning twice, once for time and once for memory.

    Args:
        run: Starts it, each time with the same batches, for instance
            ``lambda: finetune(model, reward, islice(batches(model, pool, 32, seed=0), 1),
            EasyTune(10), SGD(weights, lr=0))``. Times are steadier after a warm-up call.

    Raises:
        ValueError: The run made no update.
    """
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    lasts = [update.last for update in run()]
    if gpu:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not any(lasts):
        raise ValueError(
            f"the run ended after {len(lasts)} updates, before its first trajectory did: "
            "give it one whole batch at least"
        )

    gpu_mib = torch.cuda.max_memory_allocated() / MIB if gpu else None

    return Cost(
        updates_per_trajectory=len(lasts) / sum(lasts),
        saved_mib=saved_bytes(lambda: deque(run(), 0)) / MIB,
        cpu_seconds=cpu / len(lasts),
        wall_seconds=wall / len(lasts),
        process_mib=process_peak_mib(),
        gpu_mib=gpu_mib,
    )


def process_peak_mib() -> float:
    """The most memory that this process ever had, everything counted."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def live_bytes(fn: Callable[[], object]) -> int:
    """The most bytes of tensors made by ``fn`` that exist at any one time.

    More than :func:`saved_bytes`: also what is only passing through, gradients, and what
    checkpoints keep and compute again. Not seen: scratch memory inside of a kernel.
    """
    meter = _Live()
    with meter:
        fn()
    return meter.peak


class _Live(TorchDispatchMode):
    """Counts storages from the operation that makes them until they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {
            x.untyped_storage()._cdata
            for x in tree_iter((args, kwargs or {}))
            if isinstance(x, Tensor)
        }
        made = func(*args, **(kwargs or {}))
        for x in tree_iter(made):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in given:
                self._count(x.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return

        def gone(_: object) -> None:
            del self.known[key]
            self.now -= size

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class Calls:
    """Calls that one trajectory under a plan asks for; the same on every machine."""

    denoiser: int  # calls of the network on a batch, guidance being one
    recorded: int  # of these, whose graph is kept and goes backward
    again: int  # calls made a second time for their graph
    rewards: int  # a batch is decoded and scored, forward and back
    updates: int  # of the weights

    @classmethod
    def of(cls, plan: GradientPlan, method: FineTuneMethod) -> "Calls":
        """Count the calls of a method under one of its plans."""
        options = method.rollout_options
        recorded = sum(step <= plan.last for step in plan.recorded) + options.fresh_noises
        gradients = len(plan.rewarded) + options.fresh_noises
        return cls(
            denoiser=len(options.visited(plan)) + options.fresh_noises,
            recorded=recorded,
            again=recorded if options.checkpoint else 0,
            rewards=-(-gradients // method.reward_every),
            updates=1 if method.updates == "sum" else gradients,
        )


@dataclass(frozen=True)
class Rates:
    """Cost of one call of each part on this machine, on one batch; see :func:`calibrate`."""

    network: float  # seconds of a denoiser call
    network_back: float  # more seconds, where it is recorded and goes backward
    reward: float  # seconds of decoder and reward, forward and back
    update: float  # seconds of clipping and AdamW
    network_mib: float  # held for the backward of one recorded call
    further_mib: float  # by each further one in the same graph
    reward_mib: float  # by decoder and reward, for the largest micro-batch, or by its gradient
    state_mib: float  # one state
    weights_mib: float  # the tuned weights


@dataclass(frozen=True)
class Forecast:
    """Expected cost of a run; times vary with the machine's load."""

    calls: Calls  # a trajectory
    seconds: float  # a trajectory
    seconds_per_update: float
    saved_mib: float  # peak of tensors held for backward
    training_mib: float  # gradients and AdamW's two moments, beside the weights
    warning: str  # that it will not fit, and what to do; "" where it will


def cost(
    plan: GradientPlan,
    method: FineTuneMethod,
    rates: Rates,
    available_mib: float | None = None,
) -> Forecast:
    """Foretell time and memory of training under ``plan``, before it begins.

    In a chain, all recorded calls hold their graphs until the one reward is scored; with a
    detached state only one does. Checkpoints hold states in place of graphs, and one graph at a
    time. Time is a sum over calls.

    Args:
        plan: From the method's ``plan``.
        method: When it updates, and what it computes again.
        rates: Measured by :func:`calibrate` with the batch size and lengths of the run.
        available_mib: What may be used; ``None``: what :func:`available` says.

    Source: the cost model of the step graph; memory is tested to be within 5 %.
    """
    calls = Calls.of(plan, method)
    again = method.rollout_options.checkpoint
    chained = 1 if plan.detach_state else calls.recorded
    if again:
        network = rates.network_mib
        saved = chained * rates.state_mib + max(network, rates.reward_mib)
    else:
        network = rates.network_mib + (chained - 1) * rates.further_mib
        saved = network + rates.reward_mib
    seconds = (
        (calls.denoiser + calls.again) * rates.network
        + calls.recorded * rates.network_back
        + calls.rewards * rates.reward
        + calls.updates * rates.update
    )
    training = 3 * rates.weights_mib
    room = available() if available_mib is None else available_mib
    need, warning = saved + training, ""
    if need > room:
        way = "a smaller batch"
        if rates.reward_mib > network:
            way = "a smaller micro_batch, or " + way
        elif chained > 1 and not again:
            way = "checkpoint=True, fewer recorded steps, or " + way
        warning = f"about {need:.0f} MiB are needed, {room:.0f} MiB are left: try {way}"
    return Forecast(calls, seconds, seconds / calls.updates, saved, training, warning)


def calibrate(
    model: MotionDiffusion,
    reward: Reward,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    *,
    micro_batch: int | None = 8,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """Measure one denoiser call, one decode and reward, and one update; nothing is changed.

    Args:
        model: With a denoiser whose weights require a gradient, as in training.
        reward: Frozen.
        x_T: Noise of one batch.
        prompts: Of that batch; cost grows with their lengths.
        micro_batch: As in training; ``None``: the whole batch at once.
        repeats: Of each measurement in time, of which the shortest counts.
        clock: Seconds; ``time.process_time`` for those of the CPU, all threads together.

    Raises:
        ValueError: No weight requires a gradient.
    """
    weights = [w for w in model.denoiser.parameters() if w.requires_grad]
    if not weights:
        raise ValueError("no weight of the denoiser requires a gradient: call requires_grad_()")
    end = min(model.n_steps, 2) - 1  # the first steps cost what all do
    none = GradientPlan(frozenset(), frozenset({end}))
    one = GradientPlan(frozenset({end}), frozenset({end}), detach_state=True)
    two = GradientPlan(frozenset({end, 0}), frozenset({end}))
    rng = torch.Generator().manual_seed(0)  # for a stochastic sampler

    def steps(plan: GradientPlan) -> list[Step]:
        return list(rollout(model, x_T, prompts, plan, rng))

    def forward_and_back() -> None:
        *_, last = steps(one)
        torch.autograd.grad(last.x0_hat.sum(), weights, allow_unused=True)

    *_, last = steps(none)
    rows = prompts.lengths.cpu().argsort(descending=True)[:micro_batch]
    part = prompts[rows]
    tokens = model.state_shape(part)[0]

    def rewarded(of: Prompts, state: Tensor) -> None:
        leaf = state.detach().requires_grad_()
        scores = score_state(model, reward, leaf, of)
        torch.autograd.grad(scores.sum(), leaf)

    own = [w.detach().clone().requires_grad_() for w in weights]
    adam = torch.optim.AdamW(own, lr=0.0, fused=True)
    for copy in own:
        copy.grad = torch.zeros_like(copy)

    def update() -> None:
        nn.utils.clip_grad_norm_(own, 1.0)
        adam.step()

    calls = end + 1
    network = _seconds(lambda: steps(none), repeats, clock) / calls
    both = _seconds(forward_and_back, repeats, clock) - (calls - 1) * network
    parted = micro_batch is not None and micro_batch < len(prompts)
    reward_bytes = saved_bytes(lambda: rewarded(part, last.x0_hat[rows, :tokens]))
    held, held_two = saved_bytes(lambda: steps(one)), saved_bytes(lambda: steps(two))
    return Rates(
        network=network,
        network_back=max(both - network, 0.0),
        reward=_seconds(lambda: rewarded(prompts, last.x0_hat), repeats, clock),
        update=_seconds(update, repeats, clock),
        network_mib=held / MIB,
        further_mib=(held_two - held if end else held) / MIB,
        reward_mib=(max(reward_bytes, x_T.nbytes) if parted else reward_bytes) / MIB,
        state_mib=x_T.nbytes / MIB,
        weights_mib=sum(w.nbytes for w in weights) / MIB,
    )


def available() -> float:
    """Memory that may still be used, in MiB: the GPU's where there is one, else the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / MIB
    try:
        with open("/proc/meminfo") as file:
            (line,) = (line for line in file if line.startswith("MemAvailable"))
        return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES")  # of all memory, where nobody says what is free
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _seconds(fn: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    fn()
    taken = []
    for _ in range(repeats):
        began = clock()
        fn()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(clock() - began)
    return min(taken)
