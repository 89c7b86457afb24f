"""Figures about rewards: retrieval, refinement, and what is still readable under noise.

Each is drawn from one record and the keys that its docstring names; ``width`` is in inches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from easytune_lib.records import RunRecord
from easytune_lib.viz.curves import METRICS, panels, table_of
from easytune_lib.viz.style import GREY, OKABE_ITO, PAGE, method_style, styled

_DIRECTIONS = {"t2m": "text to motion", "m2t": "motion to text"}


@styled()
def plot_recall(record: RunRecord, width: float = PAGE) -> Figure:
    """What does refinement do to retrieval, over seeds, beside the model it started from?

    One panel a set of captions and direction: the gain in recall over the same seed's start, in
    points. Dots are seeds, the line is their mean.

    Reads:
        ``tables["recall"]``: rows with ``model`` (one is "before"), ``seed``, ``set``,
        ``direction`` ("t2m" or "m2t"), ``k`` and ``recall`` (0 to 1), and ``trained``, the steps
        of the start: of several, the earliest is drawn.

    Raises:
        ValueError: The table, or a column in it, is missing.
    """
    columns = ("model", "seed", "trained", "set", "direction", "k", "recall")
    rows = table_of(record, "recall", columns)
    start = min(row["trained"] for row in rows)
    rows = [row for row in rows if row["trained"] == start]
    found = {(r["model"], r["seed"], r["set"], r["direction"], r["k"]): r["recall"] for r in rows}
    views = list(dict.fromkeys((r["set"], r["direction"]) for r in rows))
    models = [m for m in dict.fromkeys(r["model"] for r in rows) if m != "before"]
    ranks = sorted({r["k"] for r in rows})
    seeds = sorted({r["seed"] for r in rows})
    hues = [GREY, *(OKABE_ITO[c] for c in ("vermillion", "blue", "green", "purple"))]
    looks = dict(zip(models, zip(hues, "xosD^", strict=True), strict=False))
    fig, axes = panels(width, len(views), most=2, height=1.7, sharey=True)
    for ax, (name, direction) in zip(axes, views, strict=True):
        ax.axhline(0, color=GREY, lw=0.8, ls="--")
        for place, model in enumerate(models):
            color, marker = looks[model]
            x = np.arange(len(ranks)) + 0.16 * (place - (len(models) - 1) / 2)
            gains = np.array([
                [found[model, s, name, direction, k] - found["before", s, name, direction, k]
                 for k in ranks]
                for s in seeds
            ])  # fmt: skip
            gains *= 100
            for row in gains:
                ax.plot(x, row, ".", color=color, ms=2.5, alpha=0.45)
            ax.plot(x, gains.mean(0), marker, color=color, ms=4, label=model)
        ax.set_xticks(range(len(ranks)), [f"R@{k}" for k in ranks])
        ax.set_title(f"{name}, {_DIRECTIONS[direction]}")
    for ax in axes[::2]:
        ax.set_ylabel("gain over the start\n(points)")
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=len(names))
    return fig


@styled()
def plot_refinement(
    record: RunRecord, paper: Mapping[int, float] | None = None, width: float = PAGE
) -> Figure:
    """Do K and the size of the pool matter, and does SPL win more checkpoints than it loses?

    Left, the share of captions that miss their motion, and right of it the gain in R@1 that
    refinement brings, against K, one line a pool; then the share of checkpoints at which SPL
    beats plain training (Fig. 8; the paper's in light grey).

    Reads:
        ``tables["sweep"]``: rows with ``k``, ``pool``, ``refined`` (share of captions) and
        ``gain`` (R@1, points), one a seed.
        ``tables["wins"]``: rows with ``set``, ``k``, ``rate`` (0 to 1).

    Args:
        record: See above.
        paper: Percent of wins by k, as in Fig. 8.
        width: Inches.

    Raises:
        ValueError: A table, or a column in it, is missing.
    """
    sweep = table_of(record, "sweep", ("k", "pool", "refined", "gain"))
    wins = table_of(record, "wins", ("set", "k", "rate"))
    fig, (missed, gained, won) = panels(width, 3, height=1.9)
    ks, pools = (sorted({row[key] for row in sweep}) for key in ("k", "pool"))
    shades = [OKABE_ITO[name] for name in ("sky", "blue", "black", "green", "purple")]
    for color, pool in zip(shades, pools, strict=False):
        for ax, key, scale in ((missed, "refined", 100), (gained, "gain", 1)):
            cells = [
                [scale * row[key] for row in sweep if (row["k"], row["pool"]) == (k, pool)]
                for k in ks
            ]
            mean = [float(np.mean(cell)) for cell in cells]
            ax.plot(range(len(ks)), mean, "o-", color=color, ms=3.5, label=f"pool {pool}")
            for x, cell in enumerate(cells):
                ax.plot([x] * len(cell), cell, ".", color=color, ms=2.5, alpha=0.45)
    for ax, label in (
        (missed, "captions that miss\ntheir motion (%)"), (gained, "gain in R@1 (points)"),
    ):  # fmt: skip
        ax.set(xlabel="K", ylabel=label)
        ax.set_xticks(range(len(ks)), ks)
        ax.yaxis.set_major_locator(MaxNLocator(5))
    missed.legend()
    gained.axhline(0, color=GREY, lw=0.8, ls="--")
    names = list(dict.fromkeys(row["set"] for row in wins))
    ranks = [k for k in (1, 2, 3) if any(row["k"] == k for row in wins)]
    for place, name in enumerate(names):
        rates = [
            100 * next(row["rate"] for row in wins if (row["set"], row["k"]) == (name, k))
            for k in ranks
        ]
        at = np.arange(len(ranks)) + 0.3 * (place - (len(names) - 1) / 2)
        won.bar(at, rates, 0.28, color=shades[place], label=name)
    if paper:
        light = method_style("paper")["color"]
        known = [(x, paper[k]) for x, k in enumerate(ranks) if k in paper]
        for x, rate in known:
            won.hlines(rate, x - 0.42, x + 0.42, color=light, lw=2.2, zorder=3,
                       label="_" if x else "paper, Fig. 8")  # fmt: skip
    won.axhline(50, color=GREY, lw=0.8, ls="--")
    won.set(ylabel="checkpoints won\nagainst plain (%)", ylim=(0, 100))
    won.set_xticks(range(len(ranks)), [f"R@{k}" for k in ranks])
    won.legend()
    return fig


@styled()
def plot_ranking_by_step(record: RunRecord, width: float = PAGE) -> Figure:
    """Which reward still ranks the right motion first, at which denoising step?

    Two panels: read from the noised state, and from the clean one it points to.

    Reads:
        ``series["rank/<state>/<reward>"]``, state "x_t" or "x0_hat": R@1 per step (0 to 1), with
        ``_low`` and ``_high``.

    Raises:
        ValueError: There is no such series.
    """
    keys = [k for k in record.series if k.startswith("rank/") and not k.endswith(("_low", "_high"))]
    if not keys:
        raise ValueError(f'no series "rank/..."; there are {sorted(record.series)}')
    states = [s for s in ("x_t", "x0_hat") if any(k.split("/")[1] == s for k in keys)]
    rewards = sorted({k.split("/")[2] for k in keys})
    hues = [OKABE_ITO[color] for color in ("blue", "vermillion", "green", "purple")]
    colors = dict(zip(rewards, hues, strict=False))
    fig, axes = panels(width, len(states), sharey=True)
    for ax, state in zip(axes, states, strict=True):
        for reward in rewards:
            key = f"rank/{state}/{reward}"
            if key not in record.series:
                continue
            steps = range(len(record.series[key]))
            _banded(ax, record, key, steps, colors[reward], label=reward)
        ax.set(xlabel="denoising step (0: noise)", ylim=(0, 1), title=method_style(state)["label"])
        ax.axhline(1 / 32, color=GREY, lw=0.8, ls=":")
    axes[0].set_ylabel("own motion ranked first")
    axes[-1].legend(loc="lower right", title="reward trained with\nnoise on (clean: none)")
    return fig


@styled()
def plot_noise_apart(record: RunRecord, width: float = PAGE) -> Figure:
    """Who makes noise readable, the encoder or the decoder in front of it?

    Cosine of a motion to itself under forward noise of one level: left, noise on the latent,
    read before the decoder, behind it, and behind the encoder; right, noise on the features.

    Reads:
        ``series["apart/<where>/<reader>"]``, where "latent" or "features": per level, mean
        cosine, with ``_low`` and ``_high``; ``series["apart/level"]``: the share of the variance
        that is noise.

    Raises:
        ValueError: There is no such series.
    """
    keys = [k for k in record.series if k.count("/") == 2 and k.startswith("apart/")]
    keys = [k for k in keys if not k.endswith(("_low", "_high"))]
    if not keys or "apart/level" not in record.series:
        raise ValueError(f'no series "apart/..."; there are {sorted(record.series)}')
    level = record.series["apart/level"]
    places = list(dict.fromkeys(k.split("/")[1] for k in keys))
    looks: Sequence[tuple[str, str]] = (
        (GREY, ":"), (OKABE_ITO["sky"], "--"), (OKABE_ITO["vermillion"], "-"),
        (OKABE_ITO["green"], "-."),
    )  # fmt: skip
    readers = list(dict.fromkeys(k.split("/")[2] for k in keys))
    look = dict(zip(readers, looks, strict=False))
    fig, axes = panels(width, len(places), sharey=True)
    for ax, place in zip(axes, places, strict=True):
        for reader in readers:
            key = f"apart/{place}/{reader}"
            if key not in record.series:
                continue
            color, style = look[reader]
            _banded(ax, record, key, level, color, ls=style, label=reader)
        ax.set(xlabel="share of the variance that is noise", title=f"noise on the {place}")
    axes[0].set_ylabel("cosine to the clean one")
    handles = {}
    for ax in axes:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    axes[0].legend(handles.values(), handles.keys(), loc="lower left")
    return fig


@styled()
def plot_hacking(
    record: RunRecord,
    metrics: Sequence[str] = ("reward", "mm_dist", "fid", "diversity", "foot_skate", "drift"),
    width: float = PAGE,
) -> Figure:
    """Where do reward and judge part, and does an anchor keep them together?

    One panel a metric, on test prompts, against updates; a line is the mean over seeds, its band
    their range. A dot marks the look that early stopping on validation would have kept.

    Reads:
        ``tables["looks"]``: rows with ``method``, ``seed``, ``split``, ``updates`` and the metrics.
        ``tables["parting"]``: rows with ``method``, ``seed`` and ``stop`` (updates).

    Raises:
        ValueError: A table, or a column in it, is missing.
    """
    looks = table_of(record, "looks", ("method", "seed", "split", "updates", *metrics))
    parting = table_of(record, "parting", ("method", "seed", "stop"))
    looks = [row for row in looks if row["split"] == "test"]
    methods = list(dict.fromkeys(row["method"] for row in looks))
    hues = [OKABE_ITO[color] for color in ("vermillion", "blue", "green", "purple", "black")]
    fig, axes = panels(width, len(metrics), most=3, height=1.6)
    for ax, metric in zip(axes, metrics, strict=True):
        for color, method in zip(hues, methods, strict=False):
            own = [row for row in looks if row["method"] == method]
            at = sorted({row["updates"] for row in own})
            columns = [[row[metric] for row in own if row["updates"] == u] for u in at]
            ax.plot(at, [float(np.mean(c)) for c in columns], color=color, label=method)
            low, high = [min(c) for c in columns], [max(c) for c in columns]
            ax.fill_between(at, low, high, color=color, alpha=0.15, lw=0)
            for row in (row for row in parting if row["method"] == method):
                kept = [r for r in own if (r["seed"], r["updates"]) == (row["seed"], row["stop"])]
                ax.plot(
                    row["stop"], kept[0][metric], "o", color=color, ms=3.5, mec="white", mew=0.5
                )
        ax.set_title(METRICS.get(metric, metric))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
    for ax in axes[-3:]:
        ax.set_xlabel("updates")
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=len(names))
    return fig


def _banded(
    ax: Axes, record: RunRecord, key: str, x: Sequence[int | float], color: str, **style: Any
) -> None:
    """One series between its ends."""
    ax.plot(x, record.series[key], color=color, **style)
    low, high = (record.series[f"{key}_{end}"] for end in ("low", "high"))
    ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
