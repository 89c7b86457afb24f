"""What base models are trained to do, against numbers by hand and networks that know the answer."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.models.mld import VAE
from easytune_lib.models.objectives import consistency_loss, denoising_loss, vae_loss
from easytune_lib.seeding import stream
from easytune_lib.types import Denoiser, Prompts, TextFeatures

SCHEDULE = NoiseSchedule.cosine(100)
LENGTHS = torch.tensor([8, 4, 12, 2])


def text(names):
    sentence = torch.randn(len(names), 5, generator=stream(0, "text"))
    return TextFeatures(
        tuple(names), sentence, sentence[:, None], torch.ones(len(names), 1, dtype=torch.bool)
    )


NO_TEXT, PROMPTS = text([""]), Prompts(text(["walk", "run", "jump", "sit"]), LENGTHS)
X0 = torch.randn(4, 12, 3, generator=stream(0, "x0")) * PROMPTS.mask[..., None]


class Spy(Denoiser):
    """Keeps what it was asked, and answers ``answer(x_t, t, prompts)``, zero by default."""

    def __init__(self, prediction, answer=lambda x_t, t, prompts: torch.zeros_like(x_t)):
        super().__init__()
        self.prediction, self.answer, self.asked = prediction, answer, []

    def forward(self, x_t, t, prompts):
        self.asked.append((x_t, t, prompts))
        return self.answer(x_t, t, prompts)


def loss(spy, x0=X0, prompts=PROMPTS, seed=0, **options):
    return denoising_loss(spy, SCHEDULE, x0, prompts, NO_TEXT, stream(seed), **options).item()


def noise_in(x_t, t, x0):
    alpha_bar = SCHEDULE.alpha_bar[t].float()[:, None, None]
    return (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()


def test_who_knows_the_noise_or_the_motion_has_no_loss():
    assert loss(Spy("epsilon", lambda x_t, t, _: noise_in(x_t, t, X0))) == pytest.approx(
        0, abs=1e-5
    )
    assert loss(Spy("x0", lambda x_t, t, _: X0)) == 0


def test_an_even_loss_weighs_an_error_by_what_it_does_to_the_motion():
    """An error of the noise, over alpha_bar: as that of v, where the noise is a part of it."""
    spy = Spy("epsilon")
    got = loss(spy, even=True)
    (x_t, t, _), mask = spy.asked[0], PROMPTS.mask[..., None]
    weighed = noise_in(x_t, t, X0) ** 2 / SCHEDULE.alpha_bar[t].float()[:, None, None] * mask
    assert got == pytest.approx((weighed.sum() / mask.sum() / 3).item(), rel=1e-4)


def test_who_says_zero_pays_the_mean_square_over_real_frames_alone():
    spy = Spy("epsilon")
    got = loss(spy)
    (x_t, t, _), real = spy.asked[0], PROMPTS.mask
    assert got == pytest.approx(noise_in(x_t, t, X0)[real].square().mean().item(), rel=1e-4)
    assert loss(Spy("x0")) == pytest.approx(X0[real].square().mean().item(), rel=1e-6)


def test_what_a_network_says_of_padding_costs_nothing():
    padding = 9.0 * ~PROMPTS.mask[..., None]
    assert loss(Spy("x0", lambda x_t, t, _: X0 + padding)) == 0
    assert loss(Spy("x0"), X0 + padding) == loss(Spy("x0"))


def test_padding_is_no_noise():
    spy = Spy("x0")
    loss(spy)
    x_t = spy.asked[0][0]
    assert not x_t[~PROMPTS.mask].any() and x_t[PROMPTS.mask].all()


def test_every_token_of_a_latent_counts_whatever_the_lengths():
    latent = torch.randn(4, 2, 3, generator=stream(0, "latent"))
    assert loss(Spy("x0"), latent) == pytest.approx(latent.square().mean().item(), rel=1e-6)


def test_captions_are_dropped_as_often_as_asked_and_lengths_stay():
    many = PROMPTS[torch.arange(4).repeat(500)]
    for drop in (0.0, 0.3, 1.0):
        spy = Spy("x0")
        loss(spy, X0.repeat(500, 1, 1), many, drop=drop)
        (_, _, asked), known = (
            spy.asked[0],
            dict(zip(PROMPTS.texts, PROMPTS.text.sentence, strict=True)),
        )
        share = sum(caption == "" for caption in asked.texts) / 2000
        assert share == pytest.approx(drop, abs=0.05 if 0 < drop < 1 else 0)
        assert torch.equal(asked.lengths, many.lengths)
        kept = [i for i, caption in enumerate(asked.texts) if caption]
        assert [asked.texts[i] for i in kept] == [many.texts[i] for i in kept]
        rows = [known.get(caption, NO_TEXT.sentence[0]) for caption in asked.texts]
        assert torch.equal(asked.text.sentence, torch.stack(rows))


def test_times_cover_the_schedule_and_draws_depend_on_the_stream_alone():
    first, twin, other = Spy("x0"), Spy("epsilon"), Spy("x0")
    many = PROMPTS[torch.arange(4).repeat(500)]
    for spy, seed in ((first, 0), (twin, 0), (other, 1)):
        loss(spy, X0.repeat(500, 1, 1), many, seed)
    assert set(first.asked[0][1].tolist()) == set(range(len(SCHEDULE)))
    for mine, its in zip(first.asked[0][:2], twin.asked[0][:2], strict=True):
        assert torch.equal(mine, its), "whatever the network predicts, it is asked the same"
    assert not torch.equal(first.asked[0][1], other.asked[0][1])


class Student(Spy):
    """Answers the same whatever the scale, and keeps the scales."""

    def __init__(self, answer):
        super().__init__("epsilon", answer)
        self.scales = []

    def guided(self, x_t, t, prompts, scale):
        self.scales.append(scale)
        return self(x_t, t, prompts)


def distance(student, teacher, seed=0):
    return consistency_loss(
        student, teacher, SCHEDULE, X0, PROMPTS, NO_TEXT, stream(seed), origin=10
    ).item()


def straight_to(goal):
    """The noise in a state of a world whose only motion is ``goal``."""
    return lambda x_t, t, _: noise_in(x_t, t, goal.repeat(len(x_t) // len(goal), 1, 1))


def test_the_true_consistency_function_has_no_loss_and_another_has():
    teacher = Spy("epsilon", straight_to(X0))
    seeds = range(8)
    right = [distance(Student(straight_to(X0)), teacher, s) for s in seeds]
    nearly = SCHEDULE.scales(0)[1]  # what is left of the noise where the path ends
    assert max(right) < nearly
    wrong = [distance(Student(straight_to(X0 + 1)), teacher, s) for s in seeds]
    assert sum(wrong) > 2 * sum(right), "who ends elsewhere disagrees with the clean end"
    assert sum(distance(Student(lambda x, *_: torch.zeros_like(x)), teacher, s) for s in seeds) > 1


def test_the_teacher_is_guided_as_strongly_as_the_student_is_told():
    student, teacher = Student(straight_to(X0)), Spy("epsilon", straight_to(X0))
    for seed in range(20):
        distance(student, teacher, seed)
    assert all(1 <= scale <= 8 for scale in student.scales) and len(set(student.scales)) == 20
    times = torch.cat([t for _, t, _ in teacher.asked])
    assert {int(t) for t in times} <= set(range(9, 100, 10)), "only times that sampling visits"
    assert teacher.asked[0][2].texts == (*PROMPTS.texts, "", "", "", "")


def test_no_gradient_reaches_teacher_or_target():
    weight = torch.nn.Parameter(torch.tensor(0.5))
    answers = []

    def answer(x_t, t, prompts):
        answers.append(weight * x_t)
        return answers[-1]

    teacher = Spy("epsilon", lambda x_t, t, _: weight * x_t)
    consistency_loss(
        Student(answer), teacher, SCHEDULE, X0, PROMPTS, NO_TEXT, stream(0), origin=10
    ).backward()
    assert [value.requires_grad for value in answers] == [False, True]
    assert weight.grad is not None and weight.grad != 0


class Known(VAE):
    """A latent of known moments, decoded to the motion it was made from plus an ``error``."""

    def __init__(self, motion, error=0.0, mu=0.0, logvar=0.0):
        super().__init__(features=6, dim=8, layers=1, latents=2, latent_dim=4, patch=2)
        self.motion, self.error, self.moments, self.latents_seen = motion, error, (mu, logvar), []

    def encode(self, motion, mask):
        mu, logvar = (torch.full((len(motion), 2, 4), moment) for moment in self.moments)
        return mu, logvar

    def decode_normalised(self, latent, mask):
        self.latents_seen.append(latent)
        return (self.normalise(self.motion, mask) + self.error) * mask[..., None]


MOTION = torch.randn(4, 12, 6, generator=stream(0, "motion")) * PROMPTS.mask[..., None]


def test_a_perfect_vae_pays_for_its_latent_alone():
    total, parts = vae_loss(Known(MOTION), MOTION, PROMPTS, stream(0))
    assert total.item() == parts["reconstruction"] == parts["kl"] == 0


def test_the_pull_is_the_kl_divergence_to_the_unit_gaussian():
    vae = Known(MOTION, mu=1.5, logvar=-0.7)
    total, parts = vae_loss(vae, MOTION, PROMPTS, stream(0), kl_weight=0.1)
    away = kl_divergence(Normal(1.5, torch.tensor(-0.35).exp()), Normal(0.0, 1.0)).item()
    assert parts["kl"] == pytest.approx(away, rel=1e-5)
    assert total.item() == pytest.approx(0.1 * away, rel=1e-5)


def test_small_errors_cost_half_their_square_and_the_root_counts_extra():
    """0.2 everywhere: 0.02 a number. 0.2 in the root's four of six numbers: two thirds of it."""
    everywhere = vae_loss(Known(MOTION, 0.2), MOTION, PROMPTS, stream(0), root_weight=0.5)
    root = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.0, 0.0])
    in_root = vae_loss(Known(MOTION, root), MOTION, PROMPTS, stream(0), root_weight=0.5)
    elsewhere = vae_loss(Known(MOTION, 0.2 - root), MOTION, PROMPTS, stream(0), root_weight=0.5)
    assert everywhere[1]["reconstruction"] == pytest.approx(0.02, rel=1e-4)
    assert everywhere[0].item() == pytest.approx(0.02 + 0.5 * 0.02, rel=1e-4)
    assert in_root[0].item() == pytest.approx(0.02 * 4 / 6 + 0.5 * 0.02, rel=1e-4)
    assert elsewhere[0].item() == pytest.approx(0.02 * 2 / 6, rel=1e-4)


def test_the_decoder_is_given_a_draw_from_the_encoded_gaussian():
    vae, rng = Known(MOTION, mu=2.0, logvar=-1.0), stream(0)
    for _ in range(100):
        vae_loss(vae, MOTION, PROMPTS, rng)
    drawn = torch.stack(vae.latents_seen)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.03)
    assert drawn.var().log().item() == pytest.approx(-1.0, abs=0.08)


def test_a_real_vae_has_a_gradient_in_every_weight_and_ignores_padding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(features=6, dim=8, layers=3, latents=2, latent_dim=4, patch=2, max_frames=12)
    total, _ = vae_loss(vae, MOTION, PROMPTS, stream(0))
    total.backward()
    without = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    garbage = MOTION + 9.0 * ~PROMPTS.mask[..., None]
    assert vae_loss(vae, garbage, PROMPTS, stream(0))[0].item() == pytest.approx(total.item())
