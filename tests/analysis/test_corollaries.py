"""Corollaries 1 and 2 on the laptop's own networks and reward, term by term, against autograd."""

from dataclasses import replace

import pytest
import torch
from tiny_world import StubEncoder
from toy import rng

from easytune_lib.analysis.gradients import gradient_bias, reward_gradient, step_gradients
from easytune_lib.finetune.methods import DRaFT, DRTune, EasyTune
from easytune_lib.models.mdm import MDM
from easytune_lib.models.mld import VAE, LatentDenoiser, mld
from easytune_lib.protocols import Prompts
from easytune_lib.recipes import load_network
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.workbench import WEIGHTS

pytestmark = pytest.mark.slow

STEPS = 5


@pytest.fixture(scope="module", params=["mdm", "mld"])
def world(request):
    """The committed networks in float64, with made-up captions."""
    encoder = StubEncoder()
    prompts = Prompts(encoder.encode(["a person walks", "someone jumps"]), torch.tensor([8, 12]))
    if request.param == "mdm":
        network = load_network(MDM, WEIGHTS / "mdm.safetensors").double()
        model = network.diffusion(encoder.encode([""]), STEPS)
    else:
        vae = load_network(VAE, WEIGHTS / "vae.safetensors").double().requires_grad_(False)
        network = load_network(LatentDenoiser, WEIGHTS / "mld.safetensors").double()
        model = mld(vae, network, encoder.encode([""]), STEPS, 5.0)
    network.requires_grad_()
    reward = AlignmentReward(load_network(SPM, WEIGHTS / "spm.safetensors"), model.schedule)
    reward.model.double()
    text = replace(
        prompts.text, sentence=prompts.text.sentence.double(), tokens=prompts.text.tokens.double()
    )
    blank = replace(
        model.no_text, sentence=model.no_text.sentence.double(),
        tokens=model.no_text.tokens.double(),
    )  # fmt: skip
    prompts, model = Prompts(text, prompts.lengths), replace(model, no_text=blank)
    return model, reward, model.draw_noise(prompts, rng()).double(), prompts


def pi(model, x, now, after, prompts):
    """One reverse step as paper.md 1.5 writes it: A_t x + B_t eps."""
    bar = model.schedule.alpha_bar
    a, b = bar[now].item(), bar[after].item() if after >= 0 else model.schedule.clean
    A = (b / a) ** 0.5
    B = (1 - b) ** 0.5 - A * (1 - a) ** 0.5
    return A * x + B * model.noise_estimate(x, now, prompts)


def slope(world, x, after):
    """dR / dx at a state."""
    model, reward, _, prompts = world
    x = x.detach().requires_grad_()
    t = torch.full((len(x),), max(after, 0))
    (given,) = torch.autograd.grad(reward(model.decode(x, prompts), prompts, t).mean(), x)
    return given


def direct(world, x, now, after, cotangent):
    """The cotangent times d pi(sg(x)) / d theta, and times d pi / d x."""
    model, _, _, prompts = world
    x = x.detach().requires_grad_()
    weights = list(model.denoiser.parameters())
    out = pi(model, x, now, after, prompts)
    *of_theta, of_x = torch.autograd.grad(out, [*weights, x], cotangent, materialize_grads=True)
    return torch.cat([g.flatten() for g in of_theta]), of_x


def states(world):
    model, _, x, prompts = world
    found = [x]
    with torch.no_grad():
        for now, after in model.times:
            found.append(pi(model, found[-1], now, after, prompts))
    return found


def test_corollary_1(world):
    """Term t of Eq. 5: dR/dx_0, through J_1 ... J_(t-1), times the direct term of step t."""
    model, reward, x_T, prompts = world
    plan = replace(DRaFT().plan(STEPS, rng()), reads="x_t")
    shares = step_gradients(model, reward, x_T, prompts, plan)
    path = states(world)
    pull = slope(world, path[-1], -1)
    for i, (now, after) in reversed(list(enumerate(model.times))):
        want, pull = direct(world, path[i], now, after, pull)
        assert want.any()
        torch.testing.assert_close(shares[i], want, rtol=1e-6, atol=1e-9 * want.abs().max().item())


def test_corollary_2(world):
    """EasyTune's step: dR/dx_(t-1) times the direct term, and nothing else."""
    model, reward, x_T, prompts = world
    plan = EasyTune(reads="x_t").plan(STEPS, rng())
    shares = step_gradients(model, reward, x_T, prompts, plan)
    path = states(world)
    for i, (now, after) in enumerate(model.times):
        want, _ = direct(world, path[i], now, after, slope(world, path[i + 1], after))
        torch.testing.assert_close(shares[i], want, rtol=1e-6, atol=1e-9 * want.abs().max().item())


def test_exact_tricks_are_exact(world):
    """Checkpointed DRaFT and replayed DRTune: the plain gradient to 1e-5."""
    model, reward, x_T, prompts = world
    for plain, thrifty in (
        (DRaFT(), DRaFT(checkpoint=True)),
        (DRTune(3, 1), DRTune(3, 1, replay=True)),
    ):
        a, b = (
            reward_gradient(model, reward, x_T, prompts, m.plan(STEPS, rng()))
            for m in (plain, thrifty)
        )
        assert (a - b).norm() <= 1e-5 * a.norm() and a.any()


def test_easytune_leaves_something_out_on_the_real_model(world):
    """The bias is no rounding error: so EasyTune is a semi-gradient."""
    model, reward, x_T, prompts = world
    bias = gradient_bias(model, reward, x_T, prompts)
    assert bias.delta > 0.1 and -1 <= bias.cosine < 0.999
    assert len(bias.chain) == STEPS and all(0 < part < 1 for part in bias.early)
