"""Reference files of the official models, and the weights that they were computed with."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

FIXTURES = Path(__file__).parents[1] / ".." / "shared" / "reference" / "fixtures"


def reference(model: str) -> Path:
    """The folder of reference files of ``model``."""
    if not (FIXTURES / model).is_dir():
        pytest.skip(f"reference files of {model} are not here: expected ../shared/reference")
    return FIXTURES / model


def manifest(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name, as in the official ``state_dict``."""
    content = json.loads(path.read_text())
    parts = content if isinstance(content, dict) else {"": content}
    return {
        f"{part}.{row[0]}" if part else row[0]: tuple(row[1])
        for part, rows in parts.items()
        for row in rows
    }


def arrays(path: Path) -> dict[str, Tensor]:
    """An .npz file; half precision is widened."""
    with np.load(path, allow_pickle=False) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def fill(network: nn.Module, seed: int = 20261124, prefix: str = "") -> Any:
    """``network`` with the weights that the reference outputs were computed with."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            rng = np.random.RandomState((zlib.crc32((prefix + name).encode()) + seed) % 2**32)
            draw = rng.standard_normal(tuple(parameter.shape))
            if draw.ndim > 1:
                draw = draw / np.sqrt(np.prod(draw.shape[1:]))
            else:
                draw = 1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw
            parameter.copy_(torch.from_numpy(draw))
    return network.eval()
