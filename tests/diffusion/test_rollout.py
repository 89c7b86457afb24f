from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from toy import FEATURES, STEPS, reward, rng, text, toy

from easytune_lib.analysis.cost import live_bytes
from easytune_lib.diffusion.rollout import rollout, sample, score
from easytune_lib.diffusion.sampler import DDIM, LCM
from easytune_lib.finetuning.methods import AlignProp, DRaFT, DRTune, EasyTune, ReFL
from easytune_lib.plan import GradientPlan
from easytune_lib.types import Prompts

METHODS = [DRaFT(3), DRaFT(STEPS), EasyTune(4), EasyTune(STEPS), ReFL(4), AlignProp(), DRTune(4, 3)]
ALL, LAST = frozenset(range(STEPS)), frozenset({STEPS - 1})


@pytest.fixture(params=["epsilon", "x0"])
def world(request):
    return toy(request.param)


@pytest.mark.parametrize("prediction, eta", [("epsilon", 1.0), ("x0", 0.0)])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_plan_never_changes_the_sampled_motion(prediction, eta, method):
    model, x_T, prompts = toy(prediction)
    model = replace(model, sampler=DDIM(eta))
    plain = list(rollout(model, x_T, prompts, GradientPlan(frozenset(), LAST), rng(2)))
    steps = list(rollout(model, x_T, prompts, method.plan(STEPS, rng(1)), rng(2)))
    assert len(plain) == STEPS and steps
    for got, want in zip(steps, plain, strict=False):
        assert torch.equal(got.x, want.x) and torch.equal(got.x0_hat, want.x0_hat)
        assert (got.index, got.now, got.after) == (want.index, want.now, want.after)


def test_steps_hang_together_and_stop_after_the_last_reward(world):
    model, x_T, prompts = world
    steps = list(rollout(model, x_T, prompts, GradientPlan(frozenset({5}), frozenset({5}))))
    assert [s.index for s in steps] == list(range(6))
    assert [(s.now, s.after) for s in steps] == list(model.times[:6])
    assert torch.equal(steps[0].x_t, x_T)
    for before, step in pairwise(steps):
        assert torch.equal(step.x_t, before.x)


def test_a_caller_may_change_the_weights_between_steps(world):
    """EasyTune's step optimisation: the next step sees the new weights."""
    model, x_T, prompts = world
    plain = list(rollout(model, x_T, prompts, GradientPlan(frozenset(), LAST)))
    changed = []
    for step in rollout(model, x_T, prompts, GradientPlan(frozenset(), LAST)):
        changed.append(step.x)
        with torch.no_grad():
            model.denoiser.write.bias += 0.1
    assert torch.equal(changed[0], plain[0].x)
    assert not torch.equal(changed[1], plain[1].x)


@pytest.mark.parametrize("recorded", [ALL, frozenset()], ids=["detached input", "unrecorded"])
def test_the_state_flows_past_a_network_that_carries_no_gradient(world, recorded):
    """Only the update rule is left, and it multiplies by alpha_after / alpha_now a step.

    The trap is the x0-predicting network: turned into a clean state before the cut, its
    output would hide the state, and DRTune would become one-step ReFL.
    """
    model, x_T, prompts = world
    x_T.requires_grad_()
    plan = GradientPlan(recorded, LAST, coupling=0.0)
    *_, last = rollout(model, x_T, prompts, plan)
    (got,) = torch.autograd.grad(last.x.sum(), x_T)
    want = model.schedule.scales(-1)[0] / model.schedule.scales(model.times[0][0])[0]
    torch.testing.assert_close(got, torch.full_like(got, want))


def test_detached_states_carry_nothing_to_earlier_steps(world):
    model, x_T, prompts = world
    x_T.requires_grad_()
    steps = list(rollout(model, x_T, prompts, GradientPlan(ALL, ALL, detach_state=True)))
    assert all(s.x.requires_grad and not s.x_t.requires_grad for s in steps)


