"""The judge: convolutions and GRUs that embed motions and captions side by side.

Every retrieval and distribution metric is computed from its embeddings. It shares nothing with
the reward: another architecture, another text input (GloVe words instead of a language model),
another temperature, and, by the recipes, other clips and another seed.

Source: Guo et al., "Generating Diverse and Natural 3D Human Motions from Text", CVPR 2022, the
text-motion feature extractor, at laptop size. Deviations: 64 dimensions instead of 512; 50-d
GloVe without part-of-speech input; joint rotations are not read, as nobody sees them; trained
end to end by InfoNCE instead of a margin loss on a pretrained autoencoder; embeddings have
length 1, so that distances lie in [0, 2] and no model gains by longer vectors. On unit vectors
the Euclidean distance, which the protocol uses, ranks as the cosine that is trained.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from easytune_lib.checkpoints import rebuilt
from easytune_lib.data.corpus import Clip, MotionBatch
from easytune_lib.distributed import by_rows
from easytune_lib.motion.skeleton import skeleton_of
from easytune_lib.storage import save_tensors
from easytune_lib.text.words import WordVectors
from easytune_lib.training import Objective

UNIT = 4  # frames a token: two convolutions of stride 2
WORD_DIM = 50

# captions -> word vectors (batch, words, 50) and the number of words of each (batch,)
Words = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class Judge(nn.Module):
    """Embeds motions and captions on one unit sphere; close means that they belong together.

    Args:
        features: Numbers a frame: 263 (HumanML3D) or 251 (KIT-ML).
        embedding: Dimensions of an embedding. FID needs more motions than that.
        width: Channels of convolutions and GRUs; 0.4 M parameters at 96.
        dropout: In the convolutions, while training.
        words: What reads captions; GloVe where ``None``. Not part of the weights.

    Raises:
        ValueError: ``features`` belongs to no known skeleton.
    """

    mean: Float[Tensor, " features"]
    std: Float[Tensor, " features"]
    columns: Int[Tensor, " read"]

    def __init__(
        self,
        features: int = 263,
        embedding: int = 64,
        width: int = 96,
        dropout: float = 0.2,
        words: Words | None = None,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            "features": features, "embedding": embedding, "width": width, "dropout": dropout,
        }  # fmt: skip
        self.skeleton = skeleton_of(features)
        self.words = words
        unread = {"rotations", "contacts"}
        columns = [
            torch.arange(features)[group]
            for name, group in self.skeleton.groups.items()
            if name not in unread
        ]
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("columns", torch.cat(columns), persistent=False)
        self.movement = MovementConvEncoder(len(self.columns), width, dropout)
        self.motion = SequenceEncoder(width, width, embedding)
        self.text = SequenceEncoder(WORD_DIM, width, embedding)

    def embed_motion(
        self, motion: Float[Tensor, "batch frames features"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """Unit vectors, one a motion; what lies in the padding changes nothing.

        Args:
            motion: Features in physical units.
            lengths: Real frames of each, multiples of 4.

        Raises:
            ValueError: A length is no multiple of 4, below 4, or beyond the frames given.
        """
        bad = (lengths % UNIT != 0) | (lengths < UNIT) | (lengths > motion.shape[1])
        if bad.any():
            raise ValueError(
                f"lengths are multiples of {UNIT} from {UNIT} to the {motion.shape[1]} frames "
                f"given, got {sorted(set(lengths[bad].tolist()))}: cut the motions"
            )
        x = ((motion - self.mean) / self.std)[..., self.columns]
        return self.motion(self.movement(x, lengths), lengths // UNIT)

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "batch embedding"]:
        """Unit vectors, one a caption, in order."""
        vectors, lengths = (self.words or _glove().vectors)(texts)
        return self.embed_words(vectors.to(self.mean.device), lengths)

    def embed_words(
        self, vectors: Float[Tensor, "batch words 50"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """As :meth:`embed_text`, of word vectors; ``lengths`` counts words, at least 1."""
        return self.text(vectors, lengths)

    def save(self, path: Path) -> Path:
        """Write the weights, with the sizes in the header; atomically."""
        return save_tensors(path, self.state_dict(), {"network": self.config})

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """A judge in eval mode, from :meth:`save` or from the training recipe.

        Raises:
            ValueError: The file is missing or holds no judge; says which.
        """
        return rebuilt(cls, path)


class MovementConvEncoder(nn.Module):
    """Two convolutions that halve the frame rate each."""

    def __init__(self, inputs: int, width: int, dropout: float):
        super().__init__()
        self.first = nn.Conv1d(inputs, width, kernel_size=4, stride=2, padding=1)
        self.second = nn.Conv1d(width, width, kernel_size=4, stride=2, padding=1)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch frames inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """One token for 4 frames. The last kernel reaches past the end, so padding is zeroed."""
        for stride, layer in ((1, self.first), (2, self.second)):
            real = torch.arange(x.shape[1], device=x.device) < (lengths // stride)[:, None]
            x = layer(torch.where(real[..., None], x, 0).mT).mT
            x = F.leaky_relu(self.dropout(x), 0.2)
        return self.out(x)


class SequenceEncoder(nn.Module):
    """A bidirectional GRU with learned first states, whose last states are embedded."""

    def __init__(self, inputs: int, width: int, embedding: int):
        super().__init__()
        self.read = nn.Linear(inputs, width)
        self.start = nn.Parameter(torch.randn(2, 1, width))
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, embedding),
        )

    def forward(
        self, x: Float[Tensor, "batch tokens inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """Unit vectors. Sequences are packed, so that padding is never read."""
        last = last_states(self.gru, self.start, self.read(x), lengths)
        return F.normalize(self.head(last), dim=-1)


def last_states(
    gru: nn.GRU,
    start: Float[Tensor, "2 1 width"],
    x: Float[Tensor, "batch tokens width"],
    lengths: Int[Tensor, " batch"],
) -> Float[Tensor, "batch both"]:
    """Last states of a bidirectional GRU, both ways; packed, so that padding is never read."""
    packed = nn.utils.rnn.pack_padded_sequence(
        x, lengths.cpu(), batch_first=True, enforce_sorted=False
    )
    _, last = gru(packed, start.expand(-1, len(x), -1).contiguous())
    return torch.cat([last[0], last[1]], dim=-1)


def judge_objective(
    judge: Judge,
    clips: Sequence[Clip],
    batch_size: int = 64,
    *,
    temperature: float = 0.07,
    noise: float = 0.1,
    word_dropout: float = 0.1,
    max_frames: int = 128,
) -> Objective:
    """Symmetric InfoNCE between motions and captions, for :func:`easytune_lib.training.train`.

    Clips are drawn with a weight of (clips of the same label)^-1/2; a clip whose label is
    unknown counts as the only one of its label.

    Args:
        judge: In training; its ``mean`` and ``std`` are set already.
        clips: What it may see.
        batch_size: Clips a step.
        temperature: Of the softmax; the reward's is 0.1.
        noise: Gaussian, in standard deviations of the features.
        word_dropout: Share of words that are blanked.
        max_frames: Longer clips are cut at a random place.

    Raises:
        ValueError: There are fewer than two clips.
    """
    if len(clips) < 2:
        raise ValueError(f"contrast needs at least 2 clips, got {len(clips)}")
    counts = Counter(clip.label for clip in clips)
    weights = torch.tensor([counts[clip.label] ** -0.5 if clip.label else 1.0 for clip in clips])

    def objective(rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.multinomial(weights, batch_size, replacement=True, generator=rng).tolist()
        batch = MotionBatch.collate([clips[i] for i in rows], rng, max_frames=max_frames)
        vectors, words = (judge.words or _glove().vectors)(batch.texts)
        kept = torch.rand(*vectors.shape[:2], 1, generator=rng) >= word_dropout
        blur = noise * torch.randn(batch.features.shape, generator=rng)
        device = judge.mean.device
        blurred = batch.features.to(device) + blur.to(device) * judge.std
        motion = by_rows(judge.embed_motion, blurred, batch.lengths.to(device))
        text = by_rows(judge.embed_words, (vectors * kept).to(device), words)
        wrong = false_negatives(batch.labels, batch.texts).to(device)
        similarity = (motion @ text.mT).masked_fill(wrong, -torch.inf)
        pairs = torch.arange(batch_size, device=device)
        loss = (
            F.cross_entropy(similarity / temperature, pairs)
            + F.cross_entropy(similarity.mT / temperature, pairs)
        ) / 2
        return loss, {"top1": (similarity.argmax(dim=0) == pairs).float().mean().item()}

    return objective


def false_negatives(
    labels: Sequence[str], texts: Sequence[str]
) -> Bool[Tensor, "{len(labels)} {len(labels)}"]:
    """Pairs off the diagonal that are no negatives: a known label or a caption is shared."""
    label, text = np.array(labels), np.array(texts)
    same = (label[:, None] == label) & (label != "") | (text[:, None] == text)
    np.fill_diagonal(same, False)
    return torch.from_numpy(same)


@cache
def _glove() -> WordVectors:
    return WordVectors.load()
