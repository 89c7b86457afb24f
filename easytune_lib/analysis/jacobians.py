"""The Jacobians of the denoising steps: what carries a gradient back along a rollout."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from easytune_lib.diffusion.rollout import Step


@dataclass(frozen=True)
class JacobianNorms:
    """Sizes of the Jacobians ``J_i = d x_(i+1) / d x_i`` along a rollout, per sample.

    Frobenius norms are divided by ``sqrt(dim)``: an identity of any size has norm 1.
    """

    frobenius: Float[Tensor, "steps batch"]
    spectral: Float[Tensor, "steps batch"]
    product_frobenius: Float[Tensor, "steps batch"]  # of J_(n-1) ... J_i: from step i to the end
    product_spectral: Float[Tensor, "steps batch"]
    frobenius_error: Float[Tensor, "steps batch"]  # standard errors, 0 where exact
    product_frobenius_error: Float[Tensor, "steps batch"]
    dim: Int[Tensor, " batch"]  # entries of the state that are not padding

    @property
    def divided(self) -> Float[Tensor, "steps batch"]:
        """``|| product of J_s / dim ||_F``: the division inside the product, as printed in Fig. 3.

        It decays by ``dim`` a step whatever the model does: an identity chain gives
        ``dim ** (0.5 - steps)``.
        """
        steps = torch.arange(len(self.frobenius), 0, -1, dtype=torch.float64)[:, None]
        return self.product_frobenius.double() * self.dim.double() ** (
            0.5 - steps.to(self.dim.device)
        )


def _size(x: Tensor) -> Float[Tensor, " batch"]:
    return torch.linalg.vector_norm(x, dim=(1, 2))


def step_matrix(step: Step, real: Tensor) -> Float[Tensor, "batch dim dim"]:
    """A step's Jacobian ``J[b]``, with zero rows and columns where padded."""
    batch, dim = len(real), real[0].numel()
    basis = torch.eye(dim, dtype=step.x.dtype, device=step.x.device)
    cotangents = basis.view(dim, 1, *real.shape[1:]).expand(-1, *real.shape)
    (rows,) = torch.autograd.grad(step.x, step.x_t, cotangents, is_grads_batched=True)
    keep = real.reshape(batch, dim)
    return rows.view(dim, batch, dim).transpose(0, 1) * (keep[:, :, None] & keep[:, None])


def exact_norms(jacobians: list[Tensor], real: Tensor) -> JacobianNorms:
    """Norms of the matrices of all steps, and of their products."""
    products = [jacobians[-1]]
    for jacobian in reversed(jacobians[:-1]):
        products.insert(0, products[0] @ jacobian)
    dim = real.sum((1, 2))
    single, product = torch.stack(jacobians), torch.stack(products)
    frobenius, product_frobenius = (
        torch.linalg.matrix_norm(m) / dim.sqrt() for m in (single, product)
    )
    return JacobianNorms(
        frobenius, torch.linalg.matrix_norm(single, 2),
        product_frobenius, torch.linalg.matrix_norm(product, 2),
        torch.zeros_like(frobenius), torch.zeros_like(frobenius), dim,
    )  # fmt: skip


class StepMap:
    """One step as a linear map around its state, on real entries only, without a matrix."""

    def __init__(self, step: Step, real: Tensor):
        self.before, self.after, self.real = step.x_t, step.x, real
        self.dual = torch.zeros_like(step.x, requires_grad=True)
        (self.pulled,) = torch.autograd.grad(self.after, self.before, self.dual, create_graph=True)

    def pull(self, u: Tensor) -> Tensor:
        """``J^T u``."""
        cotangent = u * self.real
        return (
            self.real
            * torch.autograd.grad(self.after, self.before, cotangent, retain_graph=True)[0]
        )

    def push(self, v: Tensor) -> Tensor:
        """``J v``: the derivative of ``J^T u``, which is linear in u."""
        return (
            self.real
            * torch.autograd.grad(self.pulled, self.dual, v * self.real, retain_graph=True)[0]
        )


def estimate_norms(
    maps: list[StepMap], real: Tensor, probes: int, iterations: int, rng: torch.Generator
) -> JacobianNorms:
    """Norms by Hutchinson's probes and by power iteration, without a matrix."""
    like = maps[0].after

    def draw() -> Tensor:
        v = torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)
        return v * real

    single = torch.stack([
        torch.stack([_size(step.pull(draw())) ** 2 for step in maps]) for _ in range(probes)
    ])  # fmt: skip
    products = []
    for _ in range(probes):
        v, sizes = draw(), []
        for step in reversed(maps):
            v = step.pull(v)
            sizes.insert(0, _size(v) ** 2)
        products.append(torch.stack(sizes))

    dim = real.sum((1, 2))
    frobenius, error = _root_mean(single / dim)
    product_frobenius, product_error = _root_mean(torch.stack(products) / dim)
    spectral = torch.stack(
        [_power(maps[i : i + 1], draw(), iterations)[0] for i in range(len(maps))]
    )
    product_spectral, u = [], draw()
    for i in reversed(range(len(maps))):  # each chain starts from the direction of the one after
        size, u = _power(maps[i:], u, iterations)
        product_spectral.insert(0, size)
    return JacobianNorms(
        frobenius, spectral, product_frobenius, torch.stack(product_spectral),
        error, product_error, dim,
    )  # fmt: skip


def _root_mean(squares: Float[Tensor, "probes steps batch"]) -> tuple[Tensor, Tensor]:
    """The root of the mean over probes, and its standard error (delta method)."""
    root = squares.mean(0).sqrt()
    error = squares.std(0) / len(squares) ** 0.5
    return root, torch.where(root > 0, error / (2 * root), 0.0)


def _power(maps: list[StepMap], u: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The largest singular value of the chained ``maps`` and its output direction."""
    size = _size(u)
    tiny = torch.finfo(u.dtype).tiny
    for _ in range(iterations):
        for step in reversed(maps):
            u = step.pull(u)
        u = u / _size(u).clamp(min=tiny)[:, None, None]
        for step in maps:
            u = step.push(u)
        size = _size(u)
        u = u / size.clamp(min=tiny)[:, None, None]
    return size, u
