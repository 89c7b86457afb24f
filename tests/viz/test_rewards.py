import numpy as np
import pytest

from easytune_lib.records import RunRecord
from easytune_lib.viz import rewards
from easytune_lib.viz.style import COLUMN, PAGE

STEPS = 6


def record() -> RunRecord:
    tables = {
        "recall": [
            {"model": model, "seed": seed, "set": name, "direction": direction, "k": k,
             "trained": trained, "recall": 0.5 + gain / trained + 0.01 * k}
            for model, gain in (("before", 0.0), ("plain", 0.02), ("SPL", 0.04))
            for seed in (0, 1) for trained in (1, 9) for name in ("labels", "human captions")
            for direction in ("t2m", "m2t") for k in (1, 3)
        ],
        "sweep": [
            {"k": k, "pool": pool, "seed": seed, "refined": 0.1 * k, "gain": float(seed)}
            for k in (1, 10) for pool in (64, 256) for seed in (0, 1)
        ],
        "wins": [
            {"set": name, "k": k, "wins": 3.0, "pairs": 4, "rate": 0.75}
            for name in ("labels", "human captions") for k in (1, 2, 3, 5)
        ],
        "looks": [
            {"method": method, "seed": 0, "split": split, "updates": updates,
             "reward": 0.1 * updates, "mm_dist": 1.0 + updates, "fid": 0.5, "diversity": 1.0,
             "foot_skate": 0.2, "drift": 0.0}
            for method in ("no anchor", "anchor 3") for split in ("validation", "test")
            for updates in (0, 10, 20)
        ],
        "parting": [
            {"method": method, "seed": 0, "stop": 10} for method in ("no anchor", "anchor 3")
        ],
    }  # fmt: skip
    series = {"apart/level": np.linspace(0, 1, STEPS).tolist()}
    for name in (
        "rank/x_t/clean", "rank/x0_hat/clean", "rank/x_t/latent", "apart/latent/latent itself",
        "apart/latent/features", "apart/features/features",
    ):  # fmt: skip
        series |= {f"{name}{end}": [0.5] * STEPS for end in ("", "_low", "_high")}
    return RunRecord("demo", {}, series=series, tables=tables)


RECORD = record()
PLOTS = ("recall", "refinement", "ranking_by_step", "noise_apart", "hacking")


@pytest.mark.parametrize("name", PLOTS)
def test_each_fits_its_width(name):
    draw = getattr(rewards, f"plot_{name}")
    for width in (PAGE, COLUMN):
        fig = draw(RECORD, width=width)
        assert fig.get_figwidth() == width
        fig.draw_without_rendering()
        for ax in fig.axes:
            box = ax.get_tightbbox()
            assert box.x0 > -2 and box.x1 < fig.bbox.width + 2  # pixels


@pytest.mark.parametrize("name", PLOTS)
def test_a_missing_key_is_named(name):
    with pytest.raises(ValueError, match=r"no (series|table)"):
        getattr(rewards, f"plot_{name}")(RunRecord("demo", {}))


def test_recall_is_drawn_as_gain_over_the_same_seed():
    fig = rewards.plot_recall(RECORD)
    assert [ax.get_title(loc="left") for ax in fig.axes][:2] == [
        "labels, text to motion", "labels, motion to text",
    ]  # fmt: skip
    means = [line for line in fig.axes[0].lines if line.get_label() in ("plain", "SPL")]
    assert [np.allclose(line.get_ydata(), 2.0) for line in means] == [True, False]
    assert np.allclose(means[1].get_ydata(), 4.0)


def test_the_dot_of_a_course_is_the_look_that_validation_keeps():
    ax = rewards.plot_hacking(RECORD).axes[0]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots] == [(10, 1.0)] * 2
    assert "MM-Dist" in rewards.plot_hacking(RECORD).axes[1].get_title(loc="left")


def test_chance_and_states_are_named():
    fig = rewards.plot_ranking_by_step(RECORD)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["$x_t$", r"$\hat{x}_0$"]
    assert any(np.allclose(line.get_ydata(), 1 / 32) for line in fig.axes[0].lines)
