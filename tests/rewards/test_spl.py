import math
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch

from easytune_lib.data.corpus import MotionBatch
from easytune_lib.rewards.losses import SPMLoss, spm_objective
from easytune_lib.rewards.spl import (
    SPL,
    OfficialSPL,
    mine,
    official_spl_loss,
    official_spl_objective,
    spl_loss,
    spl_objective,
)
from easytune_lib.training import TrainingPlan, train


def loss_of(scores, truth, same, k, temperature=0.1):
    """The loss of a whole matrix of rewards, and the share of captions that are refined."""
    refined, loser = mine(scores.detach(), truth, same, k)
    winner, wrong = scores.gather(1, torch.stack([truth, loser], 1))[refined].T
    return spl_loss(winner, wrong, len(scores), temperature), refined.float().mean().item()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_loss_and_gradient_by_hand():
    """Two captions, four motions, top 1, temperature 1.

    Caption 0: its motion 0 scores 0; motion 1, which fits as well, ln 9; the best wrong one,
    motion 3, ln 2. So P = (1, 2) / 3, the loss is ln 3 and its gradient 2/3. Caption 1 finds
    its motion 1. The mean over both captions halves all numbers.
    """
    scores = torch.tensor([[1.0, 9, 1, 2], [1, 5, 4, 1]]).log().requires_grad_()
    same = torch.zeros(2, 4, dtype=torch.bool)
    same[0, 1] = True
    loss, refined = loss_of(scores, torch.tensor([0, 1]), same, k=1, temperature=1.0)
    assert loss.item() == pytest.approx(math.log(3) / 2)
    assert refined == 0.5
    loss.backward()
    expected = torch.tensor([[-1 / 3, 0, 0, 1 / 3], [0, 0, 0, 0]])
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, expected)
    assert ((scores.grad == 0) == (expected == 0)).all()


def test_the_loss_is_the_kl_of_the_two_preferences():
    winner, loser = torch.randn(2, 20, generator=rng())
    p = torch.stack([winner, loser]).div(0.3).softmax(0)
    q = torch.tensor([1.0, 0.0])[:, None].expand(2, 20)
    expected = torch.nn.functional.kl_div(p.log(), q, reduction="none").sum(0)
    torch.testing.assert_close(spl_loss(winner, loser, 20, 0.3), expected.mean())


def test_nothing_is_learnt_where_all_is_retrieved():
    scores = torch.eye(6).requires_grad_()
    same = torch.zeros(6, 6, dtype=torch.bool)
    loss, refined = loss_of(scores, torch.arange(6), same, k=1)
    loss.backward()
    assert loss.item() == 0 and refined == 0
    assert scores.grad is not None and not scores.grad.any()


@pytest.mark.parametrize("seed", range(20))
def test_mining_against_a_sorted_list(seed):
    """Of the motions in competition, the truth is below the k-th, or not; the loser is first."""
    scores = torch.randn(8, 12, generator=rng(seed))
    same = torch.rand(8, 12, generator=rng(seed + 100)) < 0.3
    truth = torch.randint(12, (8,), generator=rng(seed + 200))
    refined, loser = mine(scores, truth, same, k=3)
    for row in range(8):
        own = int(truth[row])
        rivals = [j for j in range(12) if j == own or not same[row, j]]
        ranked = sorted(rivals, key=lambda j: -scores[row, j].item())
        assert bool(refined[row]) == (own not in ranked[:3])
        if refined[row]:
            assert int(loser[row]) == ranked[0]
            assert not same[row, loser[row]] and int(loser[row]) != own


def test_a_motion_without_rivals_counts_as_found():
    scores = torch.tensor([[0.0, 1, 2]]).requires_grad_()
    same = torch.ones(1, 3, dtype=torch.bool)
    loss, refined = loss_of(scores, torch.tensor([0]), same, k=1)
    loss.backward()
    assert loss.item() == 0 and refined == 0
    assert scores.grad is not None and not scores.grad.any()


def test_equal_scores_are_no_retrieval():
    refined, _ = mine(torch.zeros(2, 4), torch.tensor([0, 1]), torch.zeros(2, 4).bool(), k=3)
    assert refined.all()


