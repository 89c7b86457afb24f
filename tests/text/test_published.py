"""Encoders of published models, tiny and random, against transformers asked directly."""

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from easytune_lib.extras.official.mld import OfficialMLD
from easytune_lib.extras.official.open import open_checkpoint
from easytune_lib.finetuning.loop import batches, finetune
from easytune_lib.finetuning.methods import EasyTune
from easytune_lib.text.cache import CachedEncoder
from easytune_lib.text.encoders import PUBLISHED, HubEncoder, published_encoder
from easytune_lib.text.table import CaptionTable
from easytune_lib.types import Prompts

WALK, DOG = "a person walks forward", "a dog barks"
LONG = " ".join([WALK] * 30)
TEXTS = [WALK, DOG, "", LONG, "a"]
STATES = "clip-vit-base-patch32-states"


def save_clip(folder: Path, projected: int) -> None:
    """Both towers, as published, and a tokenizer of byte pairs which pads with its end."""
    letters = sorted({*f"{WALK} {DOG}"} - {" "})
    words = [*"!", *letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    start, end = len(words) - 2, len(words) - 1
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, [], unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", start), ("<|endoftext|>", end)],
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>",
        bos_token="<|startoftext|>", unk_token="<|endoftext|>",
    ).save_pretrained(folder)  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "num_hidden_layers": 2, "projection_dim": projected}
    text |= {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}  # as the published ones say
    vision = {"image_size": 8, "patch_size": 4, "num_hidden_layers": 1, **small}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=projected
    )
    transformers.CLIPModel(config).save_pretrained(folder)


def save_t5(folder: Path) -> None:
    """The encoder, a tokenizer of pieces, and a layer after pooling."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in f"{WALK} {DOG}".split())]
    scored = [(piece, -float(number)) for number, piece in enumerate(dict.fromkeys(pieces))]
    scored += [(letter, -50.0) for letter in sorted({*f"{WALK}{DOG}"} - {" "})]
    tokenizer = tokenizers.Tokenizer(models.Unigram(scored, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(scored), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    (folder / "2_Dense").mkdir()
    torch.save({"linear.weight": torch.randn(6, 16)}, folder / "2_Dense" / "pytorch_model.bin")


def save_distilbert(folder: Path) -> None:
    """With a tokenizer of word pieces."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(f"{WALK} {DOG}".split()), "##s"]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(folder)  # fmt: skip
    config = transformers.DistilBertConfig(
        vocab_size=len(words), dim=16, hidden_dim=32, n_layers=2, n_heads=2
    )
    transformers.DistilBertModel(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny copy of each published encoder, by its name."""
    made = {name: tmp_path_factory.mktemp(name) for name in PUBLISHED if name != STATES}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_t5(made["sentence-t5-large"])
        save_clip(made["clip-vit-large-patch14"], 6)
        save_clip(made["clip-vit-base-patch32"], 5)
        save_distilbert(made["distilbert-base-uncased"])
    return made | {STATES: made["clip-vit-base-patch32"]}


def asked(folder: Path, kind: type, text: str, length: int):
    """What transformers itself says of one caption."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        return inputs, kind.from_pretrained(folder)(**inputs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_captions_are_cut_where_the_published_code_cuts_them(name, folders):
    tokens = published_encoder(name, folders[name]).encode(TEXTS).token_mask.sum(1)
    longest = {"sentence-t5-large": 121, "distilbert-base-uncased": 122}.get(name, 77)
    assert int(tokens.max()) == (22 if name == "clip-vit-base-patch32" else longest)


def test_sentence_t5_is_the_projected_mean_of_unit_length(folders):
    folder = folders["sentence-t5-large"]
    features = published_encoder("sentence-t5-large", folder).encode(TEXTS)
    dense = torch.load(folder / "2_Dense" / "pytorch_model.bin")["linear.weight"]
    for row, text in enumerate(TEXTS):
        _, said = asked(folder, transformers.T5EncoderModel, text, 256)
        states = said.last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(0) @ dense.T, dim=0)
        torch.testing.assert_close(features.sentence[row], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(features.tokens[row, : len(states)], states)
        assert not features.tokens[row, len(states) :].any()


@pytest.mark.parametrize(("name", "length"), [("clip-vit-large-patch14", 77),
                                              ("clip-vit-base-patch32", 22)])  # fmt: skip
def test_clip_is_the_projected_state_of_the_end(name, length, folders):
    features = published_encoder(name, folders[name]).encode(TEXTS)
    for row, text in enumerate(TEXTS):
        kind = transformers.CLIPTextModelWithProjection
        _, said = asked(folders[name], kind, text, length)
        torch.testing.assert_close(features.sentence[row], said.text_embeds[0])
        # what CLIPModel.get_text_features gives, padded to 77 and without a mask
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
        ids = tokenizer(
            text, truncation=True, max_length=length, padding="max_length", return_tensors="pt"
        )["input_ids"]
        with torch.no_grad():
            found = transformers.CLIPModel.from_pretrained(folders[name]).get_text_features(ids)
        found = getattr(found, "pooler_output", found)  # transformers 5 wraps it
        torch.testing.assert_close(features.sentence[row], found[0])


def test_clip_states_are_all_77_behind_the_end_too(folders):
    """OpenAI's code fills with token 0 and hides nothing but what comes later."""
    features = published_encoder(STATES, folders[STATES]).encode(TEXTS)
    assert features.tokens.shape == (5, 77, 16) and features.tokens.any(-1).all()
    model = transformers.CLIPTextModel.from_pretrained(folders[STATES])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[STATES])
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text, truncation=True, max_length=77)["input_ids"]
        filled = torch.tensor([ids + [0] * (77 - len(ids))])
        with torch.no_grad():
            expected = model(input_ids=filled).last_hidden_state[0]
        torch.testing.assert_close(features.tokens[row], expected)
        assert features.token_mask[row].tolist() == [True] * len(ids) + [False] * (77 - len(ids))
        assert int(filled.argmax()) == int(features.token_mask[row].sum()) - 1  # where it ends


