"""MotionDiffuse, against what the published class puts out."""

from copy import deepcopy as copy_of

import pytest
import torch
from backbones import (
    CLOSE,
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
from easytune_lib.diffusion.rollout import sample
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.models.motiondiffuse import MotionDiffuse

pytestmark = pytest.mark.slow

PLAIN = [0.0] * 263, [1.0] * 263
HEADS = {"heads": 4, "text_heads": 2}


def load(**options) -> MotionDiffuse:
    path = reference("motiondiffuse") / "small_latest.tar"
    tensors = read_checkpoint(path)
    sizes = MotionDiffuse.sizes({k: tuple(v.shape) for k, v in tensors.items()})
    network = MotionDiffuse(*PLAIN, **sizes, **HEADS, **options)
    fit(network, tensors, path)
    return network.eval()


class TestParity:
    @torch.no_grad()
    def test_output(self):
        io = arrays(reference("motiondiffuse") / "small_io.npz")
        mask = torch.arange(196) < io["length"][:, None]
        out = load().denoise(io["x"], io["timestep"], mask, io["xf_proj"], io["xf_out"])
        torch.testing.assert_close(out, io["out"], **CLOSE)

    @torch.no_grad()
    def test_captions(self):
        io = arrays(reference("motiondiffuse") / "small_io.npz")
        states = io["clip_ln_final"].transpose(0, 1)
        mask = torch.arange(77) <= io["eot_index"][:, None]
        text = given(states.mean(1), io["length"], states, mask).text
        caption, words = load().read_text(text)
        torch.testing.assert_close(caption, io["text_xf_proj"], **CLOSE)
        torch.testing.assert_close(words, io["text_xf_out"], **CLOSE)

    @torch.no_grad()
    def test_full_attention(self):
        io = arrays(reference("motiondiffuse") / "small_io.npz")
        io |= arrays(reference("motiondiffuse") / "small_no_eff_io.npz")
        mask = torch.arange(60) < io["length"][:, None]
        out = load(full_attention=True).denoise(
            io["x"], io["timestep"], mask, io["xf_proj"], io["xf_out"]
        )
        torch.testing.assert_close(out, io["out"], **CLOSE)

    def test_keys_and_shapes(self):
        paths = sorted(reference("motiondiffuse").glob("manifest_*.json"))
        assert len(paths) == 3
        for path in paths:
            expected = {k: v for k, v in manifest(path).items() if not k.startswith("clip.")}
            assert shapes(built(MotionDiffuse, path)) == expected


def tiny(full: bool = False) -> MotionDiffuse:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MotionDiffuse(
            [0.5] * 7, [2.0] * 7, frames=48, dim=16, layers=2, heads=2, ff=12, text_dim=8,
            text_layers=1, text_heads=2, text_ff=12, clip_dim=9, full_attention=full,
        ).eval()  # fmt: skip


@pytest.mark.parametrize("full", [False, True], ids=["linear", "full"])
class TestAnySize:
    def test_neighbours_have_no_influence(self, full):
        check_neighbours(tiny(full).diffusion(no_text(9)), made_up(9, [24, 7, 40, 12]))
        check_adapters(tiny(full).diffusion(no_text(9)), made_up(9, [24, 7]))

    def test_nor_have_they_in_ancestral_sampling(self, full):
        model, prompts = (
            tiny(full).diffusion(no_text(9), 5, sampler="DDPM"),
            made_up(9, [24, 7, 40]),
        )
        few = sample(model, prompts, rng(), batch_size=1)
        torch.testing.assert_close(few, sample(model, prompts, rng()), rtol=1e-3, atol=1e-3)

    def test_tuning(self, full):
        prompts = made_up(9, [24, 7, 40, 12])
        for how in ("DDIM", "DDPM"):
            check_tuning(lambda how=how: tiny(full).diffusion(no_text(9), 3, sampler=how), prompts)

    def test_physical_units_come_back(self, full):
        network, prompts = tiny(full), made_up(9, [12, 8])
        motion = torch.randn(2, 12, 7, generator=rng()) * prompts.mask[..., None]
        state = network.normalise(motion, prompts)
        assert tuple(state.shape[1:]) == network.state_shape(prompts)
        torch.testing.assert_close(network.decode(state, prompts), motion)


def test_schedule_is_the_linear_one():
    model = tiny().diffusion(no_text(9), 1000, sampler="DDPM")
    beta = 1 - model.schedule.alpha_bar[1:] / model.schedule.alpha_bar[:-1]
    assert [round(float(b), 6) for b in (beta[0], beta[-1])] == [0.00012, 0.02]
    assert (len(model.times), model.times[0], model.guidance) == (1000, (999, 998), 1.0)


def test_captions_are_read_once_until_weights_change():
    network, text, calls = tiny(), made_up(9, [4, 8]).text, []
    network.text_ln.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = network.read_text(text)
        assert network.read_text(text)[1] is first[1] and len(calls) == 1
        copy = copy_of(network)
        copy.text_proj[0].weight.add_(1.0)
        network.text_proj[0].bias.add_(1.0)
        torch.testing.assert_close(network.read_text(text)[0], first[0] + 1)
        assert not torch.allclose(copy.read_text(text)[0], first[0])
    recorded = network.read_text(text)[0]
    assert recorded.requires_grad and len(calls) == 4  # a copy has the hook too
    network.to(torch.float64)
    with torch.no_grad():
        assert network.read_text(text)[0].dtype == torch.float64


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="motions of 49 frames, this MotionDiffuse makes at most"):
        tiny().diffusion(no_text(9)).draw_noise(made_up(9, [49]), rng())
    with pytest.raises(ValueError, match="5 token states of 8 numbers, this model reads"):
        tiny().read_text(made_up(8, [4]).text)


def test_past_a_narrow_network_the_noised_state_goes_by():
    """Who says nothing names the state itself, and what is said is v (Salimans & Ho, 2022)."""
    plain, prompts = tiny(), made_up(9, [24, 8])
    narrow = MotionDiffuse(**plain.config | {"bypass": True}).eval()
    narrow.load_state_dict(plain.state_dict())
    x_t, t = torch.randn(2, 24, 7, generator=rng()), torch.tensor([999, 400])
    signal = NoiseSchedule.linear().alpha_bar[t].float()[:, None, None]
    with torch.no_grad():
        said = plain(x_t, t, prompts)
        expected = (1 - signal).sqrt() * x_t + signal.sqrt() * said
        torch.testing.assert_close(narrow(x_t, t, prompts), expected)
        narrow.out.weight.zero_()
        narrow.out.bias.zero_()
        torch.testing.assert_close(narrow(x_t, t, prompts), (1 - signal).sqrt() * x_t)
