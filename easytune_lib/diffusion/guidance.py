"""Classifier-free guidance: two readings of one state, with and without the caption."""

from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import Tensor

from easytune_lib.types import Denoiser, Prompts, TextFeatures

_twice: WeakKeyDictionary[Prompts, tuple[TextFeatures, Prompts]] = WeakKeyDictionary()


@runtime_checkable
class SelfGuided(Protocol):
    """A denoiser that was taught guidance: it is told the scale, and reads the state once."""

    def guided(self, x_t: Tensor, t: Tensor, prompts: Prompts, scale: float) -> Tensor:
        """What guidance of this scale would give."""
        ...


def guided(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    prompts: Prompts,
    scale: float,
    no_text: TextFeatures,
) -> Tensor:
    """The network's output, pushed ``scale`` times from "no caption" towards the caption.

    Both readings are one batch and both keep their gradient: dropping the unconditional
    one's changes the direction of the reward gradient beyond recognition. A denoiser that was
    taught guidance (:class:`SelfGuided`) is read once.

    Source: Ho & Salimans (2022), Eq. 6, on whatever the network predicts; for x0 and for
    epsilon the combination is the same, since its weights add up to 1.
    """
    if isinstance(denoiser, SelfGuided):
        return denoiser.guided(x_t, t, prompts, scale)
    if scale == 1.0:
        return denoiser(x_t, t, prompts)
    both = twice(prompts, no_text)
    with_text, without = denoiser(x_t.repeat(2, 1, 1), t.repeat(2), both).chunk(2)
    return without + scale * (with_text - without)


def twice(prompts: Prompts, no_text: TextFeatures) -> Prompts:
    """The prompts, and the same without captions; made once and kept while ``prompts`` is."""
    kept = _twice.get(prompts)
    if kept is None or kept[0] is not no_text:
        blank = no_text[[0] * len(prompts)]
        texts = TextFeatures.cat([prompts.text, blank])
        both = Prompts(texts, prompts.lengths.repeat(2), prompts.padding)
        kept = _twice[prompts] = no_text, both
    return kept[1]
