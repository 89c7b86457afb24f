import pytest
import torch
from torch.nn import functional as F

from easytune_lib.checkpoints import fit
from easytune_lib.rewards.spm import SPM
from easytune_lib.storage import load_tensors, save_tensors


def test_units_are_physical_inside_out(spm, batch):
    model = spm()
    x = model.normalise(batch.features, batch.mask)
    assert x[batch.mask].mean().abs() < 0.1
    assert x[batch.mask].std() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(model.denormalise(x, batch.mask), batch.features)
    assert (x[~batch.mask] == 0).all()


def test_padding_changes_nothing_and_has_no_gradient(spm, batch, features):
    model = spm()
    short = int(batch.lengths.argmin())
    length = int(batch.lengths[short])
    alone = model.encode_motion(batch.features[[short], :length], batch.mask[[short], :length])
    with_junk = batch.features.masked_fill(~batch.mask[..., None], 7.0).requires_grad_()
    padded = model.encode_motion(with_junk, batch.mask)
    for one, many in zip(alone, padded, strict=True):
        torch.testing.assert_close(one[0], many[short])
    padded[0].sum().backward()
    assert with_junk.grad is not None
    assert (with_junk.grad[~batch.mask] == 0).all()
    text = features(batch.texts)
    three = int(text.token_mask.sum(1).argmin())
    one = model.encode_text(text[[three]])[0]
    text.tokens[~text.token_mask] = 7.0
    torch.testing.assert_close(model.encode_text(text)[0][three], one[0])


def test_time_matters_with_a_time_token_only(spm, batch):
    t = torch.full((len(batch),), 300)
    for token, matters in (("motion", True), ("none", False)):
        model = spm(time_token=token)
        clean = model.encode_motion(batch.features, batch.mask)[0]
        noised = model.encode_motion(batch.features, batch.mask, t)[0]
        assert torch.equal(clean, noised) != matters
        assert torch.equal(clean, model.encode_motion(batch.features, batch.mask, 0 * t)[0])


def test_decoded_motion_has_the_length_asked_for(spm, batch):
    model = spm()
    z = torch.randn(len(batch), 8, generator=torch.Generator().manual_seed(0))
    motion = model.decode(z, batch.mask)
    assert motion.shape == batch.features.shape
    assert (motion[~batch.mask] == 0).all()
    assert (motion[batch.mask].std(0) > 0).all()


def test_wrong_use_is_said(spm, batch):
    model = spm()
    long = F.pad(batch.features, (0, 0, 0, 4))
    with pytest.raises(ValueError, match="36 frames, this model reads at most 32"):
        model.encode_motion(long, F.pad(batch.mask, (0, 4)))
    with pytest.raises(ValueError, match="tokens of 4"):
        model.encode_motion(batch.features[:, :30], batch.mask[:, :30])
    with pytest.raises(Exception, match="time_token"):  # the type checker may be first
        spm(time_token="text")


def test_a_file_brings_the_same_model_back(spm, batch, tmp_path):
    model = spm(time_token="none")
    save_tensors(tmp_path / "spm.safetensors", model.state_dict(), model.config)
    tensors, config = load_tensors(tmp_path / "spm.safetensors")
    again = SPM(**config)
    fit(again, tensors, "spm")
    for a, b in zip(
        model.encode_motion(batch.features, batch.mask),
        again.encode_motion(batch.features, batch.mask),
        strict=True,
    ):
        assert torch.equal(a, b)
