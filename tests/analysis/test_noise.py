import torch
from toy import STEPS, rng, toy

from easytune_lib.analysis.noise import similarity_by_noise, similarity_by_step
from easytune_lib.diffusion.rollout import sample


def encode(motion, prompts):
    return motion.sum(1) / prompts.lengths[:, None]


def test_rows_follow_the_steps_and_end_at_the_final_motion():
    model, x_T, prompts = toy("x0")
    got = similarity_by_step(encode, model, x_T, prompts)
    assert got.times == tuple(now for now, _ in model.times)
    assert got.noised.shape == got.predicted.shape == (STEPS, len(prompts))
    torch.testing.assert_close(got.predicted[-1], torch.ones(4, dtype=torch.float64))
    assert (got.noised.abs() <= 1 + 1e-12).all() and not got.noised.requires_grad
    noise = model.decode(x_T, prompts)
    model.denoiser.float()
    motion = sample(model, prompts, rng(0)).double()  # the same noise, in float32
    cosine = torch.nn.functional.cosine_similarity(
        encode(noise, prompts), encode(motion, prompts), dim=-1
    )
    torch.testing.assert_close(got.noised[0], cosine, rtol=1e-5, atol=1e-5)


def test_clean_state_resembles_itself_and_more_noise_resembles_it_less():
    model, _, prompts = toy()
    state = torch.ones(4, 4, 3, dtype=torch.float64)
    state[..., 1] = -2
    times = (0, 30, 60, 99)
    args = (encode, model.schedule, state, model.decode, prompts, times)
    got = similarity_by_noise(*args, rng(1))
    assert got.shape == (4, 4)
    assert (got[0] > 0.99).all()
    mean = got.mean(1)
    assert (mean[1:] < mean[:-1]).all()
    assert torch.equal(got, similarity_by_noise(*args, rng(1)))
    alone = similarity_by_noise(*args[:-1], times[2:3], rng(1))
    assert torch.equal(got[2:3], alone), "one noise serves all times"
