"""The step-aware text-motion model (SPM): motions and captions in one latent space."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from easytune_lib.choices import check_choice
from easytune_lib.models.blocks import TimeEmbedding, Transformer, patches, unpatch, with_tokens
from easytune_lib.types import TextFeatures

Gaussian = tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]
"""Mean and log-variance."""
TimeToken = Literal["motion", "none"]


class GaussianEncoder(nn.Module):
    """Reads a Gaussian over latents off one learned token in front of the others."""

    def __init__(self, dim: int, layers: int, heads: int, latent: int, dropout: float):
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, dim))
        self.transformer = Transformer(dim, layers, heads, dropout)
        self.write = nn.Linear(dim, 2 * latent)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], keep: Bool[Tensor, "batch tokens"]
    ) -> Gaussian:
        """Tokens where ``keep`` is False have no influence."""
        tokens = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1)
        hidden = self.transformer(tokens, with_tokens(keep, 1))[:, 0]
        mu, logvar = self.write(hidden).chunk(2, dim=-1)
        return mu, logvar.clamp(-10, 4)


class SPM(nn.Module):
    """A motion encoder that may be told the noise level, a text encoder, and a shared decoder.

    Motions are read in physical units and normalised inside, by the buffers ``mean`` and
    ``std``. Batches are padded to a multiple of ``patch`` frames; padding has no influence.

    Args:
        features: Numbers a frame.
        dim: Width of all transformers.
        layers: Of the motion encoder.
        heads: Of all attention.
        latent: Dimension of the shared latent space.
        text_dim: Width of the token states of the text encoder (MiniLM's are 384).
        patch: Frames a token.
        max_frames: Longest motion, in frames.
        dropout: Within all transformers, in training.
        time_token: ``"motion"`` tells the motion encoder the training step of the noise (the
            paper's M1T0), ``"none"`` tells nobody (M0T0).
        text_layers: Of the text encoder, whose input has already seen a language model.
        decoder_layers: Of the decoder, which only trains the encoders.

    Source: Tan et al. (2026), section on the reward, after ReAlign and TMR. Deviations, for a
    laptop: ``patch`` frames are one token; pre-norm without long skips; 3, 1 and 1 layers of
    width 128 in place of 9 of 256; MiniLM in place of sentence-T5; the decoder reads the latent
    as a token in front of its queries.
    """

    tells_text = False  # nothing tells the text encoder a step
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: int = 263,
        *,
        dim: int = 128,
        layers: int = 3,
        heads: int = 4,
        latent: int = 128,
        text_dim: int = 384,
        patch: int = 4,
        max_frames: int = 200,
        dropout: float = 0.1,
        time_token: TimeToken = "motion",
        text_layers: int = 1,
        decoder_layers: int = 1,
    ):
        super().__init__()
        check_choice("time_token", time_token, TimeToken)
        self.config = {
            "features": features, "dim": dim, "layers": layers, "heads": heads, "latent": latent,
            "text_dim": text_dim, "patch": patch, "max_frames": max_frames, "dropout": dropout,
            "time_token": time_token, "text_layers": text_layers, "decoder_layers": decoder_layers,
        }  # fmt: skip
        self.patch, self.max_frames = patch, max_frames
        positions = max_frames // patch
        self.read_motion, self.read_text = (
            nn.Linear(patch * features, dim),
            nn.Linear(text_dim, dim),
        )
        self.position = nn.Parameter(0.02 * torch.randn(positions, dim))
        self.time = TimeEmbedding(dim) if time_token == "motion" else None
        self.motion_encoder = GaussianEncoder(dim, layers, heads, latent, dropout)
        self.text_encoder = GaussianEncoder(dim, text_layers, heads, latent, dropout)
        self.from_latent = nn.Linear(latent, dim)
        self.queries = nn.Parameter(0.02 * torch.randn(positions, dim))
        self.decoder = Transformer(dim, decoder_layers, heads, dropout)
        self.write_motion = nn.Linear(dim, patch * features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def normalise(
        self, motion: Float[Tensor, "batch frames features"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """Physical units to zero mean and about unit variance, zero where padded."""
        return (motion - self.mean) / self.std * mask[..., None]

    def denormalise(
        self, x: Float[Tensor, "batch frames features"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """The inverse of :meth:`normalise`."""
        return (x * self.std + self.mean) * mask[..., None]

    def encode_motion(
        self,
        motion: Float[Tensor, "batch frames features"],
        mask: Bool[Tensor, "batch frames"],
        t: Int[Tensor, " batch"] | None = None,
    ) -> Gaussian:
        """Mean and log-variance of the latent of each motion.

        Args:
            motion: Physical units; at most ``max_frames``, a multiple of ``patch``.
            mask: True where a frame is real; lengths are multiples of ``patch``.
            t: Training step of the noise still in ``motion``; ``None``: it is clean (0).
                Without a time token it is ignored.

        Raises:
            ValueError: ``motion`` is too long, or no multiple of ``patch``.
        """
        if motion.shape[1] > self.max_frames:
            raise ValueError(
                f"motions of {motion.shape[1]} frames, this model reads at most "
                f"{self.max_frames}: cut them, or train one with a larger max_frames"
            )
        tokens = self.read_motion(patches(self.normalise(motion, mask), self.patch))
        tokens, keep = tokens + self.position[: tokens.shape[1]], mask[:, :: self.patch]
        if self.time is not None:
            t = torch.zeros(len(motion), device=motion.device, dtype=torch.long) if t is None else t
            tokens, keep = torch.cat([self.time(t)[:, None], tokens], dim=1), with_tokens(keep, 1)
        return self.motion_encoder(tokens, keep)

    def encode_text(self, text: TextFeatures, t: Int[Tensor, " batch"] | None = None) -> Gaussian:
        """Mean and log-variance of the latent of each caption; ``t`` is ignored."""
        return self.text_encoder(self.read_text(text.tokens.to(self.mean.dtype)), text.token_mask)

    def decode(
        self, z: Float[Tensor, "batch latent"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """A motion for each latent, in normalised units, zero where ``mask`` is False."""
        queries = self.queries[: mask.shape[1] // self.patch].expand(len(z), -1, -1)
        tokens = torch.cat([self.from_latent(z)[:, None], queries], dim=1)
        hidden = self.decoder(tokens, with_tokens(mask[:, :: self.patch], 1))[:, 1:]
        return unpatch(self.write_motion(hidden), self.patch) * mask[..., None]
