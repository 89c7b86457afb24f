from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toy import STEPS, reward, rng, text, toy

from easytune_lib.analysis.cost import saved_bytes
from easytune_lib.analysis.gradients import reward_gradient
from easytune_lib.diffusion.rollout import rollout, sample
from easytune_lib.diffusion.sampler import DDIM
from easytune_lib.finetuning.anchor import Anchor
from easytune_lib.finetuning.loop import batches, finetune, warmup_cosine
from easytune_lib.finetuning.methods import (
    AlignProp,
    DRaFT,
    DRaFTLV,
    DRTune,
    EasyTune,
    ReFL,
)
from easytune_lib.finetuning.two_phase import TwoPhase
from easytune_lib.finetuning.variants import Curriculum, EasyTunePlus
from easytune_lib.types import Prompts

METHODS = [
    DRaFT(1),
    DRaFT(3),
    DRaFT(STEPS),
    EasyTune(1),
    EasyTune(4),
    EasyTune(STEPS),
    EasyTune(3, "strided"),
    EasyTune(2, "random"),
    ReFL(4),
    AlignProp(),
    DRTune(4, 3),
    EasyTune(4, updates="chain"),
    EasyTunePlus(4, weights="late", reads="x_t", switch=6),
    Curriculum(3, 2),
    AlignProp(cut="uniform", checkpoint=True),
    DRTune(4, 3, replay=True),
]
AT_ONCE = [EasyTune(4, updates="sum"), DRaFTLV(3)]  # fmt: skip


@pytest.fixture(params=["epsilon", "x0"])
def model(request):
    """The toy in float32, as networks are tuned."""
    model, _, _ = toy(request.param)
    model.denoiser.float()
    return model


@pytest.fixture
def pool():
    return Prompts(text(9), torch.tensor([4, 2, 3, 4, 1, 2, 4, 3, 4]))


def _sgd(model, lr=0.0):
    return torch.optim.SGD(model.denoiser.parameters(), lr)


def _score(model, pool):
    return reward(sample(model, pool, rng(7)), pool).mean().item()


