import threading

import pytest
import torch
from tiny_world import tiny_bench

from easytune_lib.extras.widgets.run import METHODS, Settings, TuningRun
from easytune_lib.records import RunRecord

SETTINGS = Settings(updates=6, every=2, batch_size=3, held_out=4)


def run_of(settings=SETTINGS, **rest) -> TuningRun:
    bench = tiny_bench()
    return TuningRun(bench, bench.prompts["test"].prompts[torch.tensor([0])], settings, **rest)


def weights(run: TuningRun) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in run.model.denoiser.parameters()])


def unbroken(settings=SETTINGS) -> TuningRun:
    run = run_of(settings)
    run.start()
    return run.wait(60.0)


def test_a_pause_changes_nothing_that_is_learned():
    whole, reached = unbroken(), threading.Event()

    def tell(run: TuningRun) -> None:
        if run.updates == 3 and run.state == "running" and not reached.is_set():
            run.pause()
            reached.set()

    broken = run_of(tell=tell)
    broken.start()
    assert reached.wait(60)
    broken.wait(0.3)
    assert (broken.state, broken.updates) == ("paused", 3)
    torch.rand(100)  # what else a user does meanwhile
    broken.resume()
    broken.wait(60.0)
    assert whole.state == broken.state == "done"
    assert torch.equal(weights(whole), weights(broken))
    assert whole.rewards == broken.rewards and whole.samples[-1].judge == broken.samples[-1].judge


def test_looking_more_often_changes_nothing_either():
    rare = unbroken(Settings(updates=6, every=100, batch_size=3, held_out=4))
    assert torch.equal(weights(unbroken()), weights(rare))
    assert [sample.update for sample in rare.samples] == [0, 6]


def test_a_stopped_run_keeps_what_it_learned():
    run = run_of(tell=lambda run: run.stop() if run.updates == 2 else None)
    run.start()
    run.wait(60.0)
    assert (run.state, run.updates) == ("stopped", 2)
    assert run.rewards == unbroken().rewards[:2]
    with pytest.raises(ValueError, match="stopped: make another"):
        run.start()


def test_the_bench_is_left_alone():
    bench = tiny_bench()
    before = [weight.clone() for weight in bench.model.denoiser.parameters()]
    run = TuningRun(bench, bench.prompts["test"].prompts[torch.tensor([0])], SETTINGS)
    run.start()
    run.wait(60.0)
    assert all(map(torch.equal, before, bench.model.denoiser.parameters()))
    assert not torch.equal(torch.cat([w.flatten() for w in before]), weights(run))


def test_an_error_is_told(monkeypatch):
    run, heard = run_of(), []
    run.tell = lambda run: heard.append(run.state)

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("easytune_lib.extras.widgets.run.finetune", broken)
    run.start()
    run.wait(60.0)
    assert (run.state, run.error, heard) == ("failed", "RuntimeError: out of memory", ["failed"])


@pytest.mark.parametrize("method", METHODS)
def test_each_method_makes_its_updates(method):
    bench = tiny_bench(n_steps=5)
    settings = Settings(method, updates=2, every=2, batch_size=2, held_out=2)
    run = TuningRun(bench, bench.prompts["test"].prompts[torch.tensor([0])], settings)
    run.start()
    run.wait(60.0)
    assert (run.state, run.error, run.updates, len(run.grad_norms)) == ("done", "", 2, 2)


def test_the_record_can_be_saved(tmp_path):
    run = unbroken()
    record = RunRecord.load(run.record().save(tmp_path))
    assert record.series["reward"] == run.rewards
    assert [row["update"] for row in record.tables["samples"]] == [0, 2, 4, 6]
    assert record.parameters["method"] == {"EasyTune": {"k": 1, "steps": "random"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"method": "Draft"}, "one of EasyTune"), ({"updates": 0}, "1 or more"), ({"lr": 0.0}, "0.0")],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)
