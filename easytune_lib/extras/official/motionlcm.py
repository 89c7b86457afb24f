"""MotionLCM, both versions, key for key: MLD distilled to one, two or four steps."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.sampler import LCM
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.extras.official.mld import LatentDenoiser, OfficialMLD
from easytune_lib.models.blocks import scale_waves
from easytune_lib.types import Prompts, TextFeatures

V1 = LCM(origin=50)
"""999; 999, 499; 999, 759, 499, 259: as diffusers spreads them."""
V2 = LCM(origin=10, steps={1: (799,), 2: (699, 299), 4: (699, 399, 299, 299)})
"""Times of MotionLCM V2's own table; other numbers of steps are spread over 10."""
SCALES = {1: 8.0, 2: 12.5, 4: 13.5}
"""Guidance of MotionLCM V2 by number of steps; V1 has 7.5 throughout."""


class GuidedDenoiser(LatentDenoiser):
    """A latent denoiser that is told the scale of guidance, instead of being read twice.

    Args:
        guidance_dim: Numbers of the embedding of the scale.
        sizes: Other arguments of :class:`~easytune_lib.extras.official.mld.LatentDenoiser`.

    Source: MotionLCM (Dai et al., 2024), after Meng et al. (2023).
    """

    def __init__(self, *, guidance_dim: int = 256, **sizes: Any):
        super().__init__(guidance_dim=guidance_dim, **sizes)
        self.guidance_dim = guidance_dim

    def forward(
        self, x_t: Float[Tensor, "batch latents dim"], t: Int[Tensor, " batch"], prompts: Prompts
    ) -> Float[Tensor, "batch latents dim"]:
        """The noise without guidance, see :meth:`guided`."""
        return self.guided(x_t, t, prompts, 1.0)

    def guided(self, x_t: Tensor, t: Tensor, prompts: Prompts, scale: float) -> Tensor:
        """The noise that guidance of this scale would find."""
        strength = torch.full((len(x_t),), scale - 1.0, device=x_t.device)
        condition = self.condition(t, prompts.text, scale_waves(strength, self.guidance_dim))
        return self.read(x_t, condition)


class MotionLCM(OfficialMLD):
    """MotionLCM: the VAE of MLD (V1) or of MLD++ (V2, which projects), and its denoiser.

    Args: those of :class:`~easytune_lib.extras.official.mld.OfficialMLD`.
    """

    denoises = GuidedDenoiser

    def diffusion(
        self, no_text: TextFeatures, n_steps: int = 1, guidance: float | None = None
    ) -> MotionDiffusion:
        """The two with the sampler of their version, ready to sample and to be tuned.

        Args:
            no_text: Not read: guidance is an embedding.
            n_steps: 1, 2 or 4 as published; others work too.
            guidance: ``None``: what the version has for so many steps.
        """
        self.vae.eval().requires_grad_(False)
        second = hasattr(self.denoiser, "latent_pre")
        if guidance is None:
            nearest = min(SCALES, key=lambda known: abs(known - n_steps))
            guidance = SCALES[nearest] if second else 7.5
        return MotionDiffusion(
            self.denoiser, NoiseSchedule.scaled_linear(), self.vae.decode, self.state_shape,
            no_text, n_steps, guidance, V2 if second else V1, decodes="x",
        )  # fmt: skip
