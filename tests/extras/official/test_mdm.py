"""MDM, encoder and decoder, against what the published class puts out."""

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
)
from official import arrays, manifest, reference

from easytune_lib.checkpoints import fit, read_checkpoint
from easytune_lib.diffusion.guidance import guided
from easytune_lib.diffusion.rollout import sample
from easytune_lib.extras.official.mdm import UNREAD, OfficialMDM
from easytune_lib.types import Prompts

pytestmark = pytest.mark.slow

PLAIN = [0.0] * 263, [1.0] * 263
MODELS = ("mdm_trans_enc", "mdm_trans_dec_bert50")


def load(model: str, **options) -> OfficialMDM:
    path = reference(model) / "small_model000000000.pt"
    tensors = read_checkpoint(path)
    tensors = {
        k.removeprefix("model."): v
        for k, v in tensors.items()
        if not k.startswith("model_avg.") and k.removeprefix("model.") not in UNREAD
    }
    sizes = OfficialMDM.sizes({k: tuple(v.shape) for k, v in tensors.items()})
    network = OfficialMDM(*PLAIN, **sizes | options)
    fit(network, tensors, path)
    return network.eval()


def frames_first(x: torch.Tensor) -> torch.Tensor:
    """From ``(batch, features, 1, frames)``."""
    return x[:, :, 0].transpose(1, 2)


def asked(io) -> Prompts:
    """Captions of a reference file, the lengths its mask says."""
    lengths, text = io["mask"][:, 0, 0].sum(1), io["text_embed"].transpose(0, 1)
    if "text_mask" in io:
        return given(text[:, 0], lengths, text, ~io["text_mask"])
    return given(text[:, 0], lengths)


@pytest.mark.parametrize("model", MODELS)
class TestParity:
    @torch.no_grad()
    def test_output(self, model):
        io, network = arrays(reference(model) / "small_io.npz"), load(model)
        out = network(frames_first(io["x"]), io["timestep"], asked(io))
        torch.testing.assert_close(out, frames_first(io["out"]), **CLOSE)

    @torch.no_grad()
    def test_guidance(self, model):
        io, network = arrays(reference(model) / "small_io.npz"), load(model)
        prompts = asked(io)
        zeros = network.diffusion(prompts.text).no_text
        out = guided(network, frames_first(io["x"]), io["timestep"], prompts, 2.5, zeros)
        torch.testing.assert_close(out, frames_first(io["out_cfg2p5"]), **CLOSE)

    def test_keys_and_shapes(self, model):
        paths = sorted(reference(model).glob("manifest_*.json"))
        assert len(paths) == (4 if model == "mdm_trans_enc" else 2)
        for path in paths:
            expected = {k: v for k, v in manifest(path).items() if k not in UNREAD}
            assert shapes(built(OfficialMDM, path)) == expected


@torch.no_grad()
def test_ancestral_steps(monkeypatch):
    """Guidance, x0 and the posterior's small variance, against the published sampler."""
    trace = arrays(reference("mdm_trans_enc") / "sampler_trace.npz")
    io = arrays(reference("mdm_trans_enc") / "small_io.npz")
    prompts = Prompts(asked(io).text, torch.tensor([40, 40]))
    network = load("mdm_trans_enc", diffusion_steps=50, frames=40)
    model = network.diffusion(prompts.text, sampler="DDPM")
    assert [now for now, _ in model.times] == list(range(49, -1, -1))
    torch.testing.assert_close(
        model.schedule.alpha_bar.float(), trace["alphas_cumprod50"], rtol=1e-5, atol=1e-9
    )
    x, states, draws = frames_first(trace["init"]), [], rng(5)
    for now in trace["ts"].tolist():
        noise = model.noise_estimate(x, now, prompts)
        alpha, sigma = model.schedule.scales(now)
        x0_hat = (x - sigma * noise) / alpha
        if states:  # the published network puts frames outermost, and noise is drawn in memory
            fresh = torch.empty(40, 2, 263).permute(1, 2, 0).normal_(generator=draws).mT
        else:
            fresh = frames_first(torch.randn(2, 263, 1, 40, generator=draws))
        with monkeypatch.context() as patch:
            patch.setattr("easytune_lib.diffusion.sampler.fresh_noise", lambda *_, z=fresh: z)
            x = model.sampler.step(model.schedule, x0_hat, noise, now, now - 1, draws)
        states.append(x)
    kept = torch.stack([states[i] for i in trace["sample_index"].tolist()])
    wanted = torch.stack([frames_first(x) for x in trace["samples"]])
    torch.testing.assert_close(kept, wanted, **TRACE)
    torch.testing.assert_close(x0_hat, frames_first(trace["pred_xstart_last"]), **TRACE)


