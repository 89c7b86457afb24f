"""Two processes, or three, compute what one does with the joined batch.

Run as a script by ``torchrun``, this file is one of them: it writes what it came to into the
folder it is given.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_world import StubEncoder, tiny_corpus, words
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toy import reward, toy

from easytune_lib import distributed
from easytune_lib.app.cli import main
from easytune_lib.data.corpus import FeatureStats, draw_balanced
from easytune_lib.diffusion.sampler import DDIM
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.finetuning.anchor import Anchor
from easytune_lib.finetuning.loop import Batch, copy_for_tuning, finetune
from easytune_lib.finetuning.methods import DRaFT, DRTune, EasyTune, ReFL
from easytune_lib.finetuning.two_phase import TwoPhase
from easytune_lib.metrics.judge import Judge, judge_objective
from easytune_lib.models.mdm import MDM
from easytune_lib.models.mld import VAE, GuidedDenoiser
from easytune_lib.models.objectives import consistency_loss, denoising_loss, vae_loss
from easytune_lib.records import RunRecord
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.losses import spm_objective
from easytune_lib.rewards.spl import SPL, official_spl_objective, spl_objective
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.storage import alone, load_tensors
from easytune_lib.training import Objective, TrainingPlan, train
from easytune_lib.types import Prompts

ROOT = Path(__file__).parents[1]
BATCH = 7  # no multiple of two or three


def _fresh(build: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build()
    if "mean" in dict(network.named_buffers()):
        stats = FeatureStats.from_clips(tiny_corpus().clips, tiny_corpus().skeleton)
        network.get_buffer("mean").copy_(stats.mean)
        network.get_buffer("std").copy_(stats.std)
    return network


def _objectives() -> Iterator[tuple[str, nn.Module, Objective]]:
    """Every loss that a base model, a reward or a judge is trained on, small."""
    clips, encode = tiny_corpus().clips, StubEncoder().encode
    no_text, draw = encode([""]), draw_balanced(tiny_corpus().clips, BATCH, 40)

    def drawn(rng):
        batch = draw(rng)
        return batch.features, Prompts(encode(batch.texts), batch.lengths)

    mdm = _fresh(lambda: MDM(dim=16, layers=1))

    def denoise(rng):
        motion, asked = drawn(rng)
        x0 = mdm.normalise(motion, asked)
        return denoising_loss(mdm, NoiseSchedule.cosine(), x0, asked, no_text, rng, even=True), {}

    yield "denoising", mdm, denoise
    vae = _fresh(lambda: VAE(dim=16, latent_dim=8))
    yield "vae", vae, lambda rng: vae_loss(vae, *drawn(rng), rng)
    student, teacher = (_fresh(lambda: GuidedDenoiser(latent_dim=8, dim=16)) for _ in range(2))

    def distil(rng):
        asked, x0 = drawn(rng)[1], torch.randn(BATCH, 1, 8, generator=rng)
        schedule = NoiseSchedule.scaled_linear()
        return consistency_loss(student, teacher, schedule, x0, asked, no_text, rng), {}

    yield "consistency", student, distil

    def spm():
        return _fresh(lambda: SPM(dim=16, layers=2, latent=8, dropout=0.2))

    model = spm()
    yield "reward", model, spm_objective(model, clips, encode, batch_size=BATCH)
    model = spm()
    spl = SPL(top_k=1, weight=1.0, pool=20)
    yield "spl", model, spl_objective(model, clips, encode, spl, batch_size=BATCH)
    model = spm()
    yield "spl, released", model, official_spl_objective(model, clips, encode, batch_size=BATCH)
    judge = _fresh(lambda: Judge(embedding=4, width=8, dropout=0.2, words=words))
    yield "judge", judge, judge_objective(judge, clips, BATCH)


def _gradients() -> Iterator[tuple[str, Tensor]]:
    for name, network, objective in _objectives():
        network.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss, _ = objective(stream(0, name))
        loss.backward()
        distributed.average_gradients(network.parameters())
        yield f"{name}: loss", loss.detach()[None]
        given = [p.grad for p in network.parameters() if p.grad is not None]
        yield f"{name}: gradient", parameters_to_vector(given)


def _trained() -> Iterator[tuple[str, Tensor]]:
    """Weights after some updates, where batches are accumulated; in float64, as Adam divides."""
    clips, encode = tiny_corpus().clips, StubEncoder().encode
    for precision in ("float32", "bf16"):
        model = _fresh(lambda: SPM(dim=16, layers=1, latent=8, dropout=0.2))
        objective = spm_objective(model, clips, encode, batch_size=BATCH, precision=precision)
        if precision == "float32":
            model.double()
        plan = TrainingPlan("spm", 3, 1e-3, warmup=1, accumulate=2, precision=precision)
        steps = list(train(model, objective, plan))
        yield (
            f"trained in {precision}: seen",
            torch.tensor([(s.loss, s.grad_norm, s.parts["kl"]) for s in steps]).flatten(),
        )
        yield f"trained in {precision}: weights", parameters_to_vector(model.parameters())


def _tuned() -> Iterator[tuple[str, Tensor]]:
    """Weights and what was seen after the updates of three batches, of every kind of method."""
    methods = {
        "EasyTune": EasyTune(4),
        "EasyTune, chain": EasyTune(3, updates="chain"),
        "DRaFT": DRaFT(3),
        "DRTune": DRTune(3, 2),
        "ReFL": ReFL(3),
    }
    for name, method in methods.items():
        base, _, prompts = toy(n_steps=6)
        model = replace(copy_for_tuning(base), sampler=DDIM(eta=1.0))
        optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=0.1)
        average = AveragedModel(model.denoiser, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        given = (
            Batch(i, model.draw_noise(prompts, rng).double(), prompts, rng)
            for i, rng in enumerate(stream(0, "batch", i) for i in range(4))
        )
        seen = []
        for update in finetune(
            model, reward, given, method, optimizer, max_norm=10.0, anchor=Anchor(base, 0.1),
            accumulate=2, pretraining=partial(_far, model.denoiser), scorer=TwoPhase(1),
        ):  # fmt: skip
            average.update_parameters(model.denoiser)
            seen.append((update.reward, update.grad_norm, update.drift))
        yield f"{name}: seen", torch.tensor(seen, dtype=torch.float64).flatten()
        yield f"{name}: weights", parameters_to_vector(average.parameters())


def _far(net: nn.Module, rng: torch.Generator) -> Tensor:
    """A loss that knows nothing of processes."""
    return torch.rand((), generator=rng) * torch.stack([w.norm() for w in net.parameters()]).sum()


@cache
def _all() -> dict[str, Tensor]:
    return dict([*_gradients(), *_trained(), *_tuned()])


def torchrun(count: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Start so many processes and wait for all."""
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         f"--nproc-per-node={count}", *command],
        env=os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_and_weights_are_those_of_the_joined_batch(count, tmp_path):
    ended = torchrun(count, __file__, "compute", str(tmp_path))
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    assert [said.pop("who") for said in found] == [(rank, count) for rank in range(count)]
    alone = _all()
    for name, expected in alone.items():
        for said in found[1:]:
            assert torch.equal(said[name], found[0][name]), f"{name}: processes differ"
        apart = (found[0][name] - expected).abs().max() / expected.abs().max()
        assert apart < (2e-2 if "bf16" in name else 1e-6), f"{name}: {apart:.1e}"
    assert all(said.keys() == alone.keys() for said in found)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "is silent"])