@pytest.fixture(autouse=True)
def global_generator_left_alone():
    """The library never draws from, nor seeds, the global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("method", METHODS + AT_ONCE, ids=str)
def test_every_method_raises_the_reward(pool, method):
    model, _, _ = toy("x0" if (METHODS + AT_ONCE).index(method) % 2 else "epsilon")
    model.denoiser.float()
    before = _score(model, pool)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=5e-2)
    given = islice(batches(model, pool, 6, seed=0), 4)
    updates = list(finetune(model, reward, given, method, optimizer))
    assert _score(model, pool) > before + 0.05 * abs(before)
    assert all(u.grad_norm > 0 for u in updates)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_updates_say_where_they_happened(pool, method):
    model, _, _ = toy()
    model.denoiser.float()
    model = replace(model, sampler=DDIM(1.0))
    given = islice(batches(model, pool, 3, seed=0), 2)
    updates = list(finetune(model, reward, given, method, _sgd(model)))
    twin = islice(batches(model, pool, 3, seed=0), 2)
    want = [(b.index, sorted(method.plan(STEPS, b.rng, b.index).rewarded)) for b in twin]
    assert [(u.batch, u.step) for u in updates] == [(b, s) for b, steps in want for s in steps]
    assert [u.last for u in updates] == [s == steps[-1] for _, steps in want for s in steps]


def test_an_update_is_ascent_along_the_gradient_of_the_mean(model, pool):
    (batch,) = islice(batches(model, pool, 4, seed=0), 1)
    plan = DRaFT(3).plan(STEPS, rng())
    want = reward_gradient(model, reward, batch.x_T, batch.prompts, plan)
    before = torch.nn.utils.parameters_to_vector(model.denoiser.parameters()).clone()
    (update,) = finetune(model, reward, [batch], DRaFT(3), _sgd(model, 0.1), max_norm=1e9)
    after = torch.nn.utils.parameters_to_vector(model.denoiser.parameters())
    torch.testing.assert_close(after - before, 0.1 * want, rtol=1e-4, atol=1e-6)
    assert update.grad_norm == pytest.approx(want.norm().item(), rel=1e-4)


def test_gradients_are_clipped_and_reported_unclipped(model, pool):
    (batch,) = islice(batches(model, pool, 4, seed=0), 1)
    before = torch.nn.utils.parameters_to_vector(model.denoiser.parameters()).clone()
    (update,) = finetune(model, reward, [batch], DRaFT(3), _sgd(model, 1.0), max_norm=0.01)
    after = torch.nn.utils.parameters_to_vector(model.denoiser.parameters())
    assert update.grad_norm > 0.01
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_gradients_of_earlier_updates_are_gone(model, pool):
    (batch,) = islice(batches(model, pool, 4, seed=0), 1)
    first, second = finetune(model, reward, [batch] * 2, DRaFT(2), _sgd(model), max_norm=1e9)
    assert first.grad_norm == second.grad_norm > 0


def test_easytune_goes_on_with_the_new_weights(model, pool):
    """Step optimisation: the second reward of a batch is not that of the old weights."""

    def rewards(lr):
        twin = replace(model, denoiser=deepcopy(model.denoiser))
        (batch,) = islice(batches(model, pool, 4, seed=0), 1)
        return [u.reward for u in finetune(twin, reward, [batch], EasyTune(3), _sgd(twin, lr))]

    still, moving = rewards(0.0), rewards(0.1)
    assert moving[0] == still[0] and moving[1] > still[1] and moving[2] > still[2]


@pytest.mark.parametrize("method", AT_ONCE, ids=str)
def test_gradients_that_are_summed_make_one_update_a_batch(model, pool, method):
    given = list(islice(batches(model, pool, 3, seed=0), 2))
    plans = [method.plan(STEPS, b.rng.clone_state()) for b in given]
    want = [
        reward_gradient(
            model,
            reward,
            b.x_T,
            b.prompts,
            plan,
            b.rng.clone_state(),
            weighting=method.weighting(STEPS),
            options=method.rollout_options,
        )
        for b, plan in zip(given, plans, strict=True)
    ]
    updates = list(finetune(model, reward, given, method, _sgd(model)))
    assert [(u.batch, u.step, u.last) for u in updates] == [(0, 7, True), (1, 7, True)]
    assert [u.grad_norm for u in updates] == pytest.approx([w.norm().item() for w in want])


class TestChain:
    """Updates go to a copy, which takes over when the trajectory ends."""

    def tuned(self, model, pool, method, count=2, lr=0.01):
        twin = replace(model, denoiser=deepcopy(model.denoiser))
        given = islice(batches(model, pool, 4, seed=0), count)
        updates = list(finetune(twin, reward, given, method, _sgd(twin, lr), max_norm=1e9))
        return updates, torch.nn.utils.parameters_to_vector(twin.denoiser.parameters())

    def test_the_rollout_keeps_the_weights_it_began_with(self, model, pool):
        still, _ = self.tuned(model, pool, EasyTune(3), lr=0.0)
        chain, _ = self.tuned(model, pool, EasyTune(3, updates="chain"))
        assert [u.reward for u in chain[:3]] == [u.reward for u in still[:3]]
        assert [u.grad_norm for u in chain[:3]] == [u.grad_norm for u in still[:3]]
        assert chain[3].reward > still[3].reward, "the next trajectory begins with the copy"

    def test_under_plain_sgd_it_equals_one_update_of_the_sum(self, model, pool):
        _, chain = self.tuned(model, pool, EasyTune(3, updates="chain"))
        _, once = self.tuned(model, pool, EasyTune(3, updates="sum"))
        _, step = self.tuned(model, pool, EasyTune(3))
        torch.testing.assert_close(chain, once)
        assert not torch.allclose(step, once, rtol=1e-3)

    @pytest.mark.parametrize(
        "method",
        [
            EasyTune(updates="chain"),
            EasyTunePlus(5, "strided", updates="sum", weights="late"),
            EasyTunePlus(6, updates="chain", reads="x_t", switch=5),
            DRaFTLV(3),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("prediction", ["epsilon", "x0"])
    def test_steps_scored_together_give_what_each_alone_gives(self, pool, method, prediction):
        """In float64 to the last digits: updates, rewards, norms, drifts and weights."""
        model, _, _ = toy(prediction)
        model = replace(model, sampler=DDIM(1.0))
        base = replace(model, denoiser=deepcopy(model.denoiser))

        def tuned(together, micro_batch):
            asked = []

            def counted(motion, prompts, t=None):
                asked.append(len(motion))
                return reward(motion, prompts, t)

            twin = replace(model, denoiser=deepcopy(model.denoiser))
            given = [replace(b, x_T=b.x_T.double()) for b in islice(batches(twin, pool, 4, 0), 2)]
            made = finetune(
                twin, counted, given, method, _sgd(twin, 0.01), max_norm=1e9,
                anchor=Anchor(base, 0.1), scorer=TwoPhase(micro_batch, together),
            )  # fmt: skip
            updates = [
                (u.batch, u.step, u.last, u.reward, u.grad_norm, u.drift) for u in made
            ]  # fmt: skip
            return updates, torch.nn.utils.parameters_to_vector(twin.denoiser.parameters()), asked

        want, weights_wanted, alone = tuned(1, None)
        for together, micro_batch in ((2, None), (3, 6), (50, None)):
            got, weights, asked = tuned(together, micro_batch)
            assert [u[:3] for u in got] == [u[:3] for u in want]
            for a, b in zip(got, want, strict=True):
                assert a[3:] == pytest.approx(b[3:], rel=1e-11)
            torch.testing.assert_close(weights, weights_wanted, rtol=1e-11, atol=1e-12)
            assert sum(asked) == sum(alone) and len(asked) < len(alone)

    def test_where_weights_change_meanwhile_steps_stay_on_their_own(self, model, pool):
        def tuned(together):
            twin = replace(model, denoiser=deepcopy(model.denoiser))
            given = islice(batches(model, pool, 4, seed=0), 1)
            scorer = TwoPhase(together=together)
            made = finetune(twin, reward, given, EasyTune(3), _sgd(twin, 0.1), scorer=scorer)
            return [u.reward for u in made]

        assert tuned(8) == tuned(1)


class TestRewardEvery:
    """The reward's gradient is taken once in a few rewarded steps."""

    def run(self, model, pool, method, asked=reward, micro_batch=8):
        twin = replace(model, denoiser=deepcopy(model.denoiser))
        given = islice(batches(model, pool, 4, seed=0), 2)
        scorer = TwoPhase(micro_batch)
        made = finetune(twin, asked, given, method, _sgd(twin), max_norm=1e9, scorer=scorer)
        return list(made)

    @pytest.mark.parametrize("micro_batch", [None, 1, 3])
    def test_the_reward_is_asked_once_in_so_many_steps(self, model, pool, micro_batch):
        asked: list[int] = []

        def counting(motion, prompts, t=None):
            asked.append(len(motion))
            return reward(motion, prompts, t)

        updates = self.run(
            model, pool, EasyTunePlus(5, reward_every=2), counting, micro_batch=micro_batch
        )
        assert len(updates) == 10 and sum(asked) == 2 * 3 * 4, "3 of 5 steps, of 4 motions, twice"
        exact = self.run(model, pool, EasyTune(5), micro_batch=micro_batch)
        for i, (held, true) in enumerate(zip(updates, exact, strict=True)):
            fresh = i % 5 % 2 == 0
            assert (held.reward == pytest.approx(true.reward, rel=1e-6)) == fresh
            assert (held.grad_norm == pytest.approx(true.grad_norm, rel=1e-6)) == fresh

    def test_in_between_the_reward_is_taken_to_be_linear(self, pool):
        """Of a reward that is, it is exact."""

        def linear(motion, prompts, t=None):
            return (motion * prompts.mask[..., None]).sum((1, 2))

        model, _, _ = toy()
        model.denoiser.float()
        held, exact = (
            [u.grad_norm for u in self.run(model, pool, EasyTunePlus(reward_every=every), linear)]
            for every in (4, 1)
        )
        assert held == pytest.approx(exact, rel=1e-6)


