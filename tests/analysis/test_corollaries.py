"""Corollaries 1 and 2 on the laptop's own networks and reward, term by term, against autograd."""

from dataclasses import replace

import pytest
import torch
from tiny_world import StubEncoder
from toy import rng

from easytune_lib.analysis.corollaries import corollary_1, corollary_2
from easytune_lib.analysis.gradients import gradient_bias, reward_gradient
from easytune_lib.finetuning.methods import DRaFT, DRTune
from easytune_lib.models.mdm import MDM
from easytune_lib.models.mld import VAE, LatentDenoiser, mld
from easytune_lib.recipes import load_network
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.types import Prompts
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


@pytest.mark.parametrize("corollary", [corollary_1, corollary_2])
def test_autograd_gives_the_written_terms(world, corollary):
    written = corollary(*world)
    assert len(written.terms) == STEPS and all(term.any() for term in written.terms)
    assert written.error < 1e-6


def test_the_corollaries_differ_but_at_the_last_step(world):
    """The direct terms are the same functions: only what pulls at them differs."""
    chain, easytune = corollary_1(*world).terms, corollary_2(*world).terms
    torch.testing.assert_close(chain[-1], easytune[-1])
    for a, b in zip(chain[:-1], easytune[:-1], strict=True):
        assert (a - b).norm() > 0.01 * a.norm()


def test_a_term_that_is_not_autograd_s_is_seen(world):
    """The measure of error is no formality: half a pull is half the term."""
    model, reward, x_T, prompts = world
    written = corollary_1(*world).terms
    doubled = corollary_1(model, lambda *a: 2 * reward(*a), x_T, prompts).terms
    torch.testing.assert_close(doubled, 2 * written)


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
