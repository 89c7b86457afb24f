"""Motions beside a run's record, so that they can be opened again."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from easytune_lib.data.files import LARGEST, SKELETONS
from easytune_lib.motion.arrays import arrays_in
from easytune_lib.motion.motion import Motion
from easytune_lib.storage import write_atomic

FILE = "motions.npz"


def keep_motions(folder: Path, motions: Mapping[str, Motion]) -> Path:
    """Write motions by name to ``folder``; joints in metres, with rate, skeleton and text."""
    arrays: dict[str, np.ndarray] = {"names": np.array(list(motions))}
    for i, motion in enumerate(motions.values()):
        arrays[f"joints_{i}"] = motion.joints
        arrays[f"about_{i}"] = np.array([motion.skeleton.name, repr(motion.fps), motion.text])
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return write_atomic(Path(folder) / FILE, buffer.getvalue())


def kept_motions(folder: Path) -> dict[str, Motion]:
    """Read what :func:`keep_motions` wrote; empty where there is nothing.

    Raises:
        ValueError: The file is not one of ours.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    try:
        stored, found = arrays_in(path.read_bytes(), LARGEST), {}
        for i, name in enumerate(stored["names"].tolist()):
            skeleton, fps, text = stored[f"about_{i}"].tolist()
            joints = stored[f"joints_{i}"].astype(np.float32)
            found[str(name)] = Motion(joints, float(fps), SKELETONS[skeleton], text)
        return found
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold motions as a cockpit keeps them: {error}"
        ) from error
