from dataclasses import replace
from typing import Any

import pytest
import torch
from toy import FEATURES, STEPS, ToyNet, reward, rng, toy

from easytune_lib.analysis.gradients import (
    GradientBias,
    gradient_bias,
    jacobian_norms,
    reward_gradient,
    share_norms,
    step_gradients,
)
from easytune_lib.diffusion.sampler import DDIM
from easytune_lib.finetuning.methods import AlignProp, DRaFT, DRaFTLV, DRTune, EasyTune, ReFL
from easytune_lib.finetuning.variants import EasyTunePlus
from easytune_lib.plan import RolloutOptions

METHODS = [
    DRaFT(1), DRaFT(3), DRaFT(STEPS), EasyTune(1), EasyTune(4), EasyTune(STEPS),
    EasyTune(3, "strided"), EasyTune(2, "random"), ReFL(4), AlignProp(), DRTune(4, 3),
    EasyTunePlus(4, weights="early", updates="chain"), DRaFTLV(2), DRTune(4, 3, replay=True),
]  # fmt: skip


@pytest.fixture(params=["epsilon", "x0"])
def world(request):
    return toy(request.param)


@pytest.mark.parametrize("prediction, eta", [("epsilon", 0.0), ("x0", 1.0)])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_shares_add_up_to_the_gradient_of_training(prediction, eta, method):
    model, x_T, prompts = toy(prediction)
    model = replace(model, sampler=DDIM(eta))
    plan = method.plan(STEPS, rng(3))
    how: Any = {
        "weighting": method.weighting(STEPS), "options": method.rollout_options,
    }  # fmt: skip
    shares = step_gradients(model, reward, x_T, prompts, plan, rng(5), **how)
    plain = reward_gradient(model, reward, x_T, prompts, plan, rng(5), **how)
    torch.testing.assert_close(shares.sum(0), plain, rtol=1e-10, atol=1e-12)
    assert {i for i in range(STEPS) if shares[i].any()} == {
        i for i in plan.recorded if i <= plan.last
    }


@pytest.mark.parametrize("method", [DRaFT(STEPS), EasyTune(4), DRTune(4, 3)], ids=str)
def test_streamed_norms_are_those_of_the_matrix(world, method):
    model, x_T, prompts = world
    model = replace(model, sampler=DDIM(1.0))
    plan = method.plan(STEPS, rng(3))
    matrix = step_gradients(model, reward, x_T, prompts, plan, rng(5))
    easy = EasyTune(STEPS).plan(STEPS, rng())
    reference = step_gradients(model, reward, x_T, prompts, easy, rng(5))
    shares = share_norms(model, reward, x_T, prompts, plan, rng(5), reference=reference)
    torch.testing.assert_close(shares.norms, matrix.norm(dim=1))
    torch.testing.assert_close(shares.total, matrix.sum(0))
    torch.testing.assert_close(
        shares.cosine, torch.nn.functional.cosine_similarity(matrix, reference, eps=1e-300)
    )
    assert shares.error < 1e-12


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_bias_is_the_distance_of_the_two_gradients(world, eta):
    model, x_T, prompts = world
    model = replace(model, sampler=DDIM(eta))
    bias = gradient_bias(model, reward, x_T, prompts, rng=rng(5))
    easy, full = (
        step_gradients(model, reward, x_T, prompts, method.plan(STEPS, rng()), rng(5))
        for method in (EasyTune(), DRaFT())
    )
    torch.testing.assert_close(bias.easytune, easy.norm(dim=1))
    torch.testing.assert_close(bias.chain, full.norm(dim=1))
    a, b = easy.sum(0), full.sum(0)
    assert bias.cosine == pytest.approx((a @ b / a.norm() / b.norm()).item())
    assert bias.norm_ratio == pytest.approx((a.norm() / b.norm()).item())
    square = 1 + bias.norm_ratio**2 - 2 * bias.norm_ratio * bias.cosine
    assert bias.delta == pytest.approx(square**0.5), "the cosine rule"


def test_how_much_comes_from_the_first_half():
    even, late = torch.ones(4), torch.tensor([0.0, 1.0, 3.0, 4.0])
    assert GradientBias(1.0, 1.0, 0.0, easytune=even, chain=late).early == (0.125, 0.5)


class Told(ToyNet):
    """A network that is told the scale of guidance, and reads the state once."""

    def guided(self, x_t, t, prompts, scale):
        return scale * self(x_t, t, prompts)


def test_shares_of_a_network_that_guides_itself(world):
    model, x_T, prompts = world
    told = Told(model.denoiser.prediction).double()
    told.load_state_dict(model.denoiser.state_dict())
    model = replace(model, denoiser=told)
    plan = DRaFT(3).plan(STEPS, rng())
    shares = step_gradients(model, reward, x_T, prompts, plan)
    torch.testing.assert_close(shares.sum(0), reward_gradient(model, reward, x_T, prompts, plan))
    assert shares[-3:].any() and not shares[:-3].any()


