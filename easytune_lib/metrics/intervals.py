"""Intervals of a number: over runs, over prompts, over replications."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

Statistic = Callable[[Tensor], Tensor]
"""Reduces resampled values ``(draws, n)`` to one number a draw."""

_AT_ONCE = 4_000_000  # resampled values in memory


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % Student-t interval over independent runs, for instance training seeds.

    Raises:
        ValueError: Fewer than two values, or one is not finite.
    """
    x = _checked(values)
    mean = float(x.mean())
    half = float(stdtrit(len(x) - 1, 0.975)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half)


def spread(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """As :func:`interval`, but of a single run: its value, and no ends."""
    return interval(values) if len(values) > 1 else (float(values[0]), None, None)


def band(name: str, rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """A series with its band, as records and figures have it: mean and :func:`interval` a row."""
    found = [interval(row) for row in rows]
    return {
        name: [row.mean for row in found],
        f"{name}_low": [row.low for row in found],
        f"{name}_high": [row.high for row in found],
    }


def published_interval(values: Sequence[float]) -> Interval:
    """Mean and ``1.96 std / sqrt(n)`` over replications, as papers of the field print it.

    It says how far sampling noise moves *one* checkpoint, not what another training seed would
    give. ``std`` has n in its denominator, and 1.96 is the normal's quantile: with 20
    replications :func:`interval` is 1.10 times as wide.

    Raises:
        ValueError: Fewer than two values, or one is not finite.

    Source: the released evaluation of Guo et al., CVPR 2022, and of all that follow it.
    """
    x = _checked(values)
    mean, half = float(x.mean()), 1.96 * float(x.std()) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half)


def bootstrap(
    values: Sequence[float] | Float[Tensor, " n"],
    rng: torch.Generator,
    draws: int = 2000,
    statistic: Statistic | None = None,
) -> Interval:
    """A statistic and its 95 % percentile bootstrap interval over prompts.

    It says how far the statistic depends on which prompts were asked, not on training seeds.

    Args:
        values: One a prompt.
        rng: Draws the prompts.
        draws: Resamples.
        statistic: The mean where ``None``.

    Raises:
        ValueError: Fewer than two values, or one is not finite.

    Source: Efron, 1979.
    """
    x = torch.as_tensor(values, dtype=torch.float64).cpu()
    if len(x) < 2 or not x.isfinite().all():
        raise ValueError(f"expected at least 2 finite values, got {x[:10].tolist()}")
    of = statistic or (lambda rows: rows.mean(dim=1))
    parts = torch.full((draws,), len(x)).split(max(1, _AT_ONCE // len(x)))
    found = torch.cat(
        [of(x[torch.randint(len(x), (len(part), len(x)), generator=rng)]) for part in parts]
    )
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(of(x[None]).item(), low, high)


def _checked(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        raise ValueError(f"an interval needs at least 2 runs, got {len(x)}")
    if not np.isfinite(x).all():
        raise ValueError(f"values are not finite: {list(values)}")
    return x
