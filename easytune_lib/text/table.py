"""The text features of all captions of a corpus, looked up by caption."""

from collections.abc import Iterable, Sequence

from easytune_lib.types import TextEncoder, TextFeatures


class CaptionTable:
    """Encodes each distinct caption once; ``table(texts)`` is a batch of features."""

    def __init__(self, encoder: TextEncoder, captions: Iterable[str]):
        distinct = sorted(set(captions))
        self._rows = {caption: row for row, caption in enumerate(distinct)}
        self._features = encoder.encode(distinct)

    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Features of ``texts``, padded to the longest of them.

        Raises:
            ValueError: A caption is not in the table.
        """
        if unknown := [text for text in texts if text not in self._rows]:
            raise ValueError(f"{len(unknown)} captions were not encoded, first {unknown[0]!r}")
        return self._features[[self._rows[text] for text in texts]].trimmed()
