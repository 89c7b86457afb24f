"""The door: every name is there, and nothing heavy is imported before it is used."""

import doctest
import inspect
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import easytune_lib as et
from easytune_lib.experiments.tune import TuneSettings
from easytune_lib.recipes import train_base


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, easytune_lib; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", et.__all__)
def test_a_name_of_the_door_is_there_and_explained(name: str):
    assert (getattr(et, name).__doc__ or "").strip()
    assert name in dir(et)


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match="open_workbench"):
        _ = et.open_workbensh


@pytest.fixture(scope="module")
def bench() -> et.Workbench:
    return et.open_workbench("mld_early", 4)


def examples(name: str) -> list[doctest.DocTest]:
    """The examples in the docstring of a name and, of a class, of its public methods."""
    found = doctest.DocTestFinder(recurse=False)
    thing = getattr(et, name)
    parts = [thing]
    if inspect.isclass(thing):
        parts += [part for key, part in vars(thing).items() if key[0] != "_" and callable(part)]
    return [test for part in parts for test in found.find(part, name, globs={}) if test.examples]


@pytest.mark.parametrize("name", et.__all__)
def test_the_example_in_a_docstring_runs(name: str, bench: et.Workbench, tmp_path):
    tests = examples(name)
    assert tests, f"et.{name} has no example in its docstring"
    for test in tests:
        test.globs.update({"et": et, "torch": torch, "bench": bench, "tmp": tmp_path})
        said: list[str] = []
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        failed = doctest.DocTestRunner(optionflags=flags).run(test, out=said.append).failed
        assert not failed, "".join(said)


def test_a_model_of_ones_own_goes_through_gradients_noise_and_tuning():
    bench = et.open_workbench("mdm", 3)
    network = torch.nn.Linear(263, 263)
    torch.nn.init.zeros_(network.weight)
    mine = et.Wrapped(network, lambda net, x_t, t, prompts: net(x_t), prediction="x0")
    own = bench.with_model(mine)
    assert own.digest != bench.digest and own.model.schedule is bench.model.schedule
    record = et.gradient_norms(own, [et.DRaFT(), et.EasyTune()], prompts=1, jacobians=False)
    assert record.metrics["sum_error"] < 1e-4
    assert len(et.noise_similarity(own, prompts=2).series["x_t/judge"]) == 3
    before = network.bias.detach().clone()
    run = et.tune(own, et.DRaFT(1), updates=1, batch_size=2, lr=1e-2, progress=False)
    assert torch.equal(network.bias, before), "the base is never touched"
    assert not torch.equal(run.model.denoiser.network.bias, before)
    (motion,) = run.sample(["a person walks."], seconds=1.0)
    assert motion.joints.shape == (20, 22, 3)


def test_a_model_of_another_width_is_refused(bench: et.Workbench):
    narrow = replace(bench.model, decode=lambda state, prompts: state)
    with pytest.raises(ValueError, match="features a frame"):
        bench.with_model(narrow)


def test_a_killed_tuning_goes_on_to_the_same_weights(bench: et.Workbench, tmp_path):
    given = {"updates": 4, "batch_size": 2, "progress": False}
    whole = et.tune(bench, et.EasyTune(1, "random"), **given)
    settings = TuneSettings(updates=4, batch_size=2)
    state = tmp_path / "state.safetensors"
    steps = et.tune_steps(bench, et.EasyTune(1, "random"), settings, state=state, save_every=0.0)
    next(steps), next(steps), next(steps)
    steps.close()
    assert state.exists()
    again = et.tune(bench, et.EasyTune(1, "random"), state=state, **given)
    assert again.history["reward"] == whole.history["reward"] and not state.exists()
    pairs = zip(whole.model.denoiser.parameters(), again.model.denoiser.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"updats": 3}, "updates"),
        ({"updates": 3, "seconds": 1.0}, "one budget"),
        ({"lr": 2.0}, "rate"),
        ({"accumulate": 0}, "accumulate"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_computed(bench, given, said):
    with pytest.raises(ValueError, match=said):
        et.tune(bench, et.DRaFT(1), **given)


@pytest.mark.usefixtures("types_unchecked")
def test_a_misspelt_reward_or_base_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ValueError, match="'latnt'.*'latent'"):
        et.open_workbench("mld", reward="latnt")
    with pytest.raises(ValueError, match="'latnt'.*'latent'"):
        next(et.train_reward("synthetic", tmp_path, noise="latnt"))
    with pytest.raises(ValueError, match="'mdl'.*'mld'"):
        next(train_base("mdl", "synthetic", tmp_path))
