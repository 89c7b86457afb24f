import argparse
import os
import pickle
import random
import zipfile

import pytest
import torch
from official import FIXTURES, manifest, reference
from safetensors.torch import save_file
from torch import nn

from easytune_lib.checkpoints import fit, looks_like, read_checkpoint
from easytune_lib.metrics.judge import Judge
from easytune_lib.models.mdm import MDM
from easytune_lib.models.mld import VAE, LatentDenoiser
from easytune_lib.rewards.spm import SPM

pytestmark = pytest.mark.slow

NET = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}
OPTIMIZER = {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(2)}}, "param_groups": []}


class Evil:
    """Leaves a mark where its pickle is executed."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


class TestReading:
    @pytest.mark.parametrize(
        "content",
        [
            NET,
            {"state_dict": NET, "epoch": 3, "optimizer_states": [OPTIMIZER], "hparams": {"a": 1}},
            {"state_dict": {f"module.{k}": v for k, v in NET.items()}},
            {"model_state_dict": {f"module.{k}": v for k, v in NET.items()}},
            {"encoder": NET, "opt_encoder": OPTIMIZER, "ep": 3, "total_it": 10},
            {f"module.{k}": v for k, v in NET.items()},
        ],
    )
    @pytest.mark.parametrize("as_zip", [True, False])
    def test_wrappers_are_taken_off(self, tmp_path, content, as_zip):
        path = tmp_path / "x.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=as_zip)
        same(read_checkpoint(path), NET)
        same(read_checkpoint(str(path), trust=True), NET)

    def test_safetensors_are_read_ours_and_others(self, tmp_path):
        save_file(NET, tmp_path / "x.safetensors")
        same(read_checkpoint(tmp_path / "x.safetensors"), NET)

    def test_several_networks_keep_their_names(self, tmp_path):
        content = {"a": NET, "b": {"module.w": torch.ones(1)}, "opt_a": OPTIMIZER, "epoch": 1}
        torch.save(content, tmp_path / "x.tar")
        expected = {f"a.{k}": v for k, v in NET.items()} | {"b.w": torch.ones(1)}
        same(read_checkpoint(tmp_path / "x.tar"), expected)

    @pytest.mark.parametrize("trust", [False, True])
    def test_code_runs_only_where_it_is_trusted(self, tmp_path, trust):
        path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
        torch.save({"state_dict": NET, "callbacks": Evil(mark)}, path)
        if trust:
            same(read_checkpoint(path, trust=True), NET)
        else:
            with pytest.raises(
                ValueError, match=r"x\.ckpt holds more .*mkdir.* trust=True"
            ) as error:
                read_checkpoint(path)
            assert "\n" not in str(error.value)
        assert mark.exists() == trust

    def test_a_harmless_class_is_code_too(self, tmp_path):
        path = tmp_path / "x.ckpt"
        torch.save({"state_dict": NET, "args": argparse.Namespace(a=1)}, path)
        with pytest.raises(ValueError, match="argparse.Namespace"):
            read_checkpoint(path)
        same(read_checkpoint(path, trust=True), NET)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty"),
            (b"<!DOCTYPE html><html>", "no checkpoint: it begins with b'<!DOCTYPE html>"),
            (b"version https://git-lfs.github.com", "begins with b'version https:"),
            (pickle.dumps({"a": 1}, protocol=4), "no checkpoint"),
            (pickle.dumps({"a": 1}, protocol=2), "no checkpoint"),
        ],
    )
    def test_other_files_are_told_apart(self, tmp_path, content, said):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(ValueError, match=said) as error:
            read_checkpoint(tmp_path / "x.pt")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("content", [[1, 2], torch.ones(1), {"a": 1}, {}, {"state_dict": {}}])
    def test_without_networks_there_is_nothing_to_read(self, tmp_path, content):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match="holds no tensors"):
            read_checkpoint(tmp_path / "x.pt")

    def test_what_is_not_there_is_said(self, tmp_path):
        for name in ("absent.pt", "absent.safetensors", "."):
            with pytest.raises(ValueError, match="cannot be read|not a readable"):
                read_checkpoint(tmp_path / name)
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
            file.writestr("a", "b")
        with pytest.raises(ValueError, match="no checkpoint"):
            read_checkpoint(tmp_path / "x.pt")

    @pytest.mark.parametrize("as_zip", [True, False])
    @pytest.mark.filterwarnings("ignore")
    def test_damaged_files_fail_in_one_way_only(self, tmp_path, as_zip):
        """Cut, or with a byte changed, a file gives tensors or a ValueError of one line."""
        path = tmp_path / "x.pt"
        torch.save({"state_dict": NET}, path, _use_new_zipfile_serialization=as_zip)
        whole, rng = path.read_bytes(), random.Random(0)
        for _ in range(100):
            place = rng.randrange(len(whole))
            path.write_bytes(whole[:place])
            with pytest.raises(ValueError) as error:
                read_checkpoint(path)
            assert str(path) in str(error.value) and "\n" not in str(error.value)
            path.write_bytes(whole[:place] + bytes([rng.randrange(256)]) + whole[place + 1 :])
            try:
                read_checkpoint(path)
            except ValueError as error:
                assert str(path) in str(error)

    def test_a_cut_safetensors_file_is_named(self, tmp_path):
        path = tmp_path / "x.safetensors"
        save_file(NET, path)
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(ValueError, match=r"x\.safetensors is not a readable"):
            read_checkpoint(path)


class TestFitting:
    def test_half_precision_is_widened(self):
        net = nn.Linear(3, 2)
        fit(net, {k: v.half() for k, v in NET.items()}, "x.pt")
        assert net.weight.dtype == torch.float32 and torch.equal(net.weight, NET["weight"])

    def test_what_does_not_fit_is_counted_and_named_and_nothing_is_changed(self):
        net = nn.Linear(3, 2)
        before = net.weight.clone()
        given = {"weight": torch.ones(2, 4)} | {
            f"seqTransEncoder.{i}": torch.ones(1) for i in range(9)
        }
        with pytest.raises(ValueError) as error:
            fit(net, given, "x.pt")
        text = str(error.value)
        assert "x.pt does not fit Linear" in text and "no model known here" in text
        assert "1 missing ['bias']" in text and "9 extra ['seqTransEncoder.0'" in text
        assert "seqTransEncoder.7" not in text
        assert "1 of another shape ['weight: (2, 4) instead of (2, 3)']" in text
        assert torch.equal(net.weight, before)

    def test_a_shared_parameter_has_one_value(self):
        net = nn.ModuleDict({"a": nn.LayerNorm(2)})
        net["b"] = net["a"]
        good = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}
        good |= {k.replace("a.", "b."): v.clone() for k, v in good.items()}
        fit(net, good, "x.pt")
        with pytest.raises(ValueError, match="a.bias and b.bias are one parameter"):
            fit(net, good | {"b.bias": torch.ones(2)}, "x.pt")

    def test_a_wrong_file_says_which_model_it_is(self):
        folder = reference("motionlcm_v1")
        path = folder / "small_ckpt.pt"
        with pytest.raises(ValueError, match="does not fit Linear, it looks like MotionLCM V1"):
            fit(nn.Linear(3, 2), read_checkpoint(path), path)


LOOKS = {
    "mdm_trans_dec_bert50": "MDM (decoder)",
    "mdm_trans_enc": "MDM (encoder)",
    "mld_t5_v1": "MLD V1 (sentence-T5; EasyTune's base)",
    "mld_v0": "MLD (original, CLIP)",
    "mldpp_v2": "MLD++ (MotionLCM V2's base)",
    "motiondiffuse": "MotionDiffuse",
    "motionlcm_v1": "MotionLCM V1",
    "motionlcm_v2": "MotionLCM V2",
    "spm": "the SPM of EasyTune and ReAlign",
    "t2m_evaluator": "the T2M evaluator",
}
NAMESAKES = {
    "manifest_small_novae.json": "MLD without a VAE (original)",
    "manifest_full_decoder_with_emb.json": "MDM (decoder)",
}


class TestLooks:
    @pytest.mark.parametrize("model", LOOKS)
    def test_official_models_are_known(self, model):
        folder = reference(model)
        for path in folder.glob("manifest_*.json"):
            names = manifest(path)
            assert looks_like(names) == NAMESAKES.get(path.name, LOOKS[model]), path.name
            parts = {"vae": "the VAE of MLD", "denoiser": LOOKS[model]}
            for part, expected in parts.items() if path.name not in NAMESAKES else ():
                inside = [k.removeprefix(part + ".") for k in names if k.startswith(part + ".")]
                if inside:
                    found = looks_like(inside) or ""
                    assert found.removesuffix("++") == expected
        for path in folder.glob("small_*"):
            if path.suffix in (".pt", ".pth", ".tar"):
                assert looks_like(read_checkpoint(path)) == LOOKS[model]

    def test_all_reference_models_are_listed(self):
        if not FIXTURES.is_dir():
            pytest.skip("reference files are not here: expected ../shared/reference")
        models = {path.parent.name for path in FIXTURES.glob("*/manifest_full.json")}
        assert models == LOOKS.keys()

    def test_evaluator_inside_a_generator_does_not_confuse(self):
        names = ["denoiser.emb_proj.1.weight", "t2m_textencoder.pos_emb.weight", "vae.skel.weight"]
        assert looks_like(names) == "MLD V1 (sentence-T5; EasyTune's base)"

    @pytest.mark.parametrize(
        ("network", "name"), [(SPM, "SPM"), (VAE, "VAE"), (MDM, "MDM"), (LatentDenoiser, "MLD")]
    )
    @pytest.mark.parametrize("prefix", ["", "network."])
    def test_our_own_models_are_known(self, network, name, prefix):
        names = [prefix + key for key in network().state_dict()]
        assert looks_like(names) == f"the workbench's {name}"

    def test_our_judge_is_known(self):
        assert looks_like(Judge().state_dict()) == "the workbench's judge"

    def test_others_are_not(self):
        assert looks_like(NET) is None and looks_like([]) is None
