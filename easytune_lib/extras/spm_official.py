"""The SPM at the size it was published, key for key: its checkpoints load as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from easytune_lib.checkpoints import fit, read_checkpoint
from easytune_lib.data.corpus import FeatureStats
from easytune_lib.models.blocks import LearnedPositions, SkipTransformer, StepEmbedding
from easytune_lib.rewards.spm import SPM, Gaussian
from easytune_lib.types import TextFeatures

TOLD = {
    "none": (False, False),
    "motion": (True, False),
    "text": (False, True),
    "both": (True, True),
}
"""Encoders that are told the training step of the noise: the motion's, the text's."""


class OfficialSPM(SPM):
    """The published step-aware text-motion model; used wherever the laptop's :class:`SPM` is.

    Only normalisation is inherited. The statistics are no part of an official file, nor of
    ``state_dict()``, whose keys are the official ones; :attr:`config` holds them.

    Args:
        mean: Of each feature, in physical units: the data set's ``Mean.npy``.
        std: Of each feature: the data set's ``Std.npy``.
        dim: Width of all transformers, and dimension of the latent space.
        layers: Of each transformer, odd.
        heads: Of all attention.
        ff: Width of the feed-forward networks.
        text_dim: Width of the token states of sentence-T5-large, before its projection.
        dropout: Within all transformers, in training.
        time_token: Which encoder is told the training step: ``"none"`` is M0T0 of the released
            code, ``"motion"`` M1T0, ``"text"`` M0T1, ``"both"`` M1T1. The weights of all four
            have the same keys. The released fine-tuning scores with ``"none"``, whatever the
            model was trained with; to reproduce it, load its file so.

    Source: Tan et al. (2026), section on the reward, and the released SPM, which is ReAlign's.
    Deviations: latents are described, not sampled; a motion that is said to be clean has a
    token of step 0, where the released reward leaves the token out.
    """

    max_frames = 498  # positions are learned for 500 tokens, two of which stand in front
    patch = 1  # frame a token

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dim: int = 256,
        layers: int = 9,
        heads: int = 4,
        ff: int = 1024,
        text_dim: int = 1024,
        dropout: float = 0.1,
        time_token: Literal["none", "motion", "text", "both"] = "motion",
    ):
        nn.Module.__init__(self)
        if time_token not in TOLD:
            raise ValueError(f"time_token is one of {', '.join(TOLD)}, got {time_token!r}")
        self.config: dict[str, Any] = {
            "mean": list(mean), "std": list(std), "dim": dim, "layers": layers, "heads": heads,
            "ff": ff, "text_dim": text_dim, "dropout": dropout, "time_token": time_token,
        }  # fmt: skip
        self.tells_motion, self.tells_text = TOLD[time_token]
        features, sizes = len(mean), (dim, heads, ff, dropout, F.gelu)

        def encoder_layer() -> nn.Module:
            return nn.TransformerEncoderLayer(*sizes, batch_first=True)

        def decoder_layer() -> nn.Module:
            return nn.TransformerDecoderLayer(*sizes, batch_first=True)

        self.global_motion_token = nn.Parameter(torch.randn(1, dim))
        self.global_text_token = nn.Parameter(torch.randn(1, dim))
        self.query_motion_pos_encoder = LearnedPositions(dim)
        self.query_text_pos_encoder = LearnedPositions(dim)
        self.query_pos_decoder = LearnedPositions(dim)
        shared = nn.LayerNorm(dim)  # one object, under two names
        self.motion_encoder = SkipTransformer(encoder_layer, layers, dim, shared)
        self.text_encoder = SkipTransformer(encoder_layer, layers, dim, shared)
        self.decoder = SkipTransformer(decoder_layer, layers, dim, nn.LayerNorm(dim))
        self.dist_motion_layer = nn.Linear(dim, 2 * dim)
        self.dist_text_layer = nn.Linear(dim, 2 * dim)
        self.skel_embedding = nn.Linear(features, dim)
        self.text_embedding = nn.Linear(text_dim, dim)
        self.final_layer = nn.Linear(dim, features)
        self.time_embedding = StepEmbedding(dim)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @classmethod
    def load(cls, path: Path | str, stats: FeatureStats, **options: Any) -> "OfficialSPM":
        """An official file, in eval mode.

        Args:
            path: ``*.pth`` as released; a sentence encoder in it (``clip.*``) is passed over.
            stats: ``Mean.npy`` and ``Std.npy`` of the data set it was trained on, see
                :func:`easytune_lib.data.humanml3d.read_statistics`.
            options: Other arguments of the class.

        Raises:
            ValueError: The file cannot be read, or holds something else; says what.
        """
        tensors = read_checkpoint(path)
        model = cls(stats.mean.tolist(), stats.std.tolist(), **options)
        fit(model, {k: v for k, v in tensors.items() if not k.startswith("clip.")}, path)
        return model.eval()

    def encode_motion(
        self,
        motion: Float[Tensor, "batch frames features"],
        mask: Bool[Tensor, "batch frames"],
        t: Int[Tensor, " batch"] | None = None,
    ) -> Gaussian:
        """Mean and log-variance of the latent of each motion.

        Args:
            motion: Physical units; at most ``max_frames``.
            mask: True where a frame is real. Padding has no influence.
            t: Training step of the noise still in ``motion``; ``None``: it is clean (0).
                Ignored where ``time_token`` does not tell the motion encoder.

        Raises:
            ValueError: ``motion`` is too long.
        """
        front = [self.global_motion_token.expand(len(motion), -1)]
        front += [self._step(t, motion)] if self.tells_motion else []
        tokens = self.skel_embedding(self.normalise(motion, mask))
        encoder, positions = self.motion_encoder, self.query_motion_pos_encoder
        return _gaussian(encoder, positions, self.dist_motion_layer, front, tokens, mask)

    def encode_text(self, text: TextFeatures, t: Int[Tensor, " batch"] | None = None) -> Gaussian:
        """Mean and log-variance of the latent of each caption.

        Args:
            text: Of sentence-T5-large, with its token states.
            t: Training step of the noise in the motion that it is compared with; ``None``: 0.
                Ignored where ``time_token`` does not tell the text encoder.

        Raises:
            ValueError: ``text`` is of another encoder, or too long.
        """
        width = self.text_embedding.in_features
        if text.tokens.shape[2] != width:
            raise ValueError(
                f"token states of {text.tokens.shape[2]} numbers, this model reads {width}: "
                "encode captions with the text encoder that it was trained with"
            )
        front = [self.global_text_token.expand(len(text), -1)]
        front += [self._step(t, text.tokens)] if self.tells_text else []
        tokens = self.text_embedding(text.tokens.to(self.mean.dtype))
        encoder, positions = self.text_encoder, self.query_text_pos_encoder
        return _gaussian(encoder, positions, self.dist_text_layer, front, tokens, text.token_mask)

    def decode(
        self, z: Float[Tensor, "batch latent"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """A motion for each latent, in normalised units, zero where ``mask`` is False."""
        queries = self.query_pos_decoder(z.new_zeros(*mask.shape, z.shape[1]))
        hidden = self.decoder(queries, memory=z[:, None], tgt_key_padding_mask=~mask)
        return self.final_layer(hidden) * mask[..., None]

    def _step(self, t: Tensor | None, like: Tensor) -> Float[Tensor, "batch dim"]:
        t = torch.zeros(len(like), dtype=torch.long, device=like.device) if t is None else t
        return self.time_embedding(t)


def _gaussian(
    encoder: nn.Module,
    positions: nn.Module,
    write: nn.Module,
    front: list[Tensor],
    tokens: Float[Tensor, "batch tokens dim"],
    keep: Bool[Tensor, "batch tokens"],
) -> Gaussian:
    """Mean and log-variance, written by the first of the tokens in ``front``."""
    tokens = positions(torch.cat([torch.stack(front, dim=1), tokens], dim=1))
    unread = ~F.pad(keep, (len(front), 0), value=True)
    hidden = encoder(tokens, src_key_padding_mask=unread)[:, 0]
    mu, logvar = write(hidden).chunk(2, dim=-1)
    return mu, logvar
