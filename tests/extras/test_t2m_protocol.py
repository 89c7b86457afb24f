import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from easytune_lib.extras.t2m_protocol import (
    EASYTUNE,
    T2M,
    Embeddings,
    Protocol,
    evaluator_std,
    published_metrics,
    replicate,
)
from easytune_lib.motion.skeleton import HUMANML3D, KIT
from easytune_lib.seeding import stream

SMALL = Protocol(
    group_size=2, top=(1,), diversity_times=4, mm_times=2, mm_prompts=None, mm_repeats=None
)


def line(*values: float) -> Tensor:
    """Embeddings of one dimension."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def random(n: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=stream(seed, "embeddings", n))


def test_given_groups_by_hand():
    """Groups {0, 1}, {2, 3}; row 4 is left over.

    Group one: caption 0 at 0 has motions at 1 (own) and 3, found; caption 1 at 2 has motions at 1
    and 3 (own), a tie, which counts against: missed. Group two: captions 10 and 20, motions
    at 21 (own of 10) and 12 (own of 20): both missed. R@1 = 1/4; MM-Dist = (1 + 1 + 11 + 8) / 4.
    FID reads all five: means 8 and 8.4; variances of both below.
    """
    text, motion = line(0, 2, 10, 20, 3), line(1, 3, 21, 12, 3)
    real = line(2, 4, 20, 14, 2)
    given = replace(SMALL, groups="given")
    found = published_metrics(Embeddings(text, motion, real), stream(0), given)
    assert found["r1"] == 0.25
    assert found["mm_dist"] == pytest.approx(21 / 4)
    a, b = motion.var().sqrt(), real.var().sqrt()
    shift = (motion.mean() - real.mean()) ** 2
    assert found["fid"] == pytest.approx(float(shift + (a - b) ** 2), rel=1e-9)
    assert "mmodality" not in found


def test_all_the_published_metrics():
    """Two points 2 apart, half of the motions at each: distances are 0 or 2."""
    motion = line(0, 2).repeat(40, 1)
    repeats = motion.reshape(2, 40, 1)
    embedded = Embeddings(motion, motion, motion, repeats)
    protocol = replace(SMALL, diversity_times=80, mm_times=40)
    found = published_metrics(embedded, stream(0), protocol)
    assert found["mm_dist"] == 0 and found["fid"] == pytest.approx(0, abs=1e-12)
    assert 0.6 < found["diversity"] < 1.4 and 0.6 < found["mmodality"] < 1.4


def test_groups_are_shuffled_or_the_loaders_own():
    text, motion = random(64), random(64, seed=1)
    embedded = Embeddings(text, motion, motion)
    protocol = replace(EASYTUNE, diversity_times=60)
    shuffled = [published_metrics(embedded, stream(s), protocol)["r3"] for s in range(6)]
    given = [
        published_metrics(embedded, stream(s), replace(T2M, diversity_times=60))["r3"]
        for s in range(6)
    ]
    assert len(set(shuffled)) > 1 and len(set(given)) == 1


def test_a_root_of_a_negative_number_is_no_perfect_match():
    text = random(64) + 100
    motion = text + 0.01 * random(64, seed=1)
    embedded = Embeddings(text.double(), motion.double(), motion)
    exact = published_metrics(embedded, stream(0), replace(SMALL, expanded=False))
    assert exact["mm_dist"] == pytest.approx((text - motion).norm(dim=1).mean().item(), rel=1e-4)
    with pytest.raises(ValueError, match="distances are not a number"):
        published_metrics(embedded, stream(0), SMALL)


def test_expanded_and_exact_agree_where_floats_suffice():
    embedded = Embeddings(random(64), random(64, seed=1), random(64, seed=2))
    exact, rough = (
        published_metrics(embedded, stream(0), replace(EASYTUNE, diversity_times=9, expanded=e))
        for e in (False, True)
    )
    assert exact == pytest.approx(rough, rel=1e-6)


def test_what_breaks_the_protocol_is_refused():
    x = random(64)
    with pytest.raises(ValueError, match="no pairs"):
        published_metrics(Embeddings(x, x, x[:50]), stream(0))
    with pytest.raises(ValueError, match="300 pairs of 64 motions"):
        published_metrics(Embeddings(x, random(64, seed=1), x), stream(0))
    wide = random(64, dim=64)
    with pytest.raises(ValueError, match="64-dimensional embeddings needs at least 65"):
        published_metrics(
            Embeddings(wide, random(64, dim=64, seed=1), wide), stream(0),
            replace(EASYTUNE, diversity_times=60),
        )  # fmt: skip
    for shape, wanted in (((99, 30), "100 prompts, got 99"), ((100, 29), "30 repeats, got 29")):
        repeats = torch.zeros(*shape, 4)
        with pytest.raises(ValueError, match=wanted):
            published_metrics(
                Embeddings(x, random(64, seed=1), x, repeats), stream(0),
                replace(EASYTUNE, diversity_times=60),
            )  # fmt: skip


def test_replications_by_hand():
    """Replication i draws once from its stream: mean and 1.96 std / sqrt(20) of these."""
    drawn = [torch.rand(1, generator=stream(7, "replication", i)).item() for i in range(20)]
    found = replicate(lambda rng: {"x": torch.rand(1, generator=rng).item()}, seed=7)
    mean, half = sum(drawn) / 20, 1.96 * float(np.std(drawn)) / math.sqrt(20)
    assert found["x"] == pytest.approx((mean, mean - half, mean + half))


def test_replications_that_are_none_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        replicate(lambda rng: {"x": math.nan}, seed=0)
    rows = iter([{"x": 1.0}, {"y": 1.0}])
    with pytest.raises(ValueError, match="different things"):
        replicate(lambda rng: next(rows), seed=0, replications=2)


def test_root_and_contacts_are_divided_by_25():
    std = evaluator_std(torch.ones(263))
    assert std[:4].tolist() == pytest.approx([0.04] * 4)
    assert std[-4:].tolist() == pytest.approx([0.04] * 4)
    assert torch.equal(std[4:-4], torch.ones(255))
    assert evaluator_std(torch.ones(251), KIT, times=1)[0] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="251 numbers"):
        evaluator_std(torch.ones(251), HUMANML3D)