def test_states_behind_the_end_survive_the_cache_and_the_table(folders, tmp_path):
    encoder = published_encoder(STATES, folders[STATES])
    direct = encoder.encode(TEXTS)
    for _ in range(2):
        cached = CachedEncoder(encoder, tmp_path).encode(TEXTS)
        torch.testing.assert_close(cached.tokens, direct.tokens)
        assert torch.equal(cached.token_mask, direct.token_mask)
    table = CaptionTable(encoder, TEXTS)([DOG, ""])
    torch.testing.assert_close(table.tokens, direct[[1, 2]].tokens)
    assert torch.equal(table.token_mask, direct[[1, 2]].token_mask)


def test_distilbert_gives_token_states_and_their_mask(folders):
    folder = folders["distilbert-base-uncased"]
    features = published_encoder("distilbert-base-uncased", folder).encode(TEXTS)
    for row, text in enumerate(TEXTS):
        inputs, said = asked(folder, transformers.DistilBertModel, text, 512)
        words = inputs["input_ids"].shape[1]
        torch.testing.assert_close(
            features.tokens[row, :words], said.last_hidden_state[0], atol=1e-5, rtol=1e-5
        )
        assert features.token_mask[row].sum() == words
        assert not features.tokens[row, words:].any()


def test_the_two_readings_of_one_clip_have_different_names(folders):
    names = {published_encoder(name, folders[name]).name for name in PUBLISHED}
    assert len(names) == len(PUBLISHED)


def test_pickled_weights_are_read_as_tensors(folders, tmp_path):
    folder = pickled(folders["clip-vit-base-patch32"], tmp_path)
    tensors = load_file(folders["clip-vit-base-patch32"] / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (there,), (here,) = (
        published_encoder("clip-vit-base-patch32", each).encode([WALK]).sentence
        for each in (folders["clip-vit-base-patch32"], folder)
    )
    torch.testing.assert_close(there, here)


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_code_in_pickled_weights_is_not_run(folders, tmp_path):
    folder = pickled(folders["clip-vit-base-patch32"], tmp_path)
    for content in (Code(), {"weight": Code()}):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match="no text model could be loaded") as caught:
            published_encoder("clip-vit-base-patch32", folder).encode([WALK])
        assert "\n" not in str(caught.value)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(ValueError, match="no text model could be loaded"):
        published_encoder("clip-vit-base-patch32", folder).encode([WALK])


def test_code_in_a_dense_layer_is_not_run(folders, tmp_path):
    source = folders["sentence-t5-large"]
    for file in source.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "2_Dense").mkdir()
    torch.save({"linear.weight": Code()}, tmp_path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no text model could be loaded"):
        published_encoder("sentence-t5-large", tmp_path).encode([WALK])
    save_file({"linear.weight": torch.ones(3, 16)}, tmp_path / "2_Dense" / "model.safetensors")
    assert HubEncoder(tmp_path, dense="2_Dense").encode([WALK]).sentence.shape == (1, 3)


def pickled(source: Path, folder: Path) -> Path:
    """A copy of a text model without its weights."""
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_unknown_encoders_are_named():
    with pytest.raises(ValueError, match=r"'t5'.*sentence-t5-large"):
        published_encoder("t5")


def test_a_published_file_and_its_encoder_make_a_model_that_is_tuned(folders, tmp_path):
    network = OfficialMLD(
        [0.0] * 263, [1.0] * 263, dim=32, vae={"layers": 3, "ff": 64},
        denoiser={"layers": 3, "ff": 64, "text_dim": 6},
    )  # fmt: skip
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mld_humanml_v1.ckpt")
    for name, value in (("Mean.npy", 0.0), ("Std.npy", 1.0)):
        np.save(tmp_path / name, np.full(263, value, np.float32))
    published = published_encoder("sentence-t5-large", folders["sentence-t5-large"])
    encoder = CachedEncoder(published, tmp_path / "cache")
    opened = open_checkpoint(tmp_path / "mld_humanml_v1.ckpt")
    model = opened.diffusion(encoder.encode([""]), n_steps=4)
    before = [weight.clone() for weight in model.denoiser.parameters()]
    optimizer = torch.optim.AdamW(model.denoiser.requires_grad_().parameters(), lr=1e-3)
    prompts = Prompts(encoder.encode([WALK, DOG]), torch.tensor([24, 20]))
    updates = finetune(
        model, lambda motion, prompts, t=None: -motion.square().mean((1, 2)),
        batches(model, prompts, size=2, seed=0), EasyTune(2, "strided"), optimizer,
    )  # fmt: skip
    assert len(list(islice(updates, 2))) == 2
    pairs = zip(before, model.denoiser.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
