import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from toy import rng

from easytune_lib.diffusion.schedule import NoiseSchedule

KINDS = {
    "mld": (NoiseSchedule.scaled_linear, "scaled_linear", False),
    "mdm": (NoiseSchedule.cosine, "squaredcos_cap_v2", True),
}


@pytest.fixture(params=KINDS, ids=str)
def pair(request):
    """Ours and diffusers' of the same settings."""
    make, beta, to_one = KINDS[request.param]
    theirs = DDIMScheduler(
        1000, 0.00085, 0.012, beta, set_alpha_to_one=to_one, steps_offset=1,
        timestep_spacing="leading", clip_sample=False,
    )  # fmt: skip
    return make(), theirs


def test_levels_are_those_of_diffusers(pair):
    ours, theirs = pair
    torch.testing.assert_close(ours.alpha_bar.float(), theirs.alphas_cumprod, rtol=0, atol=1e-6)
    assert ours.clean == pytest.approx(float(theirs.final_alpha_cumprod), abs=1e-6)


@pytest.mark.parametrize("n_steps", [1, 7, 10, 16, 20, 50, 333])
def test_times_are_those_of_diffusers(pair, n_steps):
    ours, theirs = pair
    theirs.set_timesteps(n_steps)
    assert [now for now, _ in ours.times(n_steps)] == theirs.timesteps.tolist()


def test_every_step_of_a_schedule_is_visited_once(pair):
    ours, theirs = pair
    times = ours.times(1000)
    assert times[0] == (999, 998) and times[-2:] == ((1, 0), (0, -1))
    theirs.set_timesteps(1000)  # begins at 1000, a step that it does not have
    assert [now + 1 for now, _ in times] == theirs.timesteps.tolist()
    for n_steps in (1, 333, 500, 501, 999, 1000):
        assert len({now for now, _ in ours.times(n_steps)}) == n_steps


def test_fifty_steps_are_the_papers():
    times = NoiseSchedule.scaled_linear().times(50)
    assert times[0] == (981, 961) and times[-2:] == ((21, 1), (1, -1))
    assert all(now - after == 20 for now, after in times[:-1])


def test_forward_process_is_that_of_diffusers(pair):
    ours, theirs = pair
    x0, noise = torch.randn(2, 5, 4, 3, generator=rng())
    t = torch.tensor([0, 1, 500, 981, 999])
    torch.testing.assert_close(
        ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5
    )
    assert ours.add_noise(x0.double(), noise.double(), t).dtype == torch.float64


def test_signal_and_noise_variances_add_up_to_one_and_fall_with_time(pair):
    ours, _ = pair
    for t in (-1, 0, 17, 999):
        alpha, sigma = ours.scales(t)
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-12)
    assert (ours.alpha_bar.diff() < 0).all() and len(ours) == 1000
    assert ours.alpha_bar.dtype == torch.float64
    assert math.isclose(ours.scales(-1)[0] ** 2, ours.clean)


@pytest.mark.parametrize("n_steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(n_steps):
    with pytest.raises(ValueError, match=f"1 to 1000 sampling steps, got {n_steps}"):
        NoiseSchedule.cosine().times(n_steps)


def test_linear_betas_are_those_of_diffusers():
    theirs = DDIMScheduler(1000, 1e-4, 0.02, "linear").alphas_cumprod
    torch.testing.assert_close(NoiseSchedule.linear().alpha_bar.float(), theirs)
