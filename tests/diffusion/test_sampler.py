import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from toy import rng

from easytune_lib.diffusion.sampler import DDIM, LCM, RowNoise, Sampler
from easytune_lib.diffusion.schedule import NoiseSchedule


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("beta, to_one", [("scaled_linear", False), ("squaredcos_cap_v2", True)])
@pytest.mark.parametrize("n_steps", [10, 50])
def test_every_step_is_that_of_diffusers(beta, to_one, n_steps, eta):
    """On diffusers' own levels, so that the step alone is compared; in float64."""
    theirs = DDIMScheduler(
        1000, 0.00085, 0.012, beta, set_alpha_to_one=to_one, steps_offset=1,
        timestep_spacing="leading", clip_sample=False,
    )  # fmt: skip
    theirs.set_timesteps(n_steps)
    ours = NoiseSchedule(theirs.alphas_cumprod.double(), clean=float(theirs.final_alpha_cumprod))
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.final_alpha_cumprod = theirs.final_alpha_cumprod.double()

    x, noise = torch.randn(2, 3, 4, 5, generator=rng(), dtype=torch.float64)
    for now, after in ours.times(n_steps):
        fresh = torch.randn(x.shape, generator=rng(now), dtype=x.dtype)
        (want, _) = theirs.step(noise, now, x, eta=eta, variance_noise=fresh, return_dict=False)
        alpha, sigma = ours.scales(now)
        got = DDIM(eta).step(ours, (x - sigma * noise) / alpha, noise, now, after, rng(now))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
        x = want / want.std()


def test_coefficients_of_the_deterministic_step():
    """``x_next = A x + B noise``, A = sqrt(abar'/abar), B = sigma' - A sigma: MLD, 50 steps."""
    schedule, one = NoiseSchedule.scaled_linear(), torch.ones(1, 1, 1, dtype=torch.float64)
    published = {0: (1.123, -0.123), 10: (1.087, -0.089), 40: (1.019, -0.041), 49: (1.0, -0.012)}
    for index, (a, b) in published.items():
        now, after = schedule.times(50)[index]
        alpha, sigma = schedule.scales(now)

        def step(x, noise, alpha=alpha, sigma=sigma, now=now, after=after):
            return DDIM().step(schedule, (x - sigma * noise) / alpha, noise, now, after).item()

        assert step(one, 0 * one) == pytest.approx(a, abs=6e-4)
        assert step(0 * one, one) == pytest.approx(b, abs=6e-4)


def test_noise_of_a_stochastic_step_has_the_small_variance_of_ddpm():
    schedule, zero = NoiseSchedule.cosine(), torch.zeros(200, 40, 50)
    now, after = 500, 480
    (a, s), (a2, s2) = schedule.scales(now), schedule.scales(after)
    got = DDIM(1.0).step(schedule, zero, zero, now, after, rng())
    assert got.std().item() == pytest.approx(s2 / s * (1 - a**2 / a2**2) ** 0.5, rel=0.01)


def test_a_stochastic_sampler_asks_for_a_generator():
    x = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match="rng=stream"):
        DDIM(1.0).step(NoiseSchedule.cosine(), x, x, 21, 1)
    DDIM(1.0).step(NoiseSchedule.cosine(), x, x, 1, -1)  # the last step draws nothing


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 7, 50])
def test_every_step_of_lcm_is_that_of_diffusers(n_steps):
    theirs = LCMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    theirs.set_timesteps(n_steps)
    ours, lcm = NoiseSchedule(theirs.alphas_cumprod.double()), LCM(origin=50)
    times = lcm.times(ours, n_steps)
    assert [now for now, _ in times] == theirs.timesteps.tolist()
    x, noise = torch.randn(2, 3, 4, 5, generator=rng(), dtype=torch.float64)
    for now, after in times:
        (want, _) = theirs.step(noise, now, x, generator=rng(now), return_dict=False)
        alpha, sigma = ours.scales(now)
        got = lcm.step(ours, (x - sigma * noise) / alpha, noise, now, after, rng(now))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        x = want / want.std()


def test_which_steps_are_visited():
    schedule = NoiseSchedule.cosine()

    def visited(spacing, n_steps):
        times = DDIM(spacing=spacing).times(schedule, n_steps)
        assert [after for _, after in times] == [*(now for now, _ in times[1:]), -1]
        return [now for now, _ in times]

    assert visited("offset", 50) == list(range(981, 0, -20))
    assert visited("leading", 50) == list(range(980, -1, -20))
    whole = visited("whole", 50)
    assert (whole[0], whole[1], whole[-2:]) == (999, 979, [20, 0])
    assert visited("leading", 1000) == visited("whole", 1000) == list(range(999, -1, -1))
    assert (visited("leading", 1), visited("whole", 1)) == ([0], [999])
    with pytest.raises(ValueError, match="1 to 1000 sampling steps, got 0"):
        visited("whole", 0)


def test_tables_of_times_may_repeat_one():
    table = LCM(origin=10, steps={4: (699, 399, 299, 299)})
    schedule = NoiseSchedule.scaled_linear()
    assert table.times(schedule, 4) == ((699, 399), (399, 299), (299, 299), (299, -1))
    assert table.times(schedule, 2) == ((999, 499), (499, -1))
    with pytest.raises(ValueError, match="1 to 10 sampling steps, got 11"):
        table.times(schedule, 11)


def test_noise_of_a_row_is_its_own():
    x = torch.zeros(3, 4, 2)
    whole = RowNoise([rng(i) for i in range(3)], 6).like(x)
    alone = RowNoise([rng(1)], 6).like(x[:1, :3])
    assert torch.equal(alone[0], whole[1, :3]) and not torch.equal(whole[0], whole[1])


def test_both_are_samplers():
    assert isinstance(DDIM(), Sampler) and isinstance(LCM(), Sampler)
    assert (DDIM().stochastic, DDIM(0.5).stochastic, LCM().stochastic) == (False, True, True)
