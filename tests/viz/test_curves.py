from functools import partial

import numpy as np
import pytest
from viz_fit import check_fit

from easytune_lib.records import RunRecord
from easytune_lib.viz import curves
from easytune_lib.viz.style import method_style

STEPS = 8
METHODS = ("EasyTune", "DRaFT-10", "ReFL")


def preferred(rater: str, base: int, same: int, tuned: int) -> dict:
    total = base + same + tuned
    counts = {"base": base, "same": same, "tuned": tuned}
    row: dict = {"rater": rater, "votes": total} | counts
    for kind, count in counts.items():
        share = count / total if total else None
        row |= {f"{kind}_share": share, f"{kind}_low": 0.8 * (share or 0), f"{kind}_high": 1.0}
    return row


def record() -> RunRecord:
    rng = np.random.default_rng(0)
    product = 0.9 ** np.arange(STEPS, 0, -1)
    series = {
        "jacobian_norm": np.full(STEPS, 0.9),
        "jacobian_norm_low": np.full(STEPS, 0.8),
        "jacobian_norm_high": np.full(STEPS, 1.0),
        "product_norm": product,
        "jacobian_norm_divided": np.full(STEPS, 0.01),
        "product_norm_divided": 1e-3 ** np.arange(STEPS, 0, -1),
        "share/DRaFT-10": np.r_[np.zeros(STEPS - 3), 1, 2, 4],
        "share/EasyTune": np.ones(STEPS),
        "x_t": np.linspace(0, 1, STEPS),
        "x0_hat": np.linspace(0.5, 1, STEPS),
    }
    tables = {
        "curves": [
            {"method": m, "seed": s, "reward": rng.normal(size=50).tolist()}
            for m in METHODS
            for s in (0, 1)
        ],
        "methods": [
            {"method": m, "seed": s, "r1": rng.random(), "fid": rng.random()}
            for m in ("base", *METHODS)
            for s in (0, 1)
        ],
        "memory": [
            {"method": m, "steps": k, "saved_mib": 10.0 * (k if m == "DRaFT-10" else 1)}
            for m in METHODS
            for k in (5, 1, 10)
        ],
        "parts": [
            {"model": m, "part": p, "value": 0.5 + i, "low": 0.4 + i, "high": 0.7 + i}
            for i, m in enumerate(("base", "alone", "mixed"))
            for p in ("hand (m)", "alignment", "R@1", "MM-Dist", "forearm (cm)")
        ],
        "backbones": [
            {
                "backbone": b,
                "method": m,
                "r1_gain": 0.1 * i,
                "r1_gain_low": low,
                "r1_gain_high": 0.5,
                "mm_dist_percent": 4.0 * i,
                "mm_dist_percent_low": None,
                "mm_dist_percent_high": None,
                "saved_mib": 10.0 * i or None,
            }
            for b, low in (("MLD", 0.0), ("MDM", None))
            for i, m in enumerate(("base", "EasyTune", "DRaFT"))
        ],
        "preferences": [preferred("judge", 8, 5, 12), preferred("anna", 0, 0, 0)],
    }
    seconds = [np.arange(1.0, 51.0).tolist() for _ in tables["curves"]]
    plain = {key: [float(v) for v in values] for key, values in series.items()}
    tables["memory_by_k"] = [row | {"base": "mdm"} for row in tables["memory"]]
    tables["memory"] = [row | {"base": "mdm"} for row in tables["memory"]]
    return RunRecord("demo", {}, series=plain, tables=tables, machine={"curve_seconds": seconds})


RECORD = record()
PLOTS = {
    "gradient_norms": {"paper": {"step": [0, 1, 5], "product_norm": [1.0, 0.3, 0.0]}},
    "noise_similarity": {"paper": {"step": [0, 15], "similarity": [1.0, 0.5]}},
    "reward_curves": {},
    "method_table": {},
    "memory": {},
    "reward_by_step": {},
    "backbone_cost": {},
    "reward_parts": {},
    "six_backbones": {"paper": {"MDM": (4.0, 3.0)}},
    "preferences": {"paper": {"paper: alignment": [9.0, 18.0, 73.0]}},
}


@pytest.mark.parametrize("name", PLOTS)
def test_each_fits_its_width_with_words_on_its_axes(name):
    check_fit(partial(getattr(curves, f"plot_{name}"), RECORD, **PLOTS[name]))


def lines(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in ax.lines}


def test_shares_add_up_to_one_and_steps_not_recorded_are_left_out():
    shares = lines(curves.plot_gradient_norms(RECORD).axes[2])
    assert set(shares) == {"DRaFT-10", "EasyTune"}
    for share in shares.values():
        assert np.nansum(share) == pytest.approx(1)
    assert np.isnan(shares["DRaFT-10"][: STEPS - 3]).all()


def test_the_papers_clean_end_lies_at_the_last_step():
    ax = curves.plot_gradient_norms(RECORD, **PLOTS["gradient_norms"]).axes[1]
    (paper,) = [line for line in ax.lines if line.get_label() == "paper, Fig. 3"]
    assert paper.get_xdata()[0] == STEPS - 1 and paper.get_color() == method_style("paper")["color"]
    ax = curves.plot_noise_similarity(RECORD, **PLOTS["noise_similarity"]).axes[0]
    (paper,) = [line for line in ax.lines if line.get_label() == "paper, $x_t$"]
    assert paper.get_xdata().tolist() == [STEPS - 1, 0]


