"""All captions of a corpus, encoded once."""

import pytest
import torch

from easytune_lib.text.table import CaptionTable
from easytune_lib.types import TextFeatures


class Letters:
    """As many tokens as a caption has letters; remembers what it was asked."""

    name = "letters"

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        mask = torch.arange(max(map(len, texts))) < torch.tensor([[len(t)] for t in texts])
        codes = torch.tensor([[ord(c) for c in t.ljust(mask.shape[1])] for t in texts])
        tokens = (codes * mask)[..., None] * torch.tensor([1.0, -1.0])
        return TextFeatures(tuple(texts), tokens.sum(1), tokens, mask)


CAPTIONS = ["run", "a", "jump high", "run", "sit", "a"]


@pytest.fixture
def encoder():
    return Letters()


@pytest.fixture
def table(encoder):
    return CaptionTable(encoder, CAPTIONS)


@pytest.mark.parametrize(
    "texts", [["sit"], ["run", "sit", "run"], ["a", "jump high"], ["jump high", "a", "run", "sit"]]
)
def test_a_batch_is_what_the_encoder_says_of_it(encoder, table, texts):
    got, want = table(texts), encoder.encode(texts)
    assert got.texts == want.texts
    for part in ("sentence", "tokens", "token_mask"):
        assert torch.equal(getattr(got, part), getattr(want, part)), part


def test_each_caption_is_encoded_once(encoder, table):
    table(["run"]), table(["sit", "a"])
    assert sorted(encoder.asked[0]) == ["a", "jump high", "run", "sit"] and len(encoder.asked) == 1


def test_the_order_and_number_of_captions_change_nothing(encoder):
    one, two = CaptionTable(encoder, CAPTIONS), CaptionTable(encoder, reversed(CAPTIONS[:5]))
    assert torch.equal(one(["sit", "run"]).tokens, two(["sit", "run"]).tokens)
    assert encoder.asked[0] == encoder.asked[1]


def test_unknown_captions_are_counted_and_named(table):
    with pytest.raises(ValueError, match="2 captions were not encoded, first 'fly'"):
        table(["run", "fly", "swim"])
