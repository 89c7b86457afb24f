import math
from dataclasses import replace

import pytest
import torch

from easytune_lib.data.corpus import MotionBatch
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.rewards.losses import (
    LatentNoise,
    Meaning,
    SPMLoss,
    StepNoise,
    draw_balanced,
    info_nce,
    kl,
    same_meaning,
    spm_loss,
    spm_objective,
)
from easytune_lib.training import TrainingPlan, train
from easytune_lib.types import TextFeatures


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_info_nce_by_hand():
    """Temperature 1; scores are logarithms of

        4 1 1
        1 2 3
        1 1 4

    and captions 0 and 1 mean the same, so that the two 1s between them do not count. Each
    caption finds its motion with probability 4/5, 2/5 and 4/6, each motion its caption with
    4/5, 2/3 and 4/8.
    """
    scores = torch.tensor([[4.0, 1, 1], [1, 2, 3], [1, 1, 4]]).log()
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    found = 4 / 5 * 2 / 5 * 4 / 6 * 4 / 5 * 2 / 3 * 4 / 8
    assert info_nce(scores, same, 1.0).item() == pytest.approx(-math.log(found) / 6, abs=1e-6)
    assert torch.equal(info_nce(scores, same, 0.5), info_nce(2 * scores, same, 1.0))


def test_false_negatives_get_no_gradient():
    scores = torch.randn(3, 3, generator=rng()).requires_grad_()
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    info_nce(scores, same, 0.1).backward()
    assert scores.grad is not None
    assert ((scores.grad == 0) == (same & ~torch.eye(3, dtype=torch.bool))).all()


def test_what_means_the_same():
    """Captions 0 and 1 are alike (cosine 1), 2 and 3 are unlike all others (cosine 0)."""
    sentence = torch.eye(5)[[0, 0, 1, 2, 3]]
    keep = torch.ones(5, 1, dtype=torch.bool)
    text = TextFeatures(("a", "b", "c", "d", "d"), sentence, sentence[:, None], keep)

    def pairs(*labels: str, ids: str = "01234") -> set[tuple[int, int]]:
        batch = MotionBatch(
            torch.zeros(5, 4, 2), torch.full((5,), 4), text.texts, labels, tuple(ids)
        )
        meaning = Meaning.of(batch, text)
        same = same_meaning(meaning, meaning, threshold=0.8)
        assert torch.equal(same[1:3, 3:], same_meaning(meaning[[1, 2]], meaning[[3, 4]], 0.8))
        assert torch.equal(same, same.T) and same.diagonal().all()
        return {(int(i), int(j)) for i, j in same.triu(1).nonzero()}

    caption = {(3, 4)}  # "d" twice, whatever the labels
    assert pairs("walk", "run", "sit", "bow", "kick") == caption
    assert pairs("walk", "run", "walk", "bow", "kick") == caption | {(0, 2)}
    assert pairs("", "", "", "", "") == caption | {(0, 1)}
    assert pairs("walk", "", "walk", "", "") == caption | {(0, 2), (0, 1)}
    assert pairs("", "", "", "", "", ids="01233") == caption | {(0, 1)}
    assert pairs("", "", "", "", "", ids="01134") == caption | {(0, 1), (1, 2)}


def test_kl_by_hand():
    """KL(N(1, 1) || N(0, 1)) is 1/2; KL(N(0, 4) || N(0, 1)) is (4 - 1 - ln 4) / 2."""
    zero = torch.zeros(1, 1)
    assert kl((zero + 1, zero), (zero, zero)).item() == pytest.approx(0.5)
    wide = kl((zero, zero + math.log(4)), (zero, zero)).item()
    assert wide == pytest.approx((3 - math.log(4)) / 2)
    a = (torch.randn(4, 8, generator=rng(1)), torch.randn(4, 8, generator=rng(2)))
    assert kl(a, a).item() == pytest.approx(0, abs=1e-6)


def noised_batch(spm, noise, value=3.0):
    """Features that the network's statistics (0.5 and 2) normalise to ``value``."""
    model = spm()
    features = torch.full((400, 4, 6), 0.5 + 2 * value)
    names = ("a",) * 400
    batch = MotionBatch(features, torch.full((400,), 4), names, names, names)
    return model.normalise(batch.features, batch.mask), model, batch, noise(model, batch, rng())


