"""What alignment costs: memory, time and what they buy, each figure drawn from one record.

``width`` and ``paper`` are those of :mod:`easytune_lib.viz.curves`.
"""

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from easytune_lib.records import RunRecord
from easytune_lib.viz.curves import (
    METRICS,
    Paper,
    legend_above,
    log_axis,
    methods_of,
    panels,
    plain_numbers,
    table_of,
)
from easytune_lib.viz.style import COLUMN, GREY, OKABE_ITO, PAGE, method_style, styled


@styled()
def plot_quality_memory(record: RunRecord, metric: str = "r1", width: float = PAGE) -> Figure:
    """What quality does a method buy for the memory that it holds? (Fig. 1a)

    One panel a base, one dot a method: the judge's metric with the 95 % interval of its mean over
    training seeds, against memory. The dashed line is the base model. Methods that hold equally
    much stand side by side.

    Reads:
        ``tables["quality"]``: rows with ``base``, ``method`` (one is "base"), ``saved_mib`` (held
        for backward at most, in 2**20 bytes), and the metric with ``_low`` and ``_high``.

    Args:
        record: See above.
        metric: A key of the rows.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    ends = (metric, f"{metric}_low", f"{metric}_high")
    rows = table_of(record, "quality", ("base", "method", "saved_mib", *ends))
    bases = list(dict.fromkeys(row["base"] for row in rows))
    fig, axes = panels(width, len(bases))
    for ax, base in zip(axes, bases, strict=True):
        own = [row for row in rows if row["base"] == base]
        equals = [[r for r in own if r["saved_mib"] == row["saved_mib"]] for row in own]
        for row, equal in zip(own, equals, strict=True):
            value, low, high = (row[key] for key in ends)
            x = row["saved_mib"] * 1.09 ** (equal.index(row) - (len(equal) - 1) / 2)
            if row["method"] == "base":
                ax.axhline(value, color=GREY, ls="--", lw=1, zorder=1)
                continue
            look = {**method_style(row["method"]), "linestyle": ""}
            look["label"] = re.sub(r"^DRaFT-(?!10$).*", "DRaFT, whole chain", look["label"])
            ax.plot(x, value, ms=5, **look)
            if low is not None:
                ax.vlines(x, low, high, color=look["color"], lw=1.2)
        ax.set(xlabel="held for backward (MiB)", title=base, xscale="log")
        plain_numbers(ax.xaxis)
    for ax in axes if width <= 1.2 * COLUMN else axes[:1]:
        ax.set_ylabel(METRICS.get(metric, metric))
    legend_above(fig, width)
    return fig


@styled()
def plot_held_by_step(record: RunRecord, paper: Paper | None = None, width: float = PAGE) -> Figure:
    """Does memory grow from denoising step to denoising step? (Fig. 6)

    One panel a base; nothing goes backward, so that only the denoiser's graph is seen.

    Reads:
        ``tables["held_by_step"]``: rows with ``base``, ``method``, ``step`` (1 is the first, that
        of noise) and ``saved_mib``.

    Args:
        record: See above.
        paper: ``step``, and a series a method as in Fig. 6 (GB); drawn in grey, less the flat
            one's, and scaled so that the highest ends where our highest does.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    rows = table_of(record, "held_by_step", ("base", "method", "step", "saved_mib"))
    bases = list(dict.fromkeys(row["base"] for row in rows))
    fig, axes = panels(width, len(bases))
    for ax, base in zip(axes, bases, strict=True):
        own = [row for row in rows if row["base"] == base]
        for place, method in enumerate(methods_of(own)):
            points = [(row["step"], row["saved_mib"]) for row in own if row["method"] == method]
            every = (place, max(1, len(points) // 8))
            ax.plot(*zip(*points, strict=True), zorder=4, markevery=every, **method_style(method))
        if paper is not None:
            _paper_memory(ax, paper, max(row["saved_mib"] for row in own))
        ax.set(xlabel="denoising step (1 = noise)", title=base, xlim=(0, None), ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for ax in axes if width <= 1.2 * COLUMN else axes[:1]:
        ax.set_ylabel("held for backward (MiB)")
    legend_above(fig, width)
    return fig


@styled()
def plot_reach(record: RunRecord, base: str, width: float = PAGE) -> Figure:
    """How soon does a method reach a reward? (Table S9)

    One panel a threshold, one line a method: the median over training seeds and, as a bar, the
    first and the last seed. An arrow says that some seeds, a hollow mark at the end of the run
    that half of them or more, never got there.

    Reads:
        ``tables["reach"]``: rows with ``base``, ``clock``, ``threshold``, ``method``, ``seeds``,
        ``reached`` (how many), ``median``, ``low``, ``high`` (``None``: never) and ``ran``.

    Args:
        record: See above.
        base: Whose rows are drawn: a row of panels for each clock.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    columns = ("clock", "threshold", "method", "seeds", "reached", "median", "low", "high", "ran")
    rows = table_of(record, "reach", ("base", *columns))
    rows = [row for row in rows if row["base"] == base]
    units = {"seconds": "CPU seconds", "evaluations": "reward evaluations"}
    keys = list(dict.fromkeys((row["clock"], row["threshold"]) for row in rows))
    across = len({threshold for _, threshold in keys})
    methods = methods_of(rows)[::-1]
    fig, axes = panels(width, len(keys), height=0.7 + 0.17 * len(methods), most=across)
    for place, (ax, (clock, threshold)) in enumerate(zip(axes, keys, strict=True)):
        for row in (r for r in rows if (r["clock"], r["threshold"]) == (clock, threshold)):
            look, y = method_style(row["method"]), methods.index(row["method"])
            ends = [row["ran"] if row[key] is None else row[key] for key in ("low", "high")]
            if row["reached"]:
                ax.hlines(y, *ends, color=look["color"], lw=1.2)
            middle, never = row["median"], row["reached"] < row["seeds"]
            ax.plot(row["ran"] if middle is None else middle, y, look["marker"], ms=4.5,
                    color=look["color"], mfc=None if middle is not None else "white")  # fmt: skip
            if never:
                ax.annotate(
                    f"{row['seeds'] - row['reached']} of {row['seeds']} never",
                    (ends[1], y), (5, 0), textcoords="offset points", va="center", fontsize=5.5,
                    color=look["color"], annotation_clip=False,
                )  # fmt: skip
        ax.set(xlabel=f"{units[clock]} to reward {threshold:.2f}", ylim=(-0.6, len(methods) - 0.4))
        longest = max(r["ran"] for r in rows if r["clock"] == clock)
        ax.set_xlim(0, 1.35 * longest)
        ax.set_yticks(range(len(methods)), [method_style(m)["label"] for m in methods])
        first = place % across == 0 or width <= 1.2 * COLUMN
        ax.tick_params(axis="y", length=0, labelleft=first)
        ax.grid(axis="x")
        ax.grid(axis="y", visible=False)
    return fig


@styled()
def plot_scaling(record: RunRecord, width: float = PAGE) -> Figure:
    """How do memory and time grow with sampling steps, batch and frames, and is it foretold?

    Marks are measurements, lines what the cost model foretells. Feature space is filled and
    solid, latent space hollow and dashed.

    Reads:
        ``tables["scaling"]``: rows with ``base``, ``axis`` ("n_steps", "batch_size", "frames"),
        ``value``, ``method``, ``saved_mib`` and ``foretold_mib``.
        ``machine["scaling"]``: the same with ``seconds`` an update and ``foretold``.

    Args:
        record: See above.
        width: Inches.

    Raises:
        ValueError: A table, or a column in it, is missing.
    """
    held = table_of(record, "scaling", ("base", "axis", "value", "method", "saved_mib"))
    took = _times(record, "scaling")
    units = {"n_steps": "sampling steps T", "batch_size": "batch (motions)", "frames": "frames"}
    axes_of = list(dict.fromkeys(row["axis"] for row in held))
    fig, axes = panels(width, 2 * len(axes_of), ratio=0.85, most=len(axes_of))
    kinds = [(held, "saved_mib", "foretold_mib", "held for backward\n(MiB)"),
             (took, "seconds", "foretold", "CPU seconds\nan update")]  # fmt: skip
    cells = [(axis, *kind) for kind in kinds for axis in axes_of]
    for place, (ax, (axis, rows, key, told, label)) in enumerate(zip(axes, cells, strict=True)):
        own = [row for row in rows if row["axis"] == axis]
        for base, method in dict.fromkeys((row["base"], row["method"]) for row in own):
            points = [row for row in own if (row["base"], row["method"]) == (base, method)]
            look, latent = method_style(method), base.startswith("mld")
            x = [row["value"] for row in points]
            space = "latent" if latent else "features"
            ax.plot(x, [row[told] for row in points], color=look["color"], lw=1,
                    ls="--" if latent else "-")  # fmt: skip
            ax.plot(x, [row[key] for row in points], look["marker"], color=look["color"], ms=4,
                    mfc="white" if latent else None, label=f"{method}, {space}")  # fmt: skip
        ax.set(xlabel=units[axis])
        log_axis(ax)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xticks(sorted({row["value"] for row in own}))
        if place % len(axes_of) == 0 or width <= 1.2 * COLUMN:
            ax.set_ylabel(label)
    for ax in axes[len(cells) :]:
        ax.remove()
    legend_above(fig, width)
    return fig


def _times(record: RunRecord, name: str) -> list[dict[str, Any]]:
    """A table of times, which are the machine's.

    Raises:
        ValueError: There is none, or it is empty.
    """
    rows = record.machine.get(name, [])
    if not rows:
        raise ValueError(f'record {record.run_id} has no table "{name}" of times in `machine`')
    return rows


def _paper_memory(ax: Axes, paper: Paper, top: float) -> None:
    """Fig. 6 in grey: what the steps add, where the highest curve ends at ``top``."""
    curves = [np.asarray(values, float) for key, values in paper.items() if key != "step"]
    floor = min(curve.min() for curve in curves)
    scale = top / (max(curve[-1] for curve in curves) - floor)
    look = {**method_style("paper"), "label": "paper, Fig. 6, scaled", "marker": ""}
    for curve in curves:
        ax.plot(np.asarray(paper["step"]), scale * (curve - floor), lw=2.2, zorder=1, **look)


@styled()
def plot_held_slopes(record: RunRecord, width: float = PAGE) -> Figure:
    """How wrong is an update whose slope of the reward is a few steps old?

    One panel a base: the cosine of each update's gradient with the exact one. Where a line is at
    1, the slope was taken there.

    Reads:
        ``tables["held_slopes"]``: rows with ``base``, ``hold`` (rewarded steps that share a
        slope), ``step`` (from 0, the noisiest) and ``cosine``.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    rows = table_of(record, "held_slopes", ("base", "hold", "step", "cosine"))
    bases = list(dict.fromkeys(row["base"] for row in rows))
    fig, axes = panels(width, len(bases))
    shades = [OKABE_ITO[color] for color in ("blue", "orange", "green", "vermillion")]
    for ax, base in zip(axes, bases, strict=True):
        own = [row for row in rows if row["base"] == base]
        for color, hold in zip(shades, sorted({row["hold"] for row in own}), strict=False):
            line = sorted((row["step"], row["cosine"]) for row in own if row["hold"] == hold)
            label = f"for {hold} steps, mean {np.mean([y for _, y in line]):.3f}"
            ax.plot(*zip(*line, strict=True), color=color, marker="o", ms=2, lw=1, label=label)
        ax.set(xlabel="denoising step", title=base, ylim=(None, 1.02))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.legend(title="slope held", loc="lower right")
    axes[0].set_ylabel("cosine with the exact gradient")
    return fig


@styled()
def plot_bench(record: RunRecord, share: float, width: float = PAGE) -> Figure:
    """What do the tricks buy over a plain loop, and what is DRaFT's memory with the same ones?

    Left, how many times as fast an update is, with the interval over repeats. Right, the most
    memory alive in an update; hollow is latent space, full that of features. The grey strokes are
    where EasyTune would be with the paper's share of DRaFT's memory additional to sampling.

    Reads:
        ``machine["updates"]``: rows with ``way``, ``gain``, ``gain_low`` and ``gain_high``, the
        plain loop first;
        ``tables["methods"]``: rows with ``space``, ``method`` (one is "sampling alone") and
        ``live_mib``.

    Args:
        record: See above.
        share: Of DRaFT's additional memory, 0 to 1.
        width: Inches.

    Raises:
        ValueError: A table, or a column in it, is missing.
    """
    rows = table_of(record, "methods", ("space", "method", "live_mib"))
    fig, (speed, memory) = panels(width, 2, ratio=0.8)
    ways = _times(record, "updates")
    for y, way in enumerate(reversed(ways)):
        color = method_style("base" if way is ways[0] else "EasyTune")["color"]
        speed.plot([way["gain_low"], way["gain_high"]], [y, y], color=color, lw=1)
        speed.plot(way["gain"], y, "o", color=color, ms=4)
    speed.set_yticks(range(len(ways)), [way["way"] for way in reversed(ways)])
    speed.axvline(1, color=GREY, lw=0.8, ls="--", zorder=1)
    speed.set(xlabel="updates a second, plain loop = 1", xlim=(0, None))
    methods = methods_of(rows)[::-1]
    for row in rows:
        look, y = method_style(row["method"]), methods.index(row["method"])
        color = GREY if row["method"] == "sampling alone" else look["color"]
        face = "white" if row["space"] == "latent" else color
        memory.plot(row["live_mib"], y, "o", color=color, mfc=face, ms=4)
    grey = method_style("paper")["color"]
    for space in dict.fromkeys(row["space"] for row in rows):
        own = {row["method"]: row["live_mib"] for row in rows if row["space"] == space}
        least = own["sampling alone"]
        paper = least + share * (own["DRaFT"] - least)
        memory.plot(paper, methods.index("EasyTune"), "|", color=grey, ms=9, mew=2, zorder=1)
    memory.plot([], [], "o", color=GREY, mfc="white", ms=4, label="latent, published size")
    memory.plot([], [], "o", color=GREY, ms=4, label="features, laptop size")
    memory.plot([], [], "|", color=grey, ms=9, mew=2, label=f"paper: {share:.1%} of DRaFT's")
    memory.legend(loc="lower right")
    memory.set_yticks(range(len(methods)), methods)
    memory.set_xscale("log")
    plain_numbers(memory.xaxis)
    memory.set(xlabel="memory alive in an update (MiB)")
    return fig
