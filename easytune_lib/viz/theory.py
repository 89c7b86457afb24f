"""The theory against measurement."""

from collections import defaultdict

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from easytune_lib.records import RunRecord
from easytune_lib.viz.curves import panels, table_of
from easytune_lib.viz.style import GREY, OKABE_ITO, PAGE, styled


@styled()
def plot_theory(record: RunRecord, width: float = PAGE) -> Figure:
    """Does EasyTune's gradient point where the whole chain's does, and does it converge?

    Left, cosine and ratio of norms of the two along a fine-tuning, one thin line a seed. Right,
    on a toy in which all is known, the mean squared gradient of a descent against the number of
    updates (dots) and the theorem's bound (lines), whose floor is the squared bias.

    Reads:
        ``tables["bias"]``: rows with ``seed``, ``updates``, ``cosine``, ``norm_ratio``.
        ``tables["convergence"]``: rows with ``n_steps``, ``updates``, ``measured``, ``bound`` and
        ``floor``.

    Raises:
        ValueError: A table, or a column in it, is missing.
    """
    bias = table_of(record, "bias", ("seed", "updates", "cosine", "norm_ratio"))
    toy = table_of(record, "convergence", ("n_steps", "updates", "measured", "bound", "floor"))
    fig, (along, bound) = panels(width, 2)
    looks = {"cosine": ("blue", "s", "cosine"), "norm_ratio": ("orange", "o", "ratio of norms")}
    for key, (color, marker, label) in looks.items():
        by_update = defaultdict(list)
        for row in bias:
            by_update[row["updates"]].append(row[key])
        mean = [float(np.mean(values)) for values in by_update.values()]
        along.plot(
            list(by_update), mean, color=OKABE_ITO[color], marker=marker, ms=3.5, label=label
        )
        for seed in {row["seed"] for row in bias}:
            own = [row for row in bias if row["seed"] == seed]
            along.plot(
                [row["updates"] for row in own], [row[key] for row in own],
                color=OKABE_ITO[color], lw=0.6, alpha=0.5,
            )  # fmt: skip
    along.axhline(1, color=GREY, lw=0.8, ls=":")
    along.set(xlabel="updates", title="EasyTune's gradient against the chain's", ylim=(0, None))
    along.set_ylabel("1: the same")
    along.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    along.legend()
    shades = [OKABE_ITO[color] for color in ("green", "vermillion", "purple", "black")]
    for color, n_steps in zip(shades, sorted({row["n_steps"] for row in toy}), strict=False):
        own = [row for row in toy if row["n_steps"] == n_steps]
        at = [row["updates"] for row in own]
        label = f"{n_steps} step{'s' * (n_steps > 1)}"
        bound.plot(at, [row["bound"] for row in own], color=color)
        bound.plot(at, [row["measured"] for row in own], "o", color=color, ms=3.5, label=label)
        if (floor := min(row["floor"] for row in own)) > 1e-9:
            bound.axhline(floor, color=color, lw=0.8, ls=":")
    bound.set(
        xlabel="updates $K$", xscale="log", yscale="log",
        title="toy: measured (dots), bound (lines)", ylabel="mean squared gradient",
    )  # fmt: skip
    at = sorted({row["updates"] for row in toy})
    bound.set_xticks(at, [str(count) for count in at])
    bound.xaxis.set_minor_formatter(NullFormatter())
    bound.legend()
    return fig
