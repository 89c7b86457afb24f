"""What a run tells whoever watches it: a small file, whose place the environment names."""

import json
import os
import time
from pathlib import Path

PLACE = "EASYTUNE_BEACON"
"""Variable of the environment that names the file; nothing is told where it is not set."""

_told = 0.0


def tell(fraction: float, every: float = 2.0, **numbers: float) -> None:
    """Say how far a run is, at most once in ``every`` seconds.

    Args:
        fraction: Of its work, 0 to 1.
        every: Seconds; 0 writes each time.
        numbers: How it stands, for instance ``reward=0.7``; must be finite.
    """
    global _told
    place = os.environ.get(PLACE)
    if place and time.monotonic() - _told >= every:
        from easytune_lib.storage import write_json  # heavy, and most runs are not watched

        _told = time.monotonic()
        write_json(Path(place), {"fraction": round(fraction, 4), **numbers})


def heard(place: Path) -> dict[str, float]:
    """What was told last; nothing where nothing was."""
    try:
        content = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    numbers = content.items() if isinstance(content, dict) else ()
    return {name: float(value) for name, value in numbers if isinstance(value, int | float)}
