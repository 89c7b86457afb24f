"""How long things take beside each other, in one run, and on what machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch


def timed(fn: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - wall, time.process_time() - cpu


def gains(
    taken: Mapping[str, Sequence[tuple[float, float]]], count: int
) -> list[dict[str, float | str]]:
    """Of each way: seconds a piece, and how many times as fast as the first way.

    Args:
        taken: Of each way, what :func:`timed` said in each turn; the first is what the others
            are held against. Turns are compared with turns, so that what else the machine did
            in a turn is shared by all.
        count: Pieces done in a turn.

    Returns:
        Rows of ``way``, medians ``wall`` and ``cpu``, and ``gain`` (of wall time) and
        ``cpu_gain``, medians of the turns' ratios with their extremes ``_low`` and ``_high``.
    """
    plain, rows = next(iter(taken.values())), []
    for name, own in taken.items():
        wall, cpu = (sorted(x[i] / count for x in own) for i in (0, 1))
        quick, lean = (sorted(a[i] / b[i] for a, b in zip(plain, own, strict=True)) for i in (0, 1))
        rows.append({
            "way": name, "wall": median(wall), "wall_low": wall[0], "wall_high": wall[-1],
            "cpu": median(cpu), "gain": median(quick), "gain_low": quick[0],
            "gain_high": quick[-1], "cpu_gain": median(lean), "cpu_gain_low": lean[0],
            "cpu_gain_high": lean[-1],
        })  # fmt: skip
    return rows


def machine_now() -> dict[str, Any]:
    """What a record of seconds says of the machine, and of what else it did."""
    return {
        "threads": torch.get_num_threads(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "processor": _processor(),
        "bf16_instructions": has_bf16(),
        "torch": torch.__version__,
    }


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