def test_norms_of_a_step_that_is_taken_twice_are_refused(world):
    with pytest.raises(ValueError, match="do not add up: use step_gradients"):
        share_norms(
            world[0], reward, *world[1:], DRaFT(1).plan(STEPS, rng()), rng(),
            options=RolloutOptions(fresh_noises=1),
        )  # fmt: skip


def test_analysis_leaves_the_model_alone(world):
    model, x_T, prompts = world
    before = [p.clone() for p in model.denoiser.parameters()]
    state = torch.random.get_rng_state()
    plan = DRaFT(STEPS).plan(STEPS, rng())
    share_norms(model, reward, x_T, prompts, plan)
    jacobian_norms(model, x_T, prompts)
    assert all(p.grad is None for p in model.denoiser.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.denoiser.parameters(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    assert x_T.grad is None and not x_T.requires_grad


def test_frozen_weights_are_no_columns(world):
    model, x_T, prompts = world
    model.denoiser.read.requires_grad_(False)
    plan = DRaFT(STEPS).plan(STEPS, rng())
    shares = step_gradients(model, reward, x_T, prompts, plan)
    assert shares.shape == (STEPS, sum(p.numel() for p in model.denoiser.write.parameters()))
    assert share_norms(model, reward, x_T, prompts, plan).error < 1e-12


def _step_map(x, model, prompts, now, after):
    noise = model.noise_estimate(x, now, prompts)
    alpha, sigma = model.schedule.scales(now)
    return model.sampler.step(model.schedule, (x - sigma * noise) / alpha, noise, now, after, rng())


def test_exact_jacobians_agree_with_jacrev_on_each_motion_alone(world):
    """Row b of the batch: the motion's own frames only, by ``torch.func.jacrev``."""
    model, x_T, prompts = world
    norms = jacobian_norms(model, x_T, prompts)
    for row in range(len(prompts)):
        alone, frames = prompts[[row]], int(prompts.lengths[row])
        x, jacobians = x_T[row : row + 1, :frames], []
        for now, after in model.times:
            matrix = torch.func.jacrev(_step_map)(x, model, alone, now, after)
            jacobians.append(matrix.reshape(frames * FEATURES, frames * FEATURES))
            x = _step_map(x, model, alone, now, after).detach()
        root = (frames * FEATURES) ** 0.5
        assert norms.dim[row] == frames * FEATURES
        product = torch.eye(frames * FEATURES, dtype=x.dtype)
        for i in reversed(range(STEPS)):
            product = product @ jacobians[i]
            for got, want in (
                (norms.frobenius, jacobians[i].norm() / root),
                (norms.spectral, torch.linalg.matrix_norm(jacobians[i], 2)),
                (norms.product_frobenius, product.norm() / root),
                (norms.product_spectral, torch.linalg.matrix_norm(product, 2)),
                (norms.divided, (product / root ** (2 * (STEPS - i))).norm()),
            ):
                torch.testing.assert_close(got[i, row], want)


@pytest.mark.slow
def test_estimates_agree_with_exact_within_their_errors(world):
    model, x_T, prompts = world
    exact = jacobian_norms(model, x_T, prompts)
    estimate = jacobian_norms(model, x_T, prompts, probes=50, iterations=12, rng=rng(1))
    for name in ("spectral", "product_spectral"):
        ratio = getattr(estimate, name) / getattr(exact, name)
        assert ratio.min() > 0.93 and ratio.max() < 1 + 1e-9, "power iteration is a lower bound"
    for name in ("frobenius", "product_frobenius"):
        error = getattr(estimate, f"{name}_error")
        assert not getattr(exact, f"{name}_error").any()
        z = (getattr(estimate, name) - getattr(exact, name)) / error
        assert z.abs().max() < 4.5 and 0.3 < z.std() < 2, name
    assert (estimate.frobenius_error < 0.15 * estimate.frobenius).all()
    assert torch.equal(estimate.dim, exact.dim)


def test_division_by_dim_decays_even_for_an_identity_chain(world):
    """The caution of Fig. 3: with J = I, ||prod J / dim||_F = dim ** (0.5 - steps)."""
    norms = jacobian_norms(*world)
    still = replace(norms, product_frobenius=torch.ones_like(norms.product_frobenius))
    want = norms.dim.double() ** (0.5 - STEPS)
    torch.testing.assert_close(still.divided[0], want)


def test_estimates_need_a_generator_and_two_probes(world):
    with pytest.raises(ValueError, match="probes >= 2"):
        jacobian_norms(*world, probes=1, rng=rng())
    with pytest.raises(ValueError, match="stream"):
        jacobian_norms(*world, probes=4)
