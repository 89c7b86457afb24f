"""What base models are trained to do."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.diffusion.guidance import SelfGuided, guided
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.distributed import by_rows
from easytune_lib.models.mld import VAE
from easytune_lib.training import Precision, rounded
from easytune_lib.types import Denoiser, Prompts, TextFeatures


def denoising_loss(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x0: Tensor,
    prompts: Prompts,
    no_text: TextFeatures,
    rng: torch.Generator,
    drop: float = 0.1,
    even: bool = False,
    precision: Precision = "float32",
) -> Tensor:
    """Mean squared error of what the network predicts, over real frames only.

    Captions are dropped with probability ``drop``, which guidance needs later. ``even`` divides
    the error of the noise by ``alpha_bar``: it then counts where little signal is left too, where
    the plain error hardly sees what the motion will be ("SNR + 1" of Salimans & Ho, 2022).
    Source: Ho et al. (2020), Eq. 14; for x0, Tevet et al. (2023), Eq. 2.
    """
    batch = len(x0)
    t = torch.randint(len(schedule), (batch,), generator=rng).to(x0.device)
    noise = torch.randn(x0.shape, generator=rng).to(x0)
    dropped = torch.rand(batch, generator=rng) < drop
    table = TextFeatures.cat([prompts.text, no_text])
    rows = torch.where(dropped, batch, torch.arange(batch))
    asked = Prompts(table[rows], prompts.lengths)
    framewise = x0.shape[1] == prompts.frames
    ones = x0.new_ones(batch, x0.shape[1], 1)
    mask = ones * prompts.mask[..., None] if framewise else ones
    x_t = schedule.add_noise(x0, noise, t) * mask
    output = by_rows(rounded(denoiser, precision, x0.device), x_t, t, asked)
    target = noise if denoiser.prediction == "epsilon" else x0
    error = (output - target) ** 2 * mask
    if even:
        error = error / schedule.alpha_bar.to(error)[t][:, None, None]
    return error.sum() / (mask.sum() * x0.shape[2])


def consistency_loss(
    student: SelfGuided,
    teacher: Denoiser,
    schedule: NoiseSchedule,
    x0: Tensor,
    prompts: Prompts,
    no_text: TextFeatures,
    rng: torch.Generator,
    scales: tuple[float, float] = (1.0, 8.0),
    origin: int = 50,
    precision: Precision = "float32",
) -> Tensor:
    """How far two neighbours on a path of the guided teacher are from one clean end.

    The teacher, which predicts the noise, makes one DDIM step of guidance from a time to the
    next of the ``origin`` times that :class:`~easytune_lib.diffusion.sampler.LCM` spreads; what
    the student says of the later state, which no gradient reaches, is what it should have said
    of the earlier one. At the clean end the state itself is the answer.

    Source: Luo et al. (2023), Algorithm 1, as MotionLCM (Dai et al., 2024) applies it: a skip
    of 1000 / 50 steps, the pseudo-Huber loss with c = 0.001. Deviations: the target is the
    student itself, not an average of it (Song & Dhariwal, 2024, section 3.2); a batch shares
    one scale of guidance; the terms of the boundary, below 1e-5 on these times, are left out.
    """
    batch, stride = len(x0), len(schedule) // origin
    low, high = scales
    scale = low + (high - low) * float(torch.rand((), generator=rng))
    now = (1 + torch.randint(origin, (batch,), generator=rng)).to(x0.device) * stride - 1
    noise = torch.randn(x0.shape, generator=rng).to(x0)
    x_now = schedule.add_noise(x0, noise, now)
    read = partial(rounded, precision=precision, device=x0.device)

    def with_guidance(x: Tensor, t: Tensor, asked: Prompts) -> Tensor:
        return guided(teacher, x, t, asked, scale, no_text)

    with torch.no_grad():
        path = by_rows(read(with_guidance), x_now, now, prompts)
        after = (now - stride).clamp(min=0)  # its noise level is that of the clean end
        x_after = schedule.add_noise(schedule.clean_estimate(x_now, path, now), path, after)
        said = by_rows(read(student.guided), x_after, after, prompts, scale)
        clean = (now < stride).view(-1, *[1] * (x0.dim() - 1))
        target = torch.where(clean, x_after, schedule.clean_estimate(x_after, said, after))
    told = by_rows(read(student.guided), x_now, now, prompts, scale)
    found = schedule.clean_estimate(x_now, told, now)
    c = 1e-3
    return (((found - target) ** 2 + c**2).sqrt() - c).mean()


def vae_loss(
    vae: VAE,
    motion: Tensor,
    prompts: Prompts,
    rng: torch.Generator,
    kl_weight: float = 1e-4,
    root_weight: float = 0.2,
    precision: Precision = "float32",
) -> tuple[Tensor, dict[str, float]]:
    """Smooth L1 reconstruction of normalised features plus a weak pull to the unit Gaussian.

    Source: MLD (Chen et al., 2023), section 3.1. Deviation: the root's four numbers count
    extra, since their errors add up along the path.
    """
    mask = prompts.mask
    encode, decode = (
        rounded(part, precision, motion.device) for part in (vae.encode, vae.decode_normalised)
    )
    mu, logvar = by_rows(encode, motion, mask)
    latent = mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=rng).to(mu)
    decoded = by_rows(decode, latent, mask)
    error = F.smooth_l1_loss(decoded, vae.normalise(motion, mask), reduction="none")
    error = error * mask[..., None]
    reconstruction = error.sum() / mask.sum() / error.shape[2]
    root = error[..., :4].sum() / mask.sum() / 4
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()
    loss = reconstruction + root_weight * root + kl_weight * kl
    return loss, {"reconstruction": reconstruction.item(), "kl": kl.item()}
