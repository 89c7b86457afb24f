"""What all published backbones are asked: made-up prompts, loading, padding, tuning."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from official import manifest
from torch import Tensor, nn

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import rollout
from easytune_lib.finetuning.loop import batches, finetune
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.plan import GradientPlan
from easytune_lib.types import Prompts, TextFeatures

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TRACE = {"rtol": 0, "atol": 1e-3}


def rng(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def given(
    sentence: Tensor, lengths: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None
) -> Prompts:
    """Prompts whose text features are known; tokens are of no account unless given."""
    tokens = sentence[:, None] if tokens is None else tokens
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
    texts = tuple(f"caption {i}" for i in range(len(lengths)))
    return Prompts(TextFeatures(texts, sentence, tokens, mask), lengths)


def made_up(width: int, lengths: list[int], words: int = 5, seed: int = 0) -> Prompts:
    """Prompts of random features, each caption of another number of words."""
    n = len(lengths)
    counts = torch.tensor([1 + i % words for i in range(n)])
    mask = torch.arange(words) < counts[:, None]
    tokens = torch.randn(n, words, width, generator=rng(seed)) * mask[..., None]
    sentence = torch.randn(n, width, generator=rng(seed + 1))
    return given(sentence, torch.tensor(lengths), tokens, mask)


def no_text(width: int) -> TextFeatures:
    """What stands for the empty caption: zeros."""
    return TextFeatures(
        ("",), torch.zeros(1, width), torch.zeros(1, 1, width), torch.ones(1, 1, dtype=torch.bool)
    )


def built(kind: type, path: Path, **options) -> nn.Module:
    """A network of the sizes of a manifest, without memory for its weights."""
    shapes = manifest(path)
    features = 251 if "kit" in path.name else 263
    with torch.device("meta"):
        return kind([0.0] * features, [1.0] * features, **kind.sizes(shapes), **options)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {k: tuple(v.shape) for k, v in network.state_dict().items()}


@torch.no_grad()
def final(model: MotionDiffusion, prompts: Prompts, x_T: Tensor) -> Tensor:
    """The motion at the end of a deterministic rollout."""
    plan = GradientPlan(frozenset(), frozenset({model.n_steps - 1}))
    *_, last = rollout(model, x_T, prompts, plan)
    return model.decode(last.x, prompts)


def check_neighbours(model: MotionDiffusion, prompts: Prompts) -> None:
    """A motion is the same alone, among longer ones, and in any order; padding is zero."""
    model = replace(model, n_steps=3)
    x_T = model.draw_noise(prompts, rng())
    together = final(model, prompts, x_T)
    assert together.shape[:2] == prompts.mask.shape
    assert together.isfinite().all() and (together[~prompts.mask] == 0).all()
    order = torch.arange(len(prompts)).flip(0)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(final(model, prompts[order], x_T[order]), together[order], **close)
    for i in range(len(prompts)):
        one = prompts[[i]]
        alone = final(model, one, x_T[[i]][:, : model.state_shape(one)[0]])
        torch.testing.assert_close(alone, together[[i], : one.frames], **close)


def check_adapters(model: MotionDiffusion, prompts: Prompts) -> None:
    """Adapters in feed-forward layers count, recorded or not, and get a gradient."""
    pytest.importorskip("peft")
    from easytune_lib.finetuning.lora import with_lora

    tuned = with_lora(model.denoiser, rng(), targets=("linear1", "linear2")).eval()
    adapters = [w for name, w in tuned.named_parameters() if "lora_B" in name]
    for weight in adapters:
        nn.init.constant_(weight, 0.3)
    x_T, t = model.draw_noise(prompts, rng()), torch.full((len(prompts),), 500)
    recorded = tuned(x_T, t, prompts)
    recorded.square().mean().backward()
    assert adapters and all(weight.grad is not None for weight in adapters)
    with torch.no_grad():
        torch.testing.assert_close(tuned(x_T, t, prompts), recorded)
        assert not torch.allclose(model.denoiser(x_T, t, prompts), recorded)


def check_tuning(fresh: Callable[[], MotionDiffusion], prompts: Prompts) -> None:
    """EasyTune(1) and DRaFT(2) change the denoiser alone, each in its own way, by a toy reward."""

    def reward(motion: Tensor, prompts: Prompts, t: Tensor | None = None) -> Tensor:
        return -((motion - 1) ** 2).mean(2).sum(1) / prompts.lengths

    tuned = []
    for method in (EasyTune(1), DRaFT(2)):
        model = fresh()
        before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
        optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=1e-2)
        pool = batches(model, prompts, 2, seed=0)
        for update in islice(finetune(model, reward, pool, method, optimizer), 2):
            assert update.reward < 0 and 0 < update.grad_norm < float("inf")
        after = model.denoiser.state_dict()
        assert any(not torch.equal(after[k], before[k]) for k in before)
        assert all(v.isfinite().all() for v in after.values())
        tuned.append(torch.cat([v.flatten() for v in after.values()]))
    assert not torch.equal(*tuned)
