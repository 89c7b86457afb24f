import json
from dataclasses import replace

import numpy as np
import plotly.io as pio
import pytest
from viz_walking import walking

from easytune_lib.motion.skeleton import HUMANML3D, KIT
from easytune_lib.viz.interactive import KEPT, explore_paths, explore_sweep
from easytune_lib.viz.style import method_style

ROWS = [
    {"method": m, "lr": lr, "seed": seed, "state": "done", "seconds": 2.0, "job": "x",
     "reward": lr * 10 + seed, "r1": 0.5}
    for m in ("EasyTune", "ReFL") for lr in (5e-4, 1e-5, 5e-5) for seed in (0, 1)
]  # fmt: skip
VARIED = ["method", "lr", "seed"]


def axes(figure):
    return {axis["label"]: axis for axis in json.loads(figure.to_json())["data"][0]["dimensions"]}


def test_what_was_varied_stands_before_what_came_out():
    found = axes(explore_sweep(ROWS, VARIED))
    assert list(found) == ["method", "lr", "seed", "reward", "r1"]
    assert found["lr"]["ticktext"] == ["1e-05", "5e-05", "0.0005"]  # by size, not as they came
    assert found["lr"]["values"][:3] == [2, 2, 0]
    assert found["method"]["ticktext"] == ["ReFL", "EasyTune"]  # plotly begins below
    assert found["reward"]["values"] == [row["reward"] for row in ROWS]


def test_lines_have_their_methods_colour():
    (lines,) = explore_sweep(ROWS, VARIED).data
    for row, number in zip(ROWS, lines.line.color, strict=True):
        place = (number - lines.line.cmin) / (lines.line.cmax - lines.line.cmin)
        above = next(tone for end, tone in lines.line.colorscale if end > place)
        assert above == method_style(row["method"])["color"]
    assert set(explore_sweep(ROWS, ["lr"]).data[0].line.color) == {0}


def test_runs_that_have_not_ended_well_are_left_out():
    rows = [ROWS[0], ROWS[1] | {"state": "failed"}, ROWS[2] | {"r1": float("nan")}]
    figure = explore_sweep(rows, VARIED, ["r1"])
    assert axes(figure)["seed"]["ticktext"] == ["0"] and figure.layout.title.text == "1 runs"
    with pytest.raises(ValueError, match="of 1 runs, none is done and has r1"):
        explore_sweep(rows[2:], VARIED, ["r1"])
    with pytest.raises(ValueError, match="no finished run has r9; there are method, lr"):
        explore_sweep(rows, VARIED, ["r9"])
    with pytest.raises(ValueError, match="no finished run has method"):
        explore_sweep([], VARIED)


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT])
def test_ways_are_where_the_joints_are_and_the_ground_is_at_zero(skeleton):
    motion = walking(60, skeleton)
    figure = explore_paths([motion], ["base"], ["left_wrist"])
    ground, root, wrist, pose = figure.data
    assert set(ground.z) == {0.0}
    assert wrist.name == "base: left wrist" and root.line.dash != wrist.line.dash
    place = motion.joints[:, skeleton.index("left_wrist")]
    drawn = np.stack([wrist.x, wrist.y, wrist.z])
    turn = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert np.linalg.det(turn) == 1  # no mirror: left stays left
    assert np.allclose(drawn, turn @ place.T, atol=5e-4 + 1e-6)
    assert wrist.customdata[20] == pytest.approx(20 / motion.fps)
    assert np.isnan(pose.x).sum() == len(skeleton.bones)
    for name, values in (("xaxis", root.x), ("yaxis", root.y), ("zaxis", root.z)):
        low, high = figure.layout.scene[name].range
        assert low < values.min() and values.max() < high


def test_a_metre_is_a_metre_along_each_axis():
    scene = explore_paths([walking(60)], ["base"]).layout.scene
    spans = [np.ptp(scene[name].range) for name in ("xaxis", "yaxis", "zaxis")]
    shown = [scene.aspectratio[name] for name in "xyz"]
    assert np.allclose(np.divide(shown, spans), shown[0] / spans[0])


def test_bodies_have_their_methods_colours_and_texts_no_tags():
    evil = "<a href='x'>y</a>"
    figure = explore_paths([walking(9), walking(9)], ["base", evil], title=evil)
    assert figure.data[1].line.color == method_style("base")["color"] != figure.data[5].line.color
    assert "<" not in figure.layout.title.text + "".join(trace.name for trace in figure.data)


def test_names_and_joints_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="got 1 motions and 2 names"):
        explore_paths([walking(9)], ["a", "b"])
    with pytest.raises(ValueError, match="no joint 'tail'"):
        explore_paths([walking(9)], ["a"], ["tail"])


def test_a_notebook_keeps_data_alone():
    motion = replace(walking(196), text="a person walks")
    figure = explore_paths([motion, motion], ["base", "tuned"])
    assert figure.layout.title.text == "a person walks"
    kept = pio.renderers[KEPT].to_mimebundle(figure.to_dict())
    assert list(kept) == ["application/vnd.plotly.v1+json"] and len(figure.to_json()) < 60_000
