"""One denoising loop, shared by sampling, analysis and every fine-tuning method."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.sampler import Randomness, RowNoise, fresh_noise
from easytune_lib.plan import GradientPlan, RolloutOptions
from easytune_lib.types import Prompts, Reward

State = Literal["x0_hat", "x"]
PLAIN = RolloutOptions()


@dataclass(frozen=True)
class Step:
    """What one denoising step saw and produced."""

    index: int  # 0 is the noisiest
    now: int  # training step of the state that was read
    after: int | Int[Tensor, " batch"]  # training step of ``x``; -1 is the clean end
    x_t: Float[Tensor, "batch tokens dim"]  # the state that was read
    noise: Float[Tensor, "batch tokens dim"]  # what of it the network took for noise
    x0_hat: Float[Tensor, "batch tokens dim"]  # the clean state it pointed to
    x: Float[Tensor, "batch tokens dim"]  # the state that came out


def rollout(
    model: MotionDiffusion,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    plan: GradientPlan,
    rng: Randomness = None,
    *,
    options: RolloutOptions = PLAIN,
) -> Iterator[Step]:
    """Denoise ``x_T``, differentiated as ``plan`` says.

    >>> prompts = et.make_prompts(["a person waves."], 1.0)
    >>> x_T = bench.model.draw_noise(prompts, torch.Generator().manual_seed(0))
    >>> plan = et.EasyTune().plan(4, torch.Generator())
    >>> [step.index for step in et.rollout(bench.model, x_T, prompts, plan)]
    [0, 1, 2, 3]

    Yields after each step, so that a caller may update the denoiser between steps.

    Args:
        model: What to sample from.
        x_T: Pure noise.
        prompts: Captions and lengths.
        plan: Which steps autograd records, and where the state is cut from the graph.
        rng: For stochastic samplers and for fresh noise; one stream a batch gives all methods
            the same noise.
        options: Steps to skip, to compute again or to take several times.

    Raises:
        ValueError: Noise is to be drawn, and there is no ``rng``.
    """
    x, times = x_T, model.times
    estimate = model.noise_estimate
    if options.checkpoint:
        estimate = partial(checkpoint, estimate, use_reentrant=False)  # keeps the random state

    def denoise(i: int, time: tuple[int, int], x: Tensor) -> Step:
        """Step ``i`` of the state ``x``.

        The network's output becomes a noise estimate inside the recorded block, and the state
        flows on outside it: so the coupling never cuts the update rule's own path.
        """
        now, after = time
        seen = _coupled(x, plan.coupling_at(i))
        with torch.set_grad_enabled(i in plan.recorded):  # all that the network contributes
            noise = estimate(seen, now, prompts)
        alpha, sigma = model.schedule.scales(now)
        x0_hat = (x - sigma * noise) / alpha
        x_next = model.sampler.step(model.schedule, x0_hat, noise, now, after, rng)
        return Step(i, now, after, x, noise, x0_hat, x_next)

    for i, following in pairwise([*options.visited(plan), plan.last + 1]):
        x = x.detach() if plan.detach_state else x
        step = denoise(i, (times[i][0], times[following - 1][1]), x)
        yield step
        x = step.x
        if i != plan.last:
            del step  # what it holds makes room for the next
    for _ in range(options.fresh_noises):
        alpha, sigma = model.schedule.scales(step.now)
        clean = step.x0_hat.detach()
        x = alpha * clean + sigma * fresh_noise(clean, rng)
        yield denoise(step.index, times[step.index], x)


def _coupled(x: Tensor, coupling: float) -> Tensor:
    """The same state, of whose gradient only the part ``coupling`` comes through."""
    if coupling == 1:
        return x
    constant = x.detach()
    return constant + coupling * (x - constant) if coupling else constant


def score(
    model: MotionDiffusion, reward: Reward, step: Step, prompts: Prompts, plan: GradientPlan
) -> Float[Tensor, " batch"]:
    """Score the state that ``plan`` reads after ``step``, decoded."""
    read, after = state_read(model, step, plan)
    return score_state(model, reward, getattr(step, read), prompts, after)


def score_state(
    model: MotionDiffusion,
    reward: Reward,
    state: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    after: int | Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """Decode a state and score it; ``after`` is its training step, ``None`` where it is clean."""
    motion = model.decode(state, prompts)
    if after is None:
        return reward(motion, prompts)
    t = torch.as_tensor(after, device=state.device).clamp(min=0).expand(len(state))
    return reward(motion, prompts, t)


def state_read(
    model: MotionDiffusion, step: Step, plan: GradientPlan
) -> tuple[State, int | Int[Tensor, " batch"] | None]:
    """Return which of a step's states the reward is given, and its time; ``None`` says clean.

    Raises:
        ValueError: The final state is asked of another step than the last.
    """
    reads = plan.reads_at(step.index)
    if reads == "x_t":
        return "x", step.after
    if reads == "final" and step.index != model.n_steps - 1:
        raise ValueError(
            f"step {step.index} of {model.n_steps} has no final state: reward the last step, or "
            "read x0_hat or x_t"
        )
    return (model.decodes if reads == "final" else "x0_hat"), None


@torch.no_grad()
def sample(
    model: MotionDiffusion,
    prompts: Prompts,
    rng: torch.Generator,
    batch_size: int = 64,
    n_steps: int | None = None,
) -> Float[Tensor, "batch frames features"]:
    """Generate motions, in physical units, zero where padded.

    Prompts are processed by length, so that little is padded; each keeps the noise of its
    place in the whole, so that the result depends on neither the batch size nor the order.
    """
    model = model if n_steps is None else replace(model, n_steps=n_steps)
    x_T = model.draw_noise(prompts, rng)
    streams: list[torch.Generator] = []
    if model.sampler.stochastic:
        seeds = torch.randint(2**62, (len(prompts),), generator=rng).tolist()
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    motions: list[Tensor] = [torch.empty(0)] * len(prompts)
    for rows in prompts.lengths.argsort(stable=True).split(batch_size):
        part = prompts[rows]
        noise = x_T[rows][:, : model.state_shape(part)[0]]
        plan = GradientPlan(frozenset(), frozenset({model.n_steps - 1}))
        drawn = RowNoise([streams[row] for row in rows], x_T.shape[1]) if streams else None
        (last,) = deque(rollout(model, noise, part, plan, drawn), 1)  # no more than one is held
        state = getattr(last, model.decodes)
        for row, motion in zip(rows.tolist(), model.decode(state, part), strict=True):
            motions[row] = torch.nn.functional.pad(motion, (0, 0, 0, prompts.frames - len(motion)))
    return torch.stack(motions)