def test_a_process_that_fails_or_is_silent_does_not_hang_the_others(how, tmp_path):
    began = time.monotonic()
    ended = torchrun(2, __file__, how, str(tmp_path))
    assert ended.returncode != 0 and time.monotonic() - began < 100
    expected = "a bad clip" if how == "fails" else "process 0 waited in vain for another one"
    assert expected in ended.stderr


@pytest.mark.slow
def test_the_command_trains_the_same_network_with_two_processes(tmp_path):
    """A VAE, and then what needs its file; one process writes and speaks."""
    command = ["train", "base", "--base", "mld", "--steps", "1", "--accumulate", "2", "--out"]
    ended = torchrun(2, "-m", "easytune_lib", *command, str(tmp_path / "two"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("mld: reading data and captions") == 1
    assert main([*command, str(tmp_path / "one")]) == 0
    about = json.loads((tmp_path / "two" / "mld.json").read_text())
    assert about["machine"]["processes"] == 2
    for name in ("vae", "mld"):
        one, two = (
            load_tensors(tmp_path / count / "training" / f"{name}.safetensors")[0]
            for count in ("one", "two")
        )
        assert one.keys() == two.keys()
        for key in (key for key in one if key.startswith("network.")):
            torch.testing.assert_close(one[key], two[key], atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_the_command_tunes_the_same_model_with_two_processes(tmp_path):
    command = [
        "tune", "--updates", "2", "--batch-size", "5", "--n-steps", "3",
        "--method", "EasyTune (random step)", "--out",
    ]  # fmt: skip
    ended = torchrun(2, "-m", "easytune_lib", *command, str(tmp_path / "two"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("Tuned weights and record") == 1
    assert main([*command, str(tmp_path / "one")]) == 0
    (one,), (two,) = (list((tmp_path / n).glob("finetune-*")) for n in ("one", "two"))
    assert one.name == two.name
    one, two = (RunRecord.load(each) for each in (one, two))
    assert two.series["reward"] == pytest.approx(one.series["reward"], rel=1e-5)
    assert two.series["grad_norm"] == pytest.approx(one.series["grad_norm"], rel=1e-4)


def test_a_method_that_there_is_not_is_refused_by_name(capsys, tmp_path):
    assert main(["tune", "--method", "Easy", "--out", str(tmp_path)]) == 2
    assert "--method is one of EasyTune, " in capsys.readouterr().err


def test_one_folder_is_for_one_training(capsys, tmp_path):
    with alone(tmp_path / "training"):
        assert main(["train", "reward", "--out", str(tmp_path)]) == 2
    assert "another training is at work in" in capsys.readouterr().err


def test_what_goes_to_a_device_goes_whole():
    model, *_ = toy()
    vae = VAE(dim=16, latent_dim=8).requires_grad_(False)
    moved = replace(model, decode=vae.decode).to("meta")
    parts = moved.denoiser, moved.decode.__self__  # pyright: ignore[reportFunctionMemberAccess]
    assert {w.device.type for part in parts for w in part.state_dict().values()} == {"meta"}
    assert moved.no_text.sentence.is_meta and not vae.mean.is_meta
    mdm = MDM(dim=16, layers=1).diffusion(StubEncoder().encode([""])).to("meta")
    assert mdm.decode.__self__ is mdm.denoiser  # pyright: ignore[reportFunctionMemberAccess]
    reward = AlignmentReward(SPM(dim=16, layers=1)).to("meta")
    assert all(weight.is_meta for weight in reward.model.parameters())


def test_alone_nothing_changes():
    x = torch.randn(3, 2, requires_grad=True)
    assert (distributed.size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.share(3) == (slice(0, 3), 1.0)
    assert torch.equal(distributed.by_rows(lambda x: 2 * x, x), 2 * x)
    assert distributed.broadcast_float(0.1) == 0.1 and distributed.average(x) is x


def test_shares_cover_the_batch_and_weigh_as_they_are_long(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(7))
    assert [row for rows, _ in shares for row in range(7)[rows]] == list(range(7))
    assert all(w == pytest.approx(3 * len(range(7)[rows]) / 7) for rows, w in shares)
    with pytest.raises(ValueError, match="a batch of 2 for 3 processes"):
        distributed.share(2)


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    with distributed.together(timedelta(seconds=5 if what == "is silent" else 120)):
        if what == "compute":
            who = distributed.rank(), distributed.size()
            torch.save({**_all(), "who": who}, Path(folder) / f"{who[0]}.pt")
        elif distributed.rank() == 1:
            if what == "fails":
                raise ValueError("a bad clip")
            time.sleep(200)
        else:
            distributed.wait_for_all()
