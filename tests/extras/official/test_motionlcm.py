"""Both MotionLCMs, against what the published classes put out."""

import pytest
import torch
from backbones import (
    CLOSE,
    TRACE,
    built,
    check_tuning,
    given,
    made_up,
    no_text,
    rng,
    shapes,
)
from official import arrays, manifest, reference

from easytune_lib.checkpoints import fit, read_checkpoint
from easytune_lib.diffusion.rollout import rollout, sample
from easytune_lib.extras.official.motionlcm import MotionLCM, scale_waves
from easytune_lib.plan import GradientPlan

pytestmark = pytest.mark.slow

PLAIN = [0.0] * 263, [1.0] * 263
MODELS = ("motionlcm_v1", "motionlcm_v2")


def load(model: str) -> MotionLCM:
    path = reference(model) / "small_ckpt.pt"
    tensors = read_checkpoint(path)
    network = MotionLCM(*PLAIN, **MotionLCM.sizes({k: v.shape for k, v in tensors.items()}))
    fit(network, tensors, path)
    return network.eval()


def tiny(latents=1, latent_dim=None) -> MotionLCM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MotionLCM(
            [0.5] * 7, [2.0] * 7, latents, latent_dim, dim=16, heads=2,
            vae={"layers": 5, "ff": 12},
            denoiser={"layers": 3, "ff": 20, "text_dim": 9, "time_dim": 14, "guidance_dim": 10},
        ).eval()  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
class TestParity:
    @torch.no_grad()
    def test_denoiser(self, model):
        io, denoiser = arrays(reference(model) / "small_io.npz"), load(model).denoiser
        waves = scale_waves(io["timestep_cond_w"], 24)
        torch.testing.assert_close(waves, io["timestep_cond"], **CLOSE)
        prompts = given(io["text"][:, 0], io["lengths"])
        for i, strength in enumerate(io["timestep_cond_w"].tolist()):
            x, t = io["sample"][[i]], io["timestep"][[i]]
            out = denoiser.guided(x, t, prompts[[i]], strength + 1)
            torch.testing.assert_close(out, io["denoiser_out"][[i]], **CLOSE)

    @torch.no_grad()
    def test_vae(self, model):
        io, vae = arrays(reference(model) / "small_io.npz"), load(model).vae
        prompts = given(io["text"][:, 0], io["lengths"])
        mu, logvar = vae.encode(io["motion"], prompts.mask)
        torch.testing.assert_close(mu.transpose(0, 1), io["enc_mu"], **CLOSE)
        torch.testing.assert_close((logvar / 2).exp().transpose(0, 1), io["enc_std"], **CLOSE)
        torch.testing.assert_close(vae.decode(io["z"], prompts), io["decoded"], **CLOSE)

    def test_keys_and_shapes(self, model):
        for size in ("small", "full"):
            path = reference(model) / f"manifest_{size}.json"
            assert shapes(built(MotionLCM, path)) == manifest(path)


@torch.no_grad()
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_few_steps(n_steps):
    """Times, boundary scalings and fresh noise, against the published sampler's states."""
    trace = arrays(reference("motionlcm_v1") / "sampler_trace.npz")
    trace = {k.removeprefix(f"steps{n_steps}_"): v for k, v in trace.items()}
    prompts = given(trace["text"][:, 0], torch.tensor([40, 60]))
    model = load("motionlcm_v1").diffusion(prompts.text[[0]], n_steps)
    assert [now for now, _ in model.times] == trace["timesteps"].tolist()
    plan = GradientPlan(frozenset(), frozenset({n_steps - 1}))
    steps = list(rollout(model, trace["init"], prompts, plan, rng(7)))
    states = torch.stack([steps[i].x for i in trace["keep"].tolist()])
    torch.testing.assert_close(states, trace["prev_samples"], **TRACE)
    torch.testing.assert_close(steps[-1].x, trace["final"], **TRACE)


def test_each_version_has_its_own_times_and_scales():
    first, second = tiny(), tiny(3, 6)
    wanted = {1: ((799, -1),), 2: ((699, 299), (299, -1)), 4: (
        (699, 399), (399, 299), (299, 299), (299, -1)
    )}  # fmt: skip
    for n_steps, scale in ((1, 8.0), (2, 12.5), (4, 13.5)):
        model = second.diffusion(no_text(9), n_steps)
        assert (model.times, model.guidance) == (wanted[n_steps], scale)
        assert first.diffusion(no_text(9), n_steps).guidance == 7.5
    assert second.diffusion(no_text(9), 1, guidance=3.0).guidance == 3.0
    assert [now for now, _ in second.diffusion(no_text(9), 5).times] == [999, 799, 599, 399, 199]
    assert len(first.diffusion(no_text(9), 50).times) == 50
    with pytest.raises(ValueError, match="1 to 10 sampling steps, got 11"):
        _ = second.diffusion(no_text(9), 11).times


KINDS = {"V1": (1, None), "V2": (3, 6)}


@pytest.mark.parametrize("kind", KINDS)
class TestAnySize:
    def test_neighbours_have_no_influence(self, kind):
        """In noise drawn on the way, too."""
        model, prompts = tiny(*KINDS[kind]).diffusion(no_text(9), 4), made_up(9, [24, 7, 40, 12])
        together = sample(model, prompts, rng())
        assert (together[~prompts.mask] == 0).all() and together.isfinite().all()
        few = sample(model, prompts, rng(), batch_size=1)
        torch.testing.assert_close(few, together, rtol=1e-4, atol=1e-4)

    def test_guidance_is_read_once(self, kind):
        model, prompts = tiny(*KINDS[kind]).diffusion(no_text(9)), made_up(9, [24, 7])
        x_T, calls = model.draw_noise(prompts, rng()), []
        model.denoiser.encoder.register_forward_hook(lambda *_: calls.append(1))
        outputs = [model.noise_estimate(x_T, 999, prompts)]
        outputs.append(tiny(*KINDS[kind]).diffusion(no_text(9), 1, 1.0).noise_estimate(
            x_T, 999, prompts
        ))  # fmt: skip
        assert len(calls) == 1 and not torch.allclose(*outputs)

    def test_tuning(self, kind):
        prompts = made_up(9, [24, 7, 40, 12])
        check_tuning(lambda: tiny(*KINDS[kind]).diffusion(no_text(9), n_steps=2), prompts)
