"""Files as people have them: wrapped, averaged, with strangers inside, or broken."""

import argparse
import json

import numpy as np
import pytest
import torch
from backbones import made_up, no_text, rng
from official import reference
from torch import nn

from easytune_lib.app.cli import main
from easytune_lib.data.corpus import FeatureStats
from easytune_lib.diffusion.rollout import sample
from easytune_lib.extras.official.mdm import OfficialMDM
from easytune_lib.extras.official.mld import MotionDenoiser, OfficialMLD
from easytune_lib.extras.official.motionlcm import MotionLCM
from easytune_lib.extras.official.open import (
    KINDS,
    convert_checkpoint,
    inspect_checkpoint,
    open_checkpoint,
)
from easytune_lib.models.motiondiffuse import MotionDiffuse

pytestmark = pytest.mark.slow

MEAN, STD = [0.5] * 263, [2.0] * 263
STATS = FeatureStats(torch.tensor(MEAN), torch.tensor(STD))
SMALL = {"dim": 16, "vae": {"layers": 3, "ff": 12}}
DENOISER = {"layers": 3, "ff": 12, "text_dim": 9, "time_dim": 14}


def mld(kind=OfficialMLD, latents=1, latent_dim=None, **denoiser):
    return kind(
        MEAN, STD, latents, latent_dim, **SMALL, denoiser=DENOISER | denoiser
    )  # fmt: skip


def mdm(**options) -> OfficialMDM:
    return OfficialMDM(MEAN, STD, dim=16, layers=2, ff=12, **{"text_dim": 512} | options)


MODELS = {
    "MotionLCM V2": lambda: mld(MotionLCM, 4, 6, guidance_dim=10),
    "MotionLCM V1": lambda: mld(MotionLCM, guidance_dim=10),
    "MLD++ (MotionLCM V2's base)": lambda: mld(OfficialMLD, 4, 6),
    "MLD without a VAE (original)": lambda: MotionDenoiser(MEAN, STD, dim=16, **DENOISER),
    "MLD (original, CLIP)": mld,
    "MLD V1 (sentence-T5; EasyTune's base)": mld,
    "MDM (encoder)": mdm,
    "MDM (decoder)": lambda: mdm(arch="trans_dec", words=True, mask_frames=True, text_dim=768),
    "MotionDiffuse": lambda: MotionDiffuse(
        MEAN, STD, dim=16, layers=2, ff=12, text_dim=8, text_layers=1, text_ff=12, clip_dim=9
    ),
}


