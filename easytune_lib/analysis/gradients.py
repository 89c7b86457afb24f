"""The share of the reward gradient that each denoising step contributes, and its way there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from easytune_lib.analysis.jacobians import (
    JacobianNorms,
    StepMap,
    estimate_norms,
    exact_norms,
    step_matrix,
)
from easytune_lib.diffusion.guidance import SelfGuided
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import PLAIN, rollout, score
from easytune_lib.plan import GradientPlan, RolloutOptions, Weighting
from easytune_lib.types import Denoiser, Prompts, Reward

EVEN = Weighting()


@dataclass(frozen=True)
class Shares:
    """The shares of :func:`step_gradients`, without the matrix."""

    norms: Float[Tensor, " steps"]
    cosine: Float[Tensor, " steps"] | None  # to the rows of a reference; 0 where a row is 0
    total: Float[Tensor, " params"]  # the sum of the shares
    error: float  # of ``total`` against plain backpropagation, relative


@dataclass(frozen=True)
class GradientBias:
    """EasyTune's gradient, summed over its steps, against that of the whole chain.

    Both are of one batch and before any update; the norms are of each step's share.
    """

    cosine: float
    norm_ratio: float  # EasyTune's norm, of the chain's
    delta: float  # norm of the difference, of the chain's: Theorem S1's delta, relative
    easytune: Float[Tensor, " steps"]
    chain: Float[Tensor, " steps"]

    @property
    def early(self) -> tuple[float, float]:
        """Share of the summed norms in the first half of the steps: the chain's, EasyTune's.

        1/2 is even; if the recursion starved early steps, the chain's would be far below.
        """
        half = len(self.chain) // 2
        chain, easytune = (float(n[:half].sum() / n.sum()) for n in (self.chain, self.easytune))
        return chain, easytune


class _Guided(nn.Module):
    """A network's ``guided`` as the call of a module."""

    def __init__(self, network: SelfGuided):
        super().__init__()
        self.network = network

    def forward(self, *args: Any) -> Tensor:
        return self.network.guided(*args)


