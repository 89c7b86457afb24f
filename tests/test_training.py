"""Training that was killed and resumed has, bit for bit, the weights of one that was not.

Run as a script, this file trains slowly into the checkpoint it is given, to be killed.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from easytune_lib.storage import load_tensors
from easytune_lib.training import TrainingPlan, train

PLAN = TrainingPlan("toy", steps=40, lr=0.02, warmup=5, ema=0.9, save_every=4, weight_decay=0.01)


def _network() -> nn.Module:
    """With dropout and a buffer that training changes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )


def _objective(network, pause=0.0):
    def objective(rng):
        time.sleep(pause)
        x = torch.randn(8, 4, generator=rng)
        error = (network(x) - x.sum(1, keepdim=True)) ** 2
        return error.mean(), {"worst": error.max().item()}

    return objective


def _train(checkpoint=None, plan=PLAN, pause=0.0):
    network = _network()
    steps = list(train(network, _objective(network, pause), plan, checkpoint))
    return network, steps


def _same(a, b):
    own, other = a.state_dict(), b.state_dict()
    return all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.slow
def test_killed_and_resumed_equals_unbroken(tmp_path):
    checkpoint = tmp_path / "toy.safetensors"
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, __file__, str(checkpoint)], env=os.environ | {"PYTHONPATH": root}
    )
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)  # some steps into the next stretch
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    done = load_tensors(checkpoint)[1]["done"]
    assert 0 < done < PLAN.steps, "it was killed in the middle"

    resumed, steps = _train(checkpoint)
    unbroken, all_steps = _train()
    assert _same(resumed, unbroken)
    assert [s.step for s in steps] == list(range(done + 1, PLAN.steps + 1))
    assert [(s.loss, s.grad_norm, s.parts) for s in steps] == [
        (s.loss, s.grad_norm, s.parts) for s in all_steps[done:]
    ]


def test_a_finished_run_is_not_repeated(tmp_path):
    first, _ = _train(tmp_path / "c")
    again, steps = _train(tmp_path / "c")
    assert steps == [] and _same(first, again) and not again.training


def test_seconds_add_up_over_processes_and_the_pace_does_not(tmp_path):
    checkpoint = tmp_path / "c"
    network = _network()
    run = train(network, _objective(network, pause=0.02), PLAN, checkpoint)
    first = [next(run) for _ in range(4)][-1]
    run.close()
    network = _network()
    second = next(train(network, _objective(network), PLAN, checkpoint))
    assert second.seconds > first.seconds - 0.01 and first.seconds >= 0.08
    assert second.pace < second.seconds / 4


def test_stopping_between_checkpoints_repeats_the_steps_since(tmp_path):
    network = _network()
    run = train(network, _objective(network), PLAN, tmp_path / "c")
    for _ in range(7):  # saved after 4
        next(run)
    run.close()
    resumed, steps = _train(tmp_path / "c")
    assert steps[0].step == 5 and _same(resumed, _train()[0])


def test_another_plan_is_refused(tmp_path):
    _train(tmp_path / "c", replace(PLAN, steps=4))
    with pytest.raises(ValueError, match="written by another plan"):
        _train(tmp_path / "c", replace(PLAN, steps=8))


def test_a_loss_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(tmp_path):
    network = _network()
    good, calls = _objective(network), []

    def objective(rng):
        calls.append(rng)
        loss, parts = good(rng)
        return (loss * float("nan") if len(calls) == 6 else loss), parts

    run = train(network, objective, PLAN, tmp_path / "c")
    with pytest.raises(ValueError, match="toy: the loss of step 5 is nan"):
        list(run)
    assert all(p.isfinite().all() for p in network.parameters())
    assert load_tensors(tmp_path / "c")[1]["done"] == 4


def test_the_global_generator_is_left_alone_and_has_no_influence(tmp_path):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, _ = _train()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert _same(first, _train()[0]), "dropout draws from the plan's streams"
    other, _ = _train(plan=replace(PLAN, seed=1))
    assert not _same(first, other)


def test_it_learns_and_ends_with_averaged_weights_in_eval_mode():
    network, steps = _train(plan=replace(PLAN, steps=80))
    assert sum(s.loss for s in steps[-20:]) < 0.6 * sum(s.loss for s in steps[:20])
    assert not network.training
    plain, _ = _train(plan=replace(PLAN, ema=0.0))
    averaged, _ = _train()
    assert not _same(plain, averaged)


def test_frozen_weights_stay():
    network = _network()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    list(train(network, _objective(network), replace(PLAN, steps=3)))
    assert torch.equal(network[0].weight, before)


def test_learning_rate_warms_up_and_decays_to_a_hundredth():
    plan = TrainingPlan("a", steps=1000, lr=2.0, warmup=10)
    rates = [plan.lr_at(i) for i in range(1000)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(2.0, rel=0.01)
    assert rates.index(max(rates)) == 9 and rates[-1] == pytest.approx(0.02, rel=0.01)
    assert all(a > b for a, b in pairwise(rates[9:]))


def test_a_run_may_end_before_its_rate_has_fallen():
    whole = TrainingPlan("a", steps=1000, lr=2.0)
    short = TrainingPlan("a", steps=600, lr=2.0, decay_steps=1000)
    assert [short.lr_at(i) for i in range(600)] == [whole.lr_at(i) for i in range(600)]


def test_time_to_go_goes_by_the_pace_so_far():
    network = _network()
    step = next(train(network, _objective(network, 0.02), PLAN))
    assert step.steps == 40 and step.seconds >= 0.02
    assert step.eta == pytest.approx(39 * step.pace)


if __name__ == "__main__":
    _train(Path(sys.argv[1]), pause=0.05)
