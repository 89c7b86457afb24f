"""A network of yours as a ``Denoiser``, and whether it is wrapped right."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.types import Denoiser, Prompts

Call = Callable[[nn.Module, Tensor, Tensor, Prompts], Tensor]
"""``(network, x_t, t, prompts) -> prediction``; see :class:`Wrapped`."""


class Wrapped(Denoiser):
    """A network with conventions of its own.

    >>> network = torch.nn.Linear(263, 263)
    >>> mine = et.Wrapped(network, lambda net, x_t, t, prompts: net(x_t), prediction="x0")
    >>> mine.prediction
    'x0'

    Args:
        network: It is kept as it is, in the mode it is in: mind ``network.eval()``.
        call: Asks ``network`` and returns what it predicts. It gets ``x_t`` as (batch, tokens,
            dim), ``t`` as a training step a motion, and prompts, whose ``mask`` is True where a
            frame is real. It must use the network it is given, since fine-tuning copies that.
        prediction: What ``call`` returns: the noise, or the clean state.
    """

    def __init__(self, network: nn.Module, call: Call, prediction: Literal["epsilon", "x0"]):
        super().__init__()
        if prediction not in ("epsilon", "x0"):
            raise ValueError(f'prediction is "epsilon" or "x0", got {prediction!r}')
        self.network, self.call, self.prediction = network, call, prediction
        self.training = network.training

    def forward(
        self, x_t: Float[Tensor, "batch tokens dim"], t: Int[Tensor, " batch"], prompts: Prompts
    ) -> Float[Tensor, "batch tokens dim"]:
        """See :meth:`Denoiser.forward`.

        Raises:
            ValueError: The answer has not the shape of ``x_t``.
        """
        said = self.call(self.network, x_t, t, prompts)
        if said.shape != x_t.shape:
            raise ValueError(
                f"the wrapped network answers {tuple(said.shape)} to a state of "
                f"{tuple(x_t.shape)} (batch, tokens, dim): transpose or cut it in `call`"
            )
        return said


def misfits(model: MotionDiffusion, prompts: Prompts, rng: torch.Generator) -> list[str]:
    """What looks wrong with a wrapped model; empty where nothing does.

    Slips that raise no error: batch and frames swapped, a mask that is the wrong way round, a
    caption or a step that is not passed on, a wrong ``prediction``, a network that is left in
    training mode or cut off from the gradient.

    Args:
        model: A trained one.
        prompts: At least two captions and two lengths.
        rng: Of the noise.

    Raises:
        ValueError: Prompts are all alike, or the network answers in another shape.
    """
    lengths = prompts.lengths
    if len(set(prompts.texts)) < 2 or len(set(lengths.tolist())) < 2:
        raise ValueError("give prompts of at least two captions and two lengths")
    asked = Prompts(prompts.text, torch.full_like(lengths, prompts.frames))  # nothing is padded
    found: list[str] = []
    x_t = model.draw_noise(asked, rng)
    last = len(model.schedule) - 1
    times = torch.full_like(lengths, last // 2)
    said = model.denoiser(x_t, times, asked)
    if not said.requires_grad:
        found.append("no gradient reaches the weights: mind no_grad, detach and requires_grad_()")
    with torch.no_grad():
        said = said.detach()

        def differs(other: Tensor, one: Tensor = said) -> float:
            return float((other - one).abs().max() / said.std())

        if differs(model.denoiser(x_t, times, asked)) > 1e-5:
            return [*found, "two equal calls differ: call network.eval(), or mind its own noise"]
        if (by := differs(model.denoiser(x_t[:1], times[:1], asked[[0]]), said[:1])) > 1e-2:
            found.append(
                f"a motion alone is not the one in a batch (by {by:.2g} standard deviations): are "
                "batch and frames swapped?"
            )
        if x_t.shape[1] == prompts.frames:
            row = [int(lengths.argmin())]
            one = prompts[row]
            noised = torch.where(prompts.mask[..., None], x_t, 7.0)
            long = model.denoiser(noised, times, prompts)[row, : one.frames]
            if (
                by := differs(model.denoiser(x_t[row, : one.frames], times[row], one), long)
            ) > 1e-2:
                found.append(
                    f"padding is read (by {by:.2g} standard deviations): Prompts.mask is True "
                    "where a frame is real; is yours the other way round?"
                )
        others = asked.text[[*range(1, len(asked)), 0]]
        if differs(model.denoiser(x_t, times, Prompts(others, asked.lengths))) < 1e-4:
            found.append("the caption is not read: pass prompts.text on")
        if differs(model.denoiser(x_t, torch.zeros_like(times), asked)) < 1e-4:
            found.append("the step is not read: pass t on, in the network's own scale")
        at_noise = model.denoiser(x_t, torch.full_like(times, last), asked)
        likeness = float(F.cosine_similarity(at_noise.flatten(), x_t.flatten(), dim=0))
        looks = "epsilon" if likeness > 0.5 else "x0"
        if looks != model.denoiser.prediction:
            found.append(
                f"of pure noise the network says {likeness:.2f} of itself, as one that predicts "
                f'{looks}: is prediction="{looks}" meant?'
            )
        shape = model.decode(x_t, asked).shape
        if shape[:2] != (len(prompts), prompts.frames):
            found.append(
                f"decode gives {tuple(shape)}, expected ({len(prompts)}, {prompts.frames}, "
                "features)"
            )
    return found
