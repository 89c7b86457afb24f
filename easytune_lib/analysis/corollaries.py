"""Corollaries 1 and 2 written out term by term, to be held against what autograd gives."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.analysis.gradients import step_gradients
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.plan import GradientPlan
from easytune_lib.types import Prompts, Reward


@dataclass(frozen=True)
class Written:
    """The terms of a corollary, and how far autograd's shares are from them."""

    terms: Float[Tensor, "steps params"]
    error: float  # largest difference of a term, relative to the largest entry of that term


def corollary_1(
    model: MotionDiffusion, reward: Reward, x_T: Float[Tensor, "batch ..."], prompts: Prompts
) -> Written:
    """The whole chain: ``dR/dx_0  J_1 ... J_(t-1)  d pi(x_t)/d theta`` at every step t (Eq. 5).

    Args:
        model: With a deterministic sampler of the DDIM kind.
        reward: Frozen; reads the state that comes out, ``x_(t-1)``.
        x_T: Pure noise.
        prompts: Captions and lengths.
    """
    path = _states(model, x_T, prompts)
    pull, terms = _slope(model, reward, path[-1], -1, prompts), []
    for x, (now, after) in reversed(list(zip(path, model.times, strict=False))):
        term, pull = _pulled(model, x, now, after, pull, prompts)
        terms.insert(0, term)
    plan = GradientPlan(frozenset(range(model.n_steps)), frozenset({model.n_steps - 1}))
    return _held(model, reward, x_T, prompts, plan, terms)


def corollary_2(
    model: MotionDiffusion, reward: Reward, x_T: Float[Tensor, "batch ..."], prompts: Prompts
) -> Written:
    """EasyTune: ``dR/dx_(t-1)  d pi(sg(x_t))/d theta`` at every step t (Eq. 8), and no more.

    Arguments as of :func:`corollary_1`.
    """
    path, terms = _states(model, x_T, prompts), []
    for i, (now, after) in enumerate(model.times):
        pull = _slope(model, reward, path[i + 1], after, prompts)
        terms.append(_pulled(model, path[i], now, after, pull, prompts)[0])
    every = frozenset(range(model.n_steps))
    plan = GradientPlan(every, every, detach_state=True)
    return _held(model, reward, x_T, prompts, plan, terms)


def _held(
    model: MotionDiffusion,
    reward: Reward,
    x_T: Tensor,
    prompts: Prompts,
    plan: GradientPlan,
    terms: list[Tensor],
) -> Written:
    shares = step_gradients(model, reward, x_T, prompts, replace(plan, reads="x_t"))
    errors = [
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(shares, terms, strict=True)
    ]
    return Written(torch.stack(terms), max(errors))


def _pi(model: MotionDiffusion, x: Tensor, now: int, after: int, prompts: Prompts) -> Tensor:
    """One reverse step, ``A_t x_t + B_t eps``."""
    (alpha, sigma), (alpha_after, sigma_after) = map(model.schedule.scales, (now, after))
    A = alpha_after / alpha
    B = sigma_after - A * sigma
    return A * x + B * model.noise_estimate(x, now, prompts)


@torch.no_grad()
def _states(model: MotionDiffusion, x_T: Tensor, prompts: Prompts) -> list[Tensor]:
    """x_T, ..., x_0."""
    path = [x_T]
    for now, after in model.times:
        path.append(_pi(model, path[-1], now, after, prompts))
    return path


def _slope(
    model: MotionDiffusion, reward: Reward, x: Tensor, after: int, prompts: Prompts
) -> Tensor:
    """dR/dx at a state whose noise is that of step ``after`` (-1: clean)."""
    x = x.detach().requires_grad_()
    t = torch.full((len(x),), max(after, 0), device=x.device)
    (slope,) = torch.autograd.grad(reward(model.decode(x, prompts), prompts, t).mean(), x)
    return slope


def _pulled(
    model: MotionDiffusion, x: Tensor, now: int, after: int, pull: Tensor, prompts: Prompts
) -> tuple[Tensor, Tensor]:
    """A cotangent of x_(t-1) times d pi(sg(x_t))/d theta, and times J_t = d pi/d x_t."""
    x = x.detach().requires_grad_()
    weights = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
    out = _pi(model, x, now, after, prompts)
    *of_theta, of_x = torch.autograd.grad(out, [*weights, x], pull, materialize_grads=True)
    return torch.cat([part.flatten() for part in of_theta]), of_x
