import gc
from dataclasses import replace
from itertools import islice

import pytest
import torch
from tiny_world import tiny_bench
from torch import nn
from torch.utils.checkpoint import checkpoint
from toy import STEPS, reward, toy

from easytune_lib.analysis.cost import (
    MIB,
    Calls,
    Forecast,
    Rates,
    available,
    calibrate,
    cost,
    live_bytes,
    measure,
    saved_by_item,
    saved_bytes,
)
from easytune_lib.finetuning.loop import batches, finetune
from easytune_lib.finetuning.methods import AlignProp, DRaFT, DRaFTLV, DRTune, EasyTune, ReFL
from easytune_lib.finetuning.two_phase import TwoPhase
from easytune_lib.types import Denoiser, FineTuneMethod


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


def test_counts_what_is_held_when_each_item_is_made():
    """``exp`` keeps its 400 bytes while its result is there: one at a time, or all of a chain."""
    x = torch.randn(100, requires_grad=True)

    def chain():
        y = x
        for _ in range(3):
            y = y.exp()
            yield y

    assert saved_by_item(x.exp() for _ in range(3)) == [400, 400, 400]
    assert saved_by_item(chain()) == [400, 800, 1200]
    assert saved_by_item([]) == []


def test_lives_count_from_birth_to_death_and_see_through_checkpoints():
    """``exp``, ``sin``, ``cos``: backward needs the first two's results, a checkpoint its input."""
    x = torch.randn(1000, requires_grad=True)
    assert live_bytes(lambda: [torch.zeros(1000) for _ in range(5)]) == 5 * 4000

    def dropped():
        for _ in range(5):
            torch.zeros(1000)

    def chain(way):
        y = x
        for _ in range(20):
            y = way(lambda a: a.exp().sin().cos(), y)
        y.sum().backward()
        x.grad = None

    assert live_bytes(dropped) == 4000
    assert live_bytes(lambda: x.view(10, 100).t()) == 0
    plain = live_bytes(lambda: chain(lambda f, y: f(y)))
    kept = live_bytes(lambda: chain(lambda f, y: checkpoint(f, y, use_reentrant=False)))
    assert 40 * 4000 <= plain < 45 * 4000 and 20 * 4000 <= kept < 27 * 4000


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
    assert easy.process_mib > 10 and (easy.gpu_mib is None) == (not torch.cuda.is_available())


def test_a_run_without_a_trajectory_is_refused():
    with pytest.raises(ValueError, match="0 updates"):
        measure(lambda: [])


METHODS = [
    EasyTune(), EasyTune(3, "strided"), EasyTune(2, updates="sum"), DRaFT(1), DRaFT(3), DRaFT(),
    DRaFT(checkpoint=True), DRaFTLV(2), AlignProp(), DRTune(4, 3), ReFL(4), ReFL(2, skip=3),
]  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """A small transformer in feature space with its reward, and eight prompts."""
    bench = tiny_bench(n_steps=8)
    bench.model.denoiser.requires_grad_()
    return bench.model, bench.reward, bench.prompts["finetune"].prompts[range(8)]


