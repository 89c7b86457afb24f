"""Controls beside charts and motions: live on a kernel, and as a page of what was computed."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from easytune_lib.viz.player import PLAYER, script, standalone
from easytune_lib.viz.style import OKABE_ITO

View = dict[str, Any]
"""What is on the screen: ``charts``, ``mark``, ``player``, ``table``, ``curves`` of its rows,
``note``, ``failed``, ``progress``; and ``motions``: of a player's content, what changes."""

COLORS = tuple(OKABE_ITO[name] for name in ("blue", "vermillion", "green", "purple", "orange"))
_SCRIPT = Path(__file__).with_name("panel.js")


def slider(name: str, label: str, options: Sequence[object]) -> dict[str, Any]:
    """A control that is dragged over a few values, which are shown as text."""
    return {"kind": "slider", "name": name, "label": label, "options": [str(o) for o in options]}


def choice(name: str, label: str, options: Sequence[object]) -> dict[str, Any]:
    """A control with a list to choose from."""
    return slider(name, label, options) | {"kind": "choice"}


def button(name: str, label: str, *, main: bool = False, off: bool = False) -> dict[str, Any]:
    """Something to press; only on a kernel."""
    return {"kind": "button", "name": name, "label": label, "main": main, "off": off}


def line(
    name: str,
    x: Sequence[float | int],
    y: Sequence[float | int],
    color: int | str = 0,
    dash: bool = False,
) -> dict[str, Any]:
    """One curve of a chart, at four significant digits; ``color`` counts through five of them."""
    tone = COLORS[color % len(COLORS)] if isinstance(color, int) else color
    values = [float(f"{v:.4g}") if v == v and abs(v) != float("inf") else None for v in y]
    return {"name": name, "x": [float(v) for v in x], "y": values, "color": tone, "dash": dash}


def chart(
    title: str, x_label: str, series: Sequence[dict[str, Any]], **rest: object
) -> dict[str, Any]:
    """A chart; ``rest`` is any of ``log``, ``zero``, ``x_range``, ``y_range`` and ``pick``.

    ``pick`` names the slider that a click on the chart moves.
    """
    return {"title": title, "x_label": x_label, "series": list(series), **rest}


def key_of(values: Sequence[object]) -> str:
    """What a view is kept under: the values of controls in their order, as the page writes them."""
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False)


class Panel(anywidget.AnyWidget):
    """The common ground of the explorers.

    ``values`` holds the state of the controls and can be read, set and observed; each change is
    answered by a view: one that was computed before, or what :meth:`compute` says.

    Args:
        label: Above everything.
        controls: From :func:`slider`, :func:`choice` and :func:`button`.
        values: The controls' first state.
        base: What all views have in common.
        views: What is known already, by :meth:`key`.
        height: Of the page, pixels; where it may, the page corrects it.
    """

    _esm = script(PLAYER, _SCRIPT)
    label = traitlets.Unicode().tag(sync=True)
    controls = traitlets.List().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    base = traitlets.Dict().tag(sync=True)
    views = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        label: str,
        controls: Sequence[dict[str, Any]],
        values: Mapping[str, str],
        base: View | None = None,
        views: Mapping[str, View] | None = None,
        height: int = 700,
    ) -> None:
        super().__init__(
            label=label, controls=list(controls), values=dict(values), base=base or {},
            views=dict(views or {}),
        )  # fmt: skip
        self.height = height
        self._known: dict[str, View] = dict(self.views)
        self.observe(lambda _: self._answer(), "values")
        self.on_msg(self._hear)
        self._answer()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label})"

    def key(self, values: Mapping[str, str] | None = None) -> str:
        """What a view is kept under: the values of sliders, choices and table, as JSON."""
        values = self.values if values is None else values
        kept = [c["name"] for c in self.controls if "options" in c or c["kind"] == "table"]
        names = [values.get(name) for name in kept]
        return key_of(names)

    @property
    def shown(self) -> View:
        """All that is on the screen."""
        return self.base | self._known.get(self.key(), self.view)

    def set(self, **values: object) -> View:
        """Move controls, as a hand would; what is then on the screen.

        Raises:
            ValueError: There is no such control, or it has no such option.
        """
        known = {c["name"]: c for c in self.controls}
        for name, value in values.items():
            control = known.get(name)
            if control is None:
                raise ValueError(f"no control {name!r}; there are {', '.join(known)}")
            if str(value) not in control.get("options", [str(value)]):
                raise ValueError(f"{name} is one of {', '.join(control['options'])}; got {value!r}")
        self.values = self.values | {name: str(value) for name, value in values.items()}
        return self.shown

    def compute(self, values: Mapping[str, str]) -> View | None:
        """The view of these values; ``None`` leaves what is there."""
        return None

    def press(self, name: str) -> None:
        """A button was pressed."""

    def _answer(self) -> None:
        key = self.key()
        if key in self._known:
            return
        try:
            view = self.compute(self.values)
        except (ValueError, RuntimeError, OSError) as error:
            self.view = {"note": str(error), "failed": True}
            return
        if view is not None:
            self._known[key] = view
            self.view = view | {"key": key}

    def _hear(self, _: object, content: Any, buffers: object) -> None:
        pressed = content.get("button") if isinstance(content, dict) else None
        buttons = [str(c["name"]) for c in self.controls if c["kind"] == "button"]
        if pressed in buttons:
            self.press(str(pressed))

    def page(self) -> str:
        """What was computed so far, as a page that needs no kernel and no network."""
        spec = {
            "label": self.label, "controls": self.controls, "values": self.values,
            "base": self.base, "views": self._known | {self.key(): self.shown},
        }  # fmt: skip
        return standalone(self.label, (PLAYER, _SCRIPT), "panel", spec)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and the page for where no kernel is."""
        shown = super()._repr_mimebundle_(**kwargs)
        page = self.page().replace("&", "&amp;").replace("'", "&#39;")  # JSON is full of "
        still = {
            "text/html": f'<iframe title="{html.escape(self.label, quote=True)}" style="display:'
            f'block;width:100%;height:{self.height}px;border:0;color-scheme:light dark" '
            f"srcdoc='{page}'></iframe>"
        }
        if isinstance(shown, tuple):
            return {**still, **shown[0]}, *shown[1:]
        return still | (shown or {})
