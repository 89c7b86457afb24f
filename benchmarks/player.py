"""Chromium without a window, and how fast the player draws in it."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import machine_now
from easytune_lib.data.synthetic import all_attributes, synthetic_motion
from easytune_lib.motion.motion import Motion
from easytune_lib.records import RunRecord
from easytune_lib.seeding import numpy_stream
from easytune_lib.viz.player import MotionPlayer

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic",
    "--no-first-run", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass(frozen=True)
class PlayerSize:
    """How much is measured."""

    frames: int = 196  # of each motion, the longest of HumanML3D
    motions: tuple[int, ...] = (1, 4, 12)
    speed: float = 2.0  # of playing: 40 frames a second are asked for
    seconds: float = 4.0


QUICK_PLAYER = PlayerSize(motions=(1,), seconds=1.0)


def missing() -> str:
    """What a browser test lacks here, and what to do; empty where nothing."""
    try:
        import playwright.sync_api  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "playwright is not installed: pip install -e '.[browser]'"
    if not any(map(shutil.which, NAMES)):
        return f"no Chromium on the path ({', '.join(NAMES)}): install it by the system's packages"
    return ""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser of playwright's, drawing in software.

    Raises:
        ValueError: Something is missing; says what.
    """
    if lacks := missing():
        raise ValueError(lacks)
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    program = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


def bench_player(size: PlayerSize, say: Callable[[str], object]) -> RunRecord:
    """Frames that are drawn in a second, and bytes that a motion takes in a notebook."""
    rates, kilobytes = [], []
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        for count in size.motions:
            player = MotionPlayer(_motions(count, size.frames), title="How fast is it drawn?")
            kilobytes.append(len(player._repr_html_()) / 1000)
            page = browser.new_page(viewport={"width": 800, "height": 1000})
            page.goto(player.save(Path(folder) / "player.html").as_uri())
            rates.append(drawn(page, size.speed, size.seconds))
            page.close()
            say(f"{count} motions: {rates[-1]:.1f} frames a second, {kilobytes[-1]:.1f} kB")
    rows = [
        {"motions": n, "frames_per_second": rate, "kilobytes": kb, "kilobytes_each": kb / n}
        for n, rate, kb in zip(size.motions, rates, kilobytes, strict=True)
    ]
    return RunRecord(
        "bench_player", asdict(size) | {"motions": list(size.motions)},
        {f"kilobytes_{row['motions']}": row["kilobytes"] for row in rows},
        machine={"player": rows, **machine_now()},
    )  # fmt: skip


def drawn(page: Any, speed: float, seconds: float) -> float:
    """Frames a second that the first player of a page draws at ``speed``."""
    root = page.locator(".et-player").first
    root.locator("select").select_option(f"{speed:g}")
    if root.locator(".et-play").get_attribute("aria-pressed") != "true":
        root.locator(".et-play").click()
    page.wait_for_timeout(300)
    first, began = int(root.get_attribute("data-drawn")), time.perf_counter()
    page.wait_for_timeout(1000 * seconds)
    return (int(root.get_attribute("data-drawn")) - first) / (time.perf_counter() - began)


def table(record: RunRecord) -> str:
    """The record, in lines."""
    return "\n".join(
        f"{row['motions']:>2} motions: {row['frames_per_second']:5.1f} frames a second, "
        f"{row['kilobytes_each']:5.1f} kB each"
        for row in record.machine["player"]
    )


def _motions(count: int, frames: int) -> list[Motion]:
    """Synthetic ones of different actions, repeated until they are long enough."""
    ways, found = all_attributes(), []
    for i in range(count):
        motion = synthetic_motion(ways[i * len(ways) // count], numpy_stream(i, "bench player"))
        rows = np.arange(frames) % len(motion)
        found.append(Motion(motion.joints[rows], motion.fps, motion.skeleton, motion.text))
    return found
