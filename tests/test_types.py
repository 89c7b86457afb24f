import pytest
import torch

from easytune_lib.types import Prompts, TextEncoder, TextFeatures


def features(*lengths: int, seed: int = 0) -> TextFeatures:
    """Captions of ``lengths`` words, with tokens zero where padded."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randn(*mask.shape, 3, generator=rng) * mask[..., None]
    sentence = torch.randn(len(lengths), 5, generator=rng)
    return TextFeatures(tuple(f"{seed}.{n}" for n in range(len(lengths))), sentence, tokens, mask)


def same(a: TextFeatures, b: TextFeatures) -> bool:
    parts = ("sentence", "tokens", "token_mask")
    return a.texts == b.texts and all(torch.equal(getattr(a, p), getattr(b, p)) for p in parts)


def test_cat_pads_to_the_longest_caption_and_rows_come_back():
    short, long = features(2, 1), features(3, 4, 1, seed=1)
    joined = TextFeatures.cat([short, long])
    assert joined.tokens.shape == (5, 4, 3)
    assert joined.token_mask.sum(1).tolist() == [2, 1, 3, 4, 1]
    assert not joined.tokens[~joined.token_mask].any()
    assert same(joined[2:], long)
    assert same(TextFeatures.cat([joined[:2], joined[2:]]), joined)
    torch.testing.assert_close(joined[:2].tokens[:, :2], short.tokens)


@pytest.mark.parametrize(
    "rows",
    [[0, 2], (0, 2), slice(0, 3, 2), torch.tensor([0, 2]), torch.tensor([True, False, True])],
)
def test_rows_may_be_chosen_by_list_slice_tensor_or_mask(rows):
    whole = features(1, 2, 3)
    chosen = whole[rows]
    assert len(chosen) == 2
    assert chosen.texts == ("0.0", "0.2")
    assert torch.equal(chosen.sentence, whole.sentence[[0, 2]])
    assert torch.equal(chosen.token_mask, whole.token_mask[[0, 2]])


def test_rows_keep_the_order_asked_for_and_may_repeat():
    assert features(1, 2, 3)[[2, 0, 2]].texts == ("0.2", "0.0", "0.2")


def test_prompts_mask_says_which_frames_are_real():
    prompts = Prompts(features(1, 2, 3), torch.tensor([2, 4, 1]))
    assert len(prompts) == 3
    assert prompts.texts == ("0.0", "0.1", "0.2")
    assert prompts.frames == 4
    assert prompts.mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_a_part_of_prompts_is_padded_to_its_own_longest():
    prompts = Prompts(features(1, 2, 3), torch.tensor([2, 4, 1]))[[0, 2]]
    assert prompts.texts == ("0.0", "0.2")
    assert prompts.mask.shape == (2, 2)
    assert prompts.to("cpu").lengths.tolist() == [2, 1]


def test_anything_with_a_name_and_encode_is_a_text_encoder():
    class Fake:
        name = "fake"

        def encode(self, texts):
            return features(*map(len, texts))

    assert isinstance(Fake(), TextEncoder)
    assert not isinstance(object(), TextEncoder)
