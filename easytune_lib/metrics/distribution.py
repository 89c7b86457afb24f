"""FID, Diversity and MModality: how motions spread, from their embeddings alone."""

import torch
from jaxtyping import Float
from torch import Tensor


def moments(
    embeddings: Float[Tensor, "n dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim dim"]]:
    """Mean and covariance (n - 1 in the denominator), in float64.

    Raises:
        ValueError: Fewer than ``dim + 1`` rows, where the covariance has no full rank and FID
            is a plausible number without meaning; or not finite.
    """
    count, dim = embeddings.shape
    if count < dim + 1:
        raise ValueError(
            f"FID of {dim}-dimensional embeddings needs at least {dim + 1} motions, got {count}"
        )
    if not embeddings.isfinite().all():
        bad = (~embeddings.isfinite().all(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"embeddings {bad[:10]} hold NaN or infinity ({len(bad)} rows)")
    x = embeddings.double()
    return x.mean(dim=0), torch.cov(x.mT).reshape(dim, dim)


def frechet_distance(
    mean: Float[Tensor, " dim"],
    covariance: Float[Tensor, "dim dim"],
    other_mean: Float[Tensor, " dim"],
    other_covariance: Float[Tensor, "dim dim"],
) -> float:
    """Squared Fréchet distance of two Gaussians.

    The trace of the square root of ``C1 C2`` is the sum of the singular values of
    ``sqrt(C1) sqrt(C2)``: both roots are of symmetric matrices, so nothing turns imaginary.

    Source: Heusel et al., NeurIPS 2017; Dowson and Landau, 1982.
    """
    product = _root(covariance.double()) @ _root(other_covariance.double())
    shift = (mean.double() - other_mean.double()).square().sum()
    spread = covariance.double().trace() + other_covariance.double().trace()
    return max(0.0, (shift + spread - 2 * torch.linalg.svdvals(product).sum()).item())


def fid(generated: Float[Tensor, "n dim"], real: Float[Tensor, "m dim"]) -> float:
    """:func:`frechet_distance` of two sets of embeddings; lower is better.

    It is biased upwards by about ``1 / n``: compare at equal numbers of motions only.
    """
    return frechet_distance(*moments(generated), *moments(real))


def diversity(embeddings: Float[Tensor, "n dim"], rng: torch.Generator, pairs: int = 300) -> float:
    """Mean distance of random pairs; as high as that of real motions is best.

    Pairs join two independent draws without replacement, so a motion may meet itself (once in
    ``n``), as in the published protocol.

    Raises:
        ValueError: Fewer motions than ``pairs``, or a distance is not finite.

    Source: Guo et al., CVPR 2022, section 5.
    """
    a, b = _two_draws(len(embeddings), pairs, "motions", rng)
    return _mean_distance(embeddings[a], embeddings[b])


def multimodality(
    embeddings: Float[Tensor, "prompts repeats dim"],
    rng: torch.Generator | None = None,
    pairs: int = 10,
) -> float:
    """Mean distance of motions made for one caption; published with 100 prompts, 30 repeats.

    With ``rng``, the published protocol: two independent draws of ``pairs`` of the repeats, the
    same for all prompts, so a pair may coincide (once in ``repeats``) and count as 0. Without,
    every pair of different repeats counts once, which suits few repeats.

    Raises:
        ValueError: Fewer repeats than ``pairs``, or, without ``rng``, fewer than 2; or a distance
            is not finite.

    Source: Guo et al., CVPR 2022, section 5.
    """
    repeats = embeddings.shape[1]
    if rng is not None:
        a, b = _two_draws(repeats, pairs, "repeats", rng)
    elif repeats > 1:
        a, b = torch.triu_indices(repeats, repeats, offset=1)
    else:
        raise ValueError("MModality compares motions of one caption: give at least 2 repeats")
    return _mean_distance(embeddings[:, a], embeddings[:, b])


def _mean_distance(a: Float[Tensor, "*n dim"], b: Float[Tensor, "*n dim"]) -> float:
    distance = (a.double() - b.double()).norm(dim=-1)
    if bad := int((~distance.isfinite()).sum()):
        raise ValueError(f"{bad} of {distance.numel()} distances are not finite: look for NaN")
    return distance.mean().item()


def _two_draws(count: int, pairs: int, what: str, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    if not 1 <= pairs <= count:
        raise ValueError(f"{pairs} pairs of {count} {what}: ask for 1 to {count} pairs")
    first, second = (torch.randperm(count, generator=rng)[:pairs] for _ in range(2))
    return first, second


def _root(covariance: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
