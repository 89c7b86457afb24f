"""Half the digits, for speed: an approximation, and labelled as such."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.training import rounded
from easytune_lib.types import Prompts, Reward


def bf16(model: MotionDiffusion, reward: Reward) -> tuple[MotionDiffusion, Reward]:
    """The same model and reward, whose matrix products are computed in bfloat16.

    Approximate: gradients point within a few degrees of float32's (cosines of .994 to .9999 in
    trials), for about half the time where the processor has such instructions. Weights, their
    gradients, the sampler's arithmetic and the optimizer stay in float32; rewards have about
    three digits.

    Each call has its own autocast context: nothing leaks out of a rollout between its steps,
    updated weights are cast anew, and no gradient is lost to a cast that an earlier call without
    gradients kept. So each recorded step of DRaFT holds a cast copy of the weights.

    Args:
        model: Its denoiser is shared, and so tuned in place.
        reward: Frozen.

    Returns:
        What :func:`~easytune_lib.finetuning.loop.finetune` may be given in place of the two.
    """
    parts: dict[str, Any] = vars(model) | {"decode": _rounded(model.decode)}
    return _Rounded(**parts), _rounded(reward)


@dataclass(frozen=True)
class _Rounded(MotionDiffusion):
    def noise_estimate(
        self, x_t: Float[Tensor, "batch tokens dim"], t: int, prompts: Prompts
    ) -> Float[Tensor, "batch tokens dim"]:
        return _rounded(super().noise_estimate)(x_t, t, prompts)


def _rounded(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor, *rest: Any) -> Tensor:
        return rounded(fn, "bf16", x.device)(x, *rest).to(x.dtype)

    return call
