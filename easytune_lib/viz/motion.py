"""Motions on paper: film strips, pairs of them, and poses along the path."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from easytune_lib.motion.motion import Motion
from easytune_lib.viz.body import View, body_of, facing, frame_at, shadow, shapes
from easytune_lib.viz.style import GREY, OKABE_ITO, PAGE, PaperFigure, mix, styled

_RINGS = [OKABE_ITO[name] for name in ("blue", "green", "purple")]  # as many names fit a column
_FLOOR = "#F1F2F4"
_DEPTH = 0.55  # metres of floor shown before and behind a pose
_LABEL = 0.13  # inches below the floor for the time labels


@styled()
def plot_strip(
    motion: Motion, n: int = 8, color: str = OKABE_ITO["blue"], width: float = PAGE
) -> Figure:
    """A film strip: ``n`` poses evenly spaced in time, all at one scale.

    Each pose stands at its place in the strip; its height over the floor and its turns are
    as in the motion, and the path of the last 1.5 s trails behind it on the floor. Left
    limbs are light, right limbs dark.

    Args:
        motion: Of any skeleton with named left and right.
        n: Poses, 1 or more; not more than there are frames.
        color: Of the trunk.
        width: Of the figure, inches.
    """
    return _strips([motion], None, n, [color], width)


@styled()
def plot_pair(
    before: Motion,
    after: Motion,
    names: tuple[str, str] = ("before", "after"),
    n: int = 8,
    colors: tuple[str, str] = (GREY, OKABE_ITO["vermillion"]),
    width: float = PAGE,
    marked: int = 3,
) -> Figure:
    """Two film strips, one above the other, at the same times, scale and camera angle.

    Where one motion has ended, its place in the strip stays empty. The joints that changed most
    by :func:`change` have rings, and are named with the centimetres between the strips.

    Args:
        before: The upper strip; its first frame sets the camera angle of both.
        after: The lower strip.
        names: Above each strip.
        n: Poses, 1 or more.
        colors: Of the trunks.
        width: Of the figure, inches.
        marked: Joints with rings, 0 to 3; a joint that did not change has none.

    Raises:
        ValueError: ``marked`` is out of range, or the motions differ in skeleton.
    """
    if not 0 <= marked <= len(_RINGS):
        raise ValueError(f"marked is 0 to {len(_RINGS)} joints, got {marked}")
    moved = change(before, after) if marked else {}
    rings = {joint: moved[joint] for joint in list(moved)[:marked] if moved[joint] > 0}
    return _strips([before, after], names, n, colors, width, rings)


def change(before: Motion, after: Motion) -> dict[str, float]:
    """How far each joint is from itself in the other motion, metres, the most changed first.

    The mean over the frames that both have, with the roots above one another, as poses stand in a
    strip: heights and headings count, the way over the floor does not.

    Raises:
        ValueError: The motions differ in skeleton.
    """
    skeleton = before.skeleton
    if after.skeleton != skeleton:
        raise ValueError(
            f"joints of one skeleton are compared, got {skeleton} and {after.skeleton}; "
            "a pair of them is drawn with marked=0"
        )
    shared = min(before.seconds, after.seconds)
    times = np.arange(max(round(shared * before.fps), 1)) / before.fps
    a, b = (
        joints - joints[:, :1] * [1, 0, 1]
        for joints in (m.joints[frame_at(m, times)].astype(np.float64) for m in (before, after))
    )
    moved = np.linalg.norm(b - a, axis=-1).mean(0)
    order = np.argsort(-moved, kind="stable")
    return {skeleton.joints[i]: float(moved[i]) for i in order}


@styled()
def plot_path(
    motion: Motion, n: int = 8, color: str = OKABE_ITO["blue"], width: float = PAGE
) -> Figure:
    """Poses where they happen, along the path of the root on the floor; older ones paler.

    For motions that travel; poses of a motion on the spot would cover each other, use
    :func:`plot_strip` there.

    Args:
        motion: Of any skeleton with named left and right.
        n: Poses, 1 or more.
        color: Of the trunk.
        width: Of the figure, inches.
    """
    frames = _frames(motion, n)
    points = body_of(motion.skeleton).points(motion)
    travel = motion.joints[-1, 0] - motion.joints[0, 0]
    away = float(np.hypot(travel[0], travel[2])) > 1.0
    yaw = float(np.arctan2(travel[0], travel[2])) - 1.15 if away else facing(motion) - 0.65
    view = View(yaw, pitch=0.3)
    seen, path = view(points), view(_on_floor(points[:, 0]))
    left, right, low, high = _bounds(seen[frames].reshape(-1, 3)[:, :2], margin=0.2)
    _, _, near, far = _bounds(path[:, :2], margin=_DEPTH * float(np.sin(view.pitch)))
    fig, ax = _canvas(width, (left, right, min(near - 0.1, low), high), 0.5, "floor lines: 1 m")
    left, right = ax.get_xlim()
    ax.add_patch(Rectangle((left, near), right - left, far - near, color=_FLOOR, lw=0, zorder=0))
    metre: dict[str, Any] = {"color": "#DDE1E7", "lw": 0.6, "zorder": 0.5}
    ax.vlines(np.arange(np.ceil(left), right), near, far, **metre)
    ax.hlines(np.arange(far, near, -np.sin(view.pitch)), left, right, **metre)
    ax.plot(path[:, 0], path[:, 1], color=mix(color, "white", 0.35), lw=1.2, zorder=1)
    body, drawn = body_of(motion.skeleton), []
    for i, frame in enumerate(frames):
        paler = mix(color, "white", 0.6 * (1 - i / max(len(frames) - 1, 1)))
        _shadow(ax, motion, points[frame], view, 0.0)
        drawn += shapes(body, seen[frame], to_hex(paler))
        ax.plot(*path[frame, :2], ".", color=color, ms=3, zorder=1.5)
        ax.annotate(
            _seconds(frame / motion.fps), tuple(path[frame, :2]), (0, -7),
            textcoords="offset points", ha="center", va="top", fontsize=6.5, color=GREY,
            annotation_clip=False, zorder=4,
            path_effects=[withStroke(linewidth=1.5, foreground=_FLOOR)],
        )  # fmt: skip
    _draw(ax, drawn)
    return fig


def _strips(
    motions: Sequence[Motion],
    names: Sequence[str] | None,
    n: int,
    colors: Sequence[str],
    width: float,
    rings: Mapping[str, float] | None = None,
) -> Figure:
    longest = max(motions, key=lambda motion: motion.seconds)
    times = _frames(longest, n) / longest.fps
    view = View(facing(motions[0]) - 0.65)
    rows = [_poses(motion, times, view) for motion in motions]
    everything = np.concatenate([pose for row in rows for pose in row if pose is not None])
    left, right, low, top = _bounds(everything[:, :2], margin=0.12)
    cell = max(right - left, 0.8)
    inch = cell * n / width  # in metres
    depth = max(float(np.sin(view.pitch)) * _DEPTH, -low)  # feet may be below the floor
    below = depth + _LABEL * inch
    row_height = top + below + (0.16 * inch if names else 0.0)
    key = "rings: changed most" if rings else ""
    fig, ax = _canvas(width, (0.0, cell * n, 0.0, row_height * len(rows)), 0.5 * len(rows), key)
    for r, (motion, row) in enumerate(zip(motions, rows, strict=True)):
        floor = (len(rows) - 1 - r) * row_height + below
        start, stop = ax.get_xlim()
        ax.add_patch(Rectangle((start, floor - depth), stop - start, 2 * depth, color=_FLOOR, lw=0))
        if names is not None:
            ax.text(start + 0.04 * inch, floor + top, names[r], va="bottom", weight="bold",
                    color=mix(colors[r], "black", 0.2))  # fmt: skip
        drawn = []
        for i, (time, pose) in enumerate(zip(times, row, strict=True)):
            if pose is None:
                continue
            middle = (i + 0.5) * cell
            ax.text(middle, floor - depth - 0.02 * inch, _seconds(time),
                    ha="center", va="top", fontsize=7, color=GREY)  # fmt: skip
            shift = np.array([middle - (left + right) / 2, floor, 0.0])
            drawn += shapes(body_of(motion.skeleton), pose + shift, colors[r])
            _trail(ax, motion, time, view, shift, colors[r], (i * cell, cell))
            _shadow(ax, motion, _centred(motion, time), view, shift)
            for joint, color in zip(rings or (), _RINGS, strict=False):
                x, y = (pose + shift)[motion.skeleton.index(joint), :2]
                ax.plot(x, y, **_ring(color))
        _draw(ax, drawn)
    if rings:
        _name_rings(ax, rings, row_height - 0.08 * inch)
    return fig


def _ring(color: str) -> dict[str, Any]:
    halo = [withStroke(linewidth=2.2, foreground="white")]
    return {"marker": "o", "ls": "", "ms": 5.5, "mfc": "none", "mec": color, "mew": 1.1,
            "zorder": 4, "path_effects": halo}  # fmt: skip


def _name_rings(ax: Axes, rings: Mapping[str, float], height: float) -> None:
    """At the right of a height in metres: each ring, its joint's name, its mean change."""
    handles = [
        Line2D([], [], label=f"{joint.replace('_', ' ')} {100 * metres:.0f} cm", **_ring(color))
        for (joint, metres), color in zip(rings.items(), _RINGS, strict=False)
    ]
    ax.legend(
        handles=handles, labelcolor=[to_hex(mix(c, "black", 0.25)) for c in _RINGS[: len(rings)]],
        loc="center right", bbox_to_anchor=(ax.get_xlim()[1], height),
        bbox_transform=ax.transData, ncols=3, fontsize=7, frameon=False, handlelength=1.2,
        handletextpad=0.1, columnspacing=0.7, borderpad=0, borderaxespad=0.4,
    )  # fmt: skip


