import math

import pytest
import torch

from easytune_lib.motion.corpus import MotionBatch
from easytune_lib.rewards.objective import SPMLoss, spm_objective
from easytune_lib.rewards.spl import SPL, mine, preference_loss, spl_loss, spl_objective
from easytune_lib.training import TrainingPlan, train


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
    loss, refined = spl_loss(scores, torch.tensor([0, 1]), same, k=1, temperature=1.0)
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
    torch.testing.assert_close(preference_loss(winner, loser, 0.3), expected)


def test_nothing_is_learnt_where_all_is_retrieved():
    scores = torch.eye(6).requires_grad_()
    same = torch.zeros(6, 6, dtype=torch.bool)
    loss, refined = spl_loss(scores, torch.arange(6), same, k=1)
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
    loss, refined = spl_loss(scores, torch.tensor([0]), same, k=1)
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


def test_the_objective_adds_preferences_to_the_loss(spm, clips, features):
    model = spm()
    spl = SPL(top_k=1, weight=0.5, pool=16)
    objective = spl_objective(model, clips, features, spl, batch_size=8, max_frames=32)
    total, terms = objective(rng())
    assert 0 < terms["refined"] <= 1 and terms["spl"] > 0
    plain, rest = spl_objective(
        model, clips, features, SPL(top_k=1, weight=0.0, pool=16), batch_size=8, max_frames=32
    )(rng())
    assert terms == rest
    assert total.item() == pytest.approx(plain.item() + 0.5 * terms["spl"], rel=1e-5)
    assert torch.equal(objective(rng())[0], total)
    total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_the_objective_equals_the_loss_of_all_scores(spm, clips, features):
    """What is encoded again, with gradient, has the scores that were mined without."""
    model = spm()
    spl = SPL(top_k=2, pool=16)
    _, terms = spl_objective(model, clips, features, spl, batch_size=16, max_frames=32)(rng())
    rows = torch.multinomial(torch.ones(16), 16, replacement=True, generator=(generator := rng()))
    batch = MotionBatch.collate([clips[i] for i in rows], generator, max_frames=32)
    motion, _ = model.encode_motion(batch.features, batch.mask)
    text, _ = model.encode_text(features(batch.texts))
    scores = torch.nn.functional.cosine_similarity(text[:, None], motion[None], dim=-1)
    loss, refined = spl_loss(scores, torch.arange(16), rows[:, None] == rows, k=2)
    assert terms["spl"] == pytest.approx(loss.item(), rel=1e-4)
    assert terms["refined"] == refined


def test_preferences_alone_repair_retrieval(spm, clips, features, found):
    """A reward that was stopped early, then trained on its own failures and nothing else."""
    model = spm(dim=32)
    fit = {"noise": None, "batch_size": 32, "max_frames": 32}
    early = spm_objective(model, clips, features, **fit)
    list(train(model, early, TrainingPlan("spm", steps=20, lr=5e-3, warmup=3, ema=0.0)))
    before = found(model)
    only = SPMLoss(reconstruction=0.0, kl=0.0, latent=0.0, contrastive=0.0)
    refine = spl_objective(model, clips, features, SPL(top_k=1, weight=1.0, pool=32), only, **fit)
    plan = TrainingPlan("spl", steps=20, lr=1e-3, warmup=3, ema=0.0)
    steps = list(train(model, refine, plan))
    assert found(model) > before + 0.15
    assert steps[-1].parts["refined"] < steps[0].parts["refined"] / 2


def test_a_pool_must_hold_the_batch(spm, clips, features):
    with pytest.raises(ValueError, match="pool of 16"):
        spl_objective(spm(), clips, features, SPL(pool=16), batch_size=32)


def test_without_failures_the_objective_is_the_plain_one(spm, clips, features):
    """A pool as large as the batch draws the same numbers; with one clip nothing can fail."""
    model = spm()
    plain = spm_objective(model, clips[:1], features, batch_size=16, max_frames=32)(rng())
    refined = spl_objective(
        model, clips[:1], features, SPL(top_k=1, pool=16), batch_size=16, max_frames=32
    )(rng())
    assert torch.equal(plain[0], refined[0])
    assert refined[1] == {**plain[1], "spl": 0.0, "refined": 0.0}
