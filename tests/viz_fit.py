"""What every figure of a paper must do."""

from collections.abc import Callable

from matplotlib.figure import Figure

from easytune_lib.viz.style import COLUMN, PAGE


def check_fit(draw: Callable[..., Figure]) -> None:
    """It is as wide as it is asked to be, nothing sticks out, and axes have words."""
    assert draw(width=PAGE).get_figwidth() == PAGE
    fig = draw(width=COLUMN)
    assert isinstance(fig, Figure) and fig.get_figwidth() == COLUMN
    fig.draw_without_rendering()
    for ax in fig.axes:
        box = ax.get_tightbbox()
        assert box.x0 > -2 and box.x1 < fig.bbox.width + 2  # pixels
        assert ax.get_xlabel()
