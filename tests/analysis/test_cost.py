import gc
from itertools import islice

import pytest
import torch
from torch import nn
from toy import STEPS, reward, toy

from easytune_lib.analysis.cost import measure, saved_bytes
from easytune_lib.finetune.loop import batches, finetune
from easytune_lib.finetune.methods import DRaFT, EasyTune, ReFL


def test_counts_each_storage_once_and_no_parameters():
    """``exp`` saves its result, ``sin`` its argument: the same 800 bytes; Linear saves x."""
    x = torch.randn(100, dtype=torch.float64, requires_grad=True)
    assert saved_bytes(lambda: x.exp().sin()) == 800
    layer, given = nn.Linear(100, 10).double(), torch.randn(5, 100, dtype=torch.float64)
    frozen = nn.Linear(10, 10).double().requires_grad_(False)
    assert saved_bytes(lambda: frozen(layer(given))) == 5 * 100 * 8


def test_counts_the_peak_and_not_the_sum():
    x = torch.randn(100, requires_grad=True)

    def one_after_another():
        for _ in range(5):
            x.exp().sum().backward()

    def all_at_once():
        torch.stack([x.exp().sum() for _ in range(5)]).sum().backward()

    assert saved_bytes(one_after_another) == 400
    assert saved_bytes(all_at_once) == 5 * 400


def _cost(method, count=1):
    model, _, prompts = toy()
    model.denoiser.float()
    optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=0.0)
    return measure(
        lambda: finetune(
            model, reward, islice(batches(model, prompts, 4, seed=0), count), method, optimizer
        )
    )


def test_cost_of_the_methods():
    gc.disable()  # the count must not wait for the collector
    try:
        easy, refl, draft = _cost(EasyTune(STEPS), 2), _cost(ReFL(3)), _cost(DRaFT(1))
        long = _cost(DRaFT(STEPS))
    finally:
        gc.enable()
    assert easy.updates_per_trajectory == STEPS
    assert refl.updates_per_trajectory == draft.updates_per_trajectory == 1
    assert easy.saved_mib == refl.saved_mib == draft.saved_mib < long.saved_mib / 4
    assert 0 < easy.cpu_seconds < long.cpu_seconds and easy.wall_seconds > 0


def test_a_run_without_a_trajectory_is_refused():
    with pytest.raises(ValueError, match="0 updates"):
        measure(lambda: [])
