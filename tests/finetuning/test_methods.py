"""What is recorded and rewarded, and what gradient that makes: the identities of the design."""

import weakref
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import STEPS, reward, rng, text, toy

from easytune_lib.analysis.gradients import reward_gradient, step_gradients
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import rollout
from easytune_lib.finetuning.methods import (
    AlignProp,
    DRaFT,
    DRaFTLV,
    DRTune,
    EasyTune,
    ReFL,
    recorded,
)
from easytune_lib.finetuning.variants import Curriculum, EasyTunePlus
from easytune_lib.plan import GradientPlan
from easytune_lib.types import Denoiser, FineTuneMethod, Prompts

METHODS = [
    DRaFT(1), DRaFT(3), DRaFT(STEPS), EasyTune(1), EasyTune(4), EasyTune(STEPS),
    EasyTune(3, "strided"), EasyTune(2, "random"), ReFL(1), ReFL(4), AlignProp(),
    AlignProp(0.01), DRTune(4, 3), DRTune(STEPS, 1), DRTune(1, STEPS), DRaFT(), EasyTune(),
    EasyTune(steps="strided"), EasyTune(steps="random"), EasyTunePlus(reads="x_t", switch=3),
    EasyTunePlus(4, weights="early", updates="chain"), EasyTune(3, "random", updates="sum"),
    Curriculum(3, 2), DRaFT(3, checkpoint=True), DRaFTLV(3), AlignProp(cut="uniform"),
    AlignProp(cut="normal", checkpoint=True), DRTune(4, 3, replay=True), ReFL(3, target=0.5),
    EasyTunePlus(1, "random", step_odds="early"),
    EasyTunePlus(1, "random", chain=3, weights="late"),
    EasyTunePlus(1, "random", skip=3), ReFL(2, skip=4), DRaFT(3, skip=2),
]  # fmt: skip


def gradient(world, method, draw=0, noise=None):
    """What training with ``method`` follows."""
    model, x_T, prompts = world
    return reward_gradient(
        model, reward, x_T, prompts, method.plan(STEPS, rng(draw)), noise,
        weighting=method.weighting(STEPS), options=method.rollout_options,
    )  # fmt: skip


def shares_of(world, method, draw=0, noise=None):
    """Each step's share of it."""
    model, x_T, prompts = world
    return step_gradients(
        model, reward, x_T, prompts, method.plan(STEPS, rng(draw)), noise,
        weighting=method.weighting(STEPS), options=method.rollout_options,
    )  # fmt: skip


@pytest.fixture(params=["epsilon", "x0"])
def world(request):
    return toy(request.param)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_draw_is_a_valid_plan(method):
    assert isinstance(method, FineTuneMethod)
    for seed in range(20):
        plan = method.plan(STEPS, rng(seed))
        assert plan.recorded | plan.rewarded <= set(range(STEPS))
        assert plan == method.plan(STEPS, rng(seed)), "a plan depends on its generator alone"


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_method_is_its_own_record(method):
    assert type(method)(**asdict(method)) == method


