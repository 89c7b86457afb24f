import torch
from toy import STEPS, rng, toy

from easytune_lib.analysis.noise import (
    Reader,
    ranking_by_step,
    similarity_by_noise,
    similarity_by_step,
)
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


def test_a_reader_that_knows_the_end_ranks_it_first_there():
    """Its captions are the motions that the model will make: found at the last step at least."""
    model, x_T, prompts = toy("x0")
    model.denoiser.float()
    made = encode(sample(model, prompts, rng(0)).double(), prompts)
    seen: list[tuple[str, object]] = []

    def reader(state, told=True):
        def embed(motion, prompts, t):
            seen.append((state, t))
            return encode(motion, prompts)

        return Reader(embed, lambda text: made, state, told)

    readers = {"early": reader("x_t"), "late": reader("x0_hat"), "blind": reader("x_t", told=False)}
    hits = ranking_by_step(readers, model, x_T.float(), prompts, ["a", "b", "c", "d"], group_size=4)
    assert all(values.shape == (STEPS, 4) for values in hits.values())
    assert (hits["late"][-1] == 1).all() and (hits["late"] >= 0).all()
    assert torch.equal(hits["early"], hits["blind"]), "this reader does not look at the step"
    told = [t for state, t in seen if state == "x_t"]
    assert [int(t[0]) for t in told[::2]] == [now for now, _ in model.times]
    assert all(t is None for t in told[1::2])
    assert all(t is None for state, t in seen if state == "x0_hat")