class _Counted(Denoiser):
    """A network that counts calls, and those that autograd records."""

    def __init__(self, network):
        super().__init__()
        self.network, self.prediction = network, network.prediction
        self.calls = self.recorded = 0

    def forward(self, x_t, t, prompts):
        self.calls += 1
        self.recorded += torch.is_grad_enabled()
        return self.network(x_t, t, prompts)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_calls_are_those_that_are_made(world, method):
    model, reward, prompts = world
    counted, rewards = _Counted(model.denoiser), []

    def asked(motion, of, t=None):
        rewards.append(len(motion))
        return reward(motion, of, t)

    (batch,) = islice(batches(model, prompts, 4, seed=0), 1)
    plan = method.plan(8, batch.rng.clone_state())
    still = torch.optim.SGD(counted.parameters(), lr=0.0)
    updates = list(finetune(replace(model, denoiser=counted), asked, [batch], method, still))
    calls = Calls.of(plan, method)
    assert (calls.denoiser + calls.again, calls.recorded + calls.again) == (
        counted.calls, counted.recorded,
    )  # fmt: skip
    assert (calls.rewards, calls.updates) == (len(rewards), len(updates))


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_memory_is_foretold_within_5_percent(world, micro_batch):
    """Of every method without checkpoints, whose second pass :func:`saved_bytes` does not see."""
    model, reward, prompts = world
    (batch,) = islice(batches(model, prompts, 8, seed=0), 1)
    rates = calibrate(model, reward, batch.x_T, batch.prompts, micro_batch=micro_batch, repeats=1)
    still = torch.optim.SGD(model.denoiser.parameters(), lr=0.0)
    for method in METHODS:
        plan = method.plan(8, batch.rng.clone_state())
        scorer = TwoPhase(micro_batch)
        given = [replace(batch, rng=batch.rng.clone_state())]
        run = finetune(model, reward, given, method, still, scorer=scorer)
        held = saved_bytes(lambda run=run: list(run)) / MIB
        if not method.rollout_options.checkpoint:
            assert cost(plan, method, rates).saved_mib == pytest.approx(held, rel=0.05), method


@pytest.mark.slow
def test_checkpoints_are_foretold_to_hold_states(world):
    """Measured as what is alive, since a checkpoint's second pass is not saved anywhere."""
    model, reward, prompts = world
    model = replace(model, n_steps=6)
    (batch,) = islice(batches(model, prompts, 4, seed=0), 1)
    rates = calibrate(model, reward, batch.x_T, batch.prompts, micro_batch=None, repeats=1)
    plain, kept = (
        cost(method.plan(6, batch.rng), method, rates).saved_mib
        for method in (DRaFT(), DRaFT(checkpoint=True))
    )
    still = torch.optim.SGD(model.denoiser.parameters(), lr=0.0)

    def live(method):
        return live_bytes(lambda: list(finetune(model, reward, [batch], method, still))) / MIB

    ratio = live(DRaFT(checkpoint=True)) / live(DRaFT())
    assert kept / plain == pytest.approx(ratio, rel=0.35) and kept < 0.7 * plain


def test_time_is_a_sum_over_calls_and_what_does_not_fit_is_said():
    rates = Rates(
        network=1.0, network_back=2.0, reward=10.0, update=0.5, network_mib=4.0, further_mib=3.0,
        reward_mib=20.0, state_mib=0.5, weights_mib=7.0,
    )  # fmt: skip

    def foretold(method: FineTuneMethod, room: float) -> Forecast:
        return cost(method.plan(50, torch.Generator()), method, rates, room)

    easy = foretold(EasyTune(), 1000.0)
    assert easy.seconds == 50 * (1 + 2 + 10 + 0.5) and easy.seconds_per_update == 13.5
    assert (easy.saved_mib, easy.training_mib, easy.warning) == (24, 21, "")
    draft = foretold(DRaFT(10), 60.0)
    assert draft.seconds == draft.seconds_per_update == 50 + 10 * 2 + 10 + 0.5
    assert draft.saved_mib == 4 + 9 * 3 + 20
    assert "72 MiB are needed, 60 MiB are left" in draft.warning
    assert "checkpoint=True" in draft.warning
    kept = foretold(DRaFT(10, checkpoint=True), 30.0)
    assert kept.seconds == draft.seconds + 10 and kept.saved_mib == 10 * 0.5 + 20
    assert "micro_batch" in kept.warning
    assert available() > 0


def test_a_frozen_network_cannot_be_calibrated(world):
    model, reward, prompts = world
    x_T = model.draw_noise(prompts, torch.Generator())
    frozen, _, _ = toy()
    frozen.denoiser.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad_"):
        calibrate(frozen, reward, x_T, prompts)
