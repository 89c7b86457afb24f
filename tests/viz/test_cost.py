from functools import partial

import numpy as np
import pytest
from viz_fit import check_fit

from easytune_lib.records import RunRecord
from easytune_lib.viz import cost
from easytune_lib.viz.style import method_style

BASES = ("mld", "mdm")
METHODS = ("EasyTune", "DRaFT-4", "ReFL")


def reached(method, count, low, middle, high, clock="seconds"):
    return {
        "base": "mld", "clock": clock, "threshold": 0.75, "method": method, "seeds": 3,
        "reached": count, "median": middle, "low": low, "high": high, "ran": 45.0,
    }  # fmt: skip


def record() -> RunRecord:
    held = [
        {"base": base, "axis": axis, "value": value, "method": method,
         "saved_mib": 2.0 * value, "foretold_mib": 2.1 * value}
        for base in BASES for axis in ("n_steps", "batch_size", "frames")
        for method in METHODS[:2] for value in (4, 8, 16)
    ]  # fmt: skip
    took = [row | {"seconds": 0.1 * row["value"], "foretold": 0.11 * row["value"]} for row in held]
    tables = {
        "quality": [
            {"base": base, "method": method, "saved_mib": 10.0 * (i + 1), "r1": 0.5 + 0.1 * i,
             "r1_low": None if method == "base" else 0.4, "r1_high": 0.9}
            for base in BASES for i, method in enumerate(("base", *METHODS))
        ],
        "held_by_step": [
            {"base": base, "method": method, "step": step,
             "saved_mib": 5.0 * (step if method == "DRaFT-4" else 1)}
            for base in BASES for method in METHODS for step in (1, 2, 3, 4)
        ],
        "reach": [
            reached("EasyTune", 3, 4.0, 5.0, 8.0), reached("DRaFT-4", 2, 9.0, 20.0, None),
            reached("ReFL", 0, None, None, None),
            reached("EasyTune", 3, 4.0, 5.0, 8.0, "evaluations"),
        ],
        "scaling": held,
        "held_slopes": [
            {"base": base, "hold": hold, "step": step, "cosine": 1 - 0.1 * (step % hold)}
            for base in BASES for hold in (2, 4) for step in range(6)
        ],
        "methods": [
            {"space": space, "method": method, "live_mib": value}
            for space in ("latent", "feature")
            for method, value in (("sampling alone", 20.0), ("DRaFT", 120.0), ("EasyTune", 30.0))
        ],
    }  # fmt: skip
    updates = [
        {"way": "plain loop", "gain": 1.0, "gain_low": 1.0, "gain_high": 1.0},
        {"way": "exact tricks", "gain": 2.0, "gain_low": 1.5, "gain_high": 3.0},
    ]
    return RunRecord("demo", {}, tables=tables, machine={"scaling": took, "updates": updates})


RECORD = record()
PAPER = {"step": [2, 4], "DRaFT-4": [6.0, 12.0], "EasyTune": [2.0, 2.0]}
PLOTS = {
    "quality_memory": {}, "held_by_step": {"paper": PAPER}, "reach": {"base": "mld"},
    "scaling": {}, "held_slopes": {}, "bench": {"share": 0.25},
}  # fmt: skip


@pytest.mark.parametrize("name", PLOTS)
def test_each_fits_its_width_with_words_on_its_axes(name):
    check_fit(partial(getattr(cost, f"plot_{name}"), RECORD, **PLOTS[name]))


@pytest.mark.parametrize("name", PLOTS)
def test_a_missing_table_is_named(name):
    with pytest.raises(ValueError, match="no table"):
        getattr(cost, f"plot_{name}")(RunRecord("demo", {}), **PLOTS[name])
    with pytest.raises(ValueError, match="no table"):
        cost.plot_scaling(RunRecord("demo", {}, tables=RECORD.tables))
    with pytest.raises(ValueError, match='no table "updates" of times'):
        cost.plot_bench(RunRecord("demo", {}, tables=RECORD.tables), share=0.25)


def test_a_dot_a_method_and_the_base_as_a_line():
    ax = cost.plot_quality_memory(RECORD).axes[0]
    dots = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert dots["EasyTune"] == [[20.0, 0.6]]
    assert dots["DRaFT, whole chain"] == [[30.0, 0.7]]
    assert any(list(line.get_ydata()) == [0.5, 0.5] for line in ax.lines)
    rows = [row | {"saved_mib": 20.0} for row in RECORD.tables["quality"]]
    side = cost.plot_quality_memory(RunRecord("demo", {}, tables={"quality": rows})).axes[0]
    places = [line.get_xdata()[0] for line in side.lines if len(line.get_xdata()) == 1]
    assert len(set(places)) == len(METHODS), "equal memory stands side by side"
    assert len(ax.collections) == len(METHODS)


def test_the_papers_memory_ends_where_ours_does():
    """Ours 20 MiB; theirs 12 GB above a floor of 2: 10 GB are 20 MiB, 4 GB are 8."""
    ax = cost.plot_held_by_step(RECORD, PAPER).axes[0]
    grey = [line for line in ax.lines if line.get_color() == method_style("paper")["color"]]
    assert [list(line.get_ydata()) for line in grey] == [[8.0, 20.0], [0.0, 0.0]]


def test_a_method_that_never_gets_there_is_hollow_at_the_end_of_its_run():
    seconds, evaluations = cost.plot_reach(RECORD, "mld").axes
    dots = {line.get_ydata()[0]: line for line in seconds.lines}
    easy, draft, refl = (dots[y] for y in (2, 1, 0))
    assert easy.get_xdata()[0] == 5 and refl.get_xdata()[0] == 45
    assert refl.get_markerfacecolor() == "white" != draft.get_markerfacecolor()
    assert [t.get_text() for t in seconds.texts] == ["1 of 3 never", "3 of 3 never"]
    assert "reward evaluations" in evaluations.get_xlabel()
    assert len(seconds.collections) == 2, "no bar without a seed"


def test_marks_are_measured_and_lines_foretold():
    fig = cost.plot_scaling(RECORD)
    memory, *_ = fig.axes
    foretold, marks = memory.lines[:2]
    assert np.allclose(foretold.get_ydata(), [8.4, 16.8, 33.6]) and foretold.get_marker() == "None"
    assert list(marks.get_ydata()) == [8, 16, 32] and marks.get_markerfacecolor() == "white"
    assert len(fig.axes) == 6 and "CPU seconds" in fig.axes[3].get_ylabel()


def test_the_bench_shows_each_way_each_space_and_the_papers_share():
    """Sampling takes 20, DRaFT 100 more: a quarter of that ends at 45."""
    speed, memory = cost.plot_bench(RECORD, share=0.25).axes
    assert [t.get_text() for t in speed.get_yticklabels()] == ["exact tricks", "plain loop"]
    assert [line.get_xdata().tolist() for line in speed.lines[:2]] == [[1.5, 3.0], [2.0]]
    drawn = [line for line in memory.lines if len(line.get_xdata())]
    faces = {line.get_markerfacecolor() for line in drawn if list(line.get_xdata()) == [30.0]}
    assert faces == {"white", method_style("EasyTune")["color"]}
    strokes = [line.get_xdata()[0] for line in drawn if line.get_marker() == "|"]
    assert strokes == pytest.approx([45.0, 45.0])
