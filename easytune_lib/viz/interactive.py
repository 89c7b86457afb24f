"""Views that are turned and filtered by hand, in plotly: runs of a sweep, and ways in space.

In a notebook, ``figure.show(renderer=KEPT)`` stores a view as data alone, some kilobytes, which
JupyterLab draws, and so do the pages of ``easytune html``, without a network. Like the printed
figures they stand on white, in a dark JupyterLab too: plotly's axes are black.
"""

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from easytune_lib.motion.motion import Motion
from easytune_lib.viz.body import facing
from easytune_lib.viz.style import GREY, OKABE_ITO, body_colors, method_style

KEPT = "plotly_mimetype"
"""Plotly's name for figures that are kept as data, without the script that draws them."""

_INK = "#333333"
_LINE = "#D0D3D8"
_DASHES = ("solid", "dash", "dot", "longdash", "dashdot")


def explore_sweep(
    rows: Sequence[Mapping[str, Any]], varied: Sequence[str], metrics: Sequence[str] = ()
) -> go.Figure:
    """Runs as lines across parallel axes: first what was varied, then what came out.

    Drag along an axis to keep only the lines that cross there; drag its name to move it. A line
    has its method's colour, if ``method`` was varied.

    Args:
        rows: One a run: ``results.csv`` or ``results.parquet`` of ``easytune sweep`` (read by
            pandas, ``to_dict("records")``), or a table of a sweep's record. Those whose ``state``
            is not ``done`` or that lack a metric are left out.
        varied: Columns that were chosen, in order; their values stand evenly spaced, sorted.
        metrics: Columns that were measured; if empty, all others that are fractions in each row.

    Raises:
        ValueError: A column is nowhere, or no row is left.
    """
    done = [row for row in rows if row.get("state", "done") == "done"]
    shared = [name for name in (done[0] if done else ()) if all(name in row for row in done)]
    metrics = metrics or [
        name
        for name in shared
        if name not in (*varied, "seconds") and all(isinstance(r[name], float) for r in done)
    ]
    known = dict.fromkeys(name for row in done for name in row)
    if missing := [name for name in (*varied, *metrics) if name not in known]:
        raise ValueError(f"no finished run has {', '.join(missing)}; there are {', '.join(known)}")
    whole = [row for row in done if all(np.isfinite(row.get(name, np.nan)) for name in metrics)]
    if not whole:
        raise ValueError(f"of {len(rows)} runs, none is done and has {', '.join(metrics)}")
    axes = [_choices(name, [row[name] for row in whole]) for name in varied]
    axes += [{"label": _words(m), "values": [float(row[m]) for row in whole]} for m in metrics]
    methods = sorted({str(row["method"]) for row in whole}) if "method" in varied else [""]
    tones = [method_style(m)["color"] if m else OKABE_ITO["blue"] for m in methods]
    steps = [[(i + end) / len(tones), tone] for i, tone in enumerate(tones) for end in (0, 1)]
    lines = go.Parcoords(
        dimensions=axes,
        line={
            "color": [methods.index(str(row["method"]) if methods[0] else "") for row in whole],
            "colorscale": steps,
            "cmin": -0.5,
            "cmax": len(tones) - 0.5,
        },
        unselected_line={"color": GREY, "opacity": 0.12},
        labelfont={"size": 12},
        rangefont={"color": "rgba(0,0,0,0)"},  # ends of axes: their ticks say as much
    )
    left = 6 * max(len(str(row[varied[0]])) for row in whole) + 20
    return go.Figure(lines, _layout(f"{len(whole)} runs", 400, left))