def test_noise_is_that_of_the_step_it_names(spm):
    x, model, batch, (motion, t) = noised_batch(spm, StepNoise(probability=0.5))
    x_t, clean = model.normalise(motion, batch.mask), t == 0
    torch.testing.assert_close(motion[clean], batch.features[clean])
    assert 0.4 < clean.float().mean() < 0.6
    assert 0 < t[~clean].min() < 25 and 475 < t.max() <= 500
    a = NoiseSchedule.scaled_linear().alpha_bar[t][:, None, None]
    noise = ((x_t - a.sqrt() * x) / (1 - a).sqrt())[~clean]
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    _, _, batch, (motion, t) = noised_batch(spm, StepNoise(probability=0.0))
    assert (t == 0).all()
    torch.testing.assert_close(motion, batch.features)


def test_latent_noise_is_decoded_and_leaves_clean_motions_alone(spm):
    """A latent of the first two features; the decoder repeats it for each frame and feature."""
    seen = []

    def decode(latent, mask):
        seen.append(latent)
        return latent.mean(dim=(1, 2))[:, None, None].expand(-1, 4, 6)

    noise = LatentNoise(lambda motion, mask: motion[:, :1, :2], decode)
    _, _, batch, (motion, t) = noised_batch(spm, noise)
    clean = t == 0
    assert 0.4 < clean.float().mean() < 0.6 and t.max() > 950
    assert torch.equal(motion[clean], batch.features[clean])
    assert torch.equal(motion[~clean], decode(seen[0], None)[~clean])
    a = NoiseSchedule.scaled_linear().alpha_bar[t][:, None, None]
    drawn = ((seen[0] - a.sqrt() * 6.5) / (1 - a).sqrt())[~clean]
    assert drawn.std().item() == pytest.approx(1, abs=0.1)


def test_rare_labels_are_drawn_more_often_than_their_clips(clips):
    """9 clips of one label and 1 of another: 3 to 1, not 9 to 1."""
    clips = [replace(clip, label="rare" if i == 0 else "common") for i, clip in enumerate(clips)]
    batch = draw_balanced(clips[:10], 4000, 32)(rng())
    assert batch.labels.count("rare") / 4000 == pytest.approx(1 / 4, abs=0.03)


def test_the_terms_make_the_loss(spm, batch, features):
    model, weights = spm(), SPMLoss(reconstruction=2.0, kl=3.0, latent=4.0, contrastive=5.0)
    text = features(batch.texts)
    total, terms = spm_loss(model, batch, text, rng(), weights)
    assert set(terms) == {"reconstruction", "kl", "latent", "contrastive"}
    assert all(term > 0 for term in terms.values())
    expected = sum(getattr(weights, name) * term for name, term in terms.items())
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(total, spm_loss(model, batch, text, rng(), weights)[0])
    total.backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == set()


def test_padding_does_not_change_the_loss(spm, batch, features):
    text = features(batch.texts)
    pad = torch.zeros(len(batch), 4, batch.features.shape[2])
    short = replace(batch, features=batch.features[:, :28], lengths=batch.lengths.clamp(max=28))
    wide = replace(short, features=torch.cat([short.features, pad], dim=1))
    a, _ = spm_loss(spm(), short, text, rng(), noise=None)
    b, _ = spm_loss(spm(), wide, text, rng(), noise=None)
    torch.testing.assert_close(a, b)


def test_thirty_steps_learn_sixteen_clips(spm, clips, features, found):
    model = spm(dim=32)
    assert found(model) < 0.3
    objective = spm_objective(model, clips, features, noise=None, batch_size=32, max_frames=32)
    plan = TrainingPlan("spm", steps=30, lr=5e-3, warmup=3, ema=0.0)
    losses = [step.loss for step in train(model, objective, plan)]
    assert losses[-1] < losses[0] - 1
    assert found(model) > 0.6


def test_bf16_is_near_and_float32_is_untouched_by_it(spm, batch, features):
    text = features(batch.texts)
    plain, _ = spm_loss(spm(), batch, text, rng())
    same, _ = spm_loss(spm(), batch, text, rng(), precision="float32")
    assert torch.equal(plain, same)
    model = spm()
    rounded, _ = spm_loss(model, batch, text, rng(), precision="bf16")
    assert rounded.dtype == torch.float32 and not torch.equal(plain, rounded)
    assert rounded.item() == pytest.approx(plain.item(), rel=0.02)
    rounded.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
