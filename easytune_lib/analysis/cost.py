"""What a fine-tuning method costs: time per update, and memory held for backward."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class _Update(Protocol):
    @property
    def last(self) -> bool: ...


@dataclass(frozen=True)
class Cost:
    """The cost of some updates of one method. Varies by machine, but for the first two."""

    updates_per_trajectory: float
    saved_mib: float  # peak of :func:`saved_bytes`, in 2**20 bytes
    cpu_seconds: float  # of all threads, per update
    wall_seconds: float  # per update


def saved_bytes(fn: Callable[[], object]) -> int:
    """The most bytes that ``fn`` holds for backward at any one time.

    Counts each storage once, for as long as some graph holds it; so a method that frees
    its graph after every update does not add up. Parameters are left out: they are there
    anyway. Unlike the process's peak memory, the count repeats exactly.
    """
    held: dict[int, int] = {}  # storage -> graph nodes that hold it
    now = peak = 0

    class Held:
        def __init__(self, tensor: Tensor):
            nonlocal now, peak
            self.tensor, self.storage = tensor, tensor.untyped_storage()
            self.counted = not _is_parameter(tensor)
            if self.counted:
                key = self.storage.data_ptr()
                if key not in held:
                    now += self.storage.nbytes()
                    peak = max(peak, now)
                held[key] = held.get(key, 0) + 1

        def __del__(self) -> None:
            nonlocal now
            if self.counted:
                key = self.storage.data_ptr()
                held[key] -= 1
                if not held[key]:
                    del held[key]
                    now -= self.storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda kept: kept.tensor):
        fn()
    return peak


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)


def measure(run: Callable[[], Iterable[_Update]]) -> Cost:
    """Run a fine-tuning twice, once for time and once for memory.

    Args:
        run: Starts it, each time with the same batches, for instance
            ``lambda: finetune(model, reward, islice(batches(model, pool, 32, seed=0), 1),
            EasyTune(10), SGD(weights, lr=0))``. Times are steadier after a warm-up call.

    Raises:
        ValueError: The run made no update.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    lasts = [update.last for update in run()]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not any(lasts):
        raise ValueError(
            f"the run ended after {len(lasts)} updates, before its first trajectory did: "
            "give it one whole batch at least"
        )

    def again() -> None:
        for _ in run():
            pass

    return Cost(
        updates_per_trajectory=len(lasts) / sum(lasts),
        saved_mib=saved_bytes(again) / 2**20,
        cpu_seconds=cpu / len(lasts),
        wall_seconds=wall / len(lasts),
    )
