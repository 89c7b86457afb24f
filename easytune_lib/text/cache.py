"""Caption embeddings kept on disk, so that a fresh process need not load an encoder."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from easytune_lib.storage import load_tensors, save_tensors
from easytune_lib.types import TextEncoder, TextFeatures

PARTS = ("sentence", "tokens", "token_mask")


def cache_folder() -> Path:
    """``$EASYTUNE_CACHE`` if it is set, else ``~/.cache/easytune``."""
    return Path(os.environ.get("EASYTUNE_CACHE") or "~/.cache/easytune").expanduser()


class CachedEncoder:
    """An encoder that encodes each caption once, on this machine, ever.

    Each call with unknown captions adds one file to ``folder/<digest of the encoder's name>``.
    A file is complete or absent and is never changed, so that processes may share a folder. A
    file that cannot be read is passed over, and its captions are encoded anew.

    Args:
        encoder: What to ask for captions that are not in the cache.
        folder: Where to keep embeddings; by default ``text`` in :func:`cache_folder`.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | str | None = None):
        self.name = encoder.name
        self._encoder = encoder
        root = cache_folder() / "text" if folder is None else Path(folder)
        self._folder = root / digest(self.name)

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of ``texts`` on the CPU, padded to the longest of them.

        Raises:
            ValueError: ``texts`` is empty or a lone string.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"got {texts!r}; expected a list of at least one caption")
        if unknown := [text for text in dict.fromkeys(texts) if text not in self._rows]:
            fresh = self._encoder.encode(unknown).to("cpu")
            self._save(fresh)
            self._rows.update(rows_of(fresh))
        return TextFeatures.cat([self._rows[text] for text in texts])

    @cached_property
    def _rows(self) -> dict[str, TextFeatures]:
        """What the folder holds, one caption an entry."""
        rows: dict[str, TextFeatures] = {}
        for file in sorted(self._folder.glob("*.safetensors")):
            try:
                rows.update(rows_of(self._read(file)))
            except (ValueError, KeyError) as error:
                warnings.warn(f"{file} is passed over: {error}", stacklevel=3)
        return rows

    def _read(self, file: Path) -> TextFeatures:
        tensors, config = load_tensors(file)
        texts = tuple(config["texts"])
        parts = [tensors[part] for part in PARTS]
        if config["encoder"] != self.name or any(len(part) != len(texts) for part in parts):
            raise ValueError(f"it does not hold {len(texts)} captions of {self.name}")
        return TextFeatures(texts, *parts)

    def _save(self, features: TextFeatures) -> None:
        file = self._folder / f"{digest(*features.texts)}.safetensors"
        config = {"encoder": self.name, "texts": features.texts}
        try:
            save_tensors(file, {part: getattr(features, part) for part in PARTS}, config)
        except OSError as error:
            warnings.warn(
                f"captions are encoded anew each time, since {self._folder} cannot be written "
                f"({error}); set EASYTUNE_CACHE to a folder that can",
                stacklevel=3,
            )


def rows_of(features: TextFeatures) -> Iterator[tuple[str, TextFeatures]]:
    """Each caption with its features, without padding."""
    for row, text in enumerate(features.texts):
        yield text, features[[row]].trimmed()


def digest(*words: str) -> str:
    """A file name that no other ``words`` have."""
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:24]