def test_a_curriculum_moves_with_the_batches(model, pool):
    given = islice(batches(model, pool, 3, seed=0, start=2), 3)
    updates = list(finetune(model, reward, given, Curriculum(2, sweep=4), _sgd(model)))
    assert [(u.batch, u.step) for u in updates] == [(2, 3), (2, 4), (3, 4), (3, 5), (4, 6), (4, 7)]


class TestOptions:
    """What some runs want besides."""

    def moved(self, model, given, method, lr=0.1, **options):
        before = torch.nn.utils.parameters_to_vector(model.denoiser.parameters()).clone()
        optimizer = _sgd(model, lr)
        made = finetune(model, reward, given, method, optimizer, max_norm=1e9, **options)
        updates = list(made)
        after = torch.nn.utils.parameters_to_vector(model.denoiser.parameters())
        return updates, (after - before).detach()

    def test_accumulated_gradients_are_their_mean(self, model, pool):
        given = list(islice(batches(model, pool, 4, seed=0), 5))
        plan = DRaFT(3).plan(STEPS, rng())
        slopes = [reward_gradient(model, reward, b.x_T, b.prompts, plan) for b in given[:2]]
        updates, moved = self.moved(model, given[:2], DRaFT(3), accumulate=2)
        assert [u.batch for u in updates] == [1]
        torch.testing.assert_close(moved, 0.1 * torch.stack(slopes).mean(0), rtol=1e-4, atol=1e-6)
        for method in (DRaFT(3), EasyTune(4, updates="sum")):
            updates, _ = self.moved(model, given, method, accumulate=2)
            assert [u.batch for u in updates] == [1, 3], "a rest makes no update"
        updates, _ = self.moved(model, given[:2], EasyTune(3), accumulate=2)
        assert [(u.batch, u.step, u.last) for u in updates] == [
            (0, 6, False), (1, 5, False), (1, 7, True),
        ]  # fmt: skip

    def test_the_rate_rises_and_falls_over_the_updates_that_are_made(self, model, pool):
        optimizer = _sgd(model, 2.0)
        scheduler = warmup_cosine(optimizer, updates=9, warmup=4)
        given = islice(batches(model, pool, 2, seed=0), 3)
        rates = [optimizer.param_groups[0]["lr"]]
        for _ in finetune(model, reward, given, EasyTune(3), optimizer):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        half = 1 + 5**0.5  # cos 36 degrees is (1 + sqrt 5) / 4, cos 72 degrees a half less
        assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
        assert rates[5:] == pytest.approx(
            [1 + half / 4, half / 4 + 0.5, 1.5 - half / 4, 1 - half / 4, 0.0]
        )
        with pytest.raises(ValueError, match="a warm-up of 9 does not fit into 9 updates"):
            warmup_cosine(optimizer, 9, 9)

    def test_the_average_is_taken_after_every_update(self, model, pool):
        average = AveragedModel(model.denoiser, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        optimizer, want = _sgd(model, 0.1), None
        given = islice(batches(model, pool, 2, seed=0), 2)
        for _ in finetune(model, reward, given, EasyTune(3), optimizer):
            average.update_parameters(model.denoiser)
            now = torch.nn.utils.parameters_to_vector(model.denoiser.parameters()).detach()
            want = now.clone() if want is None else 0.9 * want + 0.1 * now
        got = torch.nn.utils.parameters_to_vector(average.module.parameters())
        torch.testing.assert_close(got, want)
        assert average.n_averaged == 6 and not torch.allclose(got, now)

    @pytest.mark.parametrize("method", [DRaFT(3), EasyTune(3, updates="chain")], ids=str)
    def test_a_pretraining_loss_joins_every_update(self, model, pool, method):
        weights = list(model.denoiser.parameters())
        given = list(islice(batches(model, pool, 4, seed=0), 1))
        slope = torch.cat([(2 * w).flatten() for w in weights]).detach()
        count = len(method.plan(STEPS, rng()).rewarded)

        def decay(rng):
            assert rng is given[0].rng
            return sum((w**2).sum() for w in model.denoiser.parameters())

        still, _ = self.moved(model, given, method, 0.0, pretraining=decay)
        _, plain = self.moved(model, given, method, 1e-4)
        torch.nn.utils.vector_to_parameters(slope / 2, weights)
        _, joined = self.moved(model, given, method, 1e-4, pretraining=decay)
        torch.testing.assert_close(joined - plain, -1e-4 * count * slope, rtol=2e-3, atol=1e-6)
        assert len(still) == count


def test_batches_are_the_same_for_all_methods_and_from_any_start(model, pool):
    whole = list(islice(batches(model, pool, 4, seed=3), 5))
    for method in METHODS:  # a method's own draws must not leak into later batches
        given = []
        for batch in islice(batches(model, pool, 4, seed=3), 5):
            method.plan(STEPS, batch.rng)
            given.append(batch)
        resumed = given[:2] + list(islice(batches(model, pool, 4, seed=3, start=2), 3))
        for got, want in zip(resumed, whole, strict=True):
            assert got.index == want.index
            assert got.prompts.texts == want.prompts.texts
            assert torch.equal(got.x_T, want.x_T)
    for got, want in zip(islice(batches(model, pool, 4, 3, start=2), 3), whole[2:], strict=True):
        assert torch.equal(got.rng.get_state(), want.rng.get_state())
    (other,) = islice(batches(model, pool, 4, seed=4), 1)
    assert not torch.equal(other.x_T[..., :1, :], whole[0].x_T[..., :1, :])


def _held(model, pool, method):
    given = islice(batches(model, pool, 4, seed=0), 1)
    return saved_bytes(lambda: list(finetune(model, reward, given, method, _sgd(model))))


def test_memory_is_flat_for_easytune_and_linear_for_draft(model, pool):
    ks = (1, 2, 4, 8)
    easy = [_held(model, pool, EasyTune(k)) for k in ks]
    assert len(set(easy)) == 1
    assert {_held(model, pool, m) for m in (ReFL(8), DRaFT(1))} == set(easy)
    draft = [_held(model, pool, DRaFT(k)) for k in ks]
    slopes = [
        (b - a) / (k2 - k1) for a, b, k1, k2 in zip(draft, draft[1:], ks, ks[1:], strict=False)
    ]
    assert slopes == pytest.approx([slopes[-1]] * 3, rel=0.02)
    assert draft[-1] > 3 * easy[-1]


def test_only_the_denoiser_changes(model, pool):
    frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    tuned = replace(model, decode=lambda x, prompts: frozen * x)
    given = islice(batches(tuned, pool, 3, seed=0), 2)
    list(finetune(tuned, reward, given, EasyTune(2), _sgd(tuned, 0.1)))
    assert torch.equal(frozen, torch.ones(3)) and frozen.grad is None


class TestAnchor:
    """What keeps a tuned model near the one it started from."""

    def test_its_value_and_gradient_are_those_of_the_mean_squared_distance(self, model, pool):
        base = replace(model, denoiser=deepcopy(model.denoiser).requires_grad_(False))
        with torch.no_grad():
            for weight in model.denoiser.parameters():
                weight.add_(0.1)
        (batch,) = islice(batches(model, pool, 4, seed=0), 1)
        plan = EasyTune(1).plan(STEPS, rng())
        *_, step = rollout(model, batch.x_T, batch.prompts, plan)
        got = Anchor(base, 1.0)(step, batch.prompts)
        with torch.no_grad():
            want = base.noise_estimate(step.x_t, step.now, batch.prompts)
        torch.testing.assert_close(got, ((step.noise - want) ** 2).mean())
        got.backward()
        assert all(p.grad is None for p in base.denoiser.parameters())
        assert any(p.grad is not None and p.grad.any() for p in model.denoiser.parameters())

    def test_a_model_that_has_not_moved_is_not_held(self, model, pool):
        """At the base, distance and gradient are 0, so that the first update is the plain one."""
        base = replace(model, denoiser=deepcopy(model.denoiser).requires_grad_(False))
        given = [islice(batches(model, pool, 4, seed=0), 1) for _ in range(2)]
        one = list(finetune(model, reward, given[0], DRaFT(2), _sgd(model)))
        two = list(
            finetune(model, reward, given[1], DRaFT(2), _sgd(model), anchor=Anchor(base, 9.0))
        )
        assert one[0].grad_norm == pytest.approx(two[0].grad_norm, rel=1e-5)
        assert two[0].drift == 0

    @pytest.mark.parametrize("method", [DRaFT(3), EasyTune(2, "random"), AlignProp(), ReFL(3)])
    def test_a_heavier_anchor_leaves_the_model_nearer(self, pool, method):
        drifts = []
        for weight in (1e-3, 1e3):
            model, _, _ = toy()
            model.denoiser.float()
            base = replace(model, denoiser=deepcopy(model.denoiser).requires_grad_(False))
            optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=1e-2)
            given = islice(batches(model, pool, 6, seed=0), 8)
            anchor = Anchor(base, weight)
            updates = list(finetune(model, reward, given, method, optimizer, anchor=anchor))
            drifts.append(updates[-1].drift)
        assert drifts[1] < drifts[0] / 2