def test_unrecorded_steps_keep_no_graph(world):
    model, x_T, prompts = world
    steps = list(rollout(model, x_T, prompts, GradientPlan(LAST, LAST)))
    assert [s.x.requires_grad for s in steps] == [False] * (STEPS - 1) + [True]


def test_score_reads_what_the_plan_says(world):
    """The clean estimate without a time; or the noised state, with the time it is left at."""
    model, x_T, prompts = world
    seen = []

    def spy(motion, prompts, t=None):
        seen.append((motion, t))
        return reward(motion, prompts, t)

    plan = GradientPlan(ALL, ALL, detach_state=True)
    for step in rollout(model, x_T, prompts, plan):
        score(model, spy, step, prompts, plan)
        score(model, spy, step, prompts, replace(plan, reads="x_t"))
        (clean, none), (noised, t) = seen[-2:]
        assert none is None and torch.equal(clean, model.decode(step.x0_hat, prompts))
        assert torch.equal(noised, model.decode(step.x, prompts))
        assert t.tolist() == [max(step.after, 0)] * 4


class TestSample:
    @pytest.fixture
    def world(self):
        model, _, _ = toy("x0")
        model.denoiser.float()
        lengths = torch.tensor([4, 2, 3, 4, 1, 2, 4])
        return model, Prompts(text(7), lengths)

    def test_does_not_depend_on_the_batch_size(self, world):
        model, prompts = world
        whole = sample(model, prompts, rng(), batch_size=64)
        assert whole.shape == (7, 4, FEATURES) and not whole.requires_grad
        for size in (1, 2, 3):
            torch.testing.assert_close(sample(model, prompts, rng(), batch_size=size), whole)

    def test_is_zero_where_padded_and_nowhere_else(self, world):
        model, prompts = world
        motion = sample(model, prompts, rng())
        assert torch.equal((motion != 0).any(-1), prompts.mask)

    def test_ends_where_the_rollout_ends(self, world):
        model, prompts = world
        x_T = model.draw_noise(prompts, rng())
        *_, last = rollout(model, x_T, prompts, GradientPlan(frozenset(), LAST))
        torch.testing.assert_close(
            sample(model, prompts, rng()), model.decode(last.x0_hat, prompts).detach()
        )

    def test_number_of_steps_can_be_chosen(self, world):
        model, prompts = world
        few = sample(model, prompts, rng(), n_steps=3)
        torch.testing.assert_close(few, sample(replace(model, n_steps=3), prompts, rng()))
        assert not torch.allclose(few, sample(model, prompts, rng()))

    def test_holds_no_more_than_two_steps_of_any_number(self, world):
        model, prompts = world
        few, many = (
            live_bytes(lambda n=n: sample(model, prompts, rng(), n_steps=n)) for n in (2, 10)
        )
        assert many < 1.1 * few

    @pytest.mark.parametrize("sampler", [DDIM(1.0), LCM(5)], ids=str)
    def test_noise_on_the_way_belongs_to_its_prompt(self, world, sampler):
        model, prompts = world
        model = replace(model, sampler=sampler, n_steps=4)
        whole = sample(model, prompts, rng())
        for size in (1, 3):
            torch.testing.assert_close(sample(model, prompts, rng(), batch_size=size), whole)
        assert not torch.allclose(sample(model, prompts, rng(1)), whole)

    def test_a_model_says_which_state_is_its_motion(self, world):
        model, prompts = world
        x_T = model.draw_noise(prompts, rng())
        model = replace(model, decodes="x", schedule=replace(model.schedule, clean=0.9))
        *_, last = rollout(model, x_T, prompts, GradientPlan(frozenset(), LAST))
        want = model.decode(last.x, prompts).detach()
        torch.testing.assert_close(sample(model, prompts, rng()), want)
        assert not torch.allclose(want, model.decode(last.x0_hat, prompts))
