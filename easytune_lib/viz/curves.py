"""The workbench's curves, each drawn from one record and the keys its docstring names.

Wherever a series ``key`` is read, ``key_low`` and ``key_high`` of the same length are drawn
as a band around it if the record has them. ``width`` is the figure's, in inches:
:data:`~easytune_lib.viz.style.COLUMN` or :data:`~easytune_lib.viz.style.PAGE`. ``paper`` holds
digitised curves of the paper, drawn in light grey for comparison.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from easytune_lib.metrics.intervals import interval
from easytune_lib.records import RunRecord
from easytune_lib.viz.style import (
    COLUMN,
    GREY,
    OKABE_ITO,
    PAGE,
    PaperFigure,
    method_style,
    styled,
)

Paper = Mapping[str, Sequence[int | float]]

METRICS = {
    "r1": r"R@1 $\uparrow$",
    "r2": r"R@2 $\uparrow$",
    "r3": r"R@3 $\uparrow$",
    "fid": r"FID $\downarrow$",
    "mm_dist": r"MM-Dist $\downarrow$",
    "diversity": "Diversity",
    "reward": r"reward $\uparrow$",
    "foot_skate": r"foot skating $\downarrow$",
    "jerk": r"jerk (m/s$^3$)",
    "drift": "distance from the base",
}


@styled()
def plot_gradient_norms(
    record: RunRecord, paper: Paper | None = None, width: float = PAGE
) -> Figure:
    """Does the gradient vanish along the denoising steps, or is it divided away? (Fig. 3)

    Three panels over denoising steps (0 is noise): norms as computed; the same divided by
    the dimension, as the paper prints them; each step's share of the reward gradient.

    Reads:
        ``series["jacobian_norm"]``: per step, of ``J_i = d x_(i+1) / d x_i``.
        ``series["product_norm"]``: per step, of the product from step i to the end.
        ``series["jacobian_norm_divided"]``, ``series["product_norm_divided"]``: the same,
        divided by the dimension (inside the product).
        ``series["share/<method>"]``: per step, norm of its share of the reward gradient;
        one series a method, zeros where a step is not recorded.

    Args:
        record: See above.
        paper: ``step``, and ``jacobian_norm`` and ``product_norm`` or one of them, as in Fig. 3
            (divided), where step 0 is the clean end: step s is drawn s steps before the end.
        width: Inches.

    Raises:
        ValueError: A series is missing; says which there are.
    """
    steps = np.arange(len(_series(record, "jacobian_norm")))
    fig, (raw, divided, shares) = panels(width, 3)
    jacobian: dict[str, Any] = {
        "color": OKABE_ITO["sky"],
        "marker": "o",
        "label": r"$J_i$, one step",
    }
    product: dict[str, Any] = {
        "color": OKABE_ITO["black"],
        "marker": "s",
        "label": r"$\prod J$, step to end",
    }
    for ax, suffix in ((raw, ""), (divided, "_divided")):
        _line(ax, record, f"jacobian_norm{suffix}", steps, **jacobian)
        _line(ax, record, f"product_norm{suffix}", steps, **product)
    raw.set(title="as computed", ylabel="norm (identity = 1)")
    raw.axhline(1, color=GREY, lw=0.6, ls=":", zorder=1)
    divided.set(title="divided by the dimension", ylabel="norm / dimension")
    lowest = float(_series(record, "product_norm_divided").min())
    if lowest < 1e-12:
        divided.set_ylim(1e-12, 10)
        divided.annotate(
            f"falls to 1e{np.log10(lowest):.0f}", (0.04, 0.08), xycoords="axes fraction",
            fontsize=6.5, color=GREY,
        )  # fmt: skip
    if paper is not None:
        ends = len(steps) - 1 - _numbers(paper, "step")
        label = "paper, Fig. 3"
        for key in ("jacobian_norm", "product_norm"):
            if key in paper:
                _paper(divided, ends, _numbers(paper, key), label)
                label = "_"
    methods = [key.removeprefix("share/") for key in record.series if key.startswith("share/")]
    methods = [name for name in methods if not name.endswith(("_low", "_high"))]
    if not methods:
        raise ValueError(f'no series "share/<method>"; there are {sorted(record.series)}')
    for name in methods:
        total = _series(record, f"share/{name}").sum()
        _line(shares, record, f"share/{name}", steps, scale=1 / total, **method_style(name))
    shares.set(title="share of the reward gradient", ylabel="share (sum = 1)")
    for ax in (raw, divided, shares):
        log_axis(ax)
        _step_axis(ax, len(steps))
    legend_above(fig, width)
    return fig


@styled()
def plot_noise_similarity(
    record: RunRecord, paper: Paper | None = None, width: float = COLUMN
) -> Figure:
    """From which denoising step on does an encoder know the motion? (Fig. 4)

    Cosine to the final clean motion over denoising steps (0 is noise), read from the noised
    state and from the predicted clean one.

    Reads:
        ``series["x_t"]``, ``series["x0_hat"]``: per step, mean cosine; ``_low`` and ``_high``
        for the interval. Several encoders: ``series["x_t/<encoder>"]`` and so on; each then
        gets a panel.

    Args:
        record: See above.
        paper: ``step`` and ``similarity`` (and ``image``, if wanted) as in Fig. 4, where step 0
            is clean, and ``predicted``: they are drawn from the other end, stretched to the
            record's steps.
        width: Inches.

    Raises:
        ValueError: There is no such series.
    """
    keys = [k for k in record.series if k.split("/")[0] in ("x_t", "x0_hat")]
    keys = [k for k in keys if not k.endswith(("_low", "_high"))]
    if not keys:
        raise ValueError(f'no series "x_t" or "x0_hat"; there are {sorted(record.series)}')
    encoders = sorted({k.partition("/")[2] for k in keys})
    fig, axes = panels(width, len(encoders), sharey=True)
    for ax, encoder in zip(axes, encoders, strict=True):
        n = 0
        for state in ("x_t", "x0_hat"):
            key = f"{state}/{encoder}" if encoder else state
            if key in record.series:
                n = len(record.series[key])
                _line(ax, record, key, np.arange(n), **method_style(state))
        if paper is not None:
            steps = _numbers(paper, "step")
            steps = (1 - steps / steps.max()) * (n - 1)
            for key, label, line in (
                ("similarity", "paper, $x_t$", "-"),
                ("predicted", r"paper, $\hat{x}_0$", "-."),
                ("image", "paper, image", "--"),
            ):
                if key in paper:
                    read = np.isfinite(values := _numbers(paper, key))
                    _paper(ax, steps[read], values[read], label, line)
        ax.set_title(encoder)
        _step_axis(ax, n)
    axes[0].set_ylabel("cosine to the final motion")
    legend_above(fig, width)
    return fig


@styled()
def plot_reward_by_step(record: RunRecord, width: float = COLUMN) -> Figure:
    """From which denoising step on does the reward know what the motion will be?

    Reads:
        ``series["x_t"]``, ``series["x0_hat"]``: per step, the reward of the decoded state that
        came out, and of the clean estimate.

    Args:
        record: See above.
        width: Inches.

    Raises:
        ValueError: A series is missing; says which there are.
    """
    fig, (ax,) = panels(width, 1, ratio=0.72)
    for state in ("x_t", "x0_hat"):
        steps = np.arange(len(_series(record, state)))
        _line(ax, record, state, steps, **method_style(state))
        _step_axis(ax, len(steps))
    ax.set_ylabel("reward (cosine)")
    legend_above(fig, width)
    return fig


@styled()
def plot_reward_curves(
    record: RunRecord,
    x: Literal["seconds", "updates"] = "seconds",
    width: float = COLUMN,
    paper: Mapping[str, float] | None = None,
) -> Figure:
    """Which method raises the reward fastest?

    The running mean of the reward per method (window: an eighth of the axis); mean over
    seeds, the band from the lowest seed to the highest.

    Reads:
        ``tables["curves"]``: one row a run: ``method``, ``seed``, ``reward`` (a list, one
        number an update).
        ``machine["curve_seconds"]``: one list a row, in the same order: seconds since the
        start at each update. Not needed for ``x="updates"``.

    Args:
        record: See above.
        x: Seconds of fine-tuning, or optimizer updates.
        width: Inches.
        paper: Each method's last training reward there; light marks at the right edge, since its
            axis is another.

    Raises:
        ValueError: The table or the seconds are missing, or their lengths differ.
    """
    rows = table_of(record, "curves", ("method", "seed", "reward"))
    if x == "seconds":
        seconds = record.machine.get("curve_seconds", [])
        if [len(s) for s in seconds] != [len(row["reward"]) for row in rows]:
            raise ValueError(
                'machine["curve_seconds"] needs a list for each row of tables["curves"], as long '
                'as its "reward"; or draw x="updates"'
            )
        at = [np.asarray(s, dtype=np.float64) for s in seconds]
    else:
        at = [np.arange(1.0, len(row["reward"]) + 1) for row in rows]
    fig, (ax,) = panels(width, 1, ratio=0.72)
    span = max(float(a[-1]) for a in at)
    for place, method in enumerate(methods_of(rows)):
        runs = [i for i, row in enumerate(rows) if row["method"] == method]
        grid = np.linspace(0, max(at[i][-1] for i in runs), 81)[1:]
        smooth = [_running_mean(grid, at[i], np.asarray(rows[i]["reward"], float), span / 8)
                  for i in runs]  # fmt: skip
        mean, style = np.mean(smooth, axis=0), method_style(method)
        if len(runs) > 1:
            low, high = np.min(smooth, axis=0), np.max(smooth, axis=0)
            ax.fill_between(grid, low, high, color=style["color"], alpha=0.16, lw=0)
        ax.plot(grid, mean, markevery=(6 + 2 * place, 16), zorder=4 - place / 99, **style)
    ax.set(xlabel="seconds of fine-tuning" if x == "seconds" else "optimizer updates",
           ylabel="reward (running mean)", xlim=(0, span * (1.09 if paper else 1.02)))  # fmt: skip
    if paper:
        levels = sorted(set(paper.values()))
        light = {**method_style("paper"), "marker": "", "label": "paper, at its end"}
        ax.hlines(levels, span * 1.03, span * 1.09, color=light["color"], lw=2.2,
                  label=light["label"])  # fmt: skip
        for level in levels:
            names = [name for name, value in paper.items() if value == level]
            color = method_style(names[0])["color"] if len(names) == 1 else GREY
            ax.plot(span * 1.06, level, method_style(names[0])["marker"], color=color, ms=3)
    legend_above(fig, width)
    return fig


@styled()
def plot_method_table(
    record: RunRecord, metrics: Sequence[str] = ("r1", "fid"), width: float = PAGE
) -> Figure:
    """Is a method better than the base model on the judge's metrics?

    One panel a metric, one line a method: faint dots are its rows (training seeds), the large
    one is their mean, the bar the mean's 95 % interval. The dashed line is the base model, the
    others real motion and the VAE's reconstruction of it, where the record has them.

    Reads:
        ``tables["methods"]``: rows with ``method`` (one is "base"), and the metrics by key,
        for instance ``r1``, ``fid``; one row a seed. Further columns are ignored.
        ``tables["ceilings"]``, where it is there: rows with ``method`` ("real", "VAE"),
        ``split`` and the metrics; those of split "test" are drawn.

    Args:
        record: See above.
        metrics: Columns to show.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    rows = table_of(record, "methods", ("method", *metrics))
    methods = [m for m in methods_of(rows) if m != "base"][::-1]
    fig, axes = panels(width, len(metrics), height=0.75 + 0.2 * len(methods), sharey=True)
    lines: dict[str, Line2D] = {}
    for ax, metric in zip(axes, metrics, strict=True):
        base = [row[metric] for row in rows if row["method"] == "base"]
        if base:
            ax.axvline(float(np.mean(base)), color=GREY, ls="--", lw=1)
        for row in (row for row in record.tables.get("ceilings", []) if row["split"] == "test"):
            look = method_style(row["method"])
            lines[look["label"]] = ax.axvline(row[metric], color=look["color"], lw=0.9, zorder=1)
        for y, method in enumerate(methods):
            values = np.array([row[metric] for row in rows if row["method"] == method])
            color, marker = (method_style(method)[key] for key in ("color", "marker"))
            ax.plot(values, np.full(len(values), y), ".", color=color, ms=3, alpha=0.4)
            if len(values) > 1:
                _, low, high = interval(values.tolist())
                ax.hlines(y, low, high, color=color, lw=1.4)
            ax.plot(values.mean(), y, marker, color=color, ms=5)
        ax.set(xlabel=METRICS.get(metric, metric))
        _method_axis(ax, methods)
    if any(row["method"] == "base" for row in rows):
        mean = float(np.mean([row[metrics[0]] for row in rows if row["method"] == "base"]))
        axes[0].annotate(
            "base", (mean, 1), (2, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=6.5, color=GREY, va="top",
        )  # fmt: skip
    if lines:
        fig.legend(lines.values(), lines.keys(), loc="outside lower right", ncols=len(lines))
    return fig


@styled()
def plot_paired(
    record: RunRecord, metrics: Sequence[str] = ("r1", "mm_dist"), width: float = PAGE
) -> Figure:
    """Which methods beat the rival, seed by seed?

    One panel a metric, one line a method: the mean of the paired differences, and its 95 %
    interval over seeds where there are several; the line at 0 is the rival.

    Reads:
        ``tables["paired"]``: rows with ``method``, ``rival``, and of each metric ``<metric>``,
        ``<metric>_low`` and ``<metric>_high`` (``None`` for a single seed).

    Args:
        record: See above.
        metrics: Columns to show.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    ends = [f"{metric}{end}" for metric in metrics for end in ("_low", "_high")]
    rows = table_of(record, "paired", ("method", "rival", *metrics, *ends))[::-1]
    fig, axes = panels(width, len(metrics), height=0.75 + 0.2 * len(rows), sharey=True)
    for ax, metric in zip(axes, metrics, strict=True):
        ax.axvline(0, color=GREY, ls="--", lw=1)
        for y, row in enumerate(rows):
            color, marker = (method_style(row["method"])[key] for key in ("color", "marker"))
            if row[f"{metric}_low"] is not None:
                ax.hlines(y, row[f"{metric}_low"], row[f"{metric}_high"], color=color, lw=1.4)
            ax.plot(row[metric], y, marker, color=color, ms=5)
        ax.set(xlabel=f"{METRICS.get(metric, metric)}, less {rows[0]['rival']}'s")
        _method_axis(ax, [row["method"] for row in rows])
    return fig


@styled()
def plot_memory(record: RunRecord, width: float = COLUMN) -> Figure:
    """Does the memory for backpropagation grow with the number of recorded steps?

    Reads:
        ``tables["memory"]``: rows with ``method``, ``steps`` (recorded denoising steps),
        ``saved_mib`` (held for backward at most, in 2**20 bytes).

    Args:
        record: See above.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    rows = table_of(record, "memory", ("method", "steps", "saved_mib"))
    fig, (ax,) = panels(width, 1, ratio=0.72)
    _memory_lines(ax, rows)
    legend_above(fig, width)
    return fig


@styled()
def plot_backbone_cost(record: RunRecord, width: float = PAGE) -> Figure:
    """Does step-wise tuning save memory on every kind of base model?

    Two panels a base model: memory against recorded steps, and each method in its setting.

    Reads:
        ``tables["memory"]``: rows with ``base``, ``method``, ``saved_mib`` (held for backward at
        most, in 2**20 bytes).
        ``tables["memory_by_k"]``: rows with ``base``, ``method``, ``steps``, ``saved_mib``.

    Args:
        record: See above.
        width: Inches.

    Raises:
        ValueError: A table, or a column in it, is missing.
    """
    settings = table_of(record, "memory", ("base", "method", "saved_mib"))
    lines = table_of(record, "memory_by_k", ("base", "method", "steps", "saved_mib"))
    bases = list(dict.fromkeys(row["base"] for row in settings))
    methods = methods_of(settings)[::-1]
    fig, axes = panels(width, 2 * len(bases), height=1.75, most=2)
    for base, by_k, dots in zip(bases, axes[::2], axes[1::2], strict=True):
        _memory_lines(by_k, [row for row in lines if row["base"] == base])
        by_k.set_title(base.upper())
        for row in (row for row in settings if row["base"] == base):
            color, marker = (method_style(row["method"])[key] for key in ("color", "marker"))
            y = methods.index(row["method"])
            dots.hlines(y, 0, row["saved_mib"], color=color, lw=1.2)
            dots.plot(row["saved_mib"], y, marker, color=color, ms=4.5)
        dots.set(xlabel="held for backward (MiB)", xlim=(0, None), ylim=(-0.6, len(methods) - 0.4))
        dots.set_yticks(range(len(methods)), [method_style(m)["label"] for m in methods])
        dots.tick_params(axis="y", length=0)
        dots.grid(visible=False)
    return fig


@styled()
def plot_six_backbones(
    record: RunRecord,
    width: float = PAGE,
    paper: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Does tuning help every kind of backbone, and what does it hold in memory?

    Two panels of gains over the untouched base, with the 95 % interval of the mean over training
    seeds, and one of memory on a logarithmic axis.

    Reads:
        ``tables["backbones"]``: rows with ``backbone``, ``method`` (one of each backbone is
        "base", and is the line at 0), ``r1_gain`` and ``mm_dist_percent``, each with ``_low`` and
        ``_high`` (``None``: no interval), and ``saved_mib`` (2**20 bytes).

    Args:
        record: See above.
        width: Inches.
        paper: MM-Dist of a backbone before and after EasyTune, drawn as light marks.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    gains = ("r1_gain", "mm_dist_percent")
    ends = [f"{gain}_{end}" for gain in gains for end in ("low", "high")]
    rows = table_of(record, "backbones", ("backbone", "method", "saved_mib", *gains, *ends))
    names = list(dict.fromkeys(row["backbone"] for row in rows))[::-1]
    methods = [method for method in methods_of(rows) if method != "base"]
    fig, axes = panels(width, 3, height=0.85 + 0.27 * len(names), sharey=True)
    keys = (*gains, "saved_mib")
    labels = (
        r"gain in R@1 $\uparrow$",
        r"fall of MM-Dist (%) $\uparrow$",
        "held for backward (MiB)",
    )
    for ax, key, label in zip(axes, keys, labels, strict=True):
        for place, method in enumerate(methods):
            look: dict[str, Any] = {**method_style(method), "linestyle": "none"}
            own = {row["backbone"]: row for row in rows if row["method"] == method}
            y = [names.index(name) + 0.15 - 0.3 * place for name in own]
            ax.plot([row[key] for row in own.values()], y, ms=4.5, zorder=3, **look)
            for at, row in zip(y, own.values(), strict=True):
                if row.get(f"{key}_low") is not None:
                    low, high = row[f"{key}_low"], row[f"{key}_high"]
                    ax.hlines(at, low, high, color=look["color"], lw=1.4)
        ax.set(xlabel=label, ylim=(-0.6, len(names) - 0.4))
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.grid(axis="y", visible=False)
    for ax in axes[:2]:
        ax.axvline(0, color=GREY, ls="--", lw=1)
    axes[2].set_xscale("log")
    plain_numbers(axes[2].xaxis)
    if paper:
        fallen = {name: 100 * (1 - after / before) for name, (before, after) in paper.items()}
        light: dict[str, Any] = {**method_style("paper"), "linestyle": "none"}
        light["label"] = "EasyTune in the paper"
        known = [name for name in names if name in fallen]
        axes[1].plot(
            [fallen[name] for name in known], [names.index(name) for name in known],
            ms=9, zorder=1, **light,
        )  # fmt: skip
    legend_above(fig, width)
    return fig


@styled()
def plot_preferences(
    record: RunRecord,
    paper: Mapping[str, Sequence[float]] | None = None,
    width: float = COLUMN,
) -> Figure:
    """Which motion do raters prefer: the base model's, the tuned one's, or neither?

    One bar a rater. The whiskers at its two borders are the 95 % intervals of the shares of the
    base model (upper) and of the tuned one (lower).

    Reads:
        ``tables["preferences"]``: rows with ``rater``, ``votes``, and for ``base``, ``same`` and
        ``tuned`` the count and its ``_share``, ``_low`` and ``_high`` (0 to 1). Rows without
        votes are left out.

    Args:
        record: See above.
        paper: By label: percent base, same, tuned; drawn light, without intervals.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing; or nobody voted.
    """
    kinds = ("base", "same", "tuned")
    ends = [f"{kind}_{end}" for kind in kinds for end in ("share", "low", "high")]
    rows = table_of(record, "preferences", ("rater", "votes", *kinds, *ends))
    rows = [row for row in rows if row["votes"]]
    if not rows:
        raise ValueError(f"nobody has voted in record {record.run_id}")
    looks = dict(zip(kinds, (GREY, "#D9D9D9", OKABE_ITO["vermillion"]), strict=True))
    names = [f"{row['rater']} ({row['votes']})" for row in rows] + list(paper or ())
    shares = [[100 * row[f"{kind}_share"] for kind in kinds] for row in rows]
    shares += [list(values) for values in (paper or {}).values()]
    fig, (ax,) = panels(width, 1, height=0.75 + 0.3 * len(names))
    for y, parts in enumerate(shares):
        pale = 1.0 if y < len(rows) else 0.45
        for kind, part, start in zip(kinds, parts, np.cumsum([0, *parts]), strict=False):
            ax.barh(y, part, 0.66, start, color=looks[kind], alpha=pale, zorder=2,
                    label="_" if y else kind)  # fmt: skip
            if part >= 8:
                ax.text(start + part / 2, y, f"{part:.0f}", ha="center", va="center", fontsize=6.5,
                        color="white" if kind != "same" and pale == 1 else "black")  # fmt: skip
    for y, row in enumerate(rows):
        whisker: dict[str, Any] = {"color": OKABE_ITO["black"], "lw": 1, "zorder": 3}
        ax.hlines(y - 0.23, 100 * row["base_low"], 100 * row["base_high"], **whisker)
        ax.hlines(y + 0.23, 100 - 100 * row["tuned_high"], 100 - 100 * row["tuned_low"], **whisker)
    ax.axvline(50, color=GREY, lw=0.6, ls=":", zorder=1)
    ax.set(xlabel="preferred (% of votes)", xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    legend_above(fig, width)
    return fig


@styled()
def plot_reward_parts(record: RunRecord, width: float = PAGE) -> Figure:
    """What did a reward give, and what did it take from what was not asked for?

    One panel a score, one line a model: its mean and the 95 % interval over prompts.

    Reads:
        ``tables["parts"]``: rows with ``model`` (one is "base", drawn as the dashed line),
        ``part`` (the score and its unit), ``value``, ``low`` and ``high``.

    Args:
        record: See above.
        width: Inches.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    rows = table_of(record, "parts", ("model", "part", "value", "low", "high"))
    parts = list(dict.fromkeys(row["part"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))[::-1]
    most = 3 if len(parts) % 4 else 4
    fig, axes = panels(width, len(parts), height=0.6 + 0.24 * len(models), most=most)
    for place, (ax, part) in enumerate(zip(axes, parts, strict=False)):
        for row in (row for row in rows if row["part"] == part):
            look, y = method_style(row["model"]), models.index(row["model"])
            ax.hlines(y, row["low"], row["high"], color=look["color"], lw=1.4)
            ax.plot(row["value"], y, look["marker"], color=look["color"], ms=5)
            if row["model"] == "base":
                ax.axvline(row["value"], color=GREY, ls="--", lw=1, zorder=1)
        first = place % most == 0 or width <= 1.2 * COLUMN
        ax.set(xlabel=part, ylim=(-0.6, len(models) - 0.4))
        ax.set_yticks(range(len(models)), [method_style(m)["label"] for m in models])
        ax.tick_params(axis="y", length=0, labelleft=first)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="x")
        ax.grid(axis="y", visible=False)
    for ax in axes[len(parts) :]:
        ax.remove()
    return fig


@styled()
def plot_claims(record: RunRecord, width: float = PAGE) -> Figure:
    """Which of the paper's claims of better alignment hold here, against whom, and where?

    One panel a base; a row is a method and its rival, the bar a 95 % interval over seeds. Right of
    the line the method is better. A claim that holds is green, one that does not is red.

    Reads:
        ``tables["claims"]``: rows with ``claim``, ``regime`` (it begins with the base), ``ours``,
        ``low``, ``high``, ``unit`` and ``verdict``; those in "%" with an interval are drawn.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    columns = ("claim", "regime", "ours", "low", "high", "verdict")
    rows = [row for row in table_of(record, "claims", columns) if row["low"] is not None]
    rows = [row for row in rows if " aligns better than " in row["claim"]]
    hues = {"holds": "green", "does not hold here": "vermillion", "not shown here": "black"}
    bases = list(dict.fromkeys(row["regime"].split(",")[0] for row in rows))
    names = list(dict.fromkeys(row["claim"].split(" (MM")[0] for row in rows))[::-1]
    fig, axes = panels(width, len(bases), height=0.75 + 0.19 * len(names), sharey=True)
    for ax, base in zip(axes, bases, strict=True):
        ax.axvline(0, color=GREY, lw=0.8, ls="--")
        for row in (row for row in rows if row["regime"].split(",")[0] == base):
            y, color = names.index(row["claim"].split(" (MM")[0]), OKABE_ITO[hues[row["verdict"]]]
            ax.hlines(y, row["low"], row["high"], color=color, lw=1.4)
            ax.plot(row["ours"], y, "o", color=color, ms=4)
        ax.set(xlabel="MM-Dist better by (%)", ylim=(-0.6, len(names) - 0.4), title=base)
        ax.set_yticks(range(len(names)), [n.replace(" aligns better than ", " vs ") for n in names])
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x")
        spec = ax.get_subplotspec()
        ax.tick_params(axis="y", length=0, labelleft=spec is None or spec.is_first_col())
    return fig


def panels(
    width: float,
    count: int,
    ratio: float = 0.78,
    height: float | None = None,
    sharey: bool = False,
    most: int = 4,
) -> tuple[Figure, list[Axes]]:
    """Panels side by side on a page (``most`` a row), one below the other in a column."""
    across = min(count, most) if width > 1.2 * COLUMN else 1
    down = -(-count // across)
    each = height or (ratio if down == 1 else 0.6) * min(width / across, COLUMN)
    fig = PaperFigure(width, down * each)
    axes = fig.subplots(down, across, sharey=sharey and across > 1, squeeze=False)
    return fig, list(axes.flat)


def _memory_lines(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, method in enumerate(methods_of(rows)):
        points = sorted((r["steps"], r["saved_mib"]) for r in rows if r["method"] == method)
        ax.plot(*zip(*points, strict=True), zorder=4 - place / 99, **method_style(method))
    ax.set(xlabel="recorded denoising steps", ylabel="held for backward (MiB)")
    ax.set(xlim=(0, None), ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _line(
    ax: Axes,
    record: RunRecord,
    key: str,
    x: np.ndarray,
    scale: float = 1.0,
    **style: Any,
) -> None:
    """One series with its band; zeros are left out, since axes may be logarithmic."""
    y = _series(record, key) * scale
    if len(y) != len(x):
        raise ValueError(f'series "{key}" has {len(y)} numbers, {len(x)} are expected')
    every = max(1, len(x) // 10)
    ax.plot(x, np.where(y != 0, y, np.nan), markevery=every, **style)
    if f"{key}_low" in record.series and f"{key}_high" in record.series:
        low, high = (_series(record, f"{key}_{end}") * scale for end in ("low", "high"))
        ax.fill_between(x, low, high, color=style["color"], alpha=0.18, lw=0)


def _paper(
    ax: Axes,
    x: Float[np.ndarray, " points"],
    y: Float[np.ndarray, " points"],
    label: str,
    linestyle: str = "-",
) -> None:
    style: dict[str, Any] = {**method_style("paper"), "label": label, "linestyle": linestyle}
    ax.plot(x, np.where(y > 0, y, np.nan), lw=2.2, zorder=1, **style)


def _method_axis(ax: Axes, methods: Sequence[str]) -> None:
    """One line a method, named at the left of the first panel."""
    ax.grid(axis="x")
    ax.grid(axis="y", visible=False)
    ax.set(ylim=(-0.6, len(methods) - 0.1))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_yticks(range(len(methods)), [method_style(method)["label"] for method in methods])
    spec = ax.get_subplotspec()
    ax.tick_params(axis="y", length=0, labelleft=spec is None or spec.is_first_col())


def _step_axis(ax: Axes, n: int) -> None:
    ax.set(xlabel="denoising step (0 = noise)", xlim=(-0.5, n - 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def log_axis(ax: Axes) -> None:
    """Logarithmic, with plain numbers where the range is small."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high / low < 50:
        plain_numbers(ax.yaxis)


def plain_numbers(axis: Axis) -> None:
    """1, 2, 5, 10 along a logarithmic axis, in place of powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_above(fig: Figure, width: float) -> None:
    """One legend for all panels."""
    found = {}
    for ax in fig.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = min(len(found), 3 if width <= 1.2 * COLUMN else 6)
    fig.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns)


def _running_mean(
    grid: Float[np.ndarray, " points"],
    at: Float[np.ndarray, " updates"],
    values: Float[np.ndarray, " updates"],
    window: float,
) -> Float[np.ndarray, " points"]:
    """Mean of the values in the window that ends at each point of the grid."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.maximum(np.searchsorted(at, grid, side="right"), 1)
    first = np.minimum(np.searchsorted(at, grid - window, side="right"), last - 1)
    return (total[last] - total[first]) / (last - first)


def methods_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The methods in a table, in order."""
    return list(dict.fromkeys(row["method"] for row in rows))


def _series(record: RunRecord, key: str) -> Float[np.ndarray, " steps"]:
    if key not in record.series:
        raise ValueError(f'record {record.run_id} has no series "{key}": {sorted(record.series)}')
    return np.asarray(record.series[key], dtype=np.float64)


def _numbers(paper: Paper, key: str) -> Float[np.ndarray, " points"]:
    if key not in paper:
        raise ValueError(f'`paper` has no "{key}": {sorted(paper)}')
    return np.asarray(paper[key], dtype=np.float64)


def table_of(record: RunRecord, key: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """A table of a record, each row of which has ``columns``.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    rows = record.tables.get(key, [])
    if not rows:
        raise ValueError(f'record {record.run_id} has no table "{key}": {sorted(record.tables)}')
    for i, row in enumerate(rows):
        if missing := [column for column in columns if column not in row]:
            raise ValueError(f'row {i} of table "{key}" lacks {missing}: it has {sorted(row)}')
    return rows
