from dataclasses import replace

import pytest
import torch
from toy import FEATURES, STEPS, reward, rng, text, toy

from easytune_lib.analysis.cost import saved_bytes
from easytune_lib.diffusion.rollout import rollout, score
from easytune_lib.diffusion.sampler import DDIM
from easytune_lib.finetuning.methods import AlignProp, DRaFT, DRTune, EasyTune, ReFL
from easytune_lib.finetuning.two_phase import TwoPhase, by_length
from easytune_lib.models.mld import VAE, LatentDenoiser, mld
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts, TextFeatures

pytestmark = pytest.mark.slow

METHODS = [
    DRaFT(1), DRaFT(3), DRaFT(), EasyTune(), EasyTune(3, "strided"), EasyTune(2, reads="x_t"),
    ReFL(4), AlignProp(), DRTune(4, 3),
]  # fmt: skip
MADE = text(7)
POOL = Prompts(MADE, torch.tensor([4, 2, 3, 4, 1, 2, 3]))


def gradient(model, reward, method, micro_batch, prompts=POOL):
    """Scores of all rewarded steps, and the gradient of their means, squared so as to be uneven."""
    x_T = model.draw_noise(prompts, stream(0, "x"))
    plan = method.plan(model.n_steps, stream(0, "plan"))
    weights = list(model.denoiser.parameters())
    said, total = [], [torch.zeros_like(w) for w in weights]
    steps = rollout(model, x_T.to(weights[0].dtype), prompts, plan, stream(0, "steps"))
    for step, scores in TwoPhase(micro_batch)(model, reward, steps, prompts, plan, method):
        loss = (scores - scores.square()).mean() + 0.1 * step.noise.square().mean()
        parts = torch.autograd.grad(loss, weights, materialize_grads=True)
        total = [a + b for a, b in zip(total, parts, strict=True)]
        said.append(scores.detach())
    return torch.stack(said), torch.cat([part.flatten() for part in total])


def close(got, want, size):
    (scores, slope), (scores_wanted, slope_wanted) = got, want
    assert torch.linalg.vector_norm(slope_wanted) > 0
    assert (slope - slope_wanted).norm() <= size * slope_wanted.norm()
    torch.testing.assert_close(scores, scores_wanted, rtol=size, atol=size)


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_gradient_is_the_plain_one(method, prediction):
    """In float64 to the last digits, whatever is recorded, predicted, guided and read."""
    for guidance, eta, micro_batch in ((1.0, 0.0, 1), (7.5, 1.0, 3)):
        model, _, _ = toy(prediction, guidance=guidance)
        model = replace(model, sampler=DDIM(eta))
        want = gradient(model, reward, method, None)
        close(gradient(model, reward, method, micro_batch), want, 1e-12)


@pytest.fixture(scope="module")
def latent():
    """A small latent model with attention, a VAE and a text-motion reward, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = VAE(5, dim=8, layers=3, latent_dim=8)
        denoiser = LatentDenoiser(latent_dim=8, dim=16, layers=3, text_dim=6)
        spm = SPM(5, dim=8, layers=2, latent=8, text_dim=6)
    no_text, text = (said(count) for count in (1, 7))
    prompts = Prompts(text, torch.tensor([16, 4, 40, 24, 4, 12, 32]))
    return mld(vae, denoiser.eval(), no_text, 5), AlignmentReward(spm), prompts


def said(count):
    tokens = torch.randn(count, 3, 6, generator=rng(count))
    names = tuple(f"caption {i}" for i in range(count))
    return TextFeatures(names, tokens.mean(1), tokens, torch.ones(count, 3, dtype=torch.bool))


@pytest.mark.parametrize("method", METHODS[2:], ids=str)
def test_transformers_in_float32_agree_to_1e_5(latent, method):
    model, reward, prompts = latent
    want = gradient(model, reward, method, None, prompts)
    close(gradient(model, reward, method, 2, prompts), want, 1e-5)


def test_only_a_part_of_decoder_and_reward_is_held(latent):
    model, reward, prompts = latent
    prompts = Prompts(prompts.text, torch.full((7,), 32))

    def held(micro_batch):
        return saved_bytes(lambda: gradient(model, reward, DRaFT(1), micro_batch, prompts))

    whole, parts = held(None), [held(m) for m in (1, 2, 4)]
    network = parts[0] - (parts[1] - parts[0])  # what is held whatever the part
    assert parts[2] - parts[1] == pytest.approx(2 * (parts[1] - parts[0]), rel=0.05)
    assert whole - network == pytest.approx(7 * (parts[1] - parts[0]), rel=0.05)


def test_nothing_is_decoded_that_is_padding_of_longer_ones(latent):
    model, reward, prompts = latent
    seen = []

    def decode(x, part):
        seen.append(tuple(part.lengths.tolist()))
        motion = model.decode(x, part)
        assert motion.shape[1] == part.lengths.max()
        return motion

    gradient(replace(model, decode=decode), reward, EasyTune(2), 3, prompts)
    assert seen == 2 * [(4, 4, 12), (16, 24, 32), (40,)]


def test_captions_are_embedded_once_a_batch(latent):
    model, reward, prompts = latent
    prompts, read = prompts[:], []
    hook = reward.model.text_encoder.register_forward_hook(lambda *_: read.append(1))
    gradient(model, reward, EasyTune(), 3, prompts)
    hook.remove()
    assert len(read) == 3


def test_a_whole_batch_is_the_plain_score():
    model, x_T, prompts = toy()
    plan = DRaFT(2).plan(STEPS, rng())
    *_, step = rollout(model, x_T, prompts, plan)
    plain = score(model, reward, step, prompts, plan)
    for whole in (None, 4, 9):
        ((_, got),) = TwoPhase(whole)(model, reward, [step], prompts, plan, DRaFT(2))
        assert torch.equal(got, plain)
    assert x_T.shape[-1] == FEATURES


def test_parts_are_sorted_kept_and_whole():
    parts = by_length(POOL, 3)
    assert [part.lengths.tolist() for _, part in parts] == [[1, 2, 2], [3, 3, 4], [4]]
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == list(range(7))
    assert by_length(POOL, 3) is parts and by_length(POOL, 2) is not parts
    with pytest.raises(ValueError, match="holds 1 motion or more, got 0"):
        by_length(POOL, 0)