KINDS = {
    "encoder": {},
    "encoder, masked": {"mask_frames": True},
    "decoder of words": {"arch": "trans_dec", "words": True, "mask_frames": True},
    "decoder of words, unmasked": {"arch": "trans_dec", "words": True},
    "decoder that leads": {"arch": "trans_dec", "emb_trans_dec": True},
    "decoder of a sentence": {"arch": "trans_dec", "mask_frames": True},
}


def tiny(kind: str, **options) -> OfficialMDM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OfficialMDM(
            [0.5] * 7, [2.0] * 7, frames=48, dim=16, layers=2, heads=2, ff=12, text_dim=9,
            **KINDS[kind] | options,
        ).eval()  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
class TestAnySize:
    def test_neighbours_have_no_influence(self, kind):
        check_neighbours(tiny(kind).diffusion(no_text(9)), made_up(9, [24, 7, 40, 12]))
        check_adapters(tiny(kind).diffusion(no_text(9)), made_up(9, [24, 7]))

    def test_nor_have_they_in_ancestral_sampling(self, kind):
        prompts = made_up(9, [24, 7, 40, 12])
        model = tiny(kind, diffusion_steps=20).diffusion(no_text(9), 5, sampler="DDPM")
        together = sample(model, prompts, rng())
        few = sample(model, prompts, rng(), batch_size=1)
        torch.testing.assert_close(few, together, rtol=1e-3, atol=1e-3)

    def test_tuning(self, kind):
        prompts = made_up(9, [24, 7, 40, 12])
        check_tuning(lambda: tiny(kind).diffusion(no_text(9), n_steps=3), prompts)
        check_tuning(lambda: tiny(kind).diffusion(no_text(9), 3, sampler="DDPM"), prompts)


@torch.no_grad()
def test_without_a_caption_nothing_is_read_of_it():
    prompts = made_up(9, [12, 8])
    for kind in KINDS:
        model = tiny(kind).diffusion(prompts.text[[0]], 2, guidance=0.0)
        x = model.draw_noise(prompts, rng())
        other = Prompts(made_up(9, [12, 8], seed=5).text, prompts.lengths)
        one, two = (model.noise_estimate(x, 500, p) for p in (prompts, other))
        torch.testing.assert_close(one, two)


def test_physical_units_come_back():
    prompts = made_up(9, [12, 8])
    motion = torch.randn(2, 12, 7, generator=rng()) * prompts.mask[..., None]
    for kind in ("encoder", "encoder, masked"):
        network = tiny(kind)
        state = network.normalise(motion, prompts)
        assert tuple(state.shape[1:]) == network.state_shape(prompts)
        torch.testing.assert_close(network.decode(state, prompts), motion)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="motions of 49 frames, this MDM makes at most 48"):
        tiny("encoder").state_shape(made_up(9, [49]))
    with pytest.raises(ValueError, match="features of 8 numbers, this model reads 9"):
        tiny("encoder")(torch.zeros(1, 4, 7), torch.tensor([3]), made_up(8, [4]))
    with pytest.raises(ValueError, match="an encoder reads one token"):
        tiny("encoder", words=True)
