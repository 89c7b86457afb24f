"""Tests of an encoder, such as a reward's, on noised motions: likeness and ranking."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.choices import check_choices
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import rollout
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.metrics.retrieval import r_precision
from easytune_lib.plan import GradientPlan
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts, TextFeatures

Encoder = Callable[[Tensor, Prompts], Tensor]
"""Physical features ``(batch, frames, features)`` to embeddings ``(batch, dim)``."""


@dataclass(frozen=True)
class NoiseSimilarity:
    """Cosines to the final clean motion, per prompt; row ``i`` is about denoising step ``i``."""

    times: tuple[int, ...]  # training step of the state read; row 0 is pure noise
    noised: Float[Tensor, "steps batch"]  # of the state x_t
    predicted: Float[Tensor, "steps batch"]  # of x0_hat, the clean state it points to


@torch.no_grad()
def similarity_by_step(
    encode: Encoder,
    model: MotionDiffusion,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    rng: torch.Generator | None = None,
) -> NoiseSimilarity:
    """Compare the states of a rollout with its final motion, by cosine of their embeddings.

    Args:
        encode: The encoder under test.
        model: What to sample from.
        x_T: Pure noise.
        prompts: Captions and lengths.
        rng: For stochastic samplers.

    Source: Tan et al. (2026), Fig. 4. Deviations: the encoder is the caller's choice, since
    the paper names none; latent states are decoded first, so that the figure shows the
    robustness of decoder and encoder together.
    """
    plan = GradientPlan(frozenset(), frozenset({model.n_steps - 1}))
    steps = list(rollout(model, x_T, prompts, plan, rng))
    final = encode(model.decode(steps[-1].x0_hat, prompts), prompts)

    def similarity(state: Tensor) -> Tensor:
        return F.cosine_similarity(encode(model.decode(state, prompts), prompts), final, dim=-1)

    return NoiseSimilarity(
        tuple(step.now for step in steps),
        torch.stack([similarity(step.x_t) for step in steps]),
        torch.stack([similarity(step.x0_hat) for step in steps]),
    )


@torch.no_grad()
def similarity_by_noise(
    encode: Encoder,
    schedule: NoiseSchedule,
    state: Float[Tensor, "batch tokens dim"],
    decode: Callable[[Tensor, Prompts], Tensor],
    prompts: Prompts,
    times: Sequence[int],
    rng: torch.Generator,
) -> Float[Tensor, "times batch"]:
    """Cosine of real motions to themselves, noised by the forward process.

    One noise serves all ``times``, so that the curve of a motion is smooth.

    Args:
        encode: The encoder under test.
        schedule: Of the noise.
        state: Clean motions as a model diffuses them, zero where padded: normalised
            features, or a VAE's latents.
        decode: From such a state to physical features.
        prompts: The motions' lengths (and captions, should ``encode`` read them).
        times: Training steps of the noise, 0 to ``len(schedule) - 1``.
        rng: For the noise.
    """
    noise = torch.randn(state.shape, generator=rng, dtype=state.dtype).to(state.device)
    clean = encode(decode(state, prompts), prompts)

    def similarity(t: int) -> Tensor:
        noised = schedule.add_noise(state, noise, torch.full((len(state),), t, device=state.device))
        return F.cosine_similarity(encode(decode(noised, prompts), prompts), clean, dim=-1)

    return torch.stack([similarity(t) for t in times])


@dataclass(frozen=True)
class Reader:
    """A text-motion encoder that ranks motions at some step of a rollout."""

    embed: Callable[[Tensor, Prompts, Tensor | None], Tensor]  # motions, told the step or not
    embed_text: Callable[[TextFeatures], Tensor]
    reads: Literal["x_t", "x0_hat"]  # the noised state, or the clean one it points to
    told: bool = True  # whether a reader of ``x_t`` is told the step

    def __post_init__(self) -> None:
        """Refuse a state that there is not."""
        check_choices(self)


@torch.no_grad()
def ranking_by_step(
    readers: Mapping[str, Reader],
    model: MotionDiffusion,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    labels: Sequence[str],
    *,
    rng: torch.Generator | None = None,
    group_size: int = 32,
) -> dict[str, Float[Tensor, "steps asked"]]:
    """Count how often readers rank a caption's own motion first, by step of a rollout.

    Per reader, step and caption, the share of draws in which the motion made for the caption is
    nearer to it than those of the other captions of its group. At a step, all readers rank the
    same states in the same groups.

    Args:
        readers: By name.
        model: What to sample from.
        x_T: Pure noise.
        prompts: Captions and lengths.
        labels: What no group may hold twice, one a prompt.
        rng: For stochastic samplers.
        group_size: Captions a group; chance is one in so many.

    Raises:
        ValueError: There are too few labels to fill a group.
    """
    plan = GradientPlan(frozenset(), frozenset({model.n_steps - 1}))
    texts = {name: reader.embed_text(prompts.text) for name, reader in readers.items()}
    hits: dict[str, list[Tensor]] = {name: [] for name in readers}
    for step in rollout(model, x_T, prompts, plan, rng):
        seen = {
            "x_t": model.decode(step.x_t, prompts), "x0_hat": model.decode(step.x0_hat, prompts),
        }  # fmt: skip
        now = torch.full((len(prompts),), step.now, device=x_T.device)
        for name, reader in readers.items():
            t = now if reader.reads == "x_t" and reader.told else None
            pair = (texts[name], reader.embed(seen[reader.reads], prompts, t))
            text, motion = (F.normalize(part, dim=-1) for part in pair)
            groups = stream(0, "groups")
            found = r_precision(text, motion, labels, rng=groups, group_size=group_size, top=(1,))
            hits[name].append(found.hits(1))
    return {name: torch.stack(rows) for name, rows in hits.items()}
