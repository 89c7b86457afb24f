"""The paper's convergence theorem as a number, and a toy on which everything in it is known."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from easytune_lib.seeding import stream


def convergence_bound(
    gap: float, smoothness: float, rate: float, updates: int, noise: float, bias: float = 0.0
) -> float:
    r"""Bound the mean squared gradient of EasyTune's objective over a run of SGD.

    .. math:: \frac1K \sum_{k<K} E\|\nabla L(\theta_k)\|^2
              \le \frac{2 (L(\theta_0) - L^*)}{\eta K} + L_s \eta \sigma^2 + \delta^2

    The objective L(theta) is minus the reward at a random step, of states that theta itself
    sampled (Eq. 6). Assumed: its gradient is L_s-Lipschitz; the stochastic gradient's variance is
    at most sigma^2; its mean is nabla L + b with |b| <= delta; eta <= 1 / L_s. Nothing of Adam,
    clipping or a schedule is covered, and nothing says that delta is small: it is what the
    stop-gradient on the states leaves out. See
    :func:`~easytune_lib.analysis.gradients.gradient_bias` for its size.

    Derivation: by smoothness, E L(theta_(k+1)) <= L(theta_k) - eta <u, u + b>
    + L_s eta^2 / 2 (|u + b|^2 + sigma^2), with u = nabla L(theta_k). Put -2 <u, u + b> =
    |b|^2 - |u|^2 - |u + b|^2; the terms in |u + b|^2 add up to at most 0, since eta <= 1 / L_s.
    Sum over k and divide. With eta ~ K^(-1/2) the bound falls as K^(-1/2), down to delta^2.

    Args:
        gap: L(theta_0) - L*, at least 0.
        smoothness: L_s.
        rate: eta.
        updates: K.
        noise: sigma, a standard deviation.
        bias: delta.

    Raises:
        ValueError: The rate is too high for the theorem.

    Source: the titles of Theorem S1 and Corollary S1 of Tan et al. (2026), whose text is not
    public; statement and proof are ours.
    """
    if not 0 < rate <= 1 / smoothness:
        raise ValueError(f"the bound holds for rates up to {1 / smoothness:g}, got {rate:g}")
    return 2 * gap / (rate * updates) + smoothness * rate * noise**2 + bias**2


@dataclass(frozen=True)
class ShiftChain:
    """``x -> decay * x + theta``, ``n_steps`` times, rewarded by ``-(x - target)^2 / 2``.

    Every state is rewarded, as EasyTune does with ``reads="x_t"``; the first is Gaussian. The
    objective is a parabola in theta. The j-th state moves by ``reach(j)`` when theta does, and
    EasyTune sees 1 of it: so it undershoots, with the right sign at every single step, and comes
    to rest at another place than the optimum as soon as there are two steps.
    """

    decay: float = 0.9
    n_steps: int = 8
    target: float = 1.0
    mean: float = 0.0  # of x_T
    spread: float = 1.0  # its standard deviation

    def reach(self, j: int) -> float:
        """d x_j / d theta, of the state after j steps: ``1 + decay + ... + decay^(j-1)``."""
        return float(j) if self.decay == 1 else (1 - self.decay**j) / (1 - self.decay)

    def error(self, theta: float, j: int) -> float:
        """The mean of ``x_j - target``."""
        return self.reach(j) * theta + self.decay**j * self.mean - self.target

    def objective(self, theta: float) -> float:
        """Minus the mean reward, over steps and noise."""
        return self._mean(
            (self.error(theta, j) ** 2 + (self.decay**j * self.spread) ** 2) / 2
            for j in self._steps
        )

    def gradient(self, theta: float) -> float:
        """The derivative of the objective."""
        return self._mean(self.reach(j) * self.error(theta, j) for j in self._steps)

    def easytune(self, theta: float) -> float:
        """The mean of EasyTune's gradient: the direct term only, 1 in place of the reach."""
        return self._mean(self.error(theta, j) for j in self._steps)

    def noise(self, theta: float, batch: int) -> float:
        """The standard deviation of EasyTune's gradient at one random step of a batch."""
        centre = self.easytune(theta)
        variance = self._mean(
            (self.error(theta, j) - centre) ** 2 + (self.decay**j * self.spread) ** 2 / batch
            for j in self._steps
        )
        return variance**0.5

    @property
    def smoothness(self) -> float:
        """The curvature of the objective."""
        return self._mean(self.reach(j) ** 2 for j in self._steps)

    @property
    def optimum(self) -> float:
        """Where the objective is lowest."""
        return -self.gradient(0.0) / self.smoothness

    @property
    def resting_point(self) -> float:
        """Where EasyTune's mean gradient is 0."""
        return -self.easytune(0.0) / self._mean(self.reach(j) for j in self._steps)

    def descent(
        self, theta: float, rates: Iterable[float], batch: int, rng: torch.Generator
    ) -> list[float]:
        """SGD on EasyTune's gradient at one random step a batch; every theta, the first included.

        Args:
            theta: Where to begin.
            rates: One an update.
            batch: Trajectories.
            rng: For steps and noise.
        """
        path = [theta]
        for rate in rates:
            j = int(torch.randint(1, self.n_steps + 1, (), generator=rng))
            noise = self.decay**j * self.spread / batch**0.5 * torch.randn((), generator=rng).item()
            path.append(path[-1] - rate * (self.error(path[-1], j) + noise))
        return path

    @property
    def _steps(self) -> range:
        return range(1, self.n_steps + 1)

    def _mean(self, values: Iterable[float]) -> float:
        return sum(values) / self.n_steps


@dataclass(frozen=True)
class Convergence:
    """The mean squared gradient of a descent, against what the theorem allows."""

    updates: int  # K
    rate: float
    measured: float  # mean over seeds and updates
    bound: float
    floor: float  # delta^2, which no number of updates takes away


def convergence(
    chain: ShiftChain, updates: int, batch: int = 8, seeds: int = 6, start: float = -1.0
) -> Convergence:
    """Descend on EasyTune's gradient at a rate of K^(-1/2), and hold it against the bound.

    sigma and delta are the largest over the interval that was visited, at whose ends both are
    largest.

    Args:
        chain: What is descended on.
        updates: K.
        batch: Trajectories an update.
        seeds: Runs.
        start: Theta at the beginning.
    """
    curvature, optimum = chain.smoothness, chain.optimum
    rate = min(1.0, 3 / updates**0.5) / curvature
    visited = [
        theta
        for seed in range(seeds)
        for theta in chain.descent(
            start, [rate] * updates, batch, stream(seed, "convergence", updates)
        )[:-1]
    ]
    mean = sum((curvature * (theta - optimum)) ** 2 for theta in visited) / len(visited)
    gap = chain.objective(start) - chain.objective(optimum)
    ends = min(visited), max(visited)
    noise = max(chain.noise(theta, batch) for theta in ends)
    bias = max(abs(chain.easytune(theta) - chain.gradient(theta)) for theta in ends)
    bound = convergence_bound(gap, curvature, rate, updates, noise, bias)
    return Convergence(updates, rate, mean, bound, bias**2)
