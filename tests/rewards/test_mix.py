import pytest
import torch
from torch import Tensor

from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.mix import FromFunction, Mix, MotionSimilarity, gradient_error
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts, Reward


def squares(motion: Tensor, prompts: Prompts, t: Tensor | None = None) -> Tensor:
    return -(motion.square().mean(-1) * prompts.mask).sum(1) / prompts.lengths


def level(motion: Tensor, prompts: Prompts, t: Tensor | None = None) -> Tensor:
    return motion.tanh().mean(-1)[:, 0]


@pytest.fixture
def motion(batch) -> Tensor:
    return batch.features.double()


def test_a_mix_is_the_weighted_sum(motion, prompts):
    mix = Mix({squares: 2.0, level: -0.5})
    wanted = 2 * squares(motion, prompts) - 0.5 * level(motion, prompts)
    assert isinstance(mix, Reward)
    assert torch.allclose(mix(motion, prompts), wanted)
    parts = mix.parts(motion, prompts)
    assert parts["squares"].tolist() == squares(motion, prompts).tolist()
    assert gradient_error(mix, motion, prompts, stream(0)) < 1e-6


def test_parts_have_names_and_twins_have_numbers(motion, prompts, spm):
    alignment = AlignmentReward(spm())
    mix = Mix([(FromFunction(squares, "calm"), 1.0), (alignment, 1.0), (FromFunction(level), 0.1),
               (FromFunction(level), 0.1)])  # fmt: skip
    assert mix.names == ("calm", "AlignmentReward", "own reward", "own reward #2")
    assert list(mix.parts(motion.float(), prompts)) == list(mix.names)


def test_the_noise_level_is_passed_on(motion, prompts):
    heard = []

    def listen(motion: Tensor, prompts: Prompts, t: Tensor | None = None) -> Tensor:
        heard.append(t)
        return motion.mean((1, 2))

    t = torch.full((len(prompts),), 7)
    Mix([(listen, 1.0), (FromFunction(listen), 1.0)])(motion, prompts, t)
    assert heard == [t, t]


@pytest.mark.parametrize("rewards", [{}, [], {squares: float("nan")}, {squares: float("inf")}])
def test_a_mix_needs_rewards_and_finite_weights(rewards):
    with pytest.raises(ValueError, match="at least one reward and finite weights"):
        Mix(rewards)


def test_a_function_is_a_reward(motion, prompts):
    reward = FromFunction(squares)
    assert isinstance(reward, Reward)
    assert torch.equal(reward(motion, prompts), squares(motion, prompts))
    assert gradient_error(reward, motion, prompts, stream(0)) < 1e-6


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, p, t: x.mean(), r"gave \(\), expected a tensor of shape \(16,\)"),
        (lambda x, p, t: x.mean(-1), r"expected a tensor of shape \(16,\)"),
        (lambda x, p, t: 0.5, "gave float"),
        (lambda x, p, t: x[:, 0, 0] * torch.nan, "expected finite floats"),
        (lambda x, p, t: p.lengths, "expected finite floats"),
        (lambda x, p, t: x.detach().mean((1, 2)), "no gradient to the motion"),
        (lambda x, p, t: (x > 0).double().mean((1, 2)), "no gradient to the motion"),
        (lambda x, p, t: torch.ones(16, requires_grad=True) * 2, "no gradient to the motion"),
        (lambda x, p, t: torch.ones(16, requires_grad=True), "no gradient to the motion"),
    ],
)
def test_usual_mistakes_are_named(motion, prompts, function, message):
    with pytest.raises(ValueError, match=message):
        FromFunction(function, "mine")(motion.requires_grad_(), prompts)


def test_a_gradient_is_asked_for_only_where_there_can_be_one(motion, prompts):
    constant = FromFunction(lambda x, p, t: torch.zeros(len(x)))
    assert constant(motion, prompts).tolist() == [0.0] * 16
    with torch.no_grad():
        assert constant(motion.requires_grad_(), prompts).tolist() == [0.0] * 16
    inner = (motion * 2).sin()  # as in a rollout: no leaf
    assert FromFunction(level)(inner, prompts).requires_grad


def test_a_motion_is_most_like_itself(motion, prompts, spm):
    encoder = AlignmentReward(spm().double())
    reward = MotionSimilarity(encoder, motion, prompts)
    assert isinstance(reward, Reward)
    assert reward(motion, prompts).tolist() == pytest.approx([1.0] * 16)
    order = torch.arange(15, -1, -1)
    frames = prompts[order].frames
    assert reward(motion[order][:, :frames], prompts[order]).tolist() == pytest.approx([1.0] * 16)
    other = reward(motion + 1.0 * prompts.mask[..., None], prompts)
    assert (other < 1 - 1e-9).all()
    assert gradient_error(reward, motion + 0.1, prompts, stream(0)) < 1e-5


def test_one_reference_is_that_of_every_prompt(motion, prompts, spm):
    encoder = AlignmentReward(spm().double())
    first = prompts[[0]]
    reward = MotionSimilarity(encoder, motion[:1, : first.frames], first)
    scores = reward(motion, prompts)
    assert scores[0].item() == pytest.approx(1) and (scores[1:] < 1).all()
    assert not reward.latents.requires_grad


def test_a_caption_without_reference_is_refused(motion, prompts, spm):
    encoder = AlignmentReward(spm().double())
    some = prompts[[0, 1]]
    reward = MotionSimilarity(encoder, motion[:2, : some.frames], some)
    with pytest.raises(ValueError, match=r"no reference motion for .*\(14 captions\)"):
        reward(motion, prompts)
    twice = prompts[[0, 0]]
    with pytest.raises(ValueError, match="share captions"):
        MotionSimilarity(encoder, motion[[0, 0], : twice.frames], twice)


def test_wrong_and_flat_gradients_are_seen(motion, prompts):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    wrong = FromFunction(lambda x, p, t: squares(Twice.apply(x), p))
    assert gradient_error(wrong, motion, prompts, stream(0)) > 0.01
    with pytest.raises(ValueError, match="the reward is flat here"):
        gradient_error(
            FromFunction(lambda x, p, t: x.round().mean((1, 2))), motion, prompts, stream(0)
        )
