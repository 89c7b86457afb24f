import pytest
import torch
from torch.nn import functional as F

from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.types import Prompts, Reward


def test_scores_are_cosines_and_do_not_vary(spm, batch, prompts):
    model = spm(dropout=0.5).train()
    reward = AlignmentReward(model)
    assert isinstance(reward, Reward)
    scores = reward(batch.features, prompts)
    assert scores.dtype == torch.float32
    assert scores.abs().max() <= 1 + 1e-6
    assert torch.equal(scores, reward(batch.features, prompts))
    assert torch.equal(scores, AlignmentReward(model)(batch.features, prompts))
    model.eval()
    expected = F.cosine_similarity(
        model.encode_motion(batch.features, batch.mask)[0], model.encode_text(prompts.text)[0]
    )
    torch.testing.assert_close(scores, expected)


def test_gradient_is_that_of_finite_differences(spm, batch, prompts):
    reward = AlignmentReward(spm().double())
    rows = batch.lengths.argsort()[:2]
    few = prompts[rows]
    motion = batch.features[rows, : few.frames].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reward(x, few), motion)


def test_the_weights_are_left_alone(spm, batch, prompts):
    model = spm()
    reward = AlignmentReward(model)
    assert not any(p.requires_grad for p in reward.model.parameters())
    assert not reward(batch.features, prompts).requires_grad
    assert not reward.embed_text(prompts.text).requires_grad
    motion = batch.features.clone().requires_grad_()
    before = reward(motion, prompts)
    before.sum().backward()
    assert motion.grad is not None and motion.grad.abs().sum() > 0
    assert all(p.grad is None for p in reward.model.parameters())
    assert model.training and all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(before.detach(), reward(batch.features, prompts))


def test_a_score_does_not_depend_on_its_batch(spm, batch, prompts):
    reward = AlignmentReward(spm())
    together = reward(batch.features, prompts)
    for row in (0, 5):
        one = prompts[[row]]
        alone = reward(batch.features[[row], : one.frames], one)
        torch.testing.assert_close(alone[0], together[row])


def test_other_captions_are_not_answered_from_memory(spm, batch, prompts, features):
    reward = AlignmentReward(spm())
    first = reward(batch.features, prompts)
    swapped = Prompts(features(batch.texts[::-1]), prompts.lengths)
    second = reward(batch.features, swapped)
    assert (first - second).abs().max() > 1e-3
    assert torch.equal(first, reward(batch.features, prompts))


def test_captions_are_read_once_and_forgotten_with_their_prompts(spm, batch, prompts):
    reward, read = AlignmentReward(spm()), []
    reward.model.text_encoder.register_forward_hook(lambda *_: read.append(1))
    halves = [prompts[[0, 1]], prompts[[2, 3]]]
    for _ in range(3):
        for part in halves:
            reward(batch.features[: len(part), : part.frames], part)
    assert len(read) == 2
    halves.clear()
    del part
    assert not reward._latents


def test_clean_is_step_0_and_steps_are_read_by_their_noise(spm, batch, prompts):
    model = spm()
    cosine = NoiseSchedule.cosine()
    reward, translated = AlignmentReward(model), AlignmentReward(model, cosine)
    t = torch.full((len(batch),), 500)
    assert torch.equal(reward(batch.features, prompts), reward(batch.features, prompts, 0 * t))
    assert not torch.equal(reward(batch.features, prompts), reward(batch.features, prompts, t))
    known = NoiseSchedule.scaled_linear().alpha_bar
    own = int((known - cosine.alpha_bar[500]).abs().argmin())
    assert own != 500
    assert known[own] == pytest.approx(float(cosine.alpha_bar[500]), abs=2e-3)
    scores = translated(batch.features, prompts, t)
    assert torch.equal(scores, reward(batch.features, prompts, torch.full_like(t, own)))
    same = AlignmentReward(model, NoiseSchedule.scaled_linear())
    assert torch.equal(same(batch.features, prompts, t), reward(batch.features, prompts, t))


def test_motions_must_have_the_prompts_length(spm, batch, prompts):
    with pytest.raises(ValueError, match="cut or pad"):
        AlignmentReward(spm())(batch.features[:, :-4], prompts)
