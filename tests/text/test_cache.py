from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from easytune_lib.text.cache import CachedEncoder, cache_folder
from easytune_lib.types import TextEncoder, TextFeatures


class Letters:
    """A stand-in encoder: a token a letter; ``calls`` keeps what it was asked."""

    def __init__(self, name: str = "letters", scale: float = 1.0):
        self.name, self.scale = name, scale
        self.calls: list[list[str]] = []

    def encode(self, texts):
        self.calls.append(list(texts))
        width = max(map(len, texts)) + 1
        mask = torch.arange(width) <= torch.tensor([len(text) for text in texts])[:, None]
        codes = torch.zeros(len(texts), width, 2)
        for row, text in enumerate(texts):
            for place, letter in enumerate(text + "."):
                codes[row, place] = self.scale * torch.tensor([ord(letter), place])
        return TextFeatures(tuple(texts), codes.sum(1), codes, mask)


def same(a: TextFeatures, b: TextFeatures) -> bool:
    parts = ("sentence", "tokens", "token_mask")
    return a.texts == b.texts and all(torch.equal(getattr(a, p), getattr(b, p)) for p in parts)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def test_a_cached_encoder_is_an_encoder_and_changes_nothing(tmp_path):
    cached = CachedEncoder(Letters(), tmp_path)
    assert isinstance(cached, TextEncoder) and cached.name == "letters"
    for texts in (["walk", "go", ""], ["go"], ["", "go", "walk", "go"]):
        assert same(cached.encode(texts), Letters().encode(texts))


def test_each_caption_is_encoded_once(tmp_path):
    encoder = Letters()
    cached = CachedEncoder(encoder, tmp_path)
    cached.encode(["a", "b", "a"])
    cached.encode(["b", "c"])
    assert encoder.calls == [["a", "b"], ["c"]]


def test_a_new_process_finds_all_on_disk(tmp_path):
    texts = ["walk", "", "ünïcode\n"]
    CachedEncoder(Letters(), tmp_path).encode(texts[:2])
    CachedEncoder(Letters(), tmp_path).encode(texts)
    fresh = Letters()
    assert same(CachedEncoder(fresh, tmp_path).encode(texts), Letters().encode(texts))
    assert fresh.calls == []


def test_two_encoders_never_share(tmp_path):
    one, two = Letters("one"), Letters("two", scale=2.0)
    first = CachedEncoder(one, tmp_path).encode(["a"])
    second = CachedEncoder(two, tmp_path).encode(["a"])
    assert torch.equal(second.sentence, 2 * first.sentence)
    assert len(files(tmp_path)) == 2


def test_a_file_moved_from_another_encoder_is_not_believed(tmp_path):
    CachedEncoder(Letters("one"), tmp_path / "1").encode(["a"])
    CachedEncoder(Letters("two"), tmp_path / "2").encode(["a"])
    (one,), (two,) = files(tmp_path / "1"), files(tmp_path / "2")
    two.write_bytes(one.read_bytes())
    encoder = Letters("two", scale=2.0)
    with pytest.warns(UserWarning, match="captions of two"):
        features = CachedEncoder(encoder, tmp_path / "2").encode(["a"])
    assert same(features, Letters(scale=2.0).encode(["a"]))


def test_many_may_write_at_once(tmp_path):
    words = [f"{n}" * (1 + n % 3) for n in range(40)]

    def work(start: int) -> None:
        cached = CachedEncoder(Letters(), tmp_path)
        for n in range(0, 40, 4):
            cached.encode(words[(start + n) % 40 :][:4])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [0, 0, 4, 6]))
    fresh = Letters()
    assert same(CachedEncoder(fresh, tmp_path).encode(words), Letters().encode(words))
    assert fresh.calls == [] and not list(tmp_path.glob("*/*.tmp"))


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_a_damaged_file_is_encoded_anew_and_repaired(tmp_path, damage):
    texts = ["walk", "run"]
    CachedEncoder(Letters(), tmp_path).encode(texts)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5] if damage is None else damage)
    encoder = Letters()
    with pytest.warns(UserWarning, match="passed over"):
        assert same(CachedEncoder(encoder, tmp_path).encode(texts), Letters().encode(texts))
    assert encoder.calls == [texts]
    assert files(tmp_path) == [file] and file.read_bytes() == whole


def test_what_comes_back_is_a_copy(tmp_path):
    cached = CachedEncoder(Letters(), tmp_path)
    cached.encode(["a"]).tokens.zero_()
    assert same(cached.encode(["a"]), Letters().encode(["a"]))


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path):
    (tmp_path / "file").touch()
    cached = CachedEncoder(Letters(), tmp_path / "file")
    with pytest.warns(UserWarning, match="EASYTUNE_CACHE"):
        assert cached.encode(["a"]).texts == ("a",)


@pytest.mark.parametrize("texts", [[], "walk"])
def test_what_is_not_a_list_of_captions_is_refused(tmp_path, texts):
    with pytest.raises(ValueError, match="expected a list of at least one caption"):
        CachedEncoder(Letters(), tmp_path).encode(texts)
    assert not list(tmp_path.iterdir())


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EASYTUNE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    CachedEncoder(Letters()).encode(["a"])
    assert len(files(tmp_path / "text")) == 1
    monkeypatch.delenv("EASYTUNE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "easytune"
