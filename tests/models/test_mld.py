import json

import pytest
import torch

from easytune_lib.checkpoints import fit
from easytune_lib.diffusion.rollout import sample
from easytune_lib.models.mld import VAE, GuidedDenoiser, LatentDenoiser, mld, motionlcm
from easytune_lib.seeding import stream
from easytune_lib.storage import load_tensors, save_tensors
from easytune_lib.types import Prompts, TextFeatures

VAE_SIZE = {
    "features": 6, "dim": 16, "layers": 3, "latents": 2, "latent_dim": 8, "patch": 2,
    "max_frames": 16,
}  # fmt: skip
DENOISER_SIZE = {"latents": 2, "latent_dim": 8, "dim": 16, "layers": 3, "text_dim": 5}


def text(count, seed=0):
    sentence = torch.randn(count, 5, generator=stream(seed, "text"))
    mask = torch.ones(count, 1, dtype=torch.bool)
    return TextFeatures(("walk",) * count, sentence, sentence[:, None], mask)


@pytest.fixture
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VAE(**VAE_SIZE)
    net.mean += torch.arange(6) - 2.5
    net.std *= torch.arange(1, 7) / 3
    net.scale *= 0.7
    return net.eval()


@pytest.fixture
def denoiser():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LatentDenoiser(**DENOISER_SIZE).eval()


@pytest.fixture
def prompts():
    return Prompts(text(4), torch.tensor([8, 4, 12, 2]))


@pytest.fixture
def motion(prompts):
    return torch.randn(4, 12, 6, generator=stream(0, "motion")) * prompts.mask[..., None]


def test_a_motion_alone_has_the_same_latent_in_a_padded_batch(vae, prompts, motion):
    mu, logvar = vae.encode(motion, prompts.mask)
    assert mu.shape == logvar.shape == (4, 2, 8)
    for row, frames in enumerate(prompts.lengths.tolist()):
        alone = vae.encode(motion[[row], :frames], prompts[[row]].mask)
        torch.testing.assert_close(mu[row], alone[0][0])
        torch.testing.assert_close(logvar[row], alone[1][0])


def test_a_latent_alone_decodes_to_the_same_in_a_padded_batch(vae, prompts):
    latent = torch.randn(4, 2, 8, generator=stream(0))
    together = vae.decode(latent, prompts)
    for row, frames in enumerate(prompts.lengths.tolist()):
        alone = vae.decode(latent[[row]], prompts[[row]])
        torch.testing.assert_close(together[row, :frames], alone[0])
    assert together.shape == (4, 12, 6) and not together[~prompts.mask].any()


def test_scale_divides_latents_and_changes_no_motion(vae, prompts, motion):
    """What is encoded and decoded again does not depend on it; the variance goes with it."""
    mu, logvar = vae.encode(motion, prompts.mask)
    before = vae.decode(mu, prompts)
    vae.scale *= 3
    smaller, its_logvar = vae.encode(motion, prompts.mask)
    torch.testing.assert_close(smaller, mu / 3)
    torch.testing.assert_close(its_logvar.exp(), logvar.exp() / 9)
    torch.testing.assert_close(vae.decode(smaller, prompts), before)


def test_physical_units_in_and_out(vae, prompts, motion):
    latent = torch.randn(4, 2, 8, generator=stream(0))
    mask = prompts.mask
    normalised = vae.decode_normalised(latent, mask)
    torch.testing.assert_close(vae.normalise(vae.decode(latent, prompts), mask), normalised)


def test_sample_depends_on_neither_batch_size_nor_neighbours(vae, denoiser, prompts):
    model = mld(vae, denoiser, text(1), n_steps=5, guidance=3.0)
    whole = sample(model, prompts, stream(0))
    assert torch.equal((whole != 0).any(-1), prompts.mask)
    for size in (1, 3):
        torch.testing.assert_close(sample(model, prompts, stream(0), size), whole)