@pytest.mark.parametrize("k", [0, 4, 10])
def test_k_must_leave_room_for_failure(k):
    with pytest.raises(ValueError, match="larger pool"):
        mine(torch.zeros(2, 4), torch.tensor([0, 1]), torch.zeros(2, 4).bool(), k=k)


FIT = {"batch_size": 8, "max_frames": 32}


def test_the_objective_adds_preferences_to_the_loss(spm, clips, features):
    model = spm()
    objective = spl_objective(model, clips, features, SPL(top_k=1, weight=0.5, pool=15), **FIT)
    total, terms = objective(rng())
    assert 0 < terms["refined"] <= 1 and terms["spl"] > 0
    weightless = SPL(top_k=1, weight=0.0, pool=15)
    plain, rest = spl_objective(model, clips, features, weightless, **FIT)(rng())
    assert terms == rest
    assert total.item() == pytest.approx(plain.item() + 0.5 * terms["spl"], rel=1e-5)
    assert torch.equal(objective(rng())[0], total)
    total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_the_objective_equals_the_loss_of_all_scores(spm, clips, features):
    """With all clips in the pool, what is encoded again has the scores that were mined."""
    clips = [replace(clip, features=clip.features[: len(clip) // 4 * 4]) for clip in clips]
    model = spm()
    spl = SPL(top_k=2, pool=16)
    objective = spl_objective(model, clips, features, spl, batch_size=16, max_frames=32)
    _, terms = objective(rng())
    rows = torch.multinomial(torch.ones(16), 16, replacement=True, generator=(generator := rng()))
    batch = MotionBatch.collate([clips[i] for i in rows], generator, max_frames=32)
    whole = MotionBatch.collate(clips, rng(), max_frames=32, crop="start")
    motion, _ = model.encode_motion(whole.features, whole.mask)
    text, _ = model.encode_text(features(batch.texts))
    scores = torch.nn.functional.cosine_similarity(text[:, None], motion[None], dim=-1)
    same = rows[:, None] == torch.arange(16)
    loss, refined = loss_of(scores, rows, same, k=2)
    assert terms["spl"] == pytest.approx(loss.item(), rel=1e-4)
    assert terms["refined"] == pytest.approx(refined)


def test_the_bank_is_encoded_anew_when_it_is_old(spm, clips, features):
    model = spm()
    objective = spl_objective(model, clips, features, SPL(top_k=1, pool=15, refresh=3), **FIT)
    seen = []
    for step in range(7):
        objective(rng())
        seen.append(objective.state["bank"].clone())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * (step + 1))
    assert [torch.equal(a, b) for a, b in pairwise(seen)] == [
        True, True, False, True, True, False,
    ]  # fmt: skip


def test_a_pool_smaller_than_the_corpus_is_drawn_anew_and_holds_the_truth(spm, clips, features):
    """Of one other motion, top 1 is missed by about half of the captions of a fresh model."""
    objective = spl_objective(spm(), clips, features, SPL(top_k=1, pool=1), **FIT)
    shares = [objective(rng(seed))[1]["refined"] for seed in range(12)]
    assert len(set(shares)) > 1 and 0.2 < sum(shares) / 12 < 0.95


def test_a_resumed_refinement_equals_an_unbroken_one(spm, clips, features, tmp_path):
    """Killed between two encodings of the bank, which later weights could not repeat."""

    def steps(model, checkpoint, count):
        objective = spl_objective(
            model, clips, features, SPL(top_k=1, weight=1.0, refresh=5), **FIT
        )
        plan = TrainingPlan("spl", steps=9, lr=1e-2, warmup=1, save_every=3)
        return [step.loss for step in islice(train(model, objective, plan, checkpoint), count)]

    unbroken, killed, resumed = spm(), spm(), spm()
    losses = steps(unbroken, None, 99)
    first = steps(killed, tmp_path / "state.safetensors", 4)
    rest = steps(resumed, tmp_path / "state.safetensors", 99)
    assert first[:3] + rest == losses and len(rest) == 6
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_preferences_alone_repair_retrieval(spm, clips, features, found):
    """A reward that was stopped early, then trained on its own failures and nothing else."""
    model = spm(dim=32)
    fit = {"noise": None, "batch_size": 32, "max_frames": 32}
    early = spm_objective(model, clips, features, **fit)
    list(train(model, early, TrainingPlan("spm", steps=20, lr=5e-3, warmup=3, ema=0.0)))
    before = found(model)
    only = SPMLoss(reconstruction=0.0, kl=0.0, latent=0.0, contrastive=0.0)
    spl = SPL(top_k=1, weight=1.0, pool=16, refresh=1)
    refine = spl_objective(model, clips, features, spl, loss=only, **fit)
    plan = TrainingPlan("spl", steps=40, lr=1e-3, warmup=3, ema=0.0)
    steps = list(train(model, refine, plan))
    assert found(model) > before + 0.15
    assert steps[-1].parts["refined"] < steps[0].parts["refined"] / 2


@pytest.mark.parametrize("spl", [SPL(top_k=0), SPL(top_k=9, pool=8), SPL(top_k=16, pool=99)])
def test_there_must_be_something_to_miss(spm, clips, features, spl):
    with pytest.raises(ValueError, match="or nothing can be missed"):
        spl_objective(spm(), clips, features, spl)


def test_without_failures_the_objective_is_the_plain_one(spm, clips, features):
    """All clips mean the same, so that nothing is wrong."""
    alike = [replace(clip, label="one") for clip in clips]
    model = spm()
    plain = spm_objective(model, alike, features, **FIT)(rng())
    refined = spl_objective(model, alike, features, SPL(top_k=1), **FIT)(rng())
    assert torch.equal(plain[0], refined[0])
    assert refined[1] == {**plain[1], "spl": 0.0, "refined": 0.0}


class TestOfficial:
    """Where the released code departs from the paper."""

    def test_any_high_cosine_counts_as_correct(self):
        """The truth is last of three at top 1; another motion's 0.9 makes the caption correct."""
        scores = torch.tensor([[0.1, 0.9, 0.2], [0.0, 0.5, 0.0], [0.0, 0.3, 0.1]])
        _, shares = official_spl_loss(scores, OfficialSPL(top_k=1))
        assert shares["refined"] == pytest.approx(1 / 3)  # the last alone
        assert shares["pulled"] == pytest.approx(1 / 3)  # the first

    def test_a_correct_caption_pulls_its_hard_negative_to_the_truth(self):
        """Second of three at top 2: the paper skips it, the code raises it and lowers the first."""
        scores = torch.tensor([[0.3, 0.4, 0.2], [0.0, 0.5, 0.1], [0.0, 0.0, 0.5]]).requires_grad_()
        loss, shares = official_spl_loss(scores, OfficialSPL(top_k=2))
        assert shares == {"refined": 0.0, "pulled": pytest.approx(1 / 3)}
        loss.backward()
        assert scores.grad is not None
        assert scores.grad[0, 0] < 0 < scores.grad[0, 1] and scores.grad[0, 2] == 0
        assert not scores.grad[1:].any(), "where the truth is first the pair is one score twice"
        ours, refined = loss_of(
            scores.detach(), torch.arange(3), torch.eye(3, dtype=torch.bool), k=2
        )
        assert ours == 0 and refined == 0

    def test_the_temperature_is_applied_twice(self):
        """A wrong caption's loss is the softplus of its margin over .01."""
        scores = torch.tensor([[0.10, 0.12, 0.11], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]])
        loss, shares = official_spl_loss(scores, OfficialSPL(top_k=1))
        assert shares["refined"] == pytest.approx(1 / 3)
        assert loss.item() == pytest.approx(math.log1p(math.exp(0.02 / 0.01)) / 3, rel=1e-4)

    def test_the_objective_adds_it_to_the_loss(self, spm, clips, features):
        model = spm()
        spl = OfficialSPL(top_k=1, weight=0.5)
        objective = official_spl_objective(model, clips, features, spl, **FIT)
        total, terms = objective(rng())
        assert {"spl", "refined", "pulled"} < set(terms)
        plain, _ = spm_objective(model, clips, features, **FIT)(rng())
        assert total.item() == pytest.approx(plain.item() + 0.5 * terms["spl"], rel=1e-5)
        assert torch.equal(objective(rng())[0], total)