class _OwnWeights(Denoiser):
    """One network, each call with leaves of its own, so that gradients of steps do not mix.

    ``receive(call, name, grad)`` is given each leaf's gradient as soon as it is complete;
    nothing is kept.
    """

    def __init__(self, network: Denoiser, receive: Callable[[int, str, Tensor], None]):
        super().__init__()
        self.network, self.prediction, self.receive = network, network.prediction, receive
        self.leaves: list[Tensor] = []
        self.calls = 0
        if isinstance(network, SelfGuided):  # then this is what is called, in place of forward
            self.guided = partial(self._call, _Guided(network), "network.")

    def forward(self, x_t: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        return self._call(self.network, "", x_t, t, prompts)

    def _call(self, network: nn.Module, prefix: str, *args: Any) -> Tensor:
        own = {n: p.detach().requires_grad_() for n, p in _tuned(self.network).items()}
        if torch.is_grad_enabled():
            for name, leaf in own.items():
                leaf.register_post_accumulate_grad_hook(partial(self._pass_on, self.calls, name))
            self.leaves += own.values()
        self.calls += 1
        return functional_call(network, {prefix + n: leaf for n, leaf in own.items()}, args)

    def _pass_on(self, call: int, name: str, leaf: Tensor) -> None:
        assert leaf.grad is not None
        self.receive(call, name, leaf.grad)
        leaf.grad = None


def step_gradients(
    model: MotionDiffusion,
    reward: Reward,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    plan: GradientPlan,
    rng: torch.Generator | None = None,
    *,
    weighting: Weighting = EVEN,
    options: RolloutOptions = PLAIN,
) -> Float[Tensor, "steps params"]:
    """Compute each denoising step's own share of the reward gradient, before any update.

    Row ``i`` is the gradient with respect to the weights *as used by step i*, of the mean
    reward (weighed and capped by ``weighting``), summed over the rewarded steps. The rows add
    up to the gradient that training follows; steps that are not recorded give zero. Needs
    ``steps x params`` numbers: :func:`share_norms` does not.

    Args:
        model: Its denoiser's weights that require a gradient are the columns, in order.
        reward: Frozen.
        x_T: Pure noise.
        prompts: Captions and lengths.
        plan: From a method's ``plan``.
        rng: For stochastic samplers.
        weighting: From a method's ``weighting``; by default each step counts 1.
        options: From a method's ``rollout_options``.

    Source: Tan et al. (2026), Corollary 1 (Eq. 5, the terms of the sum over t) for DRaFT's
    plan, Corollary 2 (Eq. 8) for EasyTune's.
    """
    columns = _columns(model.denoiser)
    rows = x_T.new_zeros(model.n_steps, sum(p.numel() for p in _tuned(model.denoiser).values()))

    def receive(step: int, name: str, grad: Tensor) -> None:
        rows[step, columns[name]] += grad.flatten()

    of = _Trained(plan, weighting, options)
    _stream_shares(model, reward, x_T, prompts, of, rng, receive)
    return rows


def share_norms(
    model: MotionDiffusion,
    reward: Reward,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    plan: GradientPlan,
    rng: torch.Generator | None = None,
    *,
    reference: Float[Tensor, "steps params"] | None = None,
    weighting: Weighting = EVEN,
    options: RolloutOptions = PLAIN,
) -> Shares:
    """Compute the norms and the sum of :func:`step_gradients`, without the matrix.

    Args:
        model, reward, x_T, prompts, plan, rng: See :func:`step_gradients`.
        reference: Another plan's :func:`step_gradients`, for instance EasyTune's, to which
            each share's cosine is taken.
        weighting: See :func:`step_gradients`.
        options: See :func:`step_gradients`.

    Raises:
        ValueError: The plan takes the last step several times: use :func:`step_gradients`.
    """
    if options.fresh_noises:
        raise ValueError(
            "norms of a step that is taken several times do not add up: use step_gradients"
        )
    columns = _columns(model.denoiser)
    total = x_T.new_zeros(sum(p.numel() for p in _tuned(model.denoiser).values()))
    squares, dots = torch.zeros(2, model.n_steps, dtype=torch.float64)
    replay = None if rng is None else rng.clone_state()

    def receive(step: int, name: str, grad: Tensor) -> None:
        flat = grad.flatten()
        total[columns[name]] += flat
        squares[step] += flat.double().square().sum().cpu()
        if reference is not None:
            dots[step] += (flat.double() @ reference[step, columns[name]].double()).cpu()

    of = _Trained(plan, weighting, options)
    _stream_shares(model, reward, x_T, prompts, of, rng, receive)
    plain = reward_gradient(
        model, reward, x_T, prompts, plan, replay, weighting=weighting, options=options
    )
    norms, cosine = squares.sqrt(), None
    if reference is not None:
        lengths = norms * torch.linalg.vector_norm(reference, dim=1, dtype=torch.float64).cpu()
        cosine = dots / lengths.where(lengths > 0, 1.0)
    return Shares(norms, cosine, total, float((total - plain).norm() / plain.norm()))


def reward_gradient(
    model: MotionDiffusion,
    reward: Reward,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    plan: GradientPlan,
    rng: torch.Generator | None = None,
    *,
    weighting: Weighting = EVEN,
    options: RolloutOptions = PLAIN,
) -> Float[Tensor, " params"]:
    """Compute the gradient that one batch of training follows, by plain backpropagation.

    Of the mean reward, summed over the rewarded steps; no weight and no ``.grad`` changes.
    """
    weights = list(_tuned(model.denoiser).values())
    total = [torch.zeros_like(w) for w in weights]
    for step in rollout(model, x_T, prompts, plan, rng, options=options):
        if step.index in plan.rewarded:
            raised = weighting(score(model, reward, step, prompts, plan), step.index)
            parts = torch.autograd.grad(raised, weights, materialize_grads=True)
            total = [a + b for a, b in zip(total, parts, strict=True)]
    return torch.cat([part.flatten() for part in total])


def gradient_bias(
    model: MotionDiffusion,
    reward: Reward,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    plan: GradientPlan | None = None,
    rng: torch.Generator | None = None,
) -> GradientBias:
    """Measure what the stop-gradient on the states leaves out, on one batch.

    Args:
        model, reward, x_T, prompts: See :func:`step_gradients`.
        plan: Of the method that stands for EasyTune; by default EasyTune on all steps.
        rng: For stochastic samplers; both gradients are of the same noise.

    Source: Tan et al. (2026), Corollaries 1 and 2; the comparison is ours.
    """
    every = frozenset(range(model.n_steps))
    easy = plan or GradientPlan(every, every, detach_state=True)
    full = GradientPlan(every, frozenset({model.n_steps - 1}))
    a, b = (
        share_norms(model, reward, x_T, prompts, each, None if rng is None else rng.clone_state())
        for each in (easy, full)
    )
    easytune, chain = a.total.double(), b.total.double()  # float32 sums of millions err by 1e-4
    size = chain.norm()
    return GradientBias(
        float(torch.cosine_similarity(easytune, chain, dim=0)),
        float(easytune.norm() / size),
        float((easytune - chain).norm() / size),
        a.norms,
        b.norms,
    )


def jacobian_norms(
    model: MotionDiffusion,
    x_T: Float[Tensor, "batch tokens dim"],
    prompts: Prompts,
    probes: int | None = None,
    iterations: int = 10,
    rng: torch.Generator | None = None,
) -> JacobianNorms:
    """Measure how a small change of the state grows from step to step, and to the end.

    The map of a step includes guidance and the sampler; entries of padded frames are
    left out. The weights' gradient at step ``i`` reaches the reward through the product.

    Args:
        model: What to sample from.
        x_T: Pure noise.
        prompts: Captions and lengths.
        probes: ``None`` for exact matrices of ``dim x dim``, as latents allow. Else the
            number of random probes v of Hutchinson's estimate, ||J||_F^2 = E ||J^T v||^2,
            with standard errors; spectral norms then come from power iteration, as
            lower bounds. At a cost of ``iterations x steps^2`` network passes: use few steps.
        iterations: Of the power method, per norm.
        rng: For the probes, and for stochastic samplers.

    Raises:
        ValueError: Fewer than two probes, or probes without a generator.

    Source: Tan et al. (2026), Fig. 3, without its division by the dimension inside the
    product (see :attr:`JacobianNorms.divided`).
    """
    everything = GradientPlan(frozenset(range(model.n_steps)), frozenset({model.n_steps - 1}))
    real = _real_entries(x_T, prompts)
    # The fused attention kernels know neither forward mode nor second derivatives.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        steps = rollout(model, x_T.detach().requires_grad_(), prompts, everything, rng)
        if probes is None:
            return exact_norms([step_matrix(step, real) for step in steps], real)
        if probes < 2 or rng is None:
            raise ValueError(f"estimates need probes >= 2 and rng=stream(...), got {probes}, {rng}")
        return estimate_norms(
            [StepMap(step, real) for step in steps], real, probes, iterations, rng
        )


def _tuned(network: Denoiser) -> dict[str, Tensor]:
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def _columns(network: Denoiser) -> dict[str, slice]:
    columns, start = {}, 0
    for name, weight in _tuned(network).items():
        columns[name] = slice(start, start := start + weight.numel())
    return columns


@dataclass(frozen=True)
class _Trained:
    plan: GradientPlan
    weighting: Weighting
    options: RolloutOptions


def _stream_shares(
    model: MotionDiffusion,
    reward: Reward,
    x_T: Tensor,
    prompts: Prompts,
    of: "_Trained",
    rng: torch.Generator | None,
    receive: Callable[[int, str, Tensor], None],
) -> None:
    plan, options = of.plan, replace(of.options, checkpoint=False)  # else calls would count twice

    def of_step(call: int, name: str, grad: Tensor) -> None:
        receive(visited[min(call, len(visited) - 1)], name, grad)  # fresh noises: the last step's

    visited, own = options.visited(plan), _OwnWeights(model.denoiser, of_step)
    acting = replace(model, denoiser=own)
    for step in rollout(acting, x_T, prompts, plan, rng, options=options):
        if step.index in plan.rewarded:
            raised = of.weighting(score(model, reward, step, prompts, plan), step.index)
            raised.backward(inputs=own.leaves)
        if plan.detach_state:
            own.leaves.clear()


def _real_entries(x_T: Tensor, prompts: Prompts) -> Bool[Tensor, "batch tokens dim"]:
    framewise = x_T.shape[1] == prompts.frames
    keep = prompts.mask if framewise else torch.ones_like(x_T[..., 0], dtype=torch.bool)
    return keep[..., None].expand_as(x_T)
