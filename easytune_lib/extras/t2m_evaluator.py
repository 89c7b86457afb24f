"""The field's judge, key for key: the text-motion evaluator that published numbers are from."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from easytune_lib.checkpoints import fit, read_checkpoint
from easytune_lib.data.corpus import Clip, FeatureStats
from easytune_lib.extras.t2m_protocol import evaluator_std
from easytune_lib.metrics.judge import UNIT, Judge, last_states
from easytune_lib.motion.arrays import array_in
from easytune_lib.motion.skeleton import HUMANML3D, KIT
from easytune_lib.text.words import UNKNOWN, WordVectors

MAX_FRAMES = 196  # of a motion; HumanML3D's and KIT-ML's are cut to it
MAX_WORDS = 20  # of a caption, without the two that mark its ends

# parts of speech, in the order of the evaluator's input; the last stands for all others
POS = (
    "VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV",
    "Loc_VIP", "Body_VIP", "Obj_VIP", "Act_VIP", "Desc_VIP", "OTHER",
)  # fmt: skip
OTHER = len(POS) - 1
# words that matter in motion have a class of their own, whatever part of speech they are
IMPORTANT = {
    word: POS.index(kind)
    for kind, words in {
        "Loc_VIP": "left right clockwise counterclockwise anticlockwise forward back backward up "
        "down straight curve",
        "Body_VIP": "arm chin foot feet face hand mouth leg waist eye knee shoulder thigh",
        "Obj_VIP": "stair dumbbell chair window floor car ball handrail baseball basketball",
        "Act_VIP": "walk run swing pick bring kick put squat throw hop dance jump turn stumble "
        "stop sit lift lower raise wash stand kneel stroll rub bend balance flap jog shuffle lean "
        "rotate spin spread climb",
        "Desc_VIP": "slowly carefully fast careful slow quickly happy angry sad happily angrily "
        "sadly",
    }.items()
    for word in words.split()
}


@dataclass(frozen=True, eq=False)
class TaggedWords:
    """Words as the evaluator reads them: each a vector and a part of speech."""

    rows: Mapping[str, int]  # word -> row of `table`; holds UNKNOWN
    table: Float32[np.ndarray, "words dim"]
    tokens: Mapping[str, str] = field(default_factory=dict)  # caption -> "word/POS word/POS"

    @classmethod
    def official(cls, folder: Path | str, clips: Sequence[Clip] = ()) -> "TaggedWords":
        """The 300-d GloVe vectors that the published weights were trained with.

        Args:
            folder: Holds ``our_vab_data.npy`` and ``our_vab_words.pkl`` (and, where rows are in
                another order than words, ``our_vab_idx.pkl``). No code in them is run.
            clips: Whose captions are to be read, see :meth:`of`.

        Raises:
            ValueError: A file is missing or is something else.
        """
        folder = Path(folder)
        words, order = _plain(folder / "our_vab_words.pkl"), folder / "our_vab_idx.pkl"
        try:
            index = _plain(order) if order.exists() else {word: i for i, word in enumerate(words)}
            rows = {str(word): int(index[word]) for word in words}
            table = array_in((folder / "our_vab_data.npy").read_bytes()).astype(np.float32)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder} holds no words with their vectors: {error!r}") from error
        if (
            table.ndim != 2
            or UNKNOWN not in rows
            or not set(rows.values()) <= set(range(len(table)))
        ):
            raise ValueError(
                f"{folder} holds {len(rows)} words and a table of {table.shape}: expected a row a "
                f"word, {UNKNOWN!r} among them"
            )
        return cls(rows, table, _tokens(clips))

    @classmethod
    def glove(cls, clips: Sequence[Clip] = ()) -> "TaggedWords":
        """The 50-d GloVe vectors of the workbench, for an evaluator with ``word_dim=50``."""
        known = WordVectors.load()
        return cls(known.rows, known.table, _tokens(clips))

    def __call__(
        self, captions: Sequence[str]
    ) -> tuple[Float[Tensor, "batch words dim"], Int[Tensor, " batch"], Int[Tensor, "batch words"]]:
        """Vectors, number of words and parts of speech; the ends of a caption count as words.

        Args:
            captions: ``word/POS word/POS`` strings, or captions of :attr:`tokens`. Cut after 20
                words.

        Raises:
            ValueError: No tokens are known for a caption.
        """
        parts = [self._read(self._tokens_of(caption)) for caption in captions]
        rows = [torch.from_numpy(np.array(self.table[[row for row, _ in part]])) for part in parts]
        pos = [torch.tensor([kind for _, kind in part]) for part in parts]
        pad = nn.utils.rnn.pad_sequence
        return (
            pad(rows, batch_first=True),
            torch.tensor([len(part) for part in parts]),
            pad(pos, batch_first=True, padding_value=OTHER),
        )

    def _tokens_of(self, caption: str) -> list[str]:
        tokens = self.tokens.get(caption, caption).split()
        if not tokens or not all("/" in token for token in tokens):
            raise ValueError(
                f"no parts of speech are known of {caption!r}: give word/POS tokens, or the clips "
                "whose captions these are to TaggedWords"
            )
        return ["sos/OTHER", *tokens[:MAX_WORDS], "eos/OTHER"]

    def _read(self, tokens: list[str]) -> list[tuple[int, int]]:
        """Row and part of speech of each; a word without a vector is OTHER."""
        found = []
        for token in tokens:
            word, _, kind = token.rpartition("/")
            if word in self.rows:
                pos = POS.index(kind) if kind in POS else OTHER
                found.append((self.rows[word], IMPORTANT.get(word, pos)))
            else:
                found.append((self.rows[UNKNOWN], OTHER))
        return found


def _tokens(clips: Sequence[Clip]) -> dict[str, str]:
    return {c.text: c.tokens for clip in clips for c in clip.captions if c.tokens}


class _Plain(pickle.Unpickler):
    """Lists, dictionaries, strings and numbers, which need no code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which is code")


