"""MDM as it was published, encoder and decoder, key for key: its checkpoints load as they are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.models.blocks import Layers, gelu
from easytune_lib.models.feature_space import FeatureDenoiser, respaced
from easytune_lib.types import Prompts, TextFeatures

UNREAD = ("sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe")
"""Sinusoids that official files hold twice; they are computed here."""


class OfficialMDM(FeatureDenoiser):
    """Predicts clean normalised features; the caption is a token, or is attended to.

    Three kinds, of which weights alone tell the first two apart:

    - ``"trans_enc"``: an encoder over [time + caption, frames]; the caption is the pooled
      embedding of CLIP ViT-B/32 (``TextFeatures.sentence``).
    - ``"trans_dec"``: a decoder over frames, whose memory are the words, each added to the
      time; the words are token states of DistilBERT (``TextFeatures.tokens``), or the one
      embedding of CLIP, by ``words``.
    - ``"trans_dec"`` with ``emb_trans_dec``: the memory's first token also stands in front.

    Without a caption the network reads zeros in place of text features: :meth:`diffusion` gives
    guidance exactly that, whatever the empty caption's features are.

    Args:
        mean: Of each feature, in physical units: the data set's ``Mean.npy``.
        std: Of each feature: the data set's ``Std.npy``.
        arch: Encoder or decoder.
        emb_trans_dec: See above.
        words: Whether a decoder attends to token states or to one embedding.
        mask_frames: Whether padding is hidden from attention. The published encoders see it, so
            they always make ``frames`` frames, which are cut to the lengths asked for.
        frames: Of the state where ``mask_frames`` is False; elsewhere the most there may be.
        dim: Width of the transformer.
        layers: Of the transformer.
        heads: Of all attention.
        ff: Width of the feed-forward networks.
        text_dim: Numbers of an embedding, or of a token state.
        diffusion_steps: Steps of the cosine schedule that it was trained on: 1000 or 50.
        dropout: In training.

    Source: Human Motion Diffusion Model (Tevet et al., 2023), and its code. Frames in the
    padding come out as the network has them; decoding cuts them.
    """

    prediction = "x0"
    called = "MDM"

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        arch: Literal["trans_enc", "trans_dec"] = "trans_enc",
        emb_trans_dec: bool = False,
        words: bool = False,
        mask_frames: bool = False,
        frames: int = 196,
        dim: int = 512,
        layers: int = 8,
        heads: int = 4,
        ff: int = 1024,
        text_dim: int = 512,
        diffusion_steps: int = 1000,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            "mean": list(mean), "std": list(std), "arch": arch, "emb_trans_dec": emb_trans_dec,
            "words": words, "mask_frames": mask_frames, "frames": frames, "dim": dim,
            "layers": layers, "heads": heads, "ff": ff, "text_dim": text_dim,
            "diffusion_steps": diffusion_steps, "dropout": dropout,
        }  # fmt: skip
        if arch == "trans_enc" and (words or emb_trans_dec):
            raise ValueError("an encoder reads one token of text: leave words and emb_trans_dec")
        self.decodes, self.leads, self.words = arch == "trans_dec", emb_trans_dec, words
        self.mask_frames, self.frames, self.text_dim = mask_frames, frames, text_dim
        self.whole = not mask_frames
        self.diffusion_steps, features = diffusion_steps, len(mean)
        sizes = (dim, heads, ff, dropout, gelu)
        if self.decodes:
            self.seqTransDecoder = Layers(
                nn.TransformerDecoderLayer(*sizes, batch_first=True) for _ in range(layers)
            )
        else:
            self.seqTransEncoder = Layers(
                nn.TransformerEncoderLayer(*sizes, batch_first=True) for _ in range(layers)
            )
        self.input_process = nn.ModuleDict({"poseEmbedding": nn.Linear(features, dim)})
        self.output_process = nn.ModuleDict({"poseFinal": nn.Linear(dim, features)})
        self.embed_timestep = nn.ModuleDict(
            {"time_embed": nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))}
        )
        self.embed_text = nn.Linear(text_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.keep_statistics(mean, std)

    @classmethod
    def sizes(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Arguments of the class from the shapes of its weights; heads cannot be told.

        Raises:
            KeyError: A weight is missing.
        """
        arch = "trans_dec" if any(k.startswith("seqTransDecoder.") for k in shapes) else "trans_enc"
        first = "seqTransDecoder" if arch == "trans_dec" else "seqTransEncoder"
        text_dim = shapes["embed_text.weight"][1]
        words = arch == "trans_dec" and text_dim != 512  # CLIP's; DistilBERT has 768
        return {
            "arch": arch, "words": words, "mask_frames": words, "text_dim": text_dim,
            "dim": shapes["embed_text.weight"][0],
            "layers": sum(k.endswith("norm1.bias") for k in shapes),
            "ff": shapes[f"{first}.layers.0.linear1.weight"][0],
            "diffusion_steps": 50 if words else 1000,
        }  # fmt: skip

    def forward(
        self,
        x_t: Float[Tensor, "batch frames features"],
        t: Int[Tensor, " batch"],
        prompts: Prompts,
    ) -> Float[Tensor, "batch frames features"]:
        """See :meth:`Denoiser.forward`."""
        memory, unread = self._condition(t, prompts.text)
        frames = self.input_process["poseEmbedding"](x_t)
        front = memory[:, :1] if self.leads or not self.decodes else memory[:, :0]
        tokens = torch.cat([front, frames], dim=1)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = self.dropout(tokens + _positions(places, tokens.shape[2]).to(tokens.dtype))
        hidden_frames = None
        if self.mask_frames:
            room = x_t.shape[1] - prompts.frames
            hidden_frames = ~F.pad(F.pad(prompts.mask, (0, room)), (front.shape[1], 0), value=True)
        if self.decodes:
            out = self.seqTransDecoder(
                tokens, memory=memory, tgt_key_padding_mask=hidden_frames,
                memory_key_padding_mask=unread,
            )  # fmt: skip
        else:
            out = self.seqTransEncoder(tokens, src_key_padding_mask=hidden_frames)
        return self.output_process["poseFinal"](out[:, front.shape[1] :])

    def _condition(self, t: Tensor, text: TextFeatures) -> tuple[Tensor, Tensor | None]:
        """Tokens of caption and time, and which of them are padding."""
        given = text.tokens if self.words else text.sentence[:, None]
        if given.shape[2] != self.text_dim:
            raise ValueError(
                f"text features of {given.shape[2]} numbers, this model reads {self.text_dim}: "
                "encode captions with the text encoder that it was trained with"
            )
        time = self.embed_timestep["time_embed"](
            _positions(t, self.embed_text.out_features).to(self.mean.dtype)
        )[:, None]
        tokens = self.embed_text(given.to(self.mean.dtype)) + time
        return tokens, ~text.token_mask if self.words else None

    def diffusion(
        self,
        no_text: TextFeatures,
        n_steps: int = 50,
        guidance: float = 2.5,
        sampler: Literal["DDIM", "DDPM"] = "DDIM",
    ) -> MotionDiffusion:
        """This network with its cosine schedule, ready to sample and to be tuned.

        Args:
            no_text: Only its widths count.
            n_steps: DDIM visits 980, 960 .. 0 for 50 of 1000; DDPM 999, 979 .. 0.
            guidance: Scale.
            sampler: DDPM draws noise at each step, as published samples were made, with 1000
                steps, or with all 50 of the fast models.
        """
        zeros = TextFeatures(
            ("",), torch.zeros_like(no_text.sentence[:1]), torch.zeros_like(no_text.tokens[:1, :1]),
            torch.ones_like(no_text.token_mask[:1, :1]),
        )  # fmt: skip
        return MotionDiffusion(
            self, NoiseSchedule.cosine(self.diffusion_steps), self.decode, self.state_shape,
            zeros, n_steps, guidance, respaced(sampler),
        )  # fmt: skip


def _positions(places: Int[Tensor, " places"], dim: int) -> Float[Tensor, "places dim"]:
    """Sinusoids, sine and cosine in turn."""
    rates = torch.arange(0, dim, 2, device=places.device) * (-math.log(10000) / dim)
    angle = places[:, None] * torch.exp(rates)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
