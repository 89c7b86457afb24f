import matplotlib
import pytest

from easytune_lib.viz.style import (
    COLUMN,
    PaperFigure,
    body_colors,
    method_style,
    run_colors,
    styled,
)


def test_settings_share_the_colour_of_their_method_and_nothing_else():
    names = ["EasyTune", "EasyTune (strided)", "EasyTune (random step)", "DRaFT-10", "DRaFT-50"]
    styles = [method_style(name) for name in names]
    assert len({s["color"] for s in styles[:3]}) == len({s["color"] for s in styles[3:]}) == 1
    looks = {(s["color"], s["linestyle"], s["marker"]) for s in styles}
    assert len(looks) == len(names)


def test_methods_differ_in_colour_and_marker():
    names = ["EasyTune", "DRaFT-50", "AlignProp", "DRTune", "ReFL", "base", "real", "VAE", "paper"]
    styles = [method_style(name) for name in names]
    assert len({s["color"] for s in styles}) == len({s["marker"] for s in styles}) == len(names)


def test_a_new_method_has_a_look_of_its_own_each_time():
    assert method_style("MyMethod") == method_style("MyMethod")
    assert method_style("MyMethod")["color"] not in {method_style("EasyTune")["color"]}
    assert method_style("MyMethod")["label"] == "MyMethod"


def test_runs_have_their_methods_colour_and_stay_apart():
    methods = ["EasyTune, random step", "DRaFT-5", "EasyTune, 4 strided", "EasyTune, random step"]
    colors = run_colors(methods)
    assert colors[:2] == [method_style(name)["color"] for name in methods[:2]]
    assert len(set(colors)) == 4 and run_colors(methods[:3]) == colors[:3]


def test_bodies_take_their_methods_colour_but_never_black():
    colors = body_colors(["base", "EasyTune", "real", "", "someone"])
    assert colors[:2] == [method_style("base")["color"], method_style("EasyTune")["color"]]
    assert len(set(colors)) == 5 and "#000000" not in colors


def test_the_style_ends_with_its_block():
    before = matplotlib.rcParams["pdf.fonttype"]
    with styled():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert matplotlib.rcParams["pdf.fonttype"] == before


def test_a_figure_shows_itself_in_a_notebook():
    with styled():
        fig = PaperFigure(COLUMN, 1.0)
    png, size = fig._repr_png_()
    assert png.startswith(b"\x89PNG") and size["width"] == pytest.approx(110 * COLUMN, abs=1)