def test_a_record_leaves_out_the_options_that_are_off():
    """As the first records were written, whose ids must not change."""
    assert recorded(EasyTune(10, "strided")) == {"EasyTune": {"k": 10, "steps": "strided"}}
    assert recorded(EasyTune()) == {"EasyTune": {"k": None, "steps": "last"}}
    assert recorded(DRaFT(50)) == {"DRaFT": {"k": 50}}
    assert recorded(AlignProp()) == {"AlignProp": {"p": 0.5}}
    assert recorded(DRTune()) == {"DRTune": {"k": 10, "window": 5}}
    assert recorded(ReFL()) == {"ReFL": {"window": 10}}
    chain = EasyTune(2, updates="chain", reads="x_t")
    assert recorded(chain)["EasyTune"] == {
        "k": 2, "steps": "last", "reads": "x_t", "updates": "chain",
    }  # fmt: skip
    assert len({str(recorded(method)) for method in METHODS}) == len(METHODS)
    ours = EasyTunePlus(1, "random", step_odds="early", skip=3, reward_every=2)
    assert recorded(ours)["EasyTune"] == {
        "k": 1, "steps": "random", "odds": "early", "hop": 3, "hold": 2,
    }  # fmt: skip


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize(
    "method, options, message",
    [
        (EasyTune, {"steps": "frist"}, "steps='frist': it is one of 'last', 'strided', 'random'"),
        (EasyTune, {"updates": "chian"}, "updates='chian': it is one of 'step', 'chain', 'sum'"),
        (EasyTunePlus, {"weights": "erly"}, "'uniform', 'early', 'late'"),
        (AlignProp, {"cut": "nromal"}, "'uniform', 'normal', None"),
        (EasyTunePlus, {"reward_every": 0}, "reward_every is 1 or more"),
        (DRaFT, {"skip": 0}, "skip is 1 or more"),
        (EasyTunePlus, {"k": 2, "chain": 2}, "step_odds and chain"),
        (EasyTunePlus, {"step_odds": "early"}, "step_odds and chain"),
        (EasyTunePlus, {"k": 1, "step_odds": "late"}, "step_odds are of random steps"),
    ],
)
def test_options_that_there_are_not_are_refused_when_a_method_is_made(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(**options)


def test_which_steps_each_method_takes():
    last = frozenset({7})
    plan = DRaFT(3).plan(8, rng())
    assert plan.recorded == {5, 6, 7} and plan.rewarded == last and not plan.detach_state
    plan = EasyTune(3).plan(8, rng())
    assert plan.recorded == plan.rewarded == {5, 6, 7} and plan.detach_state
    assert EasyTune(4, "strided").plan(8, rng()).rewarded == {1, 3, 5, 7}
    assert EasyTune(8, "strided").plan(8, rng()).rewarded == set(range(8))
    for k in range(1, 51, 3):
        assert len(EasyTune(k, "strided").plan(50, rng()).rewarded) == k
        assert len(EasyTune(k, "random").plan(50, rng()).rewarded) == k
    plans = [AlignProp().plan(8, rng(s)) for s in range(100)]
    share = sum(len(p.recorded) for p in plans) / (100 * 8)
    assert 0.43 < share < 0.57 and all(p.rewarded == last for p in plans)


@pytest.mark.parametrize("n_steps", [1, 8, 50])
def test_without_k_every_step_counts_at_any_number_of_steps(n_steps):
    assert DRaFT().plan(n_steps, rng()) == DRaFT(n_steps).plan(n_steps, rng())
    for steps in ("last", "strided", "random"):
        every = EasyTune(steps=steps).plan(n_steps, rng())
        assert every == EasyTune(n_steps).plan(n_steps, rng())


def test_random_choices_cover_their_window():
    def rewarded(method: FineTuneMethod) -> set[int]:
        return {step for s in range(60) for step in method.plan(8, rng(s)).rewarded}

    assert rewarded(ReFL(3)) == {5, 6, 7}
    assert rewarded(DRTune(4, 3)) == {5, 6, 7}
    assert rewarded(EasyTune(1, "random")) == set(range(8))


def test_truncation_at_random_records_an_end_of_random_length():
    cuts = {"uniform": [], "normal": []}
    for cut, found in cuts.items():
        for seed in range(300):
            plan = AlignProp(cut=cut).plan(50, rng(seed))
            assert plan.recorded == set(range(min(plan.recorded), 50)) and plan.rewarded == {49}
            found.append(min(plan.recorded))
    uniform, normal = (torch.tensor(found).double() for found in cuts.values())
    assert uniform.min() == 0 and uniform.max() == 49 and abs(uniform.mean() - 24.5) < 3
    assert abs(normal.mean() - 41.5) < 1 and abs(normal.std() - 4.8) < 0.8


def test_a_curriculum_moves_from_noise_to_clean_and_stays():
    method = Curriculum(10, sweep=20)
    plans = [method.plan(50, rng(), batch) for batch in range(30)]
    assert plans[0].rewarded == set(range(10)) and plans[0].detach_state
    assert plans[10].rewarded == set(range(20, 30))
    assert all(plan == EasyTune(10).plan(50, rng()) for plan in plans[20:])
    starts = [min(plan.rewarded) for plan in plans]
    assert starts == sorted(starts) and all(plan.recorded == plan.rewarded for plan in plans)


def test_step_weights_have_mean_one_and_a_direction():
    early, late = (EasyTunePlus(weights=w).weighting(8).steps for w in ("early", "late"))
    assert early == late[::-1] and sum(early) == pytest.approx(8)
    assert list(late) == sorted(late) and late[0] > 0
    assert [EasyTune().weighting(8).at(i) for i in range(8)] == [1.0] * 8


def test_drtune_records_an_arithmetic_progression():
    """T = 50, k = 10 leaves one start; T = 10, k = 3 leaves steps of 3 and two starts."""
    assert DRTune(10, 5).plan(50, rng()).recorded == set(range(0, 50, 5))
    starts = {tuple(sorted(DRTune(3, 2).plan(10, rng(s)).recorded)) for s in range(50)}
    assert starts == {(0, 3, 6), (1, 4, 7)}


@pytest.mark.parametrize(
    "method", [DRaFT(9), EasyTune(0), EasyTune(9, "strided"), ReFL(9), DRTune(0), Curriculum(9)]
)
def test_impossible_windows_are_refused(method):
    with pytest.raises(ValueError, match="1 to n_steps=8"):
        method.plan(8, rng())


def _chain(model: MotionDiffusion, x: Tensor, prompts: Prompts) -> Tensor:
    """DDIM by hand, without the library's rollout, sampler or noise estimate."""
    bar, clean = model.schedule.alpha_bar, 1.0
    blank = Prompts(model.no_text[[0] * len(prompts)], prompts.lengths)
    x0 = x
    for now, after in model.times:
        t = torch.full((len(x),), now)
        with_text, without = model.denoiser(x, t, prompts), model.denoiser(x, t, blank)
        out = model.guidance * with_text + (1 - model.guidance) * without
        a, b = bar[now], bar[after] if after >= 0 else torch.tensor(clean)
        if model.denoiser.prediction == "epsilon":
            x0, noise = (x - (1 - a).sqrt() * out) / a.sqrt(), out
        else:
            x0, noise = out, (x - a.sqrt() * out) / (1 - a).sqrt()
        x = b.sqrt() * x0 + (1 - b).sqrt() * noise
    return x0


def test_full_draft_is_the_gradient_of_the_whole_chain(world):
    """Corollary 1, summed over the steps."""
    model, x_T, prompts = world
    score = reward(model.decode(_chain(model, x_T, prompts), prompts), prompts).mean()
    grads = torch.autograd.grad(score, list(model.denoiser.parameters()))
    got = reward_gradient(model, reward, x_T, prompts, DRaFT(STEPS).plan(STEPS, rng()))
    torch.testing.assert_close(got, torch.cat([g.flatten() for g in grads]))


@pytest.mark.parametrize("reads", ["x0_hat", "x_t"])
def test_easytune_is_the_direct_term_alone(world, reads):
    """Corollary 2: dR/dx times d x(sg(x_t)) / d theta, with the coefficients of DDIM by hand."""
    model, x_T, prompts = world
    plan = replace(EasyTune(STEPS).plan(STEPS, rng()), reads=reads)
    shares = step_gradients(model, reward, x_T, prompts, plan)
    weights = list(model.denoiser.parameters())
    for step in rollout(model, x_T, prompts, plan):
        (alpha, sigma), (alpha_after, sigma_after) = map(
            model.schedule.scales, (step.now, step.after)
        )
        state = (step.x0_hat if reads == "x0_hat" else step.x).detach().requires_grad_()
        t = None if reads == "x0_hat" else torch.full((4,), max(step.after, 0))
        score = reward(model.decode(state, prompts), prompts, t).mean()
        (pull,) = torch.autograd.grad(score, state)
        coefficient = -sigma / alpha
        if reads == "x_t":
            coefficient = sigma_after - alpha_after / alpha * sigma
        noise = model.noise_estimate(step.x_t.detach(), step.now, prompts)
        direct = torch.autograd.grad(noise, weights, coefficient * pull)
        torch.testing.assert_close(shares[step.index], torch.cat([g.flatten() for g in direct]))


def test_at_one_step_easytune_draft_and_refl_are_one(world):
    easy, draft, refl = (gradient(world, m) for m in (EasyTune(1), DRaFT(1), ReFL(1)))
    assert easy.norm() > 0
    torch.testing.assert_close(easy, draft, rtol=1e-12, atol=0)
    torch.testing.assert_close(easy, refl, rtol=1e-12, atol=0)


@pytest.mark.parametrize("decodes", ["x0_hat", "x"])
@pytest.mark.parametrize("method", [DRaFT(1), AlignProp(0.0)], ids=str)
def test_the_final_state_is_the_one_that_the_model_decodes(world, decodes, method):
    """The reward's gradient through ``sample()``'s own motion, written by hand; no time is told."""
    model, x_T, prompts = world
    model = replace(model, decodes=decodes, schedule=replace(model.schedule, clean=0.9))
    *_, end = rollout(model, x_T, prompts, GradientPlan(frozenset(), frozenset({STEPS - 1})))
    alpha, sigma = model.schedule.scales(end.now)
    noise = model.noise_estimate(end.x_t, end.now, prompts)
    state = (end.x_t - sigma * noise) / alpha
    if decodes == "x":
        state = 0.9**0.5 * state + 0.1**0.5 * noise
    mean = reward(model.decode(state, prompts), prompts).mean()
    grads = torch.autograd.grad(mean, list(model.denoiser.parameters()))
    got = gradient((model, x_T, prompts), method)
    torch.testing.assert_close(got, torch.cat([g.flatten() for g in grads]))
    with pytest.raises(ValueError, match="step 3 of 8 has no final state"):
        early = GradientPlan(frozenset({3}), frozenset({3}), reads="final")
        reward_gradient(model, reward, x_T, prompts, early)


def test_a_coupling_lets_so_much_of_the_network_s_jacobian_through(world):
    """Of two recorded steps the gradient is linear in it, between DRTune's and DRaFT's."""
    model, x_T, prompts = world
    plan = DRaFT(2).plan(STEPS, rng())
    none, part, whole = (
        reward_gradient(model, reward, x_T, prompts, replace(plan, coupling=coupling))
        for coupling in (0.0, 0.3, 1.0)
    )
    torch.testing.assert_close(part, 0.7 * none + 0.3 * whole)
    assert torch.equal(whole, gradient(world, DRaFT(2))) and not torch.allclose(none, whole)


def test_alignprop_that_records_all_is_full_draft(world):
    assert torch.equal(gradient(world, AlignProp(1.0)), gradient(world, DRaFT(STEPS)))


def test_drtune_weighs_each_share_by_the_update_rule_alone(world):
    """Share i is dR/dx0_hat through coefficients that are known; no network Jacobian."""
    model, x_T, prompts = world
    plan = DRTune(STEPS, 1).plan(STEPS, rng())
    shares = step_gradients(model, reward, x_T, prompts, plan)
    steps = list(rollout(model, x_T, prompts, plan))
    end = steps[-1].x0_hat.detach().requires_grad_()
    (pull,) = torch.autograd.grad(reward(model.decode(end, prompts), prompts).mean(), end)
    (last_alpha, last_sigma), weights = model.schedule.scales(1), list(model.denoiser.parameters())
    for step in steps:
        (alpha, sigma), (alpha_after, sigma_after) = map(
            model.schedule.scales, (step.now, step.after)
        )
        coefficient = (sigma_after - alpha_after / alpha * sigma) / alpha_after
        if step.index == STEPS - 1:
            coefficient = -last_sigma / last_alpha
        noise = model.noise_estimate(step.x_t.detach(), step.now, prompts)
        direct = torch.autograd.grad(noise, weights, coefficient * pull)
        torch.testing.assert_close(shares[step.index], torch.cat([g.flatten() for g in direct]))


def test_step_weights_weigh_each_share(world):
    plain, early = (shares_of(world, EasyTunePlus(weights=w)) for w in ("uniform", "early"))
    weights = EasyTunePlus(weights="early").weighting(STEPS).steps
    torch.testing.assert_close(early, plain * torch.tensor(weights)[:, None])


def test_a_motion_above_the_target_pulls_no_further(world):
    """As the original's relu(target - reward), here with a target between the four scores."""
    model, x_T, prompts = world
    plan = ReFL(1).plan(STEPS, rng())
    *_, step = rollout(model, x_T, prompts, plan)
    scores = reward(model.decode(step.x0_hat, prompts), prompts)
    target = scores.detach().median().item() + 1e-6
    weights = list(model.denoiser.parameters())
    grads = torch.autograd.grad(-torch.relu(target - scores).mean(), weights)
    want = torch.cat([g.flatten() for g in grads])
    got = gradient(world, ReFL(1, target=target))
    torch.testing.assert_close(got, want)
    assert not torch.allclose(got, gradient(world, ReFL(1)))
    assert gradient(world, ReFL(1, target=scores.min().item())).norm() < got.norm()


def test_draft_lv_is_the_mean_of_the_last_step_s_gradient_over_noises(world):
    model, x_T, prompts = world
    first = reward_gradient(model, reward, x_T, prompts, DRaFT(1).plan(STEPS, rng()))
    *_, end = rollout(model, x_T, prompts, DRaFT(1).plan(STEPS, rng()))
    now, noises = model.times[-1][0], rng(5)
    alpha, sigma = model.schedule.scales(now)
    total = first
    for _ in range(2):
        noise = torch.randn(x_T.shape, generator=noises, dtype=x_T.dtype)
        x_t = alpha * end.x0_hat.detach() + sigma * noise
        x0_hat = (x_t - sigma * model.noise_estimate(x_t, now, prompts)) / alpha
        mean = reward(model.decode(x0_hat, prompts), prompts).mean()
        grads = torch.autograd.grad(mean, list(model.denoiser.parameters()))
        total = total + torch.cat([g.flatten() for g in grads])
    got = gradient(world, DRaFTLV(3), noise=rng(5))
    torch.testing.assert_close(got, total / 3)
    shares = shares_of(world, DRaFTLV(3), noise=rng(5))
    torch.testing.assert_close(shares[-1], got)
    assert not shares[:-1].any()
    with pytest.raises(ValueError, match="noise is to be drawn on the way: pass rng"):
        gradient(world, DRaFTLV(3))


EXACT = [
    (DRaFT(STEPS), DRaFT(STEPS, checkpoint=True)),
    (DRTune(4, 3), DRTune(4, 3, replay=True)),
    (DRTune(STEPS, 1), DRTune(STEPS, 1, replay=True)),
    (AlignProp(), AlignProp(checkpoint=True)),
]


@pytest.mark.parametrize("plain, thrifty", EXACT, ids=str)
def test_what_is_computed_again_gives_the_same_gradient(world, plain, thrifty):
    got, want = (gradient(world, method, 3) for method in (thrifty, plain))
    assert want.any() and torch.equal(got, want)
    torch.testing.assert_close(shares_of(world, thrifty, 3).sum(0), want)


def test_steps_are_computed_again_with_the_same_dropout(world):
    """Else the gradient would be that of another network."""
    model, _, _ = world
    noisy = torch.nn.Sequential(model.denoiser.write, torch.nn.Dropout(0.5))
    model.denoiser.write = noisy

    def seeded(method):
        torch.manual_seed(0)
        return gradient(world, method)

    with torch.random.fork_rng():
        noisy.train()
        plain, again = seeded(DRaFT(4)), seeded(DRaFT(4, checkpoint=True))
        noisy.eval()
        assert torch.equal(plain, again) and not torch.equal(plain, seeded(DRaFT(4)))


def test_unequal_odds_leave_the_mean_gradient_as_it_is(world):
    """Importance sampling: the mean over all choices, each as likely as it is, equals the sum."""
    want = shares_of(world, EasyTune()).mean(0)
    uneven = EasyTunePlus(1, "random", step_odds="early")
    steps = [uneven.plan(STEPS, rng(seed)).last for seed in range(400)]
    chance = torch.arange(STEPS, 0, -1, dtype=torch.float64) * 2 / (STEPS * (STEPS + 1))
    drawn = torch.bincount(torch.tensor(steps), minlength=STEPS) / len(steps)
    assert (drawn - chance).abs().max() < 0.06, "early steps are drawn more often"
    each = [gradient(world, uneven, steps.index(step)) for step in range(STEPS)]
    torch.testing.assert_close((chance[:, None] * torch.stack(each)).sum(0), want)
    both = EasyTunePlus(1, "random", step_odds="late", weights="late").weighting(STEPS)
    assert both.steps == pytest.approx([1.0] * STEPS), "odds may stand for weights"


def test_a_chain_reaches_from_easytune_to_draft(world):
    single = EasyTunePlus(1, "random", chain=1).plan(STEPS, rng(2))
    assert single == EasyTune(1, "random").plan(STEPS, rng(2))
    plan = EasyTunePlus(1, "random", chain=3).plan(STEPS, rng(2))
    start = single.last
    assert plan.recorded == {start, start + 1, start + 2} and plan.rewarded == {start + 2}
    by_hand = replace(single, recorded=plan.recorded, rewarded=plan.rewarded, detach_state=False)
    assert plan == by_hand
    assert EasyTunePlus(1, chain=3).plan(STEPS, rng()).recorded == {STEPS - 1}, (
        "the end cuts it short"
    )
    ends = {EasyTunePlus(1, "random", chain=STEPS).plan(STEPS, rng(s)).last for s in range(9)}
    assert ends == {STEPS - 1}
    whole = next(s for s in range(99) if EasyTune(1, "random").plan(STEPS, rng(s)).last == 0)
    got, want = (
        gradient(world, method, whole)
        for method in (EasyTunePlus(1, "random", chain=STEPS), DRaFT())
    )
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    "easy", [EasyTunePlus(1, skip=3), ReFL(1, skip=3), DRaFT(1, skip=3)], ids=str
)
def test_skips_change_where_a_step_begins_and_not_its_gradient(world, easy):
    """As if the steps that are left out had not been in the schedule."""
    model, x_T, prompts = world
    plan, options, visited = easy.plan(STEPS, rng()), easy.rollout_options, [0, 1, 4, 7]
    steps = list(rollout(model, x_T, prompts, plan, options=options))
    times = [model.times[i][0] for i in visited]
    assert [(s.index, s.now, s.after) for s in steps] == list(
        zip(visited, times, [*times[1:], -1], strict=True)
    )
    x = steps[-1].x_t.detach()
    noise = model.noise_estimate(x, times[-1], prompts)
    alpha, sigma = model.schedule.scales(times[-1])
    mean = reward(model.decode((x - sigma * noise) / alpha, prompts), prompts).mean()
    grads = torch.autograd.grad(mean, list(model.denoiser.parameters()))
    want = torch.cat([g.flatten() for g in grads])
    got = gradient(world, easy)
    torch.testing.assert_close(got, want)
    shares = shares_of(world, easy)
    torch.testing.assert_close(shares[-1], want)
    assert not shares[:-1].any()
    straight = gradient(world, replace(easy, skip=1))
    assert not torch.equal(got, straight) and torch.cosine_similarity(got, straight, 0) > 0.9


