"""Theorem S1's bound, on a toy in which all that it speaks of is known."""

from dataclasses import replace

import pytest
import torch
from toy import rng, text, toy

from easytune_lib.analysis.gradients import gradient_bias, reward_gradient
from easytune_lib.analysis.theory import ShiftChain, convergence, convergence_bound
from easytune_lib.plan import GradientPlan
from easytune_lib.types import Denoiser, Prompts


class Shift(Denoiser):
    """Makes the reverse step ``x -> decay * x + theta``."""

    prediction = "epsilon"

    def __init__(self, model, decay, theta):
        super().__init__()
        self.model, self.decay = model, decay
        self.theta = torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x_t, t, prompts):
        now = int(t[0])
        (alpha, sigma), (alpha_after, sigma_after) = map(
            self.model.schedule.scales, (now, dict(self.model.times)[now])
        )
        ratio = alpha_after / alpha
        return (self.decay * x_t + self.theta - ratio * x_t) / (sigma_after - ratio * sigma)


@pytest.mark.parametrize("theta", [-0.5, 0.3])
def test_the_chain_s_gradients_are_those_of_the_library(theta):
    chain = ShiftChain(decay=0.8, n_steps=8, target=1.0, mean=1.3, spread=0.0)
    model, _, _ = toy()
    model = replace(
        model, denoiser=Shift(model, 0.8, theta), guidance=1.0, decode=lambda x, prompts: x,
        state_shape=lambda prompts: (1, 1),
    )  # fmt: skip
    prompts = Prompts(text(1), torch.tensor([1]))
    x_T = torch.full((1, 1, 1), 1.3, dtype=torch.float64)

    def reward(motion, prompts, t=None):
        return -((motion.flatten() - 1.0) ** 2) / 2

    every = frozenset(range(8))
    easy = GradientPlan(every, every, detach_state=True, reads="x_t")
    got = reward_gradient(model, reward, x_T, prompts, easy)
    assert -got.item() / 8 == pytest.approx(chain.easytune(theta))
    full = sum(
        reward_gradient(
            model, reward, x_T, prompts,
            GradientPlan(every, frozenset({i}), reads="x_t"),
        ).item()
        for i in range(8)
    )  # fmt: skip
    assert -full / 8 == pytest.approx(chain.gradient(theta))
    bias = gradient_bias(model, reward, x_T, prompts, easy)
    assert abs(bias.cosine) == pytest.approx(1) and bias.chain.shape == (8,)


def test_the_parabola_is_one():
    chain = ShiftChain()
    small = 1e-4
    for theta in (-1.0, 0.2):
        slope = (chain.objective(theta + small) - chain.objective(theta - small)) / (2 * small)
        assert slope == pytest.approx(chain.gradient(theta))
    assert chain.gradient(1.0) - chain.gradient(0.0) == pytest.approx(chain.smoothness)
    assert chain.gradient(chain.optimum) == pytest.approx(0, abs=1e-12)
    assert chain.easytune(chain.resting_point) == pytest.approx(0, abs=1e-12)
    assert chain.objective(chain.resting_point) > chain.objective(chain.optimum)


def test_the_noise_is_that_of_the_descent():
    chain = ShiftChain(mean=0.5)
    draws = rng()
    slopes = torch.tensor([0.2 - chain.descent(0.2, [1.0], 4, draws)[1] for _ in range(2000)])
    mean, deviation = slopes.mean().item(), slopes.std().item()
    assert mean == pytest.approx(chain.easytune(0.2), abs=4 * deviation / 2000**0.5)
    assert deviation == pytest.approx(chain.noise(0.2, 4), rel=0.06)


@pytest.mark.parametrize("n_steps", [1, 2, 8])
def test_the_mean_squared_gradient_stays_below_the_bound(n_steps):
    """At several lengths; with one step there is no bias, and both fall as K^(-1/2)."""
    few, more, many = (convergence(ShiftChain(n_steps=n_steps), k) for k in (25, 100, 400))
    for found in (few, more, many):
        assert 0 < found.measured <= found.bound and found.floor <= found.bound
    if n_steps == 1:
        assert many.floor == pytest.approx(0, abs=1e-12)
        assert many.measured < 0.6 * more.measured < 0.4 * few.measured
        assert many.bound < 0.6 * more.bound


def test_with_a_bias_it_comes_to_rest_elsewhere():
    """The floor of the bound is real: |grad L| at the resting point is the bias there."""
    chain = ShiftChain(spread=0.0)
    path = chain.descent(-1.0, [0.02 / (1 + k / 50) for k in range(1000)], 8, rng())
    assert path[-1] == pytest.approx(chain.resting_point, abs=0.02)
    assert abs(path[-1] - chain.optimum) > 0.02
    assert abs(chain.gradient(chain.resting_point)) > 0.05


def test_decreasing_rates_without_bias_lead_to_the_optimum():
    """Corollary S1: rates that sum to infinity, with squares that do not."""
    chain = ShiftChain(n_steps=1)
    path = chain.descent(-1.0, [1 / (k + 1) for k in range(1000)], 8, rng())
    assert abs(chain.gradient(path[-1])) < 0.03


def test_rates_beyond_the_theorem_are_refused():
    with pytest.raises(ValueError, match=r"holds for rates up to 0\.5, got 0\.6"):
        convergence_bound(1.0, 2.0, 0.6, 10, 1.0)
