"""Named random streams, so that compared runs see identical noise and reruns are exact."""

import hashlib

import numpy as np
import torch


def seed_of(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` of run ``seed``; the same on every machine."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for one purpose, for instance ``stream(0, "finetune", "noise", step)``.

    Draw on the CPU and move the result: a stream then gives the same numbers on every device.
    """
    return torch.Generator().manual_seed(seed_of(seed, *names))


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """As :func:`stream`, for NumPy code."""
    return np.random.default_rng(seed_of(seed, *names))
