"""A text-to-motion transformer in feature space, after MDM, at laptop size."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.models.blocks import TimeEmbedding, Transformer, patches, unpatch, with_tokens
from easytune_lib.types import Denoiser, Prompts, TextFeatures


class MDM(Denoiser):
    """Predicts the clean motion from a noised one; the state is the normalised features.

    Source: Human Motion Diffusion Model (Tevet et al., 2023). Deviations, for a laptop:
    ``patch`` frames are one token, time and caption are two tokens in front and are also
    added to each token, the caption is a MiniLM sentence embedding, padding is masked.
    """

    prediction = "x0"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: int = 263,
        dim: int = 128,
        layers: int = 4,
        patch: int = 4,
        text_dim: int = 384,
        max_frames: int = 200,
    ):
        super().__init__()
        self.config = {
            "features": features, "dim": dim, "layers": layers, "patch": patch,
            "text_dim": text_dim, "max_frames": max_frames,
        }  # fmt: skip
        self.patch, self.max_frames = patch, max_frames
        self.read = nn.Linear(patch * features, dim)
        self.position = nn.Parameter(0.02 * torch.randn(max_frames // patch + 2, dim))
        self.time, self.text = TimeEmbedding(dim), nn.Linear(text_dim, dim)
        self.transformer = Transformer(dim, layers)
        self.write = nn.Linear(dim, patch * features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(
        self,
        x_t: Float[Tensor, "batch frames features"],
        t: Int[Tensor, " batch"],
        prompts: Prompts,
    ) -> Float[Tensor, "batch frames features"]:
        """See :meth:`Denoiser.forward`; zero where padded.

        Raises:
            ValueError: Motions are longer than ``max_frames``, or no multiple of ``patch``.
        """
        if x_t.shape[1] > self.max_frames:
            raise ValueError(
                f"motions of {x_t.shape[1]} frames, this MDM makes at most {self.max_frames}: "
                "ask for shorter ones, or train it with a larger max_frames"
            )
        mask = prompts.mask
        time, text = self.time(t), self.text(prompts.text.sentence)
        tokens = self.read(patches(x_t, self.patch)) + (time + text)[:, None]
        tokens = torch.cat([time[:, None], text[:, None], tokens], dim=1)
        tokens = tokens + self.position[: tokens.shape[1]]
        tokens = self.transformer(tokens, with_tokens(mask[:, :: self.patch], 2))
        return unpatch(self.write(tokens[:, 2:]), self.patch) * mask[..., None]

    def normalise(self, motion: Float[Tensor, "batch frames features"], prompts: Prompts) -> Tensor:
        """Physical features to the state that is diffused."""
        return (motion - self.mean) / self.std * prompts.mask[..., None]

    def decode(self, state: Float[Tensor, "batch frames features"], prompts: Prompts) -> Tensor:
        """The state to physical features, zero where padded."""
        return (state * self.std + self.mean) * prompts.mask[..., None]

    def state_shape(self, prompts: Prompts) -> tuple[int, int]:
        """One sample's state: the longest motion of the batch."""
        return prompts.frames, len(self.mean)

    def diffusion(
        self, no_text: TextFeatures, n_steps: int = 50, guidance: float = 2.5
    ) -> MotionDiffusion:
        """This network with MDM's schedule, ready to sample and to be tuned."""
        return MotionDiffusion(
            self, NoiseSchedule.cosine(), self.decode, self.state_shape, no_text, n_steps, guidance
        )
