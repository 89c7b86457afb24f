"""MLD, MLD++ and MLD without a VAE, against what the published classes put out."""

import pytest
import torch
from backbones import (
    CLOSE,
    TRACE,
    built,
    check_adapters,
    check_neighbours,
    check_tuning,
    given,
    made_up,
    no_text,
    rng,
    shapes,
)  # fmt: skip
from official import arrays, fill, manifest, reference

from easytune_lib.checkpoints import fit, read_checkpoint
from easytune_lib.diffusion.rollout import rollout
from easytune_lib.extras.official.mld import MotionDenoiser, OfficialMLD
from easytune_lib.models.objectives import vae_loss
from easytune_lib.plan import GradientPlan

pytestmark = pytest.mark.slow

PLAIN = [0.0] * 263, [1.0] * 263
MODELS = ("mld_v0", "mld_t5_v1", "mldpp_v2")
UNREAD = {"denoiser.mem_pos.pe"}


def load(model: str) -> OfficialMLD:
    path = reference(model) / "small_ckpt.pt"
    tensors = {k: v for k, v in read_checkpoint(path).items() if k not in UNREAD}
    network = OfficialMLD(*PLAIN, **OfficialMLD.sizes({k: v.shape for k, v in tensors.items()}))
    fit(network, tensors, path)
    return network.eval()


def tiny(latents=1, latent_dim=None) -> OfficialMLD:
    """Another size than the reference, in units that are not normalised."""
    mean, std = [0.5] * 7, [2.0] * 7
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OfficialMLD(
            mean, std, latents, latent_dim, dim=16, heads=2, vae={"layers": 5, "ff": 12},
            denoiser={"layers": 3, "ff": 20, "text_dim": 9, "time_dim": 14},
        ).eval()  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
class TestParity:
    @torch.no_grad()
    def test_denoiser(self, model):
        io = arrays(reference(model) / "small_io.npz")
        prompts = given(io["text"][:, 0], io["lengths"])
        out = load(model).denoiser(io["sample"], io["timestep"], prompts)
        torch.testing.assert_close(out, io["denoiser_out"], **CLOSE)

    @torch.no_grad()
    def test_vae(self, model):
        io, vae = arrays(reference(model) / "small_io.npz"), load(model).vae
        prompts = given(io["text"][:, 0], io["lengths"])
        mu, logvar = vae.encode(io["motion"], prompts.mask)
        torch.testing.assert_close(mu.transpose(0, 1), io["enc_mu"], **CLOSE)
        torch.testing.assert_close((logvar / 2).exp().transpose(0, 1), io["enc_std"], **CLOSE)
        z = io["z"] if len(io["z"]) == 2 else io["z"].transpose(0, 1)
        torch.testing.assert_close(vae.decode(z, prompts), io["decoded"], **CLOSE)

    def test_keys_and_shapes(self, model):
        for size in ("small", "full"):
            path = reference(model) / f"manifest_{size}.json"
            expected = {k: v for k, v in manifest(path).items() if k not in UNREAD}
            assert shapes(built(OfficialMLD, path)) == expected


@torch.no_grad()
def test_fifty_steps():
    """Both readings of each step, guidance and DDIM, against the published sampler's states."""
    trace = arrays(reference("mld_t5_v1") / "sampler_trace.npz")
    conditional, unconditional = trace["steps50_text"][:, 0].chunk(2)
    prompts = given(conditional, torch.tensor([40, 60]))
    model = load("mld_t5_v1").diffusion(given(unconditional[:1], torch.tensor([40])).text)
    assert [now for now, _ in model.times] == trace["steps50_timesteps"].tolist()
    plan = GradientPlan(frozenset(), frozenset({49}))
    states = [step.x for step in rollout(model, trace["steps50_init"], prompts, plan)]
    kept = torch.stack([states[i] for i in trace["steps50_keep"].tolist()])
    torch.testing.assert_close(kept, trace["steps50_prev_samples"], **TRACE)
    torch.testing.assert_close(states[-1], trace["steps50_final"], **TRACE)
    torch.testing.assert_close(model.schedule.alpha_bar.float(), trace["alphas_cumprod"])


