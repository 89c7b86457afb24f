import json

import pytest
import torch

from easytune_lib.checkpoints import fit
from easytune_lib.diffusion.rollout import sample
from easytune_lib.models.mdm import MDM
from easytune_lib.seeding import stream
from easytune_lib.storage import load_tensors, save_tensors
from easytune_lib.types import Prompts, TextFeatures

SMALL = {"features": 6, "dim": 16, "layers": 2, "patch": 2, "text_dim": 5, "max_frames": 16}


def text(count, seed=0):
    sentence = torch.randn(count, 5, generator=stream(seed, "text"))
    mask = torch.ones(count, 1, dtype=torch.bool)
    return TextFeatures(("walk",) * count, sentence, sentence[:, None], mask)


@pytest.fixture
def mdm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MDM(**SMALL)
    net.mean += torch.arange(6) - 2.5
    net.std *= torch.arange(1, 7) / 3
    return net.eval()


@pytest.fixture
def prompts():
    return Prompts(text(4), torch.tensor([8, 4, 12, 2]))


@pytest.fixture
def motion(prompts):
    return torch.randn(4, 12, 6, generator=stream(0, "motion")) * prompts.mask[..., None]


def test_a_motion_alone_is_the_same_in_a_padded_batch(mdm, prompts, motion):
    t = torch.tensor([999, 500, 20, 1])
    together = mdm(motion, t, prompts)
    noise_in_padding = motion + 7.0 * ~prompts.mask[..., None]
    torch.testing.assert_close(mdm(noise_in_padding, t, prompts), together)
    for row, frames in enumerate(prompts.lengths.tolist()):
        alone = mdm(motion[[row], :frames], t[[row]], prompts[[row]])
        torch.testing.assert_close(together[row, :frames], alone[0])


def test_reads_time_and_caption(mdm, prompts, motion):
    t = torch.full((4,), 500)
    plain = mdm(motion, t, prompts)
    assert not torch.allclose(mdm(motion, t - 400, prompts), plain)
    other = Prompts(text(4, seed=1), prompts.lengths)
    assert not torch.allclose(mdm(motion, t, other), plain)


def test_decode_undoes_normalise_and_is_zero_in_padding(mdm, prompts, motion):
    state = mdm.normalise(motion, prompts)
    torch.testing.assert_close(mdm.decode(state, prompts), motion)
    padding = ~prompts.mask
    assert not mdm.decode(torch.ones_like(motion), prompts)[padding].any()
    assert not mdm.normalise(torch.ones_like(motion), prompts)[padding].any()
    assert not mdm(torch.ones_like(motion), torch.full((4,), 3), prompts)[padding].any()


def test_state_is_the_longest_motion_of_the_batch(mdm, prompts):
    model = mdm.diffusion(text(1))
    assert model.draw_noise(prompts, stream(0)).shape == (4, 12, 6)
    assert model.draw_noise(prompts[[1, 3]], stream(0)).shape == (2, 4, 6)


def test_sample_depends_on_neither_batch_size_nor_neighbours(mdm, prompts):
    model = mdm.diffusion(text(1), n_steps=5)
    whole = sample(model, prompts, stream(0))
    assert torch.equal((whole != 0).any(-1), prompts.mask)
    for size in (1, 3):
        torch.testing.assert_close(sample(model, prompts, stream(0), size), whole)


def test_config_rebuilds_the_same_network(mdm, prompts, motion, tmp_path):
    path = save_tensors(tmp_path / "mdm.safetensors", mdm.state_dict(), mdm.config)
    tensors, config = load_tensors(path)
    assert config == SMALL == json.loads(json.dumps(mdm.config))
    twin = MDM(**config).eval()
    fit(twin, tensors, path)
    t = torch.full((4,), 500)
    assert torch.equal(twin(motion, t, prompts), mdm(motion, t, prompts))
    assert torch.equal(twin.mean, mdm.mean)


def test_a_motion_longer_than_it_knows_is_refused(mdm):
    t = torch.tensor([1])
    assert mdm(torch.zeros(1, 16, 6), t, Prompts(text(1), torch.tensor([16]))).shape[1] == 16
    with pytest.raises(ValueError, match="motions of 18 frames, this MDM makes at most 16: ask"):
        mdm(torch.zeros(1, 18, 6), t, Prompts(text(1), torch.tensor([18])))


def test_a_motion_that_is_no_whole_number_of_tokens_is_refused(mdm):
    with pytest.raises(ValueError, match="7 frames do not divide into tokens of 2"):
        mdm(torch.zeros(1, 7, 6), torch.tensor([1]), Prompts(text(1), torch.tensor([7])))
