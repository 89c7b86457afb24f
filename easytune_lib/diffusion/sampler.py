"""One reverse step, given an estimate of the noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from easytune_lib.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class DDIM:
    """DDIM (Song et al., 2021), Eq. 12.

    ``eta`` = 0 is deterministic, 1 is DDPM with its small variance.
    """

    eta: float = 0.0

    def step(
        self,
        schedule: NoiseSchedule,
        x0_hat: Tensor,
        noise: Tensor,
        now: int,
        after: int,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """The state at time ``after``, from what step ``now`` says is signal and noise.

        Raises:
            ValueError: A stochastic sampler was given no generator.
        """
        (_, sigma), (alpha_after, sigma_after) = schedule.scales(now), schedule.scales(after)
        if self.eta == 0 or sigma_after == 0:
            return alpha_after * x0_hat + sigma_after * noise
        if rng is None:
            raise ValueError(f"a sampler with eta={self.eta} draws noise: pass rng=stream(...)")
        alpha_now = (1 - sigma**2) ** 0.5
        fresh = self.eta * sigma_after / sigma * (1 - alpha_now**2 / alpha_after**2) ** 0.5
        drawn = torch.randn(x0_hat.shape, generator=rng, dtype=x0_hat.dtype).to(x0_hat.device)
        kept = (sigma_after**2 - fresh**2) ** 0.5
        return alpha_after * x0_hat + kept * noise + fresh * drawn