class Memory(torch.autograd.Function):
    """The identity, which keeps one array for backward; ``living`` counts those that are kept."""

    living = peak = 0

    @staticmethod
    def forward(ctx, x):
        array = np.zeros(1)
        Memory.living += 1
        weakref.finalize(array, Memory.forget)
        ctx.save_for_backward(torch.from_numpy(array))
        return x.clone()

    @staticmethod
    def forget():
        Memory.living -= 1

    @staticmethod
    def backward(ctx, grad):
        kept = ctx.saved_tensors
        Memory.peak = max(Memory.peak, Memory.living)
        del kept
        return grad


@pytest.mark.parametrize(
    "method, calls",
    [
        (DRaFT(STEPS), STEPS), (DRaFT(STEPS, checkpoint=True), 1),
        (DRTune(4, 1), 4), (DRTune(4, 1, replay=True), 1),
        (AlignProp(1.0), STEPS), (AlignProp(1.0, checkpoint=True), 1), (EasyTune(), 1),
    ],
    ids=str,
)  # fmt: skip
def test_how_many_calls_of_the_network_are_held_at_once(world, method, calls):
    model, _, _ = world
    model.denoiser.write.register_forward_hook(lambda module, args, out: Memory.apply(out))
    Memory.living = Memory.peak = 0
    gradient(world, method)
    assert (Memory.peak, Memory.living) == (calls, 0)


