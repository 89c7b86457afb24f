"""bfloat16: an approximation of the same gradient that leaks nowhere."""

from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
from toy import STEPS, reward, rng, text, toy

from easytune_lib.analysis.gradients import reward_gradient
from easytune_lib.finetuning.loop import batches, finetune
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.finetuning.precision import bf16
from easytune_lib.types import Prompts


@pytest.fixture(params=["epsilon", "x0"])
def world(request):
    model, x_T, prompts = toy(request.param)
    model.denoiser.float()
    return model, x_T.float(), prompts


@pytest.mark.parametrize("method", [EasyTune(4), DRaFT(3), DRaFT(3, checkpoint=True)], ids=str)
def test_the_gradient_points_almost_the_same_way(world, method):
    model, x_T, prompts = world
    plan = method.plan(STEPS, rng())
    plain = reward_gradient(model, reward, x_T, prompts, plan)
    short = reward_gradient(*bf16(model, reward), x_T, prompts, plan)
    assert short.dtype == torch.float32 and not torch.equal(short, plain)
    assert torch.cosine_similarity(short, plain, dim=0) > 0.99
    assert short.norm().item() == pytest.approx(plain.norm().item(), rel=0.05)


def test_the_same_weights_are_tuned_in_float32_and_nothing_leaks(world):
    model, _, _ = world
    before = deepcopy(model.denoiser.state_dict())
    short, scores = bf16(replace(model), reward)
    optimizer = torch.optim.SGD(short.denoiser.parameters(), 0.01)
    given = islice(batches(short, Prompts(text(4), torch.tensor([4, 2, 3, 4])), 3, 0), 1)
    for update in finetune(short, scores, given, EasyTune(3), optimizer):
        assert not torch.is_autocast_enabled("cpu")
        assert update.grad_norm > 0
    after = model.denoiser.state_dict()
    assert all(weight.dtype == torch.float32 for weight in after.values())
    assert not any(torch.equal(after[name], before[name]) for name in before)
