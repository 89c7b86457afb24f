import math

import numpy as np
import pytest
import scipy.stats
import torch

from easytune_lib.metrics.intervals import bootstrap, interval, published_interval
from easytune_lib.seeding import stream


def test_the_published_interval_by_hand():
    """1, 2, 3, 4: mean 2.5, std over n of sqrt(5/4); half is 1.96 sqrt(5/4) / 2 = 1.0957."""
    mean, low, high = published_interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert high - mean == pytest.approx(1.96 * math.sqrt(1.25) / 2) == pytest.approx(mean - low)


def test_with_twenty_replications_students_is_a_tenth_wider():
    values = torch.randn(20, generator=stream(0)).tolist()
    ours, theirs = interval(values), published_interval(values)
    assert (ours.high - ours.low) / (theirs.high - theirs.low) == pytest.approx(1.096, abs=1e-3)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_is_no_sample_is_refused(values):
    with pytest.raises(ValueError):
        published_interval(values)


def test_a_bootstrap_of_another_statistic():
    values = torch.tensor([1.0] * 60 + [100.0] * 40)
    median = bootstrap(values, stream(0), statistic=lambda rows: rows.quantile(0.5, dim=1))
    assert median.mean == 1 and median.low == 1
    mean = bootstrap(values, stream(0))
    assert mean.mean == pytest.approx(40.6) and mean.low < 40.6 < mean.high


def test_blocks_of_draws_change_nothing(monkeypatch):
    values = torch.rand(50, generator=stream(0))
    whole = bootstrap(values, stream(1), draws=200)
    monkeypatch.setattr("easytune_lib.metrics.intervals._AT_ONCE", 150)
    assert bootstrap(values, stream(1), draws=200) == whole


def test_the_interval_of_1_2_3_by_hand():
    """Mean 2, standard deviation 1, t(2 degrees) = 4.302653: 2 ± 4.302653 / sqrt(3)."""
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(2.484138, abs=1e-6)
    assert found.mean - found.low == pytest.approx(2.484138, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_intervals_are_scipys(count):
    values = np.random.default_rng(count).normal(size=count)
    low, high = scipy.stats.t.interval(
        0.95, count - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    assert interval(values.tolist())[1:] == pytest.approx((low, high), rel=1e-9)


def test_the_bootstrap_nears_the_normal_interval():
    values = torch.randn(400, generator=stream(0), dtype=torch.float64)
    found = bootstrap(values, stream(1))
    half = 1.96 * values.std().item() / 20
    assert found.mean == values.mean().item()
    assert found.low == pytest.approx(found.mean - half, abs=0.015)
    assert found.high == pytest.approx(found.mean + half, abs=0.015)
    assert found == bootstrap(values.tolist(), stream(1)) != bootstrap(values, stream(2))
    assert bootstrap([0.5] * 9, stream(0)) == (0.5, 0.5, 0.5)


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 runs, got 1"):
        interval([1.0])
    with pytest.raises(ValueError, match="not finite"):
        interval([1.0, float("nan")])
    with pytest.raises(ValueError, match="2 finite values"):
        bootstrap([1.0], stream(0))
