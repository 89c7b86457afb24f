"""What a denoising step of each backbone costs at its published size, beside what is known of it.

Weights are random: cost does not depend on what a network knows. The official classes are not
ours to ship, so there are two marks: their own step time, as it was measured when they were
looked into, on a machine like this one but at another time; and, in the same run, PyTorch's bare
transformer layers of the same sizes on the same tokens, which any implementation has to pay for.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.finetuning import LONGEST, made_captions
from benchmarks.timing import machine_now, timed
from easytune_lib.diffusion.guidance import SelfGuided
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.extras.official.mdm import OfficialMDM
from easytune_lib.extras.official.mld import OfficialMLD
from easytune_lib.extras.official.motionlcm import MotionLCM
from easytune_lib.models.motiondiffuse import MotionDiffuse
from easytune_lib.records import RunRecord
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts

Stated = Mapping[tuple[int, bool], float]
"""CPU milliseconds a step of the official class, by batch size and whether it was guided."""

NARROW: dict[str, Any] = {}  # sizes of all networks, where they shall be others


@dataclass(frozen=True)
class BackboneSize:
    """How much is measured."""

    batches: tuple[int, ...] = (1, 8)
    frames: int = LONGEST
    repeats: int = 5  # the median counts
    seed: int = 0


QUICK_BACKBONES = BackboneSize(batches=(1,), frames=20, repeats=1)


@dataclass(frozen=True)
class Official:
    """A backbone at its published size.

    Args:
        make: It, from the features of no caption.
        text: Widths of a sentence embedding and of a token state.
        stated: See :data:`Stated`.
        front: Tokens beside those of the state.
        layers: Makes the bare layers, of (batch, tokens, width); ``None``: PyTorch has none.
        width: Of the transformer.
    """

    make: Callable[[Any], MotionDiffusion]
    text: tuple[int, int]
    stated: Stated
    front: int = 0
    layers: Callable[[], nn.Module] | None = None
    width: int = 256


def _mld(cls: type[OfficialMLD], projects: bool) -> Callable[[Any], MotionDiffusion]:
    narrow = {"latents": 16, "latent_dim": 32} if projects else {}
    return lambda no_text: cls(*_statistics(), **narrow, **NARROW).eval().diffusion(no_text)


def _encoder(dim: int, ff: int, layers: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layer = nn.TransformerEncoderLayer(dim, 4, ff, 0.0, "gelu", batch_first=True)
        return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    return make


class _Decoder(nn.Module):
    """Cross-attention to as many words as a caption has here, self-attention, feed-forward."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerDecoderLayer(512, 4, 1024, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerDecoder(layer, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x, x[:, :24])


def _statistics() -> tuple[list[float], list[float]]:
    return [0.0] * 263, [1.0] * 263


def _mdm(**options: Any) -> Callable[[Any], MotionDiffusion]:
    return lambda no_text: (
        OfficialMDM(*_statistics(), **options, **NARROW).eval().diffusion(no_text)
    )


def backbones() -> dict[str, Official]:
    """By name; ``stated`` holds medians of one thread, 196 frames, of a loaded machine."""
    skips = _encoder(256, 1024, 9)

    def stated(*ms: float) -> Stated:
        return dict(zip([(1, False), (8, False), (1, True), (8, True)], ms, strict=False))

    return {
        "MLD (original)": Official(
            _mld(OfficialMLD, False), (768, 768), stated(4.1, 6.6, 4.4, 10.6),
            2, skips,
        ),
        "MLD V1": Official(
            _mld(OfficialMLD, False), (768, 1024), stated(3.7, 7.2, 4.9, 10.2),
            2, skips,
        ),
        "MLD++": Official(
            _mld(OfficialMLD, True), (768, 1024), stated(5.9, 22.7, 8.3, 43.9),
            2, skips,
        ),
        "MotionLCM V1": Official(
            _mld(MotionLCM, False), (768, 1024), stated(4.0, 7.5), 2, skips
        ),
        "MotionLCM V2": Official(
            _mld(MotionLCM, True), (768, 1024), stated(6.0, 23.1), 2, skips
        ),
        "MDM (encoder)": Official(
            _mdm(), (512, 512), stated(73.0, 566.0, 148.0, 1140.0),
            1, _encoder(512, 1024, 8), 512,
        ),
        "MDM (decoder, DistilBERT)": Official(
            _mdm(arch="trans_dec", words=True, mask_frames=True, text_dim=768, diffusion_steps=50),
            (768, 768), stated(92.0, 690.0, 183.0, 1397.0), 0, _Decoder, 512,
        ),
        "MotionDiffuse": Official(
            lambda no_text: MotionDiffuse(*_statistics(), **NARROW).eval().diffusion(no_text),
            (512, 512), stated(113.0, 789.0),
        ),
    }  # fmt: skip


