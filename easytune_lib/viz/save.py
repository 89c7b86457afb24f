"""A figure on disk: PDF, SVG, PNG; the data behind it as CSV, and with its runs as JSON."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from easytune_lib.records import RunRecord
from easytune_lib.storage import results_folder, write_atomic, write_json
from easytune_lib.viz.style import GREY, styled

_FOOT = 0.11  # inches kept free for the stamp
_METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
    "png": {"Software": None},
}


def save_figure(
    fig: Figure,
    name: str,
    folder: Path,
    record: RunRecord | Sequence[RunRecord],
    data: Mapping[str, Any] | None = None,
    caption: str = "",
) -> Path:
    """Write ``<name>.pdf``, ``.svg``, ``.png`` (300 dpi), ``.csv`` and ``.json``, each atomically.

    The ids of the runs stand small at the foot of the figure and in the JSON. Saving the
    same figure again gives the same bytes: no dates, no versions, no random ids.

    Args:
        fig: Any matplotlib figure; it is left as it was.
        name: File name without suffix: letters, digits, ``_``, ``-``.
        folder: Made if missing.
        record: The run or runs that the figure shows.
        data: The numbers behind the figure, as lists, arrays, numbers and text. NaN and
            infinity become ``null``.
        caption: Text for below the figure.

    Returns:
        The PDF's path.

    Raises:
        ValueError: The name is no plain file name, no record is given, or ``data`` holds
            something that JSON cannot.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"a figure's name is letters, digits, _ and -, not {name!r}")
    records = [record] if isinstance(record, RunRecord) else list(record)
    if not records:
        raise ValueError("a figure shows at least one run, got no record")
    ids = list(dict.fromkeys(r.run_id for r in records))
    folder = results_folder(folder)
    content = {"name": name, "runs": ids, "caption": caption, "data": _plain(data or {}, "data")}
    with styled(), _settled(fig):
        files = {kind: _render(fig, kind, ids) for kind in _METADATA}
    for kind, image in files.items():
        write_atomic(folder / f"{name}.{kind}", image)
    write_atomic(folder / f"{name}.csv", csv_of(content["data"]))
    write_json(folder / f"{name}.json", content)
    return folder / f"{name}.pdf"


@contextmanager
def _settled(fig: Figure) -> Iterator[None]:
    """Lay out above the foot, always from the same start, and hold still.

    A constrained layout depends in its last digits on the layout before it.
    """
    engine = fig.get_layout_engine()
    if not isinstance(engine, ConstrainedLayoutEngine):
        yield
        return
    left, bottom, width, height = engine.get()["rect"]
    foot = _FOOT / fig.get_figheight()
    engine.set(rect=(left, bottom + foot, width, height - foot))
    for ax in fig.axes:
        if (spec := ax.get_subplotspec()) is not None:
            ax.set_position(spec.get_position(fig))
            ax.set_in_layout(True)  # which set_position ends
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    try:
        yield
    finally:
        engine.set(rect=(left, bottom, width, height))
        fig.set_layout_engine(engine)


def _render(fig: Figure, kind: str, ids: Sequence[str]) -> bytes:
    """One format, stamped."""
    shown = ", ".join(ids) if len(ids) <= 3 else f"{ids[0]}, {ids[1]} and {len(ids) - 2} more"
    edge_x, edge_y = 0.03 / fig.get_figwidth(), 0.03 / fig.get_figheight()
    stamp = fig.text(edge_x, edge_y, shown, fontsize=4.5, color=GREY, ha="left", va="bottom")
    buffer = io.BytesIO()
    try:
        fig.savefig(buffer, format=kind, dpi=300, metadata=_METADATA[kind])
    finally:
        stamp.remove()
    return buffer.getvalue()


def _plain(value: Any, where: str) -> Any:
    """Arrays and their numbers as JSON has them; keys sorted, as in a record that was read."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key], f"{where}.{key}") for key in sorted(value, key=str)}
    if hasattr(value, "tolist"):  # arrays, tensors, NumPy numbers
        return _plain(value.tolist(), where)
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    raise ValueError(f"{where} holds a {type(value).__name__}; give lists, arrays, numbers or text")


def csv_of(data: Mapping[str, Any]) -> bytes:
    """All of ``data`` as one table: a row a row of its tables, or a step of its series.

    Several tables are told apart by a first column; a list in a row becomes a row an item, with
    its place in ``index``. Then come the columns with text, then those with numbers, by name.
    """
    rows = list(_rows(data))
    if len({row["table"] for row in rows}) <= 1:
        rows = [{key: row[key] for key in row if key != "table"} for row in rows]
    text = io.StringIO()
    texts = {key for row in rows for key, value in row.items() if isinstance(value, str)}
    first = ("table", "index")

    def place(key: str) -> tuple[int, bool, str]:
        return first.index(key) if key in first else len(first), key not in texts, key

    columns = sorted({key for row in rows for key in row}, key=place)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _rows(data: Mapping[str, Any], table: str = "series") -> Iterator[dict[str, Any]]:
    lists = {key: value for key, value in data.items() if isinstance(value, list)}
    tables = {key: v for key, v in lists.items() if v and all(isinstance(r, dict) for r in v)}
    plain = {key: v for key, v in data.items() if not isinstance(v, list | dict)}
    if plain:
        yield {"table": table, **plain}
    series = {key: value for key, value in lists.items() if key not in tables}
    for place in range(max(map(len, series.values()), default=0)):
        own = {key: values[place] for key, values in series.items() if place < len(values)}
        yield {"table": table, "index": place, **own}
    for name, rows in tables.items():
        for row in rows:
            long = {key: value for key, value in row.items() if isinstance(value, list)}
            short = {key: value for key, value in row.items() if key not in long}
            if not long:
                yield {"table": name, **short}
            for place in range(max(map(len, long.values()), default=0)):
                items = {key: values[place] for key, values in long.items() if place < len(values)}
                yield {"table": name, **short, "index": place, **items}
    for name, inner in data.items():
        if isinstance(inner, dict):
            yield from _rows(inner, name)
