"""One look: widths of a paper, and one colour, line and marker for each method."""

import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

COLUMN = 3.25
"""Width of one column of a paper, inches."""
PAGE = 6.75
"""Width of the text of a page, inches."""


@dataclass(frozen=True)
class Venue:
    """How wide a paper lets a figure be, inches; two of ``column`` stand side by side."""

    column: float
    page: float


OURS = Venue(COLUMN, PAGE)
VENUES = {
    "ours": OURS,
    "cvpr": Venue(3.25, 6.875),  # and ICCV
    "iclr": Venue(2.7, 5.5),  # one column of text: half of it, and all
    "neurips": Venue(2.7, 5.5),
    "siggraph": Venue(3.33, 7.0),  # ACM's acmtog
}
"""Widths of the usual venues' LaTeX styles; lettering stays at 8 points in all."""

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
"""Colours that stay apart for colour-blind readers (Okabe and Ito, 2008)."""

GREY = "#6E6E6E"

_STYLE = Path(__file__).with_name("easytune.mplstyle")


class MethodStyle(TypedDict):
    """What ``Axes.plot`` needs to draw a method."""

    color: str
    linestyle: str
    marker: str
    label: str


_FAMILIES = {
    "easytune": (OKABE_ITO["vermillion"], "-", "o"),
    "draft": (OKABE_ITO["blue"], "-", "s"),
    "alignprop": (OKABE_ITO["green"], "-", "^"),
    "drtune": (OKABE_ITO["purple"], "-", "v"),
    "refl": (OKABE_ITO["orange"], "-", "D"),
    "base": (GREY, "--", "x"),
    "real": (OKABE_ITO["black"], "-", "*"),
    "vae": (OKABE_ITO["sky"], "-", "P"),
    "paper": ("#BDBDBD", "-", "."),
    "before": (GREY, "--", "x"),
    "after": (OKABE_ITO["black"], "-", "o"),
    "x_t": (OKABE_ITO["sky"], "--", "s"),
    "x0_hat": (OKABE_ITO["vermillion"], "-", "o"),
}
_VARIANTS = {
    "strided": ("--", "h"), "random": (":", "d"), "last": ("-.", "p"), "plain": (":", "s"),
    "early": ("--", "<"), "late": ("-.", ">"),
}  # fmt: skip
_OTHERS = ("#882255", "#44AA99", "#332288", "#999933")  # not used above
_LABELS = {
    "base": "base model",
    "real": "real motion",
    "VAE": "VAE reconstruction",
    "paper": "paper (digitised)",
    "x_t": r"$x_t$",
    "x0_hat": r"$\hat{x}_0$",
}


def method_style(name: str) -> MethodStyle:
    """Colour, linestyle, marker and label of a method, the same in every figure.

    Args:
        name: A method with or without a setting ("EasyTune", "EasyTune (strided)",
            "DRaFT-10", "ReFL"), or "base", "real", "VAE", "paper", "before", "after", "x_t",
            "x0_hat". Settings keep the colour of their method and change line and marker.
            A name never seen before gets a look of its own, drawn from its letters.
    """
    lower = name.lower()
    label = _LABELS.get(name, name)
    family = next((key for key in _FAMILIES if lower.startswith(key)), None)
    if family is None:
        code = zlib.crc32(name.encode())
        color, marker = _OTHERS[code % 4], "<>8X"[code // 4 % 4]
        return MethodStyle(color=color, linestyle="-.", marker=marker, label=label)
    color, linestyle, marker = _FAMILIES[family]
    if family == "draft" and (k := re.search(r"\d+", lower)) and int(k.group()) <= 10:
        linestyle, marker = ("--", "D") if int(k.group()) > 1 else (":", "d")
    for word, look in _VARIANTS.items():
        if word in lower:
            linestyle, marker = look
    return MethodStyle(color=color, linestyle=linestyle, marker=marker, label=label)


def body_colors(names: Sequence[str]) -> list[str]:
    """A colour for the body of each motion: that of the method it is named for, else the next.

    Black is left out: it shows no shading, and nothing on a dark page.
    """
    own = {"real": "#56606E", "after": OKABE_ITO["vermillion"]}
    spare = [OKABE_ITO[c] for c in ("blue", "vermillion", "green", "purple", "orange", "sky")]
    colors = []
    for i, name in enumerate(names):
        family = next((key for key in _FAMILIES if name.lower().startswith(key)), "")
        color = own.get(family) or _FAMILIES.get(family, (spare[i % len(spare)],))[0]
        colors.append(color)
    return colors


def run_colors(methods: Sequence[str]) -> list[str]:
    """A colour for each run: its method's; further ones of that colour are lighter and darker."""
    colors, seen = [], Counter[str]()
    for method in methods:
        (own,) = body_colors([method])
        other, amount = (("white", 0.0), ("white", 0.45), ("black", 0.35))[seen[own] % 3]
        seen[own] += 1
        colors.append(to_hex(mix(own, other, amount)).upper())
    return colors


@contextmanager
def styled() -> Iterator[None]:
    """The look, as ``with styled():`` or as a decorator ``@styled()``."""
    with matplotlib.style.context(_STYLE):
        yield


class PaperFigure(Figure):
    """A figure that notebooks show without pyplot, so that no global state is kept."""

    def __init__(self, width: float, height: float) -> None:
        """Open a figure of ``width`` by ``height`` inches; call it inside :func:`styled`."""
        super().__init__(figsize=(width, height))
        FigureCanvasAgg(self)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        with styled():
            self.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        width, height = self.get_size_inches() * 110
        return buffer.getvalue(), {"width": round(width), "height": round(height)}


def mix(color: str, other: str, amount: float) -> tuple[float, float, float]:
    """``color`` moved towards ``other`` by ``amount``, 0 to 1, as RGB of 0 to 1."""
    a, b = to_rgb(color), to_rgb(other)
    red, green, blue = (x + amount * (y - x) for x, y in zip(a, b, strict=True))
    return red, green, blue