@torch.no_grad()
def bench_backbones(size: BackboneSize, say: Callable[[str], None]) -> RunRecord:
    """CPU milliseconds a denoising step of each backbone, with and without guidance.

    ``machine["steps"]`` has a row for each backbone, batch size and reading: ``cpu_ms``, of the
    official class ``stated_ms`` and ``of_stated`` (ours in theirs), ``bare_ms`` and ``of_bare``.
    A guided step is one call on a batch twice as large, of which ``halves`` says what it costs
    in plain steps: 2 where nothing is shared.

    Args:
        size: How much.
        say: Is told when a backbone is done.
    """
    rows: list[dict[str, Any]] = []
    for name, official in backbones().items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(size.seed)
            model = official.make(made_captions(1, *official.text, size.seed))
            bare = official.layers().eval() if official.layers else None
        own: dict[bool, float] = {}
        for batch in size.batches:
            own, floor = _steps(model, bare, official, batch, size)
            for guided, cpu in own.items():
                stated, least = official.stated.get((batch, guided)), floor.get(guided)
                rows.append({
                    "backbone": name, "batch": batch, "guided": guided, "cpu_ms": cpu,
                    "stated_ms": stated, "of_stated": stated and cpu / stated,
                    "bare_ms": least, "of_bare": least and cpu / least,
                    "halves": cpu / own[False] if guided else None,
                })  # fmt: skip
        say(f"{name}: {own[False]:.1f} CPU ms a step of {size.batches[-1]}")
    return RunRecord("bench_backbones", asdict(size), machine={**machine_now(), "steps": rows})


def _steps(
    model: MotionDiffusion,
    bare: nn.Module | None,
    official: Official,
    batch: int,
    size: BackboneSize,
) -> tuple[dict[bool, float], dict[bool, float]]:
    """Milliseconds of ours and of the bare layers: without guidance and, if read twice, with it."""
    text = made_captions(batch, *official.text, size.seed)
    prompts = Prompts(text, torch.full((batch,), size.frames))
    x_t = model.draw_noise(prompts, stream(size.seed, "bench"))
    t = model.times[len(model.times) // 2][0]
    ways = {False: model}
    if model.guidance != 1.0 and not isinstance(model.denoiser, SelfGuided):
        ways = {False: replace(model, guidance=1.0), True: model}
    own: dict[bool, float] = {}
    floor: dict[bool, float] = {}
    for guided, way in ways.items():
        own[guided] = _median(partial(way.noise_estimate, x_t, t, prompts), size.repeats)
        if bare is not None:
            tokens = x_t.shape[1] + official.front
            rows = torch.zeros(batch * (1 + guided), tokens, official.width)
            floor[guided] = _median(partial(bare, rows), size.repeats)
    return own, floor


def _median(call: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds, after one call that does not count."""
    call()
    return 1000 * median(timed(call)[1] for _ in range(repeats))


def table(record: RunRecord) -> str:
    """A line for each row, below a head."""
    lines = ["CPU milliseconds a denoising step; official: as stated, on another day"]
    lines.append(
        f"{'backbone':28}{'batch':>6}{'guided':>8}{'ours':>9}{'official':>10}{'ratio':>7}"
        f"{'bare':>9}{'ratio':>7}{'halves':>8}"
    )

    def number(value: float | None, width: int, digits: int) -> str:
        return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"

    for row in record.machine["steps"]:
        lines.append(
            f"{row['backbone']:28}{row['batch']:6d}{'yes' if row['guided'] else 'no':>8}"
            + number(row["cpu_ms"], 9, 1) + number(row["stated_ms"], 10, 1)
            + number(row["of_stated"], 7, 2) + number(row["bare_ms"], 9, 1)
            + number(row["of_bare"], 7, 2) + number(row["halves"], 8, 2)
        )  # fmt: skip
    return "\n".join(lines)