def _frames(motion: Motion, n: int) -> Int[np.ndarray, " n"]:
    if not 1 <= n <= len(motion):
        raise ValueError(f"n is 1 to the motion's {len(motion)} frames, got {n}")
    return np.linspace(0, len(motion) - 1, n).round().astype(int)


def _centred(motion: Motion, time: float) -> Float[np.ndarray, "points 3"]:
    """A pose with its root above the origin."""
    frame = frame_at(motion, np.array([time]))[0]
    points = body_of(motion.skeleton).points(motion)[frame]
    return points - points[0] * [1, 0, 1]


def _poses(
    motion: Motion, times: Float[np.ndarray, " n"], view: View
) -> list[Float[np.ndarray, "points 3"] | None]:
    """Poses as seen; ``None`` after the motion's end."""
    end = (len(motion) - 0.5) / motion.fps
    return [view(_centred(motion, t)) if t < end else None for t in times.tolist()]


def _on_floor(points: Float[np.ndarray, "*rest 3"]) -> Float[np.ndarray, "*rest 3"]:
    return points * [1, 0, 1]


def _bounds(
    points: Float[np.ndarray, "points 2"], margin: float
) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = points.min(0) - margin, points.max(0) + margin
    return float(x0), float(x1), float(y0), float(y1)


