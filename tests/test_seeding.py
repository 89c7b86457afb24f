import numpy as np
import torch

from easytune_lib.seeding import numpy_stream, seed_of, stream


def _draw(*names):
    return torch.rand(4, generator=stream(*names)).tolist()


def test_a_stream_is_the_same_each_time_and_on_every_machine():
    assert _draw(0, "noise", 3) == _draw(0, "noise", 3)
    assert seed_of(0, "noise", 3) == 6664519024363711163
    assert numpy_stream(1, "a").random() == numpy_stream(1, "a").random()


def test_streams_of_other_names_or_runs_are_other_streams():
    names = [(0,), (0, "a"), (0, "b"), (1, "a"), (0, "a", "b"), (0, "a", 1), (0, "a", 2), (10, "a")]
    assert len({tuple(_draw(*n)) for n in names}) == len(names)
    assert numpy_stream(0, "a").random() != numpy_stream(0, "b").random()


def test_seeds_fit_both_libraries():
    seeds = [seed_of(i, "x") for i in range(200)]
    assert all(0 <= s < 2**63 for s in seeds) and max(seeds) > 2**62


def test_global_generators_are_left_alone():
    before, before_np = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    _draw(0, "a")
    numpy_stream(0, "a").random()
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(before_np, np.random.get_state()[1])
