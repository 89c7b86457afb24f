from dataclasses import replace

import numpy as np
import pytest
from made_motion import made_motion
from matplotlib.collections import PolyCollection
from viz_walking import walking

from easytune_lib.motion.skeleton import HUMANML3D, KIT
from easytune_lib.viz.motion import change, plot_pair, plot_path, plot_strip
from easytune_lib.viz.style import COLUMN, PAGE


def polygons(fig):
    ax = fig.axes[0]
    bodies = [c for c in ax.collections if isinstance(c, PolyCollection) and c.get_zorder() == 3]
    return ax, np.concatenate([p.vertices for c in bodies for p in c.get_paths()])


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT])
@pytest.mark.parametrize("draw", [plot_strip, plot_path])
def test_everything_drawn_is_inside_the_figure(draw, skeleton):
    fig = draw(walking(60, skeleton), n=6)
    ax, drawn = polygons(fig)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left <= drawn[:, 0].min() and drawn[:, 0].max() <= right
    assert low <= drawn[:, 1].min() and drawn[:, 1].max() <= high
    assert fig.get_figwidth() == PAGE


def test_feet_below_the_floor_are_shown():
    sunk = made_motion(3)
    assert sunk.joints[..., 1].min() < -0.2
    for fig in (plot_strip(sunk), plot_pair(walking(60), sunk), plot_path(sunk)):
        ax, drawn = polygons(fig)
        assert ax.get_ylim()[0] <= drawn[:, 1].min()


def test_a_metre_is_a_metre_in_both_directions():
    fig = plot_strip(walking(60), n=8)
    ax = fig.axes[0]
    width, height = ax.get_position().width * PAGE, ax.get_position().height * fig.get_figheight()
    across, up = np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())
    assert width / across == pytest.approx(height / up, rel=1e-6)


def test_bodies_fill_the_strip():
    """A figure that is there to show a person shows the person, not the paper."""
    fig = plot_strip(walking(60), n=8)
    ax, drawn = polygons(fig)
    assert np.ptp(drawn[:, 1]) > 0.75 * np.ptp(ax.get_ylim())


def test_times_are_seconds_from_the_first_to_the_last_frame():
    labels = [t.get_text() for t in plot_strip(walking(41), n=3).axes[0].texts]
    assert labels == ["0.0 s", "1.0 s", "2.0 s"]


def test_a_pair_shares_times_and_leaves_what_has_ended_empty():
    fig = plot_pair(walking(60), walking(21), names=("base", "EasyTune"), n=5)
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert texts.count("0.0 s") == 2 and texts.count("3.0 s") == 1
    assert {"base", "EasyTune"} <= set(texts)


def raised(motion, cm: float, *joints: str):
    moved = motion.joints.copy()
    moved[:, motion.skeleton.indices(*joints), 1] += cm / 100
    return replace(motion, joints=moved)


def test_change_is_the_mean_distance_with_the_roots_above_one_another():
    before = walking(60)
    elsewhere = replace(before, joints=before.joints + np.float32([3, 0, -2]))
    assert max(change(before, elsewhere).values()) < 1e-5
    moved = change(before, raised(raised(elsewhere, 20, "left_wrist"), 10, "head"))
    assert list(moved)[:2] == ["left_wrist", "head"] and len(moved) == 22
    assert list(moved.values())[:3] == pytest.approx([0.2, 0.1, 0.0], abs=1e-5)
    assert max(change(before, walking(30)).values()) < 1e-5  # over what both have
    assert max(change(walking(60, fps=20.0), walking(120, fps=40.0)).values()) < 1e-5


@pytest.mark.parametrize(("width", "n"), [(COLUMN, 5), (PAGE, 8)])
def test_the_joints_that_changed_most_have_rings_and_names(width, n):
    before = walking(60)
    after = raised(raised(before, 25, "left_shoulder"), 12, "right_wrist")
    fig = plot_pair(before, after, n=n, width=width, marked=2)
    ax = fig.axes[0]
    legend = ax.get_legend()
    assert [t.get_text() for t in legend.get_texts()] == [
        "left shoulder 25 cm",
        "right wrist 12 cm",
    ]
    assert len([line for line in ax.lines if line.get_marker() == "o"]) == 2 * 2 * n
    assert min(t.get_fontsize() for t in legend.get_texts()) >= 7
    fig.draw_without_rendering()
    box = legend.get_window_extent()
    name = next(t for t in ax.texts if t.get_text() == "after").get_window_extent()
    assert name.x1 < box.x0 and box.x1 <= fig.bbox.width and not box.overlaps(name)


def test_what_did_not_change_has_no_ring_and_other_skeletons_none():
    before = walking(60)
    assert plot_pair(before, before).axes[0].get_legend() is None
    one = plot_pair(before, raised(before, 5, "head")).axes[0].get_legend()
    assert [t.get_text() for t in one.get_texts()] == ["head 5 cm"]
    with pytest.raises(ValueError, match=r"one skeleton.*marked=0"):
        plot_pair(before, walking(60, KIT))
    assert plot_pair(before, walking(60, KIT), marked=0).axes[0].get_legend() is None
    with pytest.raises(ValueError, match="0 to 3 joints, got 4"):
        plot_pair(before, before, marked=4)


def test_more_poses_than_frames_are_refused():
    with pytest.raises(ValueError, match="5 frames, got 8"):
        plot_strip(walking(5))
