"""What EasyTune's gradient leaves out: by its stop-gradient, and by slopes that are held."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from easytune_lib.analysis.gradients import gradient_bias
from easytune_lib.finetuning.loop import batches, copy_for_tuning, finetune
from easytune_lib.finetuning.variants import EasyTunePlus
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod
from easytune_lib.workbench import Workbench


@dataclass(frozen=True)
class BiasLook:
    """EasyTune's gradient, summed over all steps, against that of the whole chain."""

    updates: int  # done before this look
    cosine: float
    norm_ratio: float  # EasyTune's norm, of the chain's
    delta: float  # norm of the difference, of the chain's: Theorem S1's delta, relative
    early_chain: float  # share of the summed norms that the first half of the steps has
    early_easytune: float
    reward: float  # of the batch that was trained on last; nan before the first


def bias_along(
    bench: Workbench,
    method: FineTuneMethod,
    lr: float,
    updates: int,
    every: int,
    seed: int = 0,
    batch_size: int = 16,
    prompts: int = 8,
) -> Iterator[BiasLook]:
    """Fine-tune a copy of the bench's base, and look before it, and every few updates.

    All looks are at the same validation prompts and noise.

    Args:
        bench: Whose base, reward and prompts; none is changed.
        method: What is trained with.
        lr: Of AdamW.
        updates: Optimizer steps.
        every: Updates between two looks.
        seed: Of prompts, noise and the method's choices.
        batch_size: Prompts an update.
        prompts: Looked at.
    """
    model = copy_for_tuning(bench.model)
    asked = bench.prompts["validation"].first(prompts).prompts
    x_T = model.draw_noise(asked, stream(seed, "bias"))
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=lr, weight_decay=0.0)

    def look(done: int, reward: float) -> BiasLook:
        found = gradient_bias(model, bench.reward, x_T, asked)
        return BiasLook(
            done, found.cosine, found.norm_ratio, found.delta, *found.early, reward
        )  # fmt: skip

    yield look(0, float("nan"))
    given = batches(model, bench.prompts["finetune"].prompts, batch_size, seed)
    trained = finetune(model, bench.reward, given, method, optimizer)
    for done, update in zip(range(1, updates + 1), trained, strict=False):
        if done % every == 0 or done == updates:
            yield look(done, update.reward)


def held_rows(
    bench: Workbench, holds: Sequence[int], batch_size: int = 8, seed: int = 0
) -> list[dict[str, Any]]:
    """Compare EasyTune's gradients on all steps, with the reward asked rarely, to the exact ones.

    Weights stand still, so that both see the same states; see ``reward_every``
    of :class:`~easytune_lib.finetuning.variants.EasyTunePlus`.

    Returns:
        A row for each value of ``holds`` and each step: the cosine, and the ratio of norms.
    """
    (batch,) = islice(batches(bench.model, bench.prompts["finetune"].prompts, batch_size, seed), 1)

    def gradients(every: int) -> list[torch.Tensor]:
        model = copy_for_tuning(bench.model)
        still = _Kept(model.denoiser.parameters(), lr=0.0)
        method = EasyTunePlus(reward_every=every)
        deque(finetune(model, bench.reward, [batch], method, still, max_norm=float("inf")), 0)
        return still.gradients

    exact = gradients(1)
    return [
        {
            "hold": hold,
            "step": step,
            "cosine": cosine_similarity(held, true, 0).item(),
            "norm_ratio": (held.norm() / true.norm()).item(),
        }
        for hold in holds
        for step, (held, true) in enumerate(zip(gradients(hold), exact, strict=True))
    ]


class _Kept(torch.optim.SGD):
    """Keeps each update's gradient."""

    gradients: list[torch.Tensor]

    def step(self, closure: None = None) -> None:
        given = [w.grad for group in self.param_groups for w in group["params"]]
        kept = torch.cat([grad.flatten() for grad in given if grad is not None])
        self.gradients = [*getattr(self, "gradients", []), kept]