def test_reward_is_a_running_mean_over_seconds_or_updates():
    constant = [{"method": "EasyTune", "seed": 0, "reward": [2.0] * 30}]
    flat = RunRecord("demo", {}, tables={"curves": constant})
    fig = curves.plot_reward_curves(flat, x="updates")
    assert np.allclose(lines(fig.axes[0])["EasyTune"], 2.0)
    with pytest.raises(ValueError, match="curve_seconds"):
        curves.plot_reward_curves(flat)


def test_memory_is_drawn_from_few_steps_to_many():
    drawn = lines(curves.plot_memory(RECORD).axes[0])
    assert drawn["EasyTune"].tolist() == [10, 10, 10]
    assert drawn["DRaFT-10"].tolist() == [10, 50, 100]


def test_dots_are_means_and_base_is_a_line():
    ax = curves.plot_method_table(RECORD, metrics=("r1",)).axes[0]
    mean = {m: np.mean([r["r1"] for r in RECORD.tables["methods"] if r["method"] == m])
            for m in ("base", *METHODS)}  # fmt: skip
    xs = [float(np.mean(line.get_xdata())) for line in ax.lines]
    for value in mean.values():
        assert np.isclose(xs, value).any()
    assert [t.get_text() for t in ax.get_yticklabels()] == list(METHODS[::-1])


def test_paired_differences_stand_at_zero_for_the_rival():
    ends = {"r1_low": 0.05, "r1_high": 0.15, "fid": -0.1, "fid_low": None, "fid_high": None}
    row = {"method": "EasyTune, hops", "rival": "ReFL", "r1": 0.1, **ends}
    record = RunRecord("demo", {}, tables={"paired": [row, row | {"method": "DRTune", "r1": -0.1}]})
    r1, fid = curves.plot_paired(record, metrics=("r1", "fid")).axes
    assert [text.get_text() for text in r1.get_yticklabels()] == ["DRTune", "EasyTune, hops"]
    assert r1.get_xlabel().endswith("less ReFL's")
    drawn = [line.get_xdata() for line in r1.lines]
    assert list(drawn[0]) == [0, 0] and [x[0] for x in drawn[1:]] == [-0.1, 0.1]
    assert len(r1.collections) == 2 and not fid.collections, "one seed has no interval"


def test_ceilings_are_lines_with_a_legend():
    ceilings = [
        {"method": m, "split": split, "r1": value}
        for m, value in (("real", 0.9), ("VAE", 0.8)) for split in ("test", "unseen")
    ]  # fmt: skip
    tables = {"methods": RECORD.tables["methods"], "ceilings": ceilings}
    fig = curves.plot_method_table(RunRecord("demo", {}, tables=tables), metrics=("r1",))
    drawn = [list(line.get_xdata()) for line in fig.axes[0].lines]
    assert drawn.count([0.9, 0.9]) == drawn.count([0.8, 0.8]) == 1
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == ["real motion", "VAE reconstruction"]


@pytest.mark.parametrize("name", PLOTS)
def test_a_missing_key_is_named(name):
    with pytest.raises(ValueError, match=r"no (series|table)"):
        getattr(curves, f"plot_{name}")(RunRecord("demo", {}))


def test_backbones_have_a_row_each_and_bars_where_there_are_intervals():
    gain, distance, memory = curves.plot_six_backbones(RECORD, **PLOTS["six_backbones"]).axes
    assert [t.get_text() for t in gain.get_yticklabels()] == ["MDM", "MLD"]
    assert len(gain.collections) == 2 and not distance.collections, "of the two methods on MLD"
    drawn = {line.get_label(): list(line.get_xdata()) for line in distance.lines}
    assert drawn["EasyTune"] == [4, 4] and drawn["DRaFT"] == [8, 8]
    assert drawn["EasyTune in the paper"] == [25.0]
    assert memory.get_xscale() == "log" and "base" not in drawn


def test_bars_of_preferences_fill_a_hundred_and_whiskers_hang_on_their_borders():
    ax = curves.plot_preferences(RECORD, PLOTS["preferences"]["paper"]).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["judge (25)", "paper: alignment"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([32, 20, 48, 9, 18, 73])
    base, tuned = (np.ptp(c.get_segments()[0][:, 0]) for c in ax.collections[:2])
    assert (base, tuned) == pytest.approx((100 - 0.8 * 32, 100 - 0.8 * 48))
    nobody = RunRecord("demo", {}, tables={"preferences": [preferred("anna", 0, 0, 0)]})
    with pytest.raises(ValueError, match="nobody has voted"):
        curves.plot_preferences(nobody)


def test_parts_of_a_reward_have_a_panel_each_and_the_base_as_a_line():
    fig = curves.plot_reward_parts(RECORD)
    assert [ax.get_xlabel() for ax in fig.axes][:2] == ["hand (m)", "alignment"]
    assert len(fig.axes) == 5
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["mixed", "alone", "base model"]
    assert any(list(line.get_xdata()) == [0.5, 0.5] for line in ax.lines)
    spans = [c.get_segments()[0][:, 0].tolist() for c in ax.collections]
    assert spans == [pytest.approx([0.4 + i, 0.7 + i]) for i in range(3)]
