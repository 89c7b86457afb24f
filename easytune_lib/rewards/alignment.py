"""The fit of motions to their captions, as a reward."""

import copy
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.rewards.spm import SPM
from easytune_lib.types import Prompts, TextFeatures


class AlignmentReward:
    """Cosine of the mean latents of motion and caption, -1 to 1; a frozen snapshot of ``model``.

    The model is copied, so that training it further, or fine-tuning with the reward, changes
    nothing here. Scores are deterministic: no dropout, no sampled latents.

    Args:
        model: What to score with.
        schedule: Of the noise that a ``t`` speaks of, where it is not the scaled-linear one that
            ``model`` was trained with: each step is read as the one with the nearest noise level.

    Source: Tan et al. (2026), Eq. 11 and 12. Deviations: no factor tau, as in the released
    code; mean latents, where that code samples them, with dropout on.
    """

    def __init__(self, model: SPM, schedule: NoiseSchedule | None = None):
        self._times = None
        if schedule is not None:
            known = NoiseSchedule.scaled_linear().alpha_bar
            self._times = (schedule.alpha_bar[:, None] - known).abs().argmin(1)
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._latents: WeakKeyDictionary[TextFeatures, Tensor] = WeakKeyDictionary()

    def to(self, device: torch.device | str) -> "AlignmentReward":
        """A copy on ``device``."""
        twin = AlignmentReward(self.model)
        twin._times = self._times
        twin.model.to(device)
        return twin

    def __call__(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """One score a motion; see :class:`~easytune_lib.types.Reward`.

        Raises:
            ValueError: ``motion`` is not padded to ``prompts.frames``.
        """
        return F.cosine_similarity(self.embed(motion, prompts, t), self.embed_text(prompts.text, t))

    def embed(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch latent"]:
        """Mean latent of each motion; of ``prompts`` only the lengths are read.

        Raises:
            ValueError: ``motion`` is not padded to ``prompts.frames``.
        """
        prompts.check(motion)
        motion = motion.to(self.model.mean.dtype)
        return self.model.encode_motion(motion, prompts.mask, self._told(t))[0]

    @torch.no_grad()
    def embed_text(
        self, text: TextFeatures, t: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch latent"]:
        """Mean latent of each caption.

        It is computed once and kept while ``text`` is; but anew where the model tells its text
        encoder a step (modes M0T1 and M1T1) and there is one to tell.
        """
        if self.model.tells_text and t is not None:
            return self.model.encode_text(text, self._told(t))[0]
        if text not in self._latents:
            self._latents[text] = self.model.encode_text(text)[0]
        return self._latents[text]

    def _told(self, t: Int[Tensor, " batch"] | None) -> Int[Tensor, " batch"] | None:
        """A step as one of the schedule that the model knows."""
        return t if t is None or self._times is None else self._times.to(t.device)[t]