class Linear(Denoiser):
    """Makes the reverse step exactly ``x -> gain * x + shift``, whatever the schedule."""

    model: MotionDiffusion  # set once there is one

    def __init__(self, prediction, gain, shift):
        super().__init__()
        self.prediction = prediction
        self.tuned = torch.nn.Parameter(torch.tensor(gain or shift, dtype=torch.float64))
        self.gain, self.shift = gain, shift

    def forward(self, x_t, t, prompts):
        after = dict(self.model.times)[int(t[0])]
        (alpha, sigma), (alpha_after, sigma_after) = map(
            self.model.schedule.scales, (int(t[0]), after)
        )
        ratio = alpha_after / alpha
        gain, shift = (self.tuned, 0.0) if self.shift is None else (self.gain, self.tuned)
        noise = (gain * x_t + shift - ratio * x_t) / (sigma_after - ratio * sigma)
        return noise if self.prediction == "epsilon" else (x_t - sigma * noise) / alpha


def _the_state(motion, prompts, t=None):
    return motion.flatten()


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
class TestClosedForms:
    """Two chains with known gradients; the reward is the state itself, read at x_t."""

    def shares(self, prediction, method, gain, shift):
        net = Linear(prediction, gain, shift)
        model, _, _ = toy()
        model = replace(
            model, denoiser=net, guidance=1.0, decode=lambda x, prompts: x,
            state_shape=lambda prompts: (1, 1),
        )  # fmt: skip
        net.model = model
        prompts = Prompts(text(1), torch.tensor([1]))
        x_T = torch.full((1, 1, 1), 1.3, dtype=torch.float64)
        plan = replace(method.plan(STEPS, rng()), reads="x_t")
        states = [s.x_t.item() for s in rollout(model, x_T, prompts, plan)]
        got = step_gradients(model, _the_state, x_T, prompts, plan)
        return got.flatten().tolist(), states

    def test_shift(self, prediction):
        """x' = a x + theta: full (1 - a^T) / (1 - a), its shares a^(steps left); EasyTune 1."""
        a = 0.9
        full, _ = self.shares(prediction, DRaFT(STEPS), gain=a, shift=0.2)
        assert sum(full) == pytest.approx((1 - a**STEPS) / (1 - a))
        assert full == pytest.approx([a ** (STEPS - 1 - i) for i in range(STEPS)])
        easy, _ = self.shares(prediction, EasyTune(STEPS), gain=a, shift=0.2)
        assert easy == pytest.approx([1.0] * STEPS)

    def test_gain(self, prediction):
        """x' = theta x: full T theta^(T-1) x_T; EasyTune at step t the state it reads."""
        theta = 0.9
        full, _ = self.shares(prediction, DRaFT(STEPS), gain=theta, shift=None)
        assert sum(full) == pytest.approx(STEPS * theta ** (STEPS - 1) * 1.3)
        easy, states = self.shares(prediction, EasyTune(STEPS), gain=theta, shift=None)
        assert easy == pytest.approx(states)
        assert states == pytest.approx([1.3 * theta**i for i in range(STEPS)])
