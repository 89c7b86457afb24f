"""The plug points and the types that travel between them.

To extend the workbench, write one class that fits one of the protocols here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from easytune_lib.choices import check_choices
from easytune_lib.plan import GradientPlan, RolloutOptions, Updates, Weighting


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """What a frozen text encoder says of some captions; equal only to itself, so a key."""

    texts: tuple[str, ...]
    sentence: Float[Tensor, "batch dim"]  # one embedding a caption
    tokens: Float[
        Tensor, "batch words width"
    ]  # zero where padded, unless the model reads that, too
    token_mask: Bool[Tensor, "batch words"]  # True where a token is real

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Sequence[int] | Tensor | slice) -> "TextFeatures":
        index = torch.arange(len(self))[rows if not isinstance(rows, Sequence) else list(rows)]
        texts = tuple(self.texts[i] for i in index.tolist())
        return TextFeatures(texts, self.sentence[index], self.tokens[index], self.token_mask[index])

    def to(self, device: torch.device | str) -> "TextFeatures":
        """The same features on ``device``."""
        parts = (self.sentence, self.tokens, self.token_mask)
        return TextFeatures(self.texts, *(part.to(device) for part in parts))

    def trimmed(self) -> "TextFeatures":
        """The same features without the columns that say nothing of any caption."""
        says = (self.token_mask | self.tokens.any(dim=-1)).any(dim=0)
        words = int(says.nonzero().max()) + 1 if says.any() else 0
        return TextFeatures(
            self.texts, self.sentence, self.tokens[:, :words], self.token_mask[:, :words]
        )

    @staticmethod
    def cat(parts: "Sequence[TextFeatures]") -> "TextFeatures":
        """Join batches; tokens are padded to the longest caption."""
        width = max(part.tokens.shape[1] for part in parts)

        def pad(x: Tensor) -> Tensor:
            room = width - x.shape[1]
            return nn.functional.pad(x, (0, 0, 0, room) if x.dim() == 3 else (0, room))

        return TextFeatures(
            tuple(text for part in parts for text in part.texts),
            torch.cat([part.sentence for part in parts]),
            torch.cat([pad(part.tokens) for part in parts]),
            torch.cat([pad(part.token_mask) for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Prompts:
    """What is asked of a model: captions, and how many frames each motion shall have.

    >>> prompts = et.make_prompts(["a person walks.", "someone waves."], [2.0, 3.0])
    >>> len(prompts), prompts.frames
    (2, 60)

    Equal only to itself, so that what is computed from prompts may be kept as long as they are.
    """

    text: TextFeatures
    lengths: Int[Tensor, " batch"]  # frames
    padding: int = 0  # frames that motions are padded to, where none of these is as long

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: Sequence[int] | Tensor | slice) -> "Prompts":
        index = torch.arange(len(self))[rows if not isinstance(rows, Sequence) else list(rows)]
        return Prompts(self.text[index], self.lengths[index])

    def padded(self, rows: Sequence[int] | Tensor | slice) -> "Prompts":
        """Some of them, for motions that stay padded as those of all are."""
        return replace(self[rows], padding=self.frames)

    @property
    def texts(self) -> tuple[str, ...]:
        """The captions."""
        return self.text.texts

    @cached_property
    def frames(self) -> int:
        """Frames of the longest motion; all tensors of the batch are padded to it."""
        return max(int(self.lengths.max()), self.padding)

    def check(self, motion: Tensor) -> None:
        """Refuse motions that are not padded as these prompts are.

        Raises:
            ValueError: The first two dimensions are not (prompts, frames).
        """
        if motion.shape[:2] != (len(self), self.frames):
            raise ValueError(
                f"motions of shape {tuple(motion.shape)} for {len(self)} prompts of at most "
                f"{self.frames} frames: cut or pad them to (prompts, frames, features)"
            )

    @cached_property
    def mask(self) -> Bool[Tensor, "batch frames"]:
        """True where a frame is real, False where it is padding."""
        return torch.arange(self.frames, device=self.lengths.device) < self.lengths[:, None]

    def to(self, device: torch.device | str) -> "Prompts":
        """The same prompts on ``device``."""
        return Prompts(self.text.to(device), self.lengths.to(device), self.padding)


class Denoiser(nn.Module, ABC):
    """A network that reads a noised motion; ``prediction`` says what it returns.

    >>> isinstance(bench.model.denoiser, et.Denoiser), bench.model.denoiser.prediction
    (True, 'epsilon')
    """

    prediction: Literal["epsilon", "x0"]

    @abstractmethod
    def forward(
        self, x_t: Float[Tensor, "batch tokens dim"], t: Int[Tensor, " batch"], prompts: Prompts
    ) -> Float[Tensor, "batch tokens dim"]:
        """The network's estimate of the noise, or of the clean state, in ``x_t``.

        Args:
            x_t: A latent, or normalised features; noised to training step ``t``.
            t: Training step, 0 (clean) to ``train_steps - 1`` (noise).
            prompts: Captions and lengths.
        """


@runtime_checkable
class Reward(Protocol):
    """A differentiable score of motions, higher is better.

    >>> def stay_low(motion, prompts, t=None):
    ...     return -motion[:, :, 3].mean(dim=1)  # feature 3 is the root's height in metres
    >>> isinstance(stay_low, et.Reward)
    True

    ``motion`` holds features in physical units (never normalised), zero where padded.
    Gradients reach ``motion`` and never the reward's own weights. ``t`` is the training
    step of the noise still in ``motion``; ``None`` says that the motion is clean.
    """

    def __call__(
        self,
        motion: Float[Tensor, "batch frames features"],
        prompts: Prompts,
        t: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """One score a motion."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder. ``name`` identifies weights and version, for caches."""

    name: str

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of ``texts``, in order."""
        ...


class FineTuneMethod(ABC):
    """A fine-tuning method: which gradient exists, and what is made of it.

    To add one, write a frozen dataclass that has ``plan``; all else has a default.

    Attributes:
        updates: When the weights learn of a gradient. ``step``: at once, and the rollout goes on
            with the new weights. ``chain``: at once, but the rollout keeps the weights that it
            began with. ``sum``: when the rollout is over, of all gradients together.
        reward_every: Decoder and reward are asked once in so many rewarded steps; see
            :class:`~easytune_lib.finetuning.two_phase.RewardGradient`.
    """

    updates: Updates = "step"
    reward_every: int = 1

    def __post_init__(self) -> None:
        check_choices(self)
        if self.reward_every < 1 or self.rollout_options.skip < 1:
            raise ValueError(f"reward_every is 1 or more, got {self.reward_every}")

    @abstractmethod
    def plan(self, n_steps: int, rng: torch.Generator, batch: int = 0) -> GradientPlan:
        """Return the plan of one batch.

        Args:
            n_steps: Of the rollout.
            rng: The batch's own stream, for the method's choices.
            batch: Its number in training.
        """

    def weighting(self, n_steps: int) -> Weighting:
        """Return how much the score after each step counts."""
        return Weighting()

    @property
    def rollout_options(self) -> RolloutOptions:
        """How the rollout gets through its steps."""
        return RolloutOptions()
