import pytest
import torch
from official import arrays, fill, manifest, reference
from safetensors.torch import save_file
from torch.nn import functional as F

from easytune_lib.data.corpus import FeatureStats
from easytune_lib.extras.spm_official import OfficialSPM
from easytune_lib.recipes import load_network
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.losses import StepNoise, spm_loss
from easytune_lib.storage import save_tensors
from easytune_lib.types import Prompts, TextFeatures

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
MODES = ("none", "motion", "text", "both")


def mask_of(lengths, longest):
    return torch.arange(longest) < lengths[:, None]


@pytest.fixture(scope="module")
def io():
    return arrays(reference("spm") / "small_io.npz")


@pytest.fixture(scope="module")
def caption(io):
    tokens, lengths = io["tokens"], io["token_lengths"]
    mask = mask_of(lengths, tokens.shape[1])
    return TextFeatures(("a", "b", "c", "d"), tokens.mean(1), tokens, mask)


def as_published(**options) -> OfficialSPM:
    """As small as the reference model; motions are given normalised."""
    sizes = {"layers": 1, "ff": 16} | options
    return fill(OfficialSPM([0.0] * 263, [1.0] * 263, **sizes))


def tiny(time_token="motion", seed=0, **options) -> OfficialSPM:
    """Another size than the reference, with long skips, and units that are not normalised."""
    sizes = {"dim": 16, "layers": 3, "heads": 2, "ff": 12, "text_dim": 8} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OfficialSPM([0.5] * 6, [2.0] * 6, time_token=time_token, **sizes).eval()


class TestParity:
    """Against outputs of the released class."""

    @torch.no_grad()
    @pytest.mark.parametrize("mode", MODES)
    def test_motions(self, io, mode):
        model = as_published(time_token=mode)
        mask = mask_of(io["motion_lengths"], 196)
        told = mode in ("motion", "both")
        mu, logvar = model.encode_motion(io["motion"], mask, io["timestep"].expand(4))
        end = "_t401" if told else ""
        torch.testing.assert_close(mu, io[f"motion_mu{end}"][0], **CLOSE)
        torch.testing.assert_close((logvar / 2).exp(), io[f"motion_std{end}"][0], **CLOSE)

    @torch.no_grad()
    def test_captions(self, caption, io):
        mu, logvar = as_published().encode_text(caption)
        torch.testing.assert_close(mu, io["text_mu"][0], **CLOSE)
        torch.testing.assert_close((logvar / 2).exp(), io["text_std"][0], **CLOSE)

    @torch.no_grad()
    def test_decoded_motion(self, io):
        mask = mask_of(io["motion_lengths"], 196)
        decoded = as_published().decode(io["motion_mu"][0], mask)
        torch.testing.assert_close(decoded[0], io["decoded_first"][0], **CLOSE)
        assert (decoded[~mask] == 0).all()

    @torch.no_grad()
    def test_reward(self, io, caption):
        """The released reward gives no time token; told the step, it has another value."""
        prompts = Prompts(caption, io["motion_lengths"])
        t = io["timestep"].expand(4)
        for mode, end in (("none", ""), ("motion", "_t401")):
            scores = AlignmentReward(as_published(time_token=mode))(io["motion"], prompts, t)
            torch.testing.assert_close(scores, io[f"reward_mean_latents{end}"], **CLOSE)


