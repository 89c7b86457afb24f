import weakref

import pytest
import torch
from toy import text, toy

from easytune_lib.diffusion.guidance import guided, twice
from easytune_lib.types import Prompts, TextFeatures


@pytest.fixture(params=["epsilon", "x0"])
def parts(request):
    """A guided reading as a function of the scale, and the two readings it is made of."""
    model, x, prompts = toy(request.param)
    t = torch.full((4,), 50)
    blank = Prompts(model.no_text[[0] * 4], prompts.lengths)
    with_text, without = model.denoiser(x, t, prompts), model.denoiser(x, t, blank)

    def read(scale, prompts=prompts):
        return guided(model.denoiser, x, t, prompts, scale, model.no_text)

    return model.denoiser, prompts, read, with_text, without


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, 7.5])
def test_extrapolates_from_no_caption_to_the_caption(parts, scale):
    _, _, read, with_text, without = parts
    torch.testing.assert_close(read(scale), without + scale * (with_text - without))


def test_both_readings_carry_gradient(parts):
    net, _, read, with_text, without = parts
    got, up, down = (
        torch.autograd.grad(x.sum(), net.write.weight)[0] for x in (read(3.0), with_text, without)
    )
    torch.testing.assert_close(got, 3 * up - 2 * down)


def test_one_call_whatever_the_scale(parts):
    net, _, read, *_ = parts
    calls = []
    net.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    read(2.0)
    read(1.0)
    assert calls == [8, 4]


def test_captions_longer_than_the_empty_one_are_padded(parts):
    _, prompts, read, *_ = parts
    four = prompts.text
    words = torch.ones(4, 6, dtype=torch.bool)
    long = TextFeatures(four.texts, four.sentence, four.tokens.expand(-1, 6, -1), words)
    torch.testing.assert_close(read(2.0, Prompts(long, prompts.lengths)), read(2.0))
    both = TextFeatures.cat([long, text(1)])
    assert both.token_mask.sum(1).tolist() == [6, 6, 6, 6, 1] and not both.tokens[4, 1:].any()


def test_captions_are_joined_once_for_all_steps(parts):
    model, _, prompts = toy()
    both = twice(prompts, model.no_text)
    assert twice(prompts, model.no_text) is both and len(both) == 8
    other = text(1, seed=3)
    assert torch.equal(twice(prompts, other).text.sentence[7], other.sentence[0])
    gone = weakref.ref(both)
    del both, prompts
    assert gone() is None