def _plain(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Plain(file).load()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # of any kind: damaged bytes decide what goes wrong
        raise ValueError(f"{path} is no plain list or dictionary of words: {error}") from error


class T2MEvaluator(Judge):
    """The evaluator of Guo et al. (2022), taken wherever the workbench's :class:`Judge` is.

    It reads motions in physical units. Embeddings are no unit vectors: distances are in the
    units of published tables, and an FID needs more than ``embedding`` motions.

    Args:
        mean: Of each of the 263 (HumanML3D) or 251 (KIT-ML) features, physical units.
        std: Of each feature.
        feat_bias: Standard deviations of root (the first 4 numbers) and foot contacts (the last
            4) are divided by it. 25 with a data set's ``Std.npy``: the official 5, which was
            applied twice. 1 with the evaluator's own ``meta/std.npy``, already divided.
        movement: Width of the convolutions.
        motion_hidden: Width of the motion's GRU.
        text_hidden: Width of the caption's GRU.
        embedding: Dimensions of an embedding.
        word_dim: Numbers of a word vector.
        words: What reads captions; not part of the weights.

    Raises:
        ValueError: ``mean`` and ``std`` are of no known skeleton.

    Source: Guo et al., "Generating Diverse and Natural 3D Human Motions from Text", CVPR 2022,
    and its code. Deviations: rows come back in the order given, whatever the lengths; what lies
    in the padding has no influence (a motion is read as if padded with zeros, in normalised
    units, to 196 frames: what the official loader does).
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        feat_bias: float,
        movement: int = 512,
        motion_hidden: int = 1024,
        text_hidden: int = 512,
        embedding: int = 512,
        word_dim: int = 300,
        words: TaggedWords | None = None,
    ):
        nn.Module.__init__(self)
        known = {skeleton.n_features: skeleton for skeleton in (HUMANML3D, KIT)}
        if len(mean) not in known or len(mean) != len(std):
            raise ValueError(
                f"mean and std are of one of {sorted(known)} numbers a frame, got {len(mean)} and "
                f"{len(std)}"
            )
        self.config: dict[str, Any] = {
            "mean": list(mean), "std": list(std), "feat_bias": feat_bias, "movement": movement,
            "motion_hidden": motion_hidden, "text_hidden": text_hidden, "embedding": embedding,
            "word_dim": word_dim,
        }  # fmt: skip
        self.skeleton, self.tagged = known[len(mean)], words
        divided = evaluator_std(torch.tensor(std), self.skeleton, feat_bias, times=1)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", divided, persistent=False)
        self.movement_encoder = MovementEncoder(len(mean) - 4, movement)
        self.motion_encoder = BiGRU(movement, motion_hidden, embedding)
        self.text_encoder = TextEncoder(word_dim, text_hidden, embedding)

    @classmethod
    def official(
        cls,
        path: Path | str,
        stats: FeatureStats,
        *,
        feat_bias: float,
        words: TaggedWords | None = None,
        trust: bool = False,
        **sizes: int,
    ) -> "T2MEvaluator":
        """The published weights (``text_mot_match/model/finest.tar``), in eval mode.

        Args:
            path: The file, or a checkpoint of MLD or MotionLCM, which hold an evaluator too.
            stats: Mean and standard deviation that ``feat_bias`` speaks of.
            feat_bias: 25 or 1, see the class.
            words: What reads captions.
            trust: Run the code in a pickle, see :func:`easytune_lib.checkpoints.read_checkpoint`.
            sizes: Other arguments of the class.

        Raises:
            ValueError: The file cannot be read, or holds something else; says what.
        """
        judge = cls(
            stats.mean.tolist(), stats.std.tolist(), feat_bias=feat_bias, words=words, **sizes
        )
        fit(judge, _inside(read_checkpoint(path, trust)), path)
        return judge.eval()

    def embed_motion(
        self, motion: Float[Tensor, "batch frames features"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """One embedding a motion, in order; what lies in the padding changes nothing.

        Args:
            motion: Features in physical units.
            lengths: Real frames of each, 4 to 196; 4 are a token, a rest makes none.

        Raises:
            ValueError: A length is below 4, above 196, or beyond the frames given.
        """
        longest = min(MAX_FRAMES, motion.shape[1])
        if bad := sorted({n for n in lengths.tolist() if not UNIT <= n <= longest}):
            raise ValueError(
                f"lengths are {UNIT} to {longest} frames, got {bad}: cut the motions, or give "
                "all of their frames"
            )
        mask = torch.arange(longest, device=motion.device) < lengths[:, None]
        x = (motion[:, :longest] - self.mean) / self.std
        x = torch.where(mask[..., None], x, 0)[..., :-4]  # contacts are not read
        # the last kernels reach over the end; nothing is left to see 4 frames further on
        room = min(longest + UNIT, MAX_FRAMES) - longest
        movements = self.movement_encoder(nn.functional.pad(x, (0, 0, 0, room)))
        return self.motion_encoder(movements, lengths // UNIT)

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "batch embedding"]:
        """One embedding a caption, in order.

        Args:
            texts: ``word/POS`` strings (:attr:`Caption.tokens`), or captions known to ``words``.

        Raises:
            ValueError: There are no word vectors, or no tokens of a caption.
        """
        if self.tagged is None:
            raise ValueError(
                "this evaluator has no word vectors: give words=TaggedWords.official(folder)"
            )
        vectors, lengths, pos = self.tagged(texts)
        return self.embed_words(vectors.to(self.mean), lengths, pos.to(self.mean.device))

    def embed_words(
        self,
        vectors: Float[Tensor, "batch words dim"],
        lengths: Int[Tensor, " batch"],
        pos: Int[Tensor, "batch words"] | None = None,
    ) -> Float[Tensor, "batch embedding"]:
        """As :meth:`embed_text`, of word vectors and of indices into ``POS`` (OTHER by default).

        ``lengths`` counts words, the two ends of a caption among them.
        """
        if pos is None:
            pos = torch.full(vectors.shape[:2], OTHER, device=vectors.device)
        kinds = nn.functional.one_hot(pos, len(POS)).to(vectors.dtype)
        return self.text_encoder(vectors, kinds, lengths)


def _inside(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An evaluator's weights by their own names, where a generator's file holds them."""
    names = {
        "t2m_textencoder": "text_encoder",
        "t2m_moveencoder": "movement_encoder",
        "t2m_motionencoder": "motion_encoder",
    }
    found = {}
    for name, tensor in tensors.items():
        start, _, rest = name.partition(".")
        if start in names:
            found[f"{names[start]}.{rest}"] = tensor
    return found or tensors


class MovementEncoder(nn.Module):
    """Two convolutions that halve the frame rate each."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv1d(inputs, width, kernel_size=4, stride=2, padding=1),
            nn.Dropout(0.2),
            nn.LeakyReLU(0.2),
            nn.Conv1d(width, width, kernel_size=4, stride=2, padding=1),
            nn.Dropout(0.2),
            nn.LeakyReLU(0.2),
        )
        self.out_net = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch frames inputs"]
    ) -> Float[Tensor, "batch tokens width"]:
        """One token for 4 frames."""
        return self.out_net(self.main(x.mT).mT)


class BiGRU(nn.Module):
    """A bidirectional GRU with learned first states, whose last states are embedded."""

    def __init__(self, inputs: int, width: int, embedding: int):
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(2, 1, width))
        self.input_emb = nn.Linear(inputs, width)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.output_net = nn.Sequential(
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, embedding),
        )

    def forward(
        self, x: Float[Tensor, "batch tokens inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """In the order given. Sequences are packed, so that padding is never read."""
        return self.output_net(last_states(self.gru, self.hidden, self.input_emb(x), lengths))


class TextEncoder(BiGRU):
    """The same, whose words carry their part of speech."""

    def __init__(self, word_dim: int, width: int, embedding: int):
        super().__init__(word_dim, width, embedding)
        self.pos_emb = nn.Linear(len(POS), word_dim)

    def forward(
        self,
        words: Float[Tensor, "batch words dim"],
        kinds: Float[Tensor, "batch words 15"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch embedding"]:
        """Word vectors, and parts of speech as one of 15."""
        return super().forward(words + self.pos_emb(kinds), lengths)