def explore_paths(
    motions: Sequence[Motion],
    names: Sequence[str],
    joints: Sequence[str] = ("left_wrist", "right_wrist"),
    title: str = "",
) -> go.Figure:
    """The ways of roots and chosen joints in space, above the ground, with the last poses.

    Drag to turn, scroll to zoom; a click on a name hides that way, the pointer tells the time.
    A ring marks where each way begins.

    Args:
        motions: Of any skeletons that have the joints.
        names: Of the motions; a method's name gives its colour.
        joints: Beside the root.
        title: Above; if empty, the first motion's caption.

    Raises:
        ValueError: There are no motions, not one name for each, or a joint is unknown.
    """
    if not motions or len(motions) != len(names):
        raise ValueError(f"one name a motion, got {len(motions)} motions and {len(names)} names")
    points = np.concatenate([m.joints.reshape(-1, 3) for m in motions])
    low, high = np.minimum(points.min(0), [np.inf, 0, np.inf]) - 0.2, points.max(0) + 0.2
    traces: list[Any] = [_ground(low, high)]
    for motion, name, color in zip(motions, names, body_colors(names), strict=True):
        root = motion.skeleton.joints[0]
        for joint, dash in zip(
            dict.fromkeys((root, *joints)), itertools.cycle(_DASHES), strict=False
        ):
            points = motion.joints[:, motion.skeleton.index(joint)]
            traces.append(
                go.Scatter3d(
                    **_placed(points), mode="lines+markers",
                    name=_plain(f"{name}: {_words(joint)}"),
                    line={"color": color, "width": 5 if joint == root else 3, "dash": dash},
                    marker={"symbol": "circle-open", "color": color,
                            "size": [7] + [0.01] * (len(points) - 1)},
                    customdata=np.arange(len(points), dtype=np.float32) / np.float32(motion.fps),
                    hovertemplate="%{customdata:.2f} s, %{z:.2f} m high",
                )
            )  # fmt: skip
        traces.append(
            go.Scatter3d(**_pose(motion), mode="lines", name=_plain(f"{name}: last pose"),
                         line={"color": color, "width": 2}, opacity=0.6, hoverinfo="skip")
        )  # fmt: skip
    yaw = facing(motions[0]) + 1.0
    axes = [
        {"title": name, "range": [low[i], high[i]], "gridcolor": _LINE, "zeroline": False}
        for name, i in (("z, m", 2), ("x, m", 0), ("height, m", 1))
    ]
    span = high - low
    long, wide, tall = (span * min(1.3 / span.max(), 0.85 / span[1]))[[2, 0, 1]]  # in sight
    figure = go.Figure(traces, _layout(title or motions[0].text, 520, 10))
    return figure.update_layout(
        scene={
            **dict(zip(("xaxis", "yaxis", "zaxis"), axes, strict=True)),
            "aspectmode": "manual", "aspectratio": {"x": long, "y": wide, "z": tall},
            "camera": {"eye": {"x": 1.3 * np.cos(yaw), "y": 1.3 * np.sin(yaw), "z": 0.5},
                       "center": {"x": 0, "y": 0, "z": -0.1}},
        },
        legend={"orientation": "h", "y": 0, "yanchor": "top"},
    )  # fmt: skip


def _choices(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """An axis of values that were chosen: numbers by size, all else by name."""
    kinds = sorted(set(values), reverse=isinstance(values[0], str))  # A to Z, downwards
    return {
        "label": _words(name), "values": [kinds.index(value) for value in values],
        "tickvals": list(range(len(kinds))), "ticktext": [_plain(str(kind)) for kind in kinds],
        "range": [-0.3, len(kinds) - 0.7],
    }  # fmt: skip


def _placed(points: np.ndarray) -> dict[str, np.ndarray]:
    """Plotly's z is up, and its axes are right-handed, as ours: z, x, y; to a millimetre."""
    z, x, y = np.round(points, 3).astype(np.float32).T[[2, 0, 1]]
    return {"x": z, "y": x, "z": y}


def _pose(motion: Motion) -> dict[str, np.ndarray]:
    """Bones of the last frame; a NaN lifts the pen between two."""
    bones = motion.joints[-1][np.array(motion.skeleton.bones)]
    gap = np.full((len(bones), 1, 3), np.nan, dtype=bones.dtype)
    return _placed(np.concatenate([bones, gap], axis=1).reshape(-1, 3))


def _ground(low: np.ndarray, high: np.ndarray) -> go.Mesh3d:
    (x0, _, z0), (x1, _, z1) = low, high
    corners = np.array([[x0, 0, z0], [x1, 0, z0], [x1, 0, z1], [x0, 0, z1]])
    return go.Mesh3d(**_placed(corners), i=[0, 0], j=[1, 2], k=[2, 3], color=GREY, opacity=0.15,
                     hoverinfo="skip", name="ground")  # fmt: skip


def _layout(title: str, height: int, left: int) -> dict[str, Any]:
    return {
        "template": "none", "height": height, "paper_bgcolor": "white",
        "font": {"color": _INK, "size": 12},
        "title": {"text": _plain(title), "font": {"size": 14},
                  "x": 0.01, "xanchor": "left", "y": 0.97},
        "margin": {"l": left, "r": 60, "t": 80, "b": 30},
    }  # fmt: skip


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(text: str) -> str:
    """Plotly reads some tags in texts; here they are what they look like."""
    return escape(text, quote=False)
