from dataclasses import replace

import pytest
import torch
from toy import FEATURES, STEPS, reward, rng, toy

from easytune_lib.analysis.gradients import (
    jacobian_norms,
    reward_gradient,
    share_norms,
    step_gradients,
)
from easytune_lib.diffusion.sampler import DDIM
from easytune_lib.finetune.methods import AlignProp, DRaFT, DRTune, EasyTune, ReFL

METHODS = [
    DRaFT(1), DRaFT(3), DRaFT(STEPS), EasyTune(1), EasyTune(4), EasyTune(STEPS),
    EasyTune(3, "strided"), EasyTune(2, "random"), ReFL(4), AlignProp(), DRTune(4, 3),
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
    shares = step_gradients(model, reward, x_T, prompts, plan, rng(5))
    plain = reward_gradient(model, reward, x_T, prompts, plan, rng(5))
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
    shares = share_norms(model, reward, x_T, prompts, plan, rng(5), reference)
    torch.testing.assert_close(shares.norms, matrix.norm(dim=1))
    torch.testing.assert_close(shares.total, matrix.sum(0))
    torch.testing.assert_close(
        shares.cosine, torch.nn.functional.cosine_similarity(matrix, reference, eps=1e-300)
    )
    assert shares.error < 1e-12


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
