"""Motions to play, turn and compare in a notebook or on a web page."""

import base64
import html
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from matplotlib.colors import to_hex

from easytune_lib.motion.motion import Motion
from easytune_lib.storage import write_atomic
from easytune_lib.viz.body import NOSE, body_of, facing, focus
from easytune_lib.viz.style import body_colors

PLAYER = Path(__file__).with_name("player.js")
_COLUMNS = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}
MOST = 12
"""Motions in one player."""
FINEST = 5e-4
"""Metres: joints are stored in steps of this size, or of more for a motion beyond 16 m."""


def script(*paths: Path) -> str:
    """Scripts as one module; of all but the last, what they export by default is left out."""
    parts = [path.read_text(encoding="utf-8") for path in paths]
    return "\n".join([*(part.partition("\nexport default")[0] for part in parts[:-1]), parts[-1]])


def standalone(title: str, scripts: Sequence[Path], call: str, spec: dict[str, Any]) -> str:
    """A page that needs nothing else: ``call(element, spec)`` of the scripts, which it holds."""
    module = script(*scripts).partition("\nexport default")[0]
    lines = (line.strip() for line in module.splitlines())
    code = "\n".join(line for line in lines if line and not line.startswith("//"))
    data = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    data = re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", data)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title>"
        "<style>body{margin:0;background:transparent}</style>"
        f'<div id="player"></div><script type="module">{code}\n'
        f"{call}(document.getElementById('player'), {data});</script></html>"
    )


class MotionWidget(anywidget.AnyWidget):
    """The player on a live kernel: ``frame`` and ``playing`` can be read, set and observed."""

    _esm = PLAYER.read_text(encoding="utf-8")
    spec = traitlets.Dict().tag(sync=True)
    frame = traitlets.Int(0).tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)

    def __repr__(self) -> str:
        return f"MotionWidget({self.spec['label']})"