def test_only_the_denoiser_can_be_tuned(vae, denoiser):
    model = mld(vae, denoiser, text(1))
    assert not any(p.requires_grad for p in vae.parameters()) and not vae.training
    assert all(p.requires_grad for p in model.denoiser.parameters())
    assert model.state_shape(Prompts(text(1), torch.tensor([4]))) == (2, 8)


def test_the_denoiser_reads_time_and_caption(denoiser, prompts):
    latent, t = torch.randn(4, 2, 8, generator=stream(0)), torch.full((4,), 500)
    plain = denoiser(latent, t, prompts)
    assert plain.shape == latent.shape
    assert not torch.allclose(denoiser(latent, t - 400, prompts), plain)
    assert not torch.allclose(denoiser(latent, t, Prompts(text(4, 1), prompts.lengths)), plain)


def test_configs_rebuild_the_same_networks(vae, denoiser, prompts, tmp_path):
    latent, t = torch.randn(4, 2, 8, generator=stream(0)), torch.full((4,), 500)
    twins = []
    for net, size in ((vae, VAE_SIZE), (denoiser, DENOISER_SIZE)):
        path = save_tensors(tmp_path / "net.safetensors", net.state_dict(), net.config)
        tensors, config = load_tensors(path)
        assert config == size == json.loads(json.dumps(net.config))
        twin = type(net)(**config).eval()
        fit(twin, tensors, path)
        twins.append(twin)
    assert torch.equal(twins[0].decode(latent, prompts), vae.decode(latent, prompts))
    assert torch.equal(twins[1](latent, t, prompts), denoiser(latent, t, prompts))


def test_motions_longer_than_it_knows_are_refused(vae):
    longest, longer = torch.ones(1, 16, dtype=torch.bool), torch.ones(1, 18, dtype=torch.bool)
    latent, _ = vae.encode(torch.zeros(1, 16, 6), longest)
    assert vae.decode_normalised(latent, longest).shape == (1, 16, 6)
    with pytest.raises(ValueError, match="motions of 18 frames, this VAE knows at most 16: cut"):
        vae.encode(torch.zeros(1, 18, 6), longer)
    with pytest.raises(ValueError, match="motions of 18 frames, this VAE knows at most 16: cut"):
        vae.decode_normalised(latent, longer)


def test_long_skips_need_an_odd_number_of_layers():
    with pytest.raises(ValueError, match="odd number of layers, got 4"):
        VAE(**VAE_SIZE | {"layers": 4})


@pytest.fixture
def guided_denoiser(denoiser):
    guided = GuidedDenoiser(guidance_dim=6, **denoiser.config)
    guided.load_state_dict(denoiser.state_dict(), strict=False)
    return guided.eval()


def test_a_guided_denoiser_begins_as_the_one_it_is_distilled_from(
    denoiser, guided_denoiser, prompts
):
    x_t, t = torch.randn(4, 2, 8, generator=stream(0)), torch.tensor([0, 19, 500, 999])
    for scale in (1.0, 5.0):
        told = guided_denoiser.guided(x_t, t, prompts, scale)
        torch.testing.assert_close(told, denoiser(x_t, t, prompts))
    torch.nn.init.ones_(guided_denoiser.strength.weight)
    one, five = (guided_denoiser.guided(x_t, t, prompts, scale) for scale in (1.0, 5.0))
    assert not torch.allclose(one, five), "a taught one hears the scale"
    torch.testing.assert_close(guided_denoiser(x_t, t, prompts), one)
    assert GuidedDenoiser(**guided_denoiser.config).config == guided_denoiser.config


@pytest.mark.parametrize("n_steps", [1, 4])
def test_a_few_steps_are_enough_for_motionlcm(vae, guided_denoiser, prompts, n_steps):
    model = motionlcm(vae, guided_denoiser, text(1), n_steps)
    assert model.times[0][0] == 999 and len(model.times) == n_steps
    motions = [sample(model, prompts, stream(3)) for _ in range(2)]
    assert torch.equal(*motions) and motions[0].shape == (4, 12, 6)