@torch.no_grad()
def test_without_a_vae():
    folder = reference("mld_v0")
    io = arrays(folder / "small_novae_io.npz")
    network = fill(built_small(folder / "manifest_small_novae.json"), prefix="denoiser.")
    out = network(io["sample"], io["timestep"], given(io["text"][:, 0], io["lengths"]))
    torch.testing.assert_close(out, io["denoiser_out"], **CLOSE)
    names = manifest(folder / "manifest_small_novae.json")
    expected = {k.removeprefix("denoiser."): v for k, v in names.items() if k not in UNREAD}
    assert shapes(network) == expected


def built_small(path) -> MotionDenoiser:
    names = {k.removeprefix("denoiser."): v for k, v in manifest(path).items()}
    return MotionDenoiser(*PLAIN, **MotionDenoiser.sizes(names))


KINDS = {"1 token": (1, None), "3 tokens": (3, 6)}


@pytest.mark.parametrize("kind", KINDS)
class TestAnySize:
    def test_neighbours_have_no_influence(self, kind):
        model = tiny(*KINDS[kind]).diffusion(no_text(9))
        check_neighbours(model, made_up(9, [24, 7, 40, 12]))
        check_adapters(model, made_up(9, [24, 7]))

    def test_encoding_does_not_see_padding(self, kind):
        vae, prompts = tiny(*KINDS[kind]).vae, made_up(9, [24, 7, 40])
        motion = torch.randn(3, 40, 7, generator=rng())
        mu, logvar = vae.encode(motion, prompts.mask)
        noisy = torch.where(prompts.mask[..., None], motion, 99.0)
        torch.testing.assert_close(vae.encode(noisy, prompts.mask)[0], mu)
        one = vae.encode(motion[1:2, :7], prompts[[1]].mask)[1]
        torch.testing.assert_close(one, logvar[1:2])

    def test_units_are_physical(self, kind):
        network, prompts = tiny(*KINDS[kind]), made_up(9, [8, 8])
        plain = OfficialMLD([0.0] * 7, [1.0] * 7, **OfficialMLD.sizes(shapes(network)), heads=2)
        plain.load_state_dict(network.state_dict())
        z = torch.randn(2, *network.state_shape(prompts), generator=rng())
        motion, normalised = network.vae.decode(z, prompts), plain.eval().vae.decode(z, prompts)
        torch.testing.assert_close(motion, normalised * 2 + 0.5)
        mask = prompts.mask
        torch.testing.assert_close(
            network.vae.encode(motion, mask), plain.vae.encode(normalised, mask)
        )

    def test_tuning(self, kind):
        prompts = made_up(9, [24, 7, 40, 12])
        check_tuning(lambda: tiny(*KINDS[kind]).diffusion(no_text(9), n_steps=3), prompts)

    def test_training_the_vae(self, kind):
        vae, prompts = tiny(*KINDS[kind]).vae, made_up(9, [8, 4])
        loss, _ = vae_loss(vae, torch.randn(2, 8, 7, generator=rng()), prompts, rng())
        loss.backward()
        assert all(p.grad is not None for p in vae.parameters())


class TestWithoutVAE:
    def network(self) -> MotionDenoiser:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MotionDenoiser(
                [0.5] * 7, [2.0] * 7, frames=48, dim=16, layers=3, heads=2, ff=12, text_dim=9,
                time_dim=14,
            ).eval()  # fmt: skip

    def test_neighbours_have_no_influence(self):
        check_neighbours(self.network().diffusion(no_text(9)), made_up(9, [24, 7, 40, 12]))

    def test_tuning(self):
        prompts = made_up(9, [24, 7, 40, 12])
        check_tuning(lambda: self.network().diffusion(no_text(9), n_steps=3), prompts)

    def test_motions_beyond_its_frames_are_refused(self):
        with pytest.raises(ValueError, match="49 frames, this model makes at most 48"):
            self.network().state_shape(made_up(9, [49]))


def test_what_does_not_fit_is_refused():
    model = tiny()
    with pytest.raises(ValueError, match="embeddings of 8 numbers, this model reads 9"):
        model.denoiser(torch.zeros(1, 1, 16), torch.tensor([3]), made_up(8, [4]))
    with pytest.raises(ValueError, match="motions of 499 frames, this VAE knows at most 498"):
        model.vae.decode(torch.zeros(1, 1, 16), made_up(9, [499]))
    sizes = OfficialMLD.sizes(shapes(model))
    with pytest.raises(ValueError, match="odd number of layers, got 4"):
        OfficialMLD(*PLAIN, **sizes | {"vae": {"layers": 4}})