def _canvas(
    width: float, box: tuple[float, float, float, float], tallest: float, key: str = ""
) -> tuple[Figure, Axes]:
    """A figure all of which is one axes in metres, with a foot for stamp and key.

    ``tallest`` is the largest height over width; a narrower box is widened to it.
    """
    left, right, low, high = box
    room = max(0.0, (high - low) / tallest - (right - left)) / 2
    left, right = left - room, right + room
    foot = 0.12
    height = width * (high - low) / (right - left)
    fig = PaperFigure(width, height + foot)
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, foot / (height + foot), 1, height / (height + foot)))
    ax.set(xlim=(left, right), ylim=(low, high))
    ax.axis("off")
    words = "; ".join(filter(None, [key, "left limbs light, right limbs dark"]))
    fig.text(1 - 0.03 / width, 0.03 / (height + foot), words, fontsize=5, color=GREY,
             ha="right", va="bottom")  # fmt: skip
    return fig, ax


def _draw(ax: Axes, limbs: list) -> None:
    limbs = [shape for _, shape in sorted(limbs, key=lambda item: item[0])]
    ax.add_collection(
        PolyCollection(
            list(np.concatenate([s.outlines for s in limbs])),
            facecolors=np.concatenate([s.faces for s in limbs]),
            edgecolors=np.concatenate([s.edges for s in limbs]),
            linewidths=0.45,
            zorder=3,
        )
    )


def _shadow(
    ax: Axes,
    motion: Motion,
    points: Float[np.ndarray, "points 3"],
    view: View,
    shift: Float[np.ndarray, "3"] | float,
) -> None:
    outlines, faces = shadow(body_of(motion.skeleton), points, view)
    ax.add_collection(
        PolyCollection(
            list(outlines + np.broadcast_to(shift, 3)[:2]), facecolors=faces, edgecolors="none",
            zorder=2,
        )
    )  # fmt: skip


def _trail(
    ax: Axes,
    motion: Motion,
    time: float,
    view: View,
    shift: Float[np.ndarray, "3"],
    color: str,
    cell: tuple[float, float],
) -> None:
    """The root's way on the floor over the last 1.5 s, fading with age."""
    now = int(frame_at(motion, np.array([time]))[0])
    first = max(0, now - round(1.5 * motion.fps))
    roots = motion.joints[first : now + 1, 0].astype(np.float64)
    path = (view(_on_floor(roots - roots[-1])) + shift)[:, :2]
    if len(path) < 2:
        return
    age = np.linspace(0.15, 0.9, len(path) - 1)
    colors = [(*mix(color, "white", 0.2), a) for a in age]
    lines = LineCollection(
        list(np.stack([path[:-1], path[1:]], axis=1)), colors=colors, linewidths=1.2, zorder=1.5
    )
    ax.add_collection(lines)
    lines.set_clip_path(Rectangle((cell[0], -9), cell[1], 99, transform=ax.transData))


def _seconds(time: float) -> str:
    return f"{time:.1f} s"
