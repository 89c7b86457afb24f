import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from easytune_lib.metrics.distribution import (
    diversity,
    fid,
    frechet_distance,
    moments,
    multimodality,
)
from easytune_lib.seeding import stream


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "normal"), dtype=torch.float64)


def covariance(dim: int, seed: int) -> Tensor:
    x = normal(dim, dim, seed=seed)
    return x @ x.mT / dim + 0.01 * torch.eye(dim, dtype=torch.float64)


def test_moments_are_numpys():
    x = normal(50, 4).float()
    mean, cov = moments(x)
    assert mean.dtype == cov.dtype == torch.float64
    np.testing.assert_allclose(mean, x.double().numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.double().numpy(), rowvar=False), atol=1e-12)


def test_two_gaussians_on_the_axes():
    """Means 3 apart, variances 4, 1 and 1, 9: 9 + (2 - 1)² + (1 - 3)² = 14."""
    a, b = torch.zeros(2), torch.tensor([3.0, 0.0])
    distance = frechet_distance(
        a, torch.diag(torch.tensor([4.0, 1.0])), b, torch.diag(torch.tensor([1.0, 9.0]))
    )
    assert distance == pytest.approx(14, abs=1e-12)


def test_covariances_that_do_not_commute_agree_with_scipy():
    a, b = covariance(24, 1), covariance(24, 2)
    mean, shifted = normal(24), normal(24, seed=3)
    root = scipy.linalg.sqrtm(a.numpy() @ b.numpy()).real
    expected = float((mean - shifted).square().sum() + a.trace() + b.trace()) - 2 * np.trace(root)
    assert frechet_distance(mean, a, shifted, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(shifted, b, mean, a) == pytest.approx(expected, rel=1e-9)


def test_a_covariance_without_full_rank_stays_real():
    """diag(1, 0) against diag(0, 4): the roots do not meet, 1 + 4 is left."""
    flat, other = torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 4.0]))
    zero = torch.zeros(2)
    assert frechet_distance(zero, flat, zero, other) == pytest.approx(5, abs=1e-12)
    assert frechet_distance(zero, flat, zero, flat) == pytest.approx(0, abs=1e-12)


def test_fid_of_a_set_to_itself_is_zero_and_shifts_count_squared():
    x = normal(200, 16).float()
    assert fid(x, x) == pytest.approx(0, abs=1e-10)
    assert fid(x + 0.5, x) == pytest.approx(16 * 0.25, rel=1e-6)
    assert fid(2 * x, x) == pytest.approx(fid(x, 2 * x), rel=1e-9)


def test_fid_of_samples_nears_the_closed_form():
    """N(0, 1) and N(0.5, 2²) in 4 dimensions: 4 * (0.25 + 1) = 5."""
    x, y = normal(20_000, 4), 0.5 + 2 * normal(20_000, 4, seed=1)
    assert fid(x, y) == pytest.approx(5, rel=0.03)


def test_too_few_motions_are_an_error_instead_of_a_number():
    with pytest.raises(ValueError, match=r"16-dimensional embeddings needs at least 17 .* got 16"):
        fid(normal(16, 16), normal(40, 16))
    assert fid(normal(17, 16), normal(40, 16, seed=1)) > 0
    bad = normal(40, 16)
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"\[3\] hold NaN"):
        fid(bad, normal(40, 16))


def test_diversity_by_hand():
    """Half of the motions at 0, half at 2: a pair is 0 or 2 apart, 1 on average."""
    x = torch.tensor([[0.0], [2.0]]).repeat(5000, 1)
    assert diversity(x, stream(0), pairs=10_000) == pytest.approx(1, abs=0.05)
    assert diversity(torch.ones(300, 4), stream(0)) == 0
    assert diversity(torch.tensor([[7.0]]), stream(0), pairs=1) == 0


def test_multimodality_by_hand():
    """Two prompts: repeats all alike, and repeats half at 0, half at (3, 4): 0 and 5/2."""
    alike = torch.ones(1, 2000, 2)
    split = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).repeat(1000, 1)[None]
    both = torch.cat([alike, split])
    assert multimodality(alike, stream(0)) == 0
    assert multimodality(both, stream(0), pairs=2000) == pytest.approx(1.25, abs=0.1)


def test_every_pair_counts_once_without_a_stream():
    """Three motions on a line at 0, 1 and 3: distances 1, 2 and 3."""
    line = torch.tensor([[[0.0], [1.0], [3.0]]])
    assert multimodality(line) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="give at least 2 repeats"):
        multimodality(line[:, :1])


def test_multimodality_does_not_see_how_prompts_differ():
    x = normal(1, 30, 4).repeat(2, 1, 1)
    moved = x + torch.tensor([0.0, 100.0])[:, None, None]
    assert multimodality(moved, stream(0)) == pytest.approx(multimodality(x, stream(0)))


def test_more_pairs_than_there_are_are_refused():
    with pytest.raises(ValueError, match="300 pairs of 299 motions"):
        diversity(normal(299, 2), stream(0))
    with pytest.raises(ValueError, match="10 pairs of 9 repeats"):
        multimodality(normal(5, 9, 2), stream(0))


def test_a_distance_that_is_no_number_raises():
    bad = normal(40, 3)
    bad[:, 0] = torch.nan
    with pytest.raises(ValueError, match="distances are not finite"):
        diversity(bad, stream(0), pairs=40)
    with pytest.raises(ValueError, match="distances are not finite"):
        multimodality(bad.reshape(4, 10, 3), stream(0))
