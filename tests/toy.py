"""A small world in which the core's identities hold to the last digits: float64, 8 steps."""

from typing import Literal

import torch
from torch import Tensor, nn

from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.types import Denoiser, Prompts, TextFeatures

STEPS = 8
FEATURES = 3


class ToyNet(Denoiser):
    """Reads every frame, the mean frame, the time and the caption."""

    def __init__(self, prediction: Literal["epsilon", "x0"] = "epsilon", width: int = 8):
        super().__init__()
        self.prediction = prediction
        self.read = nn.Linear(2 * FEATURES + 1 + 2, width)
        self.write = nn.Linear(width, FEATURES)

    def forward(self, x_t: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        keep = prompts.mask[..., None].to(x_t.dtype)
        mean = (x_t * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True)
        time = (t / 100).to(x_t.dtype)[:, None, None]
        parts = (x_t, mean, time, prompts.text.sentence[:, None].to(x_t.dtype))
        context = torch.cat([p.expand(len(x_t), x_t.shape[1], -1) for p in parts], dim=-1)
        return self.write(torch.tanh(self.read(context))) * keep


def text(count: int, seed: int = 0) -> TextFeatures:
    """Made-up captions with random embeddings."""
    rng = torch.Generator().manual_seed(seed)
    sentence = torch.randn(count, 2, generator=rng, dtype=torch.float64)
    names = tuple(f"caption {i}" for i in range(count))
    return TextFeatures(names, sentence, sentence[:, None], torch.ones(count, 1, dtype=torch.bool))


def toy(
    prediction: Literal["epsilon", "x0"] = "epsilon",
    n_steps: int = STEPS,
    guidance: float = 2.0,
    seed: int = 0,
) -> tuple[MotionDiffusion, Tensor, Prompts]:
    """``(model, x_T, prompts)``: four motions of 4, 2, 3 and 4 frames."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ToyNet(prediction).double().eval()
    beta = torch.linspace(1e-3, 0.05, 100, dtype=torch.float64)
    model = MotionDiffusion(
        net,
        NoiseSchedule(torch.cumprod(1 - beta, 0)),
        decode=lambda x, prompts: (2 * x + 0.5) * prompts.mask[..., None],
        state_shape=lambda prompts: (prompts.frames, FEATURES),
        no_text=text(1, seed=9),
        n_steps=n_steps,
        guidance=guidance,
    )
    prompts = Prompts(text(4), torch.tensor([4, 2, 3, 4]))
    return model, model.draw_noise(prompts, torch.Generator().manual_seed(seed)).double(), prompts


def reward(motion: Tensor, prompts: Prompts, t: Tensor | None = None) -> Tensor:
    """Highest where all real frames are 1; a known noise level weighs it down."""
    level = 1.0 if t is None else (1 + t.to(motion.dtype) / 100)[:, None]
    frames = ((motion - 1) ** 2).sum(-1) * prompts.mask
    return -(frames * level).sum(1) / prompts.lengths


def rng(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)
