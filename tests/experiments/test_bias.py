"""EasyTune's gradient against the whole chain's, along a fine-tuning."""

import math

import torch
from tiny_world import tiny_bench

from easytune_lib.experiments.bias import bias_along, held_rows
from easytune_lib.finetuning.methods import EasyTune


def test_looks_before_between_and_at_the_end():
    bench = tiny_bench()
    before = {name: w.clone() for name, w in bench.model.denoiser.state_dict().items()}
    looks = list(bias_along(bench, EasyTune(1, "random"), 1e-2, updates=5, every=2, prompts=3))
    assert [look.updates for look in looks] == [0, 2, 4, 5]
    assert math.isnan(looks[0].reward) and not math.isnan(looks[1].reward)
    for look in looks:
        assert -1 <= look.cosine <= 1 and look.norm_ratio > 0 and 0 < look.early_chain < 1
        expected = (1 + look.norm_ratio**2 - 2 * look.norm_ratio * look.cosine) ** 0.5
        assert abs(look.delta - expected) < 1e-3, "the law of cosines"
    assert looks[0].cosine != looks[-1].cosine, "training has moved it"
    for name, weight in bench.model.denoiser.state_dict().items():
        assert torch.equal(weight, before[name]), "the bench is left as it was"


def test_the_same_seed_looks_the_same():
    first, second = (
        list(bias_along(tiny_bench(), EasyTune(1, "random"), 1e-2, updates=2, every=1, prompts=3))
        for _ in range(2)
    )
    assert first[1:] == second[1:]


def test_a_slope_that_is_held_is_exact_where_it_was_taken():
    bench = tiny_bench()
    rows = held_rows(bench, (1, 2, 3), batch_size=3)
    n_steps = bench.model.n_steps
    assert [(row["hold"], row["step"]) for row in rows] == [
        (hold, step) for hold in (1, 2, 3) for step in range(n_steps)
    ]
    for row in rows:
        if row["step"] % row["hold"] == 0:
            assert abs(row["cosine"] - 1) < 1e-5 and abs(row["norm_ratio"] - 1) < 1e-5
        else:
            assert -1 <= row["cosine"] < 1 - 1e-6