def as_published(name: str) -> dict[str, torch.Tensor]:
    """Weights with all that an official file has besides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = MODELS[name]().state_dict()
    extra = torch.ones(3)
    if name == "MLD without a VAE (original)":
        tensors = {f"denoiser.{k}": v for k, v in tensors.items()}
    if "(original" in name:
        tensors["denoiser.mem_pos.pe"] = torch.ones(500, 1, 16)
    if name.startswith("MDM"):
        pe = torch.ones(50, 1, 16)
        tensors |= {"sequence_pos_encoder.pe": pe, "embed_timestep.sequence_pos_encoder.pe": pe}
        tensors["clip_model.visual.proj"] = extra
    elif name == "MotionDiffuse":
        tensors["clip.visual.proj"] = extra
    else:
        tensors |= {"t2m_textencoder.hidden": extra, "text_encoder.a": extra, "controlnet.b": extra}
    return tensors


def wrapped(name: str) -> dict:
    tensors = as_published(name)
    if name.startswith("MLD"):
        return {"state_dict": tensors, "epoch": 3, "pytorch-lightning_version": "1.8.6"}
    if name == "MotionDiffuse":
        return {"encoder": {f"module.{k}": v for k, v in tensors.items()}, "ep": 1, "total_it": 2}
    if name == "MDM (decoder)":
        return {"model": tensors, "model_avg": {k: v + 1 for k, v in tensors.items()}}
    return tensors


@pytest.fixture(params=MODELS)
def published(request, tmp_path):
    path = tmp_path / "downloaded.pt"
    torch.save(wrapped(request.param), path)
    return request.param, path


def words_of(name: str) -> int:
    return {"MDM (encoder)": 512, "MDM (decoder)": 768}.get(name, 9)


class TestEveryModel:
    def test_is_named_and_nothing_is_missing(self, published):
        name, path = published
        found = inspect_checkpoint(path)
        assert (found.model, found.features, found.missing) == (name, 263, ())
        text = str(found)
        assert text.startswith(f"{path}: {name}\n") and "MISSING" not in text
        assert "features 263" in text and "dim 16" in text and "Mean.npy and Std.npy" in text
        known = {"MDM (decoder)": "model_avg is in it too", "MotionDiffuse": "8 are assumed"}
        assert known.get(name, "4 are assumed") in text

    def test_opens_and_samples(self, published):
        name, path = published
        network = open_checkpoint(path, STATS)
        assert not network.training and type(network) is KINDS[name][0]
        width = words_of(name)
        model = network.diffusion(no_text(width), n_steps=2)
        motion = sample(model, made_up(width, [8, 12]), rng())
        assert motion.shape == (2, 12, 263) and motion.isfinite().all()

    def test_comes_back_from_its_conversion(self, published, tmp_path):
        name, path = published
        out = convert_checkpoint(path, tmp_path / "new" / "x.safetensors", STATS)
        first, again = open_checkpoint(path, STATS), open_checkpoint(out)
        assert first.config == again.config
        for key, tensor in first.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[key])
        assert inspect_checkpoint(out).model == name
        assert json.loads(out.with_suffix(".json").read_text())["model"] == name
        bare = convert_checkpoint(path, tmp_path / "bare.safetensors")
        with pytest.raises(ValueError, match="mean and std of its features are not known"):
            open_checkpoint(bare)
        assert open_checkpoint(bare, STATS).config == first.config

    def test_what_is_missing_is_named(self, published, tmp_path):
        name, path = published
        tensors = as_published(name)
        gone = next(k for k in tensors if k.endswith("linear2.weight"))
        torch.save({k: v for k, v in tensors.items() if k != gone}, path)
        found = inspect_checkpoint(path)
        assert len(found.missing) == 1 and gone.endswith(found.missing[0])
        with pytest.raises(ValueError, match=r"(1 missing|lacks)[^\n]*linear2.weight") as error:
            open_checkpoint(path, STATS)
        assert "\n" not in str(error.value)

    def test_statistics_of_another_data_set_are_refused(self, published):
        _, path = published
        kit = FeatureStats(torch.zeros(251), torch.ones(251))
        with pytest.raises(ValueError, match="is of 263 features, the statistics are of 251"):
            open_checkpoint(path, kit)


class TestStatistics:
    def save(self, folder, names):
        folder.mkdir(exist_ok=True, parents=True)
        for name, values in zip(names, (MEAN, STD), strict=True):
            np.save(folder / name, np.array(values))

    @pytest.mark.parametrize(
        ("folder", "names"),
        [
            (".", ("Mean.npy", "Std.npy")),
            (".", ("mean.npy", "std.npy")),
            ("meta", ("mean.npy", "std.npy")),
            ("../meta", ("mean.npy", "std.npy")),
        ],
    )
    def test_are_found_beside(self, tmp_path, folder, names):
        path = tmp_path / "model" / "latest.tar"
        path.parent.mkdir()
        torch.save(wrapped("MotionDiffuse"), path)
        with pytest.raises(ValueError, match="mean and std of its features are not known"):
            open_checkpoint(path)
        self.save(path.parent / folder, names)
        network = open_checkpoint(path)
        assert network.mean.tolist() == MEAN and network.std.tolist() == STD
        assert not any("mean" in row for row in inspect_checkpoint(path).needed)

    @pytest.mark.parametrize("std", [np.zeros(263), np.ones(3), np.array("a")])
    def test_that_cannot_be_are_refused(self, tmp_path, std):
        torch.save(wrapped("MotionDiffuse"), tmp_path / "x.tar")
        np.save(tmp_path / "mean.npy", np.array(MEAN))
        np.save(tmp_path / "std.npy", std)
        with pytest.raises(ValueError, match="std.npy"):
            open_checkpoint(tmp_path / "x.tar")


class TestMDM:
    def test_arguments_beside_it_are_read(self, tmp_path):
        path, args = tmp_path / "model000000000.pt", tmp_path / "args.json"
        torch.save(wrapped("MDM (decoder)"), path)
        assert any("50 steps are assumed" in note for note in inspect_checkpoint(path).notes)
        args.write_text(json.dumps({
            "diffusion_steps": 100, "mask_frames": False, "emb_trans_dec": True,
            "text_encoder_type": "bert", "use_ema": True, "noise_schedule": "cosine",
        }))  # fmt: skip
        network = open_checkpoint(path, STATS)
        assert (network.diffusion_steps, network.mask_frames, network.leads) == (100, False, True)
        assert not any("assumed" in n and "steps" in n for n in inspect_checkpoint(path).notes)
        plain = open_checkpoint(path, STATS, average=False).embed_text.bias
        torch.testing.assert_close(network.embed_text.bias, plain + 1)
        args.write_text('{"noise_schedule": "linear"}')
        with pytest.raises(ValueError, match="asks for the noise schedule 'linear'"):
            open_checkpoint(path, STATS)
        for broken in ("{", "[1]"):
            args.write_text(broken)
            with pytest.raises(ValueError, match=r"args.json (is no JSON|holds a list)"):
                open_checkpoint(path, STATS)

    def test_averages_are_taken_where_asked_for(self, tmp_path):
        path = tmp_path / "x.pt"
        torch.save(wrapped("MDM (decoder)"), path)
        plain, mean = (
            open_checkpoint(path, STATS, average=a).embed_text.bias for a in (None, True)
        )
        torch.testing.assert_close(mean, plain + 1)
        torch.save(wrapped("MDM (encoder)"), path)
        with pytest.raises(ValueError, match="holds no averaged weights"):
            open_checkpoint(path, STATS, average=True)


class TestRefusals:
    def test_code_needs_trust(self, tmp_path):
        path = tmp_path / "x.ckpt"
        content = wrapped("MLD (original, CLIP)") | {"hyper_parameters": argparse.Namespace(a=1)}
        torch.save(content, path)
        for do in (inspect_checkpoint, lambda *a, **k: open_checkpoint(*a, stats=STATS, **k)):
            with pytest.raises(ValueError, match="argparse.Namespace.*trust=True"):
                do(path)
            do(path, trust=True)

    def test_a_stranger_in_the_weights_is_one(self, tmp_path):
        torch.save(as_published("MDM (encoder)") | {"surplus": torch.ones(1)}, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=r"1 extra \['surplus'\]"):
            open_checkpoint(tmp_path / "x.pt", STATS)

    def test_a_denoiser_alone_lacks_its_vae(self, tmp_path):
        tensors = as_published("MotionLCM V1")
        torch.save({k: v for k, v in tensors.items() if k[:4] != "vae."}, tmp_path / "x.pt")
        assert inspect_checkpoint(tmp_path / "x.pt").missing
        with pytest.raises(ValueError, match="holds MotionLCM V1, but lacks"):
            open_checkpoint(tmp_path / "x.pt", STATS)

    def test_other_files_say_what_they_are(self, tmp_path):
        torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "x.pt")
        with pytest.raises(ValueError, match=r"2 tensors \(bias, weight \.\.\) of no model known"):
            inspect_checkpoint(tmp_path / "x.pt")
        path = reference("t2m_evaluator") / "small_finest.tar"
        assert "T2MEvaluator.official reads it" in str(inspect_checkpoint(path))
        with pytest.raises(ValueError, match="holds the T2M evaluator: a judge"):
            open_checkpoint(path)

    def test_unknown_options_are_named(self, tmp_path):
        torch.save(wrapped("MDM (encoder)"), tmp_path / "x.pt")
        with pytest.raises(ValueError, match="unexpected keyword argument 'head'"):
            open_checkpoint(tmp_path / "x.pt", STATS, head=2)

    def test_cut_files_give_one_line(self, tmp_path):
        path, whole = tmp_path / "x.pt", tmp_path / "whole.pt"
        torch.save(wrapped("MDM (encoder)"), whole)
        content = whole.read_bytes()
        for size in (0, 10, len(content) // 2, len(content) - 9):
            path.write_bytes(content[:size])
            with pytest.raises(ValueError, match=r"x\.pt") as error:
                inspect_checkpoint(path)
            assert "\n" not in str(error.value)
        out = convert_checkpoint(whole, tmp_path / "y.safetensors", STATS)
        out.write_bytes(out.read_bytes()[:-5])
        with pytest.raises(ValueError, match="not a readable safetensors"):
            inspect_checkpoint(out)
        with pytest.raises(ValueError, match=r"y\.pt should end in \.safetensors"):
            convert_checkpoint(whole, tmp_path / "y.pt")


class TestCommands:
    def test_inspect_and_convert(self, tmp_path, capsys):
        path, out = str(tmp_path / "x.pt"), str(tmp_path / "y.safetensors")
        torch.save(wrapped("MotionDiffuse"), path)
        np.save(tmp_path / "Mean.npy", np.array(MEAN))
        np.save(tmp_path / "Std.npy", np.array(STD))
        assert main(["checkpoint", "inspect", path]) == 0
        assert "MotionDiffuse" in capsys.readouterr().out
        stats = ["--stats", str(tmp_path), "--heads", "4"]
        assert main(["checkpoint", "convert", path, out, *stats]) == 0
        assert capsys.readouterr().out.strip() == out
        assert open_checkpoint(out).config["heads"] == 4

    def test_broken_files_are_one_line_and_2(self, tmp_path, capsys):
        (tmp_path / "x.pt").write_bytes(b"<html>")
        assert main(["checkpoint", "inspect", str(tmp_path / "x.pt")]) == 2
        assert main(["checkpoint", "inspect", str(tmp_path / "absent.pt")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)

    def test_missing_weights_are_1(self, tmp_path, capsys):
        tensors = as_published("MDM (encoder)")
        del tensors["embed_text.bias"]
        torch.save(tensors, tmp_path / "x.pt")
        assert main(["checkpoint", "inspect", str(tmp_path / "x.pt")]) == 1
        assert "MISSING: embed_text.bias" in capsys.readouterr().out