class TestLayout:
    def test_keys_and_shapes_are_the_official_ones(self):
        full = manifest(reference("spm") / "manifest_full.json")
        with torch.device("meta"):
            model = OfficialSPM([0.0] * 263, [1.0] * 263)
        assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == full
        assert sum(p.numel() for p in model.parameters()) == 26_515_975

    def test_an_official_file_loads(self, io):
        path = reference("spm") / "small_spm_M1T0.pth"
        stats = FeatureStats(torch.full((263,), 3.0), torch.full((263,), 2.0))
        model = OfficialSPM.load(path, stats, layers=1, ff=16)
        assert not model.training and model.tells_motion and not model.tells_text
        physical = io["motion"] * 2 + 3
        mask = mask_of(io["motion_lengths"], 196)
        with torch.no_grad():
            mu, _ = model.encode_motion(physical, mask, io["timestep"].expand(4))
        # its weights are stored in half precision
        assert F.cosine_similarity(mu, io["motion_mu_t401"][0]).min() > 0.9999

    def test_the_sentence_encoder_in_a_file_is_passed_over(self, tmp_path):
        model = tiny()
        content = {k: v.clone() for k, v in model.state_dict().items()}
        torch.save({"state_dict": content | {"clip.0.weight": torch.ones(3)}}, tmp_path / "x.pth")
        stats = FeatureStats(model.mean, model.std)
        again = OfficialSPM.load(tmp_path / "x.pth", stats, **options_of(model))
        assert torch.equal(again.final_layer.weight, model.final_layer.weight)
        assert again.motion_encoder.norm is again.text_encoder.norm

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda x: x.pop("final_layer.bias"), r"1 missing \['final_layer.bias'\]"),
            (lambda x: x.update(more=torch.ones(1)), r"1 extra \['more'\]"),
            (
                lambda x: x.update({"skel_embedding.weight": torch.ones(16, 5)}),
                r"1 of another shape \['skel_embedding.weight: \(16, 5\) instead of \(16, 6\)",
            ),
            (lambda x: x["text_encoder.norm.bias"].add_(1), "are one parameter"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(self, tmp_path, spoil, said):
        model = tiny()
        content = {k: v.clone() for k, v in model.state_dict().items()}
        spoil(content)
        save_file(content, tmp_path / "x.safetensors")
        stats = FeatureStats(model.mean, model.std)
        with pytest.raises(ValueError, match=said):
            OfficialSPM.load(tmp_path / "x.safetensors", stats, **options_of(model))

    def test_another_model_is_named(self):
        path = reference("t2m_evaluator") / "small_finest.tar"
        stats = FeatureStats(torch.zeros(263), torch.ones(263))
        with pytest.raises(ValueError, match=r"finest.tar .* looks like the T2M evaluator"):
            OfficialSPM.load(path, stats, layers=1, ff=16)

    def test_our_own_file_brings_it_back_with_its_units(self, tmp_path, batch):
        model = tiny("both")
        content = {k: v.clone() for k, v in model.state_dict().items()}
        path = save_tensors(tmp_path / "x.safetensors", content, {"network": model.config})
        again = load_network(OfficialSPM, path)
        assert torch.equal(again.mean, model.mean) and torch.equal(again.std, model.std)
        t = torch.full((len(batch),), 300)
        for one, other in zip(
            model.encode_motion(batch.features, batch.mask, t),
            again.encode_motion(batch.features, batch.mask, t),
            strict=True,
        ):
            assert torch.equal(one, other)


def options_of(model):
    return {k: v for k, v in model.config.items() if k not in ("mean", "std")}


class TestProperties:
    """Of any size, with long skips."""

    @torch.no_grad()
    @pytest.mark.parametrize("mode", MODES)
    def test_neither_padding_nor_the_rest_of_the_batch_matters(self, mode, batch, features):
        model = tiny(mode)
        t = torch.arange(len(batch)) * 7
        junk = batch.features.masked_fill(~batch.mask[..., None], 9.0)
        mu, logvar = model.encode_motion(junk, batch.mask, t)
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
        shuffled = model.encode_motion(batch.features[order], batch.mask[order], t[order])
        torch.testing.assert_close(shuffled[0], mu[order], **CLOSE)
        text = features(batch.texts)
        captions = model.encode_text(text, t)[0]
        decoded = model.decode(mu, batch.mask)
        for row in range(4):
            n = int(batch.lengths[row])
            alone = model.encode_motion(batch.features[[row], :n], batch.mask[[row], :n], t[[row]])
            torch.testing.assert_close(alone[0][0], mu[row], **CLOSE)
            torch.testing.assert_close(alone[1][0], logvar[row], **CLOSE)
            words = text[[row]]
            cut = slice(0, int(words.token_mask.sum()))
            bare = TextFeatures(
                words.texts, words.sentence, words.tokens[:, cut], words.token_mask[:, cut]
            )
            torch.testing.assert_close(
                model.encode_text(bare, t[[row]])[0][0], captions[row], **CLOSE
            )
            shorter = model.decode(mu[[row]], batch.mask[[row], :n])
            torch.testing.assert_close(shorter[0], decoded[row, :n], **CLOSE)

    @torch.no_grad()
    @pytest.mark.parametrize("mode", MODES)
    def test_the_step_reaches_whom_it_should(self, mode, batch, features):
        model, t = tiny(mode), torch.full((len(batch),), 300)
        text = features(batch.texts)
        motion = [model.encode_motion(batch.features, batch.mask, s)[0] for s in (None, 0 * t, t)]
        captions = [model.encode_text(text, s)[0] for s in (None, 0 * t, t)]
        for latents, told in (
            (motion, mode in ("motion", "both")),
            (captions, mode in ("text", "both")),
        ):
            assert torch.equal(latents[0], latents[1])
            assert torch.equal(latents[1], latents[2]) != told

    def test_layers_are_joined_by_long_skips(self, batch):
        model = tiny(layers=5)
        before = model.encode_motion(batch.features, batch.mask)[0].detach()
        with torch.no_grad():  # the half that reads the skip of the first layer
            model.motion_encoder.linear_blocks[1].weight[:, 16:] = 0
        after = model.encode_motion(batch.features, batch.mask)[0]
        assert (before - after).abs().max() > 1e-3

    def test_wrong_use_is_said(self, batch, features):
        with pytest.raises(ValueError, match="odd number of layers, got 2"):
            tiny(layers=2)
        with pytest.raises(Exception, match="time_token"):  # the type checker may be first
            tiny("M1T0")
        with pytest.raises(ValueError, match="502 tokens, this model knows 500 places"):
            tiny().encode_motion(torch.zeros(1, 500, 6), torch.ones(1, 500, dtype=torch.bool))
        text = features(batch.texts)
        wide = TextFeatures(text.texts, text.sentence, text.tokens.repeat(1, 1, 2), text.token_mask)
        with pytest.raises(ValueError, match="16 numbers, this model reads 8"):
            tiny().encode_text(wide)


class TestAsReward:
    @pytest.mark.parametrize("mode", MODES)
    def test_captions_are_told_the_step_where_the_model_tells_them(self, mode, batch, prompts):
        model, t = tiny(mode), torch.full((len(batch),), 500)
        reward = AlignmentReward(model)
        told = {"text": t, "both": t}.get(mode)
        seen, read = model.encode_motion(batch.features, batch.mask, t)[0], prompts.text
        expected = F.cosine_similarity(seen, model.encode_text(read, told)[0])
        reward(batch.features, prompts)  # what is kept of a clean motion's caption misleads nobody
        torch.testing.assert_close(reward(batch.features, prompts, t), expected)

    @pytest.mark.parametrize("mode", MODES)
    def test_it_is_trained_by_the_loss_of_the_laptop_model(self, mode, batch, features):
        """The gradient reaches every parameter that has a part in it."""
        model = tiny(mode).train()
        noise = None if mode == "none" else StepNoise()
        rng = torch.Generator().manual_seed(0)
        loss, _ = spm_loss(model, batch, features(batch.texts), rng, noise=noise)
        loss.backward()
        idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert {n.split(".")[0] for n in idle} == ({"time_embedding"} if mode == "none" else set())
