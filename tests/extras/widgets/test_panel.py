import json
import re

import pytest

from easytune_lib.extras.widgets.panel import Panel, button, chart, choice, line, slider

EVIL = "</script><img src=x onerror=alert(1)>"


class Adder(Panel):
    asked = 0

    def compute(self, values):
        self.asked += 1
        if values["b"] == "bad":
            raise ValueError("b is bad")
        return {"note": values["a"] + values["b"]}

    def press(self, name):
        self.pressed = name


def adder(label: str = "add") -> Adder:
    controls = [slider("a", "A", [1, 2]), choice("b", "B", ["x", "bad"]), button("go", "Go")]
    return Adder(label, controls, {"a": "1", "b": "x"}, {"charts": []})


def test_each_change_is_answered_once():
    panel = adder()
    assert (panel.shown["note"], panel.asked) == ("1x", 1)
    assert panel.set(a=2)["note"] == "2x"
    assert panel.set(a=1)["note"] == "1x" and panel.asked == 2  # the first answer is kept
    assert panel.view["key"] == '["2","x"]'


def test_an_error_is_said_and_not_kept():
    panel = adder()
    assert panel.set(b="bad") == {"charts": [], "note": "b is bad", "failed": True}
    assert panel.set(b="x")["note"] == "1x"


def test_the_page_holds_what_was_computed():
    panel = adder()
    panel.set(a=2)
    spec = re.search(r"panel\(document.getElementById\('player'\), (.*)\);</script>", panel.page())
    views = json.loads(spec[1])["views"]
    assert {key: view["note"] for key, view in views.items()} == {
        '["1","x"]': "1x",
        '["2","x"]': "2x",
    }
    assert not re.search(r"https?://|\bfetch\(|\bimport\s*\(|innerHTML", panel.page())


def test_words_stay_words():
    bundle = adder(EVIL)._repr_mimebundle_()
    html = (bundle[0] if isinstance(bundle, tuple) else bundle)["text/html"]
    assert html.startswith("<iframe") and "<img" not in html
    assert "<img" not in adder(EVIL).page()


def test_buttons_reach_python():
    panel = adder()
    panel._hear(None, {"button": "gone"}, [])
    assert not hasattr(panel, "pressed")
    panel._hear(None, {"button": "go"}, [])
    assert panel.pressed == "go"


@pytest.mark.parametrize(
    ("values", "message"), [({"c": 1}, "no control 'c'"), ({"a": 3}, "one of 1, 2; got 3")]
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        adder().set(**values)


def test_curves_are_short_numbers():
    curve = line("r", [1, 2, 3], [0.123456, float("nan"), float("inf")], 7)
    assert curve["y"] == [0.1235, None, None]
    assert chart("t", "x", [curve], log=True)["log"]
