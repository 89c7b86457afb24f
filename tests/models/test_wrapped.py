"""A network of foreign conventions, wrapped, and the slips that `misfits` names."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.finetuning.loop import copy_for_tuning
from easytune_lib.models.wrapped import Wrapped, misfits
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts, TextFeatures

FEATURES = 6


class Foreign(nn.Module):
    """Frames first, steps as fractions, a mask that is True where padded; reads all of them."""

    def __init__(self):
        super().__init__()
        self.pose, self.cond = nn.Linear(FEATURES, FEATURES), nn.Linear(5, FEATURES)
        self.drop = nn.Dropout(0.5)

    def forward(self, noisy, progress, cond, padding):
        kept = (~padding).T[..., None].float()
        mean = (noisy * kept).sum(0) / kept.sum(0).clamp(min=1)
        told = torch.sin(self.cond(cond)) + progress[:, None]
        return self.drop(0.1 * self.pose(noisy) + 0.1 * mean + told)


def call(network, x_t, t, prompts):
    return network(
        x_t.transpose(0, 1), t / 999, prompts.text.sentence, ~prompts.mask
    ).transpose(0, 1)  # fmt: skip


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Foreign().eval()


@pytest.fixture
def prompts():
    sentence = torch.randn(3, 5, generator=stream(0, "text"))
    mask = torch.ones(3, 1, dtype=torch.bool)
    text = TextFeatures(("walk", "run", "sit"), sentence, sentence[:, None], mask)
    return Prompts(text, torch.tensor([8, 4, 12]))


def wrapped(network, prompts, call=call, prediction="x0"):
    return MotionDiffusion(
        Wrapped(network, call, prediction), NoiseSchedule.cosine(), lambda state, _: state,
        lambda prompts: (prompts.frames, FEATURES), prompts.text[[0]], 4, 2.5,
    )  # fmt: skip


def test_what_is_right_is_not_complained_of(network, prompts):
    assert misfits(wrapped(network, prompts), prompts, stream(0, "check")) == []


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (lambda n, x, t, p: call(n, x, 0 * t, p), "the step is not read"),
        (
            lambda n, x, t, p: n(
                x.transpose(0, 1), t / 999, 0 * p.text.sentence, ~p.mask
            ).transpose(0, 1),
            "the caption is not read",
        ),
        (
            lambda n, x, t, p: n(
                x.transpose(0, 1), t / 999, p.text.sentence, ~p.mask & False
            ).transpose(0, 1),
            "padding is read",
        ),
        (lambda n, x, t, p: call(n, x, t, p) + x.mean(0), "batch and frames swapped"),
        (lambda n, x, t, p: call(n, x, t, p).detach(), "no gradient reaches the weights"),
    ],
)
def test_each_slip_is_named(network, prompts, slip, said):
    found = misfits(wrapped(network, prompts, slip), prompts, stream(0, "check"))
    assert any(said in line for line in found), found


def test_the_wrong_kind_of_prediction_is_named(network, prompts):
    (line,) = misfits(wrapped(network, prompts, prediction="epsilon"), prompts, stream(0, "check"))
    assert 'is prediction="x0" meant' in line


def test_training_mode_is_named_alone_since_it_hides_the_rest(network, prompts):
    (line,) = misfits(wrapped(network.train(), prompts), prompts, stream(0, "check"))
    assert "network.eval()" in line


def test_a_wrong_shape_is_one_clear_line(network, prompts):
    model = wrapped(network, prompts, lambda n, x, t, p: call(n, x, t, p).transpose(0, 1))
    with pytest.raises(ValueError, match=r"answers \(12, 3, 6\) to a state of \(3, 12, 6\)"):
        misfits(model, prompts, stream(0, "check"))


def test_prompts_that_are_all_alike_can_tell_nothing(network, prompts):
    with pytest.raises(ValueError, match="two captions and two lengths"):
        misfits(wrapped(network, prompts), prompts[[0, 0]], stream(0, "check"))


def test_a_copy_is_tuned_and_not_the_original(network, prompts):
    model = wrapped(network, prompts)
    tuned = copy_for_tuning(model)
    with torch.no_grad():
        for weight in tuned.denoiser.parameters():
            weight.add_(1.0)
    x = torch.ones(3, 12, FEATURES)
    t = torch.tensor([9, 9, 9])
    assert not torch.allclose(tuned.denoiser(x, t, prompts), model.denoiser(x, t, prompts))


def test_the_notebooks_model_is_our_mdm_under_other_names():
    """Notebook 16 renames the weights; the two must say the same of a padded batch."""
    from easytune_lib.models.mdm import MDM

    file = Path(__file__).parents[2] / "notebooks" / "their_model.py"
    spec = importlib.util.spec_from_file_location("their_model", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = MDM(FEATURES, 16, 2).eval()
        theirs = module.TheirDenoiser(FEATURES, 16, 2).eval()
    pairs = {
        "pose_in": ours.read, "pose_out": ours.write, "when": ours.time.net, "what": ours.text,
        "encoder.norm": ours.transformer.norm,
    }  # fmt: skip
    with torch.no_grad():
        theirs.where.copy_(ours.position)
        for name, part in pairs.items():
            theirs.get_submodule(name).load_state_dict(part.state_dict())
        for block, layer in zip(ours.transformer.blocks, theirs.encoder.layers, strict=True):
            for mine, yours in (
                (block.norm_attention, layer.norm1), (block.norm_ff, layer.norm2),
                (block.out, layer.self_attn.out_proj), (block.ff[0], layer.linear1),
                (block.ff[2], layer.linear2),
            ):  # fmt: skip
                yours.load_state_dict(mine.state_dict())
            layer.self_attn.in_proj_weight.copy_(block.qkv.weight)
            layer.self_attn.in_proj_bias.copy_(block.qkv.bias)
    sentence = torch.randn(2, 384, generator=stream(0, "text"))
    mask = torch.ones(2, 1, dtype=torch.bool)
    text = TextFeatures(("walk", "run"), sentence, sentence[:, None], mask)
    asked = Prompts(text, torch.tensor([8, 16]))
    x, t = torch.randn(2, 16, FEATURES, generator=stream(0, "x")), torch.tensor([3, 900])
    model = replace(wrapped(theirs, asked), no_text=text[[0]])
    said = model.denoiser(x, t, asked) * asked.mask[..., None]
    torch.testing.assert_close(said, ours(x, t, asked), atol=1e-5, rtol=1e-4)
