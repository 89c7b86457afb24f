import pytest

from easytune_lib.records import RunRecord
from easytune_lib.viz.theory import plot_theory

BIAS = [
    {"seed": seed, "updates": at, "cosine": 0.9 - at / 100, "norm_ratio": 2.0 + seed}
    for seed in (0, 1)
    for at in (0, 10)
]
TOY = [
    {"n_steps": n, "updates": k, "measured": 1 / k, "bound": 2 / k + floor, "floor": floor}
    for n, floor in ((1, 0.0), (8, 0.5))
    for k in (25, 100)
]


def test_means_seeds_bounds_and_floors_are_drawn():
    fig = plot_theory(RunRecord("theory", {}, tables={"bias": BIAS, "convergence": TOY}))
    along, bound = fig.axes
    thick = {line.get_label(): line for line in along.lines if line.get_marker() != "None"}
    assert list(thick["cosine"].get_ydata()) == pytest.approx([0.9, 0.8])
    assert list(thick["ratio of norms"].get_ydata()) == pytest.approx([2.5, 2.5])
    assert len(along.lines) == 2 + 4 + 1, "two means, two seeds of each, and where both would be 1"
    labels = [text.get_text() for text in bound.get_legend().get_texts()]
    assert labels == ["1 step", "8 steps"]
    flat = [line for line in bound.lines if len(set(line.get_ydata())) == 1]
    assert [line.get_ydata()[0] for line in flat] == [0.5], "only where there is a bias"


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="convergence"):
        plot_theory(RunRecord("theory", {}, tables={"bias": BIAS}))
