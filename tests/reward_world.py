"""A small world for the reward: random clips, each with a caption of its own."""

import numpy as np
import pytest
import torch

from easytune_lib.data.corpus import Caption, Clip, MotionBatch
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.types import Prompts, TextFeatures

FEATURES, WIDTH, COUNT = 6, 8, 16


def small_spm(**options) -> SPM:
    """Without dropout, with statistics that are not trivial."""
    small = {
        "features": FEATURES, "dim": 16, "layers": 1, "heads": 2, "latent": 8,
        "text_dim": WIDTH, "max_frames": 32, "dropout": 0.0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SPM(**{**small, **options})
    model.mean.fill_(0.5)
    model.std.fill_(2.0)
    return model


@pytest.fixture
def spm():
    return small_spm


@pytest.fixture
def clips() -> list[Clip]:
    rng = np.random.default_rng(0)
    shapes = [(int(frames), FEATURES) for frames in rng.integers(8, 33, COUNT)]
    return [
        Clip(
            f"clip {i}",
            "train",
            rng.normal(0.5, 2.0, shape).astype(np.float32),
            (Caption(f"caption {i}"),),
            f"label {i}",
        )
        for i, shape in enumerate(shapes)
    ]


@pytest.fixture
def features():
    """Random token states, 3 to 5 for each caption."""
    rng = torch.Generator().manual_seed(0)
    lengths = 3 + torch.arange(COUNT) % 3
    keep = torch.arange(5) < lengths[:, None]
    tokens = torch.randn(COUNT, 5, WIDTH, generator=rng) * keep[..., None]
    names = tuple(f"caption {i}" for i in range(COUNT))
    table = TextFeatures(names, tokens.sum(1), tokens, keep)
    return lambda texts: table[[names.index(text) for text in texts]]


@pytest.fixture
def batch(clips) -> MotionBatch:
    return MotionBatch.collate(clips, torch.Generator().manual_seed(0), max_frames=32)


@pytest.fixture
def prompts(batch, features) -> Prompts:
    return Prompts(features(batch.texts), batch.lengths)


@pytest.fixture
def found(batch, prompts):
    """Share of the captions whose own motion a model ranks first."""

    def share(model: SPM) -> float:
        reward = AlignmentReward(model)
        motion = torch.nn.functional.normalize(reward.embed(batch.features, prompts), dim=-1)
        best = (reward.embed_text(prompts.text) @ motion.T).argmax(1)
        return (best == torch.arange(len(batch))).float().mean().item()

    return share
