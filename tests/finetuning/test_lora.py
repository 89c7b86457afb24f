"""Adapters that begin as nothing, are all that is tuned, and can be folded in."""

from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
from backbones import made_up, no_text
from toy import STEPS, reward, rng, text, toy

from easytune_lib.analysis.gradients import step_gradients
from easytune_lib.diffusion.rollout import sample
from easytune_lib.extras.official.mdm import OfficialMDM
from easytune_lib.finetuning.loop import batches, finetune
from easytune_lib.finetuning.lora import attention, merged, with_lora
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.models.mdm import MDM
from easytune_lib.models.motiondiffuse import MotionDiffuse
from easytune_lib.types import Prompts

pytest.importorskip("peft")
POOL = Prompts(text(4), torch.tensor([4, 2, 3, 4]))


@pytest.fixture
def base():
    model, _, _ = toy()
    model.denoiser.float()
    return model


def adapted(base, seed=0):
    return replace(base, denoiser=with_lora(base.denoiser, rng(seed), 2, 4.0, ("read", "write")))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_at_first_it_does_the_same(base):
    before, state = deepcopy(base.denoiser.state_dict()), torch.random.get_rng_state()
    model = adapted(base)
    assert torch.equal(sample(model, POOL, rng()), sample(base, POOL, rng()))
    assert same(base.denoiser.state_dict(), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(model.denoiser.state_dict(), adapted(base).denoiser.state_dict())
    assert not same(model.denoiser.state_dict(), adapted(base, 1).denoiser.state_dict())


@pytest.mark.parametrize("method", [DRaFT(3), EasyTune(2, updates="chain")], ids=str)
def test_adapters_alone_are_tuned_and_fold_in(base, method):
    model = adapted(base)
    tuned = {name for name, p in model.denoiser.named_parameters() if p.requires_grad}
    assert len(tuned) == 4 and all("lora_" in name for name in tuned)
    before = deepcopy(model.denoiser.state_dict())
    optimizer = torch.optim.Adam([p for p in model.denoiser.parameters() if p.requires_grad], 2e-2)
    given = islice(batches(model, POOL, 4, seed=0), 10)
    list(finetune(model, reward, given, method, optimizer))
    after = model.denoiser.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == tuned

    plain = replace(base, denoiser=merged(model.denoiser))
    assert plain.denoiser.state_dict().keys() == base.denoiser.state_dict().keys()
    assert all(p.requires_grad for p in plain.denoiser.parameters())
    motion = sample(plain, POOL, rng())
    torch.testing.assert_close(motion, sample(model, POOL, rng()))
    assert reward(motion, POOL).mean() > reward(sample(base, POOL, rng()), POOL).mean()
    assert same(model.denoiser.state_dict(), after), "merging leaves the adapted model alone"


def test_shares_are_of_the_adapters(base):
    model = adapted(base)
    x_T = model.draw_noise(POOL, rng())
    shares = step_gradients(model, reward, x_T, POOL, DRaFT(3).plan(STEPS, rng()))
    assert shares.shape[1] == 2 * (9 + 8) + 2 * (8 + 3) and shares[-3:].any()


def test_by_default_attention_is_adapted():
    net = MDM(features=6, dim=8, layers=2, text_dim=2)
    names = [n for n, p in with_lora(net, rng(), 2).named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2 and all(".qkv." in n or ".out." in n for n in names)


def test_all_of_pytorch_s_attention_is_found_and_folds_in():
    """In the published MDM, of which peft takes the weights off and on at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = OfficialMDM([0.5] * 7, [2.0] * 7, frames=48, dim=16, layers=2, heads=2, ff=12,
                          text_dim=9).eval()  # fmt: skip
    tuned = with_lora(net, rng(), 2).eval()
    weights = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    assert len(weights) == 2 * 4 and all(".self_attn." in name for name in weights)
    for name, weight in weights.items():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.3)
    prompts = made_up(9, [24, 7])
    x_T, t = net.diffusion(no_text(9)).draw_noise(prompts, rng()), torch.full((2,), 500)
    out = tuned(x_T, t, prompts)
    out.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights.values())
    plain = merged(tuned)
    assert plain.state_dict().keys() == net.state_dict().keys()
    assert all(p.requires_grad for p in plain.parameters())
    torch.testing.assert_close(plain(x_T, t, prompts), out)
    assert not torch.allclose(net(x_T, t, prompts), out)


def test_motiondiffuse_s_attention_is_found_its_last_layer_is_not():
    with torch.device("meta"):
        net = MotionDiffuse([0.0], [1.0], frames=8, dim=8, layers=1, heads=2, ff=4, text_dim=8,
                            text_layers=1, text_heads=2, text_ff=4, clip_dim=4)  # fmt: skip
    names = attention(net)
    assert "out" not in names and len(names) == 1 + 2 * 3
    assert {name.rpartition(".")[2] for name in names} == {"query", "key", "value", "self_attn"}


def test_a_network_without_attention_asks_for_targets(base):
    with pytest.raises(ValueError, match="ToyNet has no attention that is known: give targets"):
        with_lora(base.denoiser, rng())


def test_a_layer_that_there_is_not_is_refused(base):
    with pytest.raises(ValueError, match="nowhere"):
        with_lora(base.denoiser, rng(), targets=("nowhere",))