class MotionPlayer:
    """Motions side by side or overlaid, played in step.

    As the last line of a cell it shows itself as a page of its own inside the output: it
    needs no kernel and no network, and survives export to HTML. Drag to turn, scroll to
    zoom once clicked, double-click to reset; space plays, arrows step, shift and arrows turn,
    plus and minus zoom. A joint under the pointer says its name; green rings are feet that stand.

    The camera stands still for motions within about 3 m and follows the others. Left limbs
    are light, right limbs dark. Motions of different length or rate share the clock; the
    shorter ones hold their last frame.

    Args:
        motions: One, or up to 12; skeletons may differ.
        names: One a motion. Names of methods choose their colours.
        colors: One a motion, for the trunk; any matplotlib colour.
        title: Above everything.
        captions: One a motion; the motions' own texts where ``None``. A caption that all
            share is shown once.
        overlay: All in one picture; all but the last as ghosts, until their name is clicked.
        rewards: For each motion one number a frame, drawn below the timeline. Empty for a
            motion without.
        width: At most, pixels.
        height: Pixels; chosen by the number of motions where ``None``.
        frame: Shown first.
        autoplay: Start at once, unless the reader prefers reduced motion.

    Raises:
        ValueError: No motion or too many, lists of different lengths, or rewards that are
            not one finite number a frame.
    """

    def __init__(
        self,
        motions: Motion | Sequence[Motion],
        *,
        names: Sequence[str] | None = None,
        colors: Sequence[str] | None = None,
        title: str = "",
        captions: Sequence[str] | None = None,
        overlay: bool = False,
        rewards: Sequence[Sequence[float] | np.ndarray] | None = None,
        width: int = 760,
        height: int | None = None,
        frame: int = 0,
        autoplay: bool = True,
    ) -> None:
        motions = [motions] if isinstance(motions, Motion) else list(motions)
        n = len(motions)
        if not 1 <= n <= MOST:
            raise ValueError(f"a player shows 1 to {MOST} motions, got {n}")
        given = {"names": names, "colors": colors, "captions": captions, "rewards": rewards}
        for what, values in given.items():
            if values is not None and len(values) != n:
                raise ValueError(f"{n} motions need as many {what}, got {len(values)}")
        self.width = width
        if names is None:
            names = [""] if n == 1 else [f"motion {i}" for i in range(1, n + 1)]
        if captions is None:
            captions = [motion.text for motion in motions]
        colors = [to_hex(color) for color in colors or body_colors(names)]
        shared = captions[0] if overlay or len(set(captions)) == 1 else ""
        groups = [list(range(n))] if overlay else [[i] for i in range(n)]
        columns = min(_COLUMNS.get(len(groups), 4), 4)
        rows = -(-len(groups) // columns)
        self.height = height or 120 + rows * {1: 360, 2: 300}.get(rows, 260)
        paths = [focus([motions[i] for i in group] if overlay else [motions[group[0]]])
                 for group in groups]  # fmt: skip
        paths = _on_one_clock(paths, groups, motions)
        extent = max(*(np.abs(m.joints).max() for m in motions), *(np.abs(p).max() for p in paths))
        scale = max(float(extent) / 32767, FINEST)
        skeletons = list(dict.fromkeys(m.skeleton for m in motions))
        label = ", ".join(filter(None, names)) or f"{n} motion{'s' * (n > 1)}"
        self.spec: dict[str, Any] = {
            "fps": motions[0].fps,
            "frames": len(paths[0]),
            "scale": scale,
            "bodies": [
                {k: v for k, v in asdict(body_of(s)).items() if k != "root"}
                | {"joints": s.joints, "toes": s.indices(s.left_foot[1], s.right_foot[1])}
                for s in skeletons
            ],
            "nose_length": NOSE,
            "tracks": [
                {
                    "data": _differences(motion.joints, scale),
                    "joints": motion.skeleton.n_joints,
                    "frames": len(motion),
                    "fps": motion.fps,
                    "body": skeletons.index(motion.skeleton),
                    "color": color,
                    "name": name,
                    "ghost": overlay and i < n - 1,
                }
                for i, (motion, color, name) in enumerate(zip(motions, colors, names, strict=True))
            ],
            "cells": [
                {
                    "tracks": group,
                    "focus": _packed(path, scale),
                    "caption": "" if shared else captions[group[0]],
                    "label": _spoken([names[i] for i in group], captions[group[0]]),
                }
                for group, path in zip(groups, paths, strict=True)
            ],
            "columns": columns,
            "height": self.height,
            "yaw": facing(motions[0]) - 0.6,
            "middle": 0.9,
            "frame": frame,
            "trail": True,
            "camera": {},
            "autoplay": autoplay,
            "title": title,
            "caption": "" if shared == title else shared,
            "label": f"Motion player: {title or label}",
            "rewards": None if rewards is None else _rewards(rewards, motions),
            "reward_label": "Reward of each frame",
        }
        if self.spec["rewards"] is not None:
            values = [v for row in self.spec["rewards"] for v in row]
            self.spec["reward_label"] += f", {min(values):.3g} to {max(values):.3g}"

    def __repr__(self) -> str:
        tracks = self.spec["tracks"]
        return f"MotionPlayer({len(tracks)} motions, {self.spec['frames']} frames)"

    def _repr_html_(self) -> str:
        page = self.page().replace("&", "&amp;").replace('"', "&quot;")
        label = html.escape(self.spec["label"], quote=True)
        return (
            f'<iframe title="{label}" style="display:block;width:100%;max-width:{self.width}px;'
            f'height:{self.height}px;border:0;color-scheme:light dark" srcdoc="{page}"></iframe>'
        )

    def page(self) -> str:
        """The player as a whole HTML page that needs nothing else."""
        return standalone(self.spec["label"], (PLAYER,), "mount", self.spec)

    def save(self, path: Path) -> Path:
        """Write :meth:`page` to a file."""
        return write_atomic(Path(path), self.page().encode())

    def widget(self) -> MotionWidget:
        """The same player on a live kernel."""
        layout = {"max_width": f"{self.width}px"}
        return MotionWidget(
            spec=self.spec, frame=self.spec["frame"], playing=self.spec["autoplay"], layout=layout
        )


def _packed(values: np.ndarray, scale: float) -> str:
    """16-bit steps of ``scale`` metres, little-endian, base64."""
    return base64.b64encode(np.round(values / scale).astype("<i2").tobytes()).decode()


def _differences(joints: np.ndarray, scale: float) -> str:
    """Steps of ``scale`` from frame to frame, a byte each, base64.

    Where a step is too large for a byte, -128 and the number itself: two bytes, little-endian.
    """
    whole = np.round(joints.reshape(len(joints), -1) / scale).astype(np.int64)
    steps = np.diff(whole, axis=0, prepend=0).ravel()
    packed = bytearray()
    for step, value in zip(steps.tolist(), whole.ravel().tolist(), strict=True):
        packed += struct.pack("<b", step) if abs(step) < 128 else struct.pack("<bh", -128, value)
    return base64.b64encode(packed).decode()


def _on_one_clock(
    paths: list[np.ndarray], groups: list[list[int]], motions: list[Motion]
) -> list[np.ndarray]:
    """Camera paths at the rate of the first motion, each held to the end of the longest."""
    fps = motions[0].fps
    frames = max(round(m.seconds * fps) for m in motions)
    held = []
    for path, group in zip(paths, groups, strict=True):
        own = motions[group[0]].fps
        rows = np.minimum((np.arange(frames) / fps * own + 0.5).astype(int), len(path) - 1)
        held.append(path[rows])
    return held


def _rewards(
    rewards: Sequence[Sequence[float] | np.ndarray], motions: list[Motion]
) -> list[list[float]]:
    rows = [np.asarray(row, dtype=np.float64).ravel() for row in rewards]
    for i, (row, motion) in enumerate(zip(rows, motions, strict=True)):
        if len(row) not in (0, len(motion)) or not np.isfinite(row).all():
            raise ValueError(
                f"rewards of motion {i} are {len(row)} numbers (finite: {np.isfinite(row).all()}); "
                f"give one finite number for each of its {len(motion)} frames, or none"
            )
    if not any(len(row) for row in rows):
        raise ValueError("rewards hold no number: leave them out instead")
    return [[float(f"{value:.4g}") for value in row] for row in rows]


def _spoken(names: Sequence[str], caption: str) -> str:
    who = ", ".join(filter(None, names)) or "Motion"
    return f"{who}: {caption}" if caption else f"{who}: a figure in motion"


def show(
    *motions: Motion | Sequence[Motion], overlay: bool = False, **options: Any
) -> MotionPlayer:
    """Show motions in a notebook, played in step.

    >>> et.show(bench.sample(["a person waves."], seconds=1.0))
    MotionPlayer(1 motions, 20 frames)

    Args:
        motions: A motion, a list of them, or several lists: ``before, after``.
        overlay: All in one picture, as ghosts; otherwise side by side.
        options: As of :class:`MotionPlayer`: ``names``, ``title``, ``rewards`` ...

    Raises:
        ValueError: No motion, or more than 12.
    """
    groups = [[one] if isinstance(one, Motion) else list(one) for one in motions]
    return MotionPlayer([one for group in groups for one in group], overlay=overlay, **options)
