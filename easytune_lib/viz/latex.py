"""A table as LaTeX for a paper: text escaped, best and second best marked, intervals small."""

from collections.abc import Sequence
from dataclasses import dataclass

_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def escape(text: str) -> str:
    """``text`` as LaTeX prints it: no command, no comment, one line; what is not ASCII is ``?``."""
    line = " ".join(text.split())
    return "".join(_ESCAPED.get(c, c if " " <= c <= "~" else "?") for c in line)


@dataclass(frozen=True)
class Column:
    """A heading in plain text, which values are better, and their decimals."""

    heading: str
    better: int = 0  # 1: more, -1: less, 0: nothing is marked
    decimals: int = 3


@dataclass(frozen=True)
class Cell:
    """A value, and the ends of an interval that is printed below it; ``None``: not recorded."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """Labels and cells. Rows of one ``group`` are ranked together; those of "" are not ranked."""

    labels: Sequence[str]
    cells: Sequence[Cell]
    group: str = "all"


def marks(rows: Sequence[Row], place: int, column: Column) -> list[str]:
    """``textbf``, ``underline`` or nothing for each row; equal as printed, equally marked."""
    shown = [_shown(row.cells[place].value, column) for row in rows]
    result = []
    for row, own in zip(rows, shown, strict=True):
        if not (row.group and column.better and own is not None):
            result.append("")
            continue
        pairs = zip(rows, shown, strict=True)
        rivals = {v for r, v in pairs if r.group == row.group and v is not None}
        order = sorted(rivals, reverse=column.better > 0)
        result.append(("textbf", "underline", "")[min(order.index(own), 2)])
    return result


def latex_table(
    labels: Sequence[str],
    columns: Sequence[Column],
    rows: Sequence[Row],
    caption: str,
    name: str,
    run_id: str,
) -> str:
    """A ``table`` that needs booktabs and graphicx; the run's id in a comment and the caption.

    A table that is wider than the line is made smaller; in two columns, ``table*`` gives it room.

    Raises:
        ValueError: There are no rows, or one has not a label and a cell for each column.
    """
    if not rows:
        raise ValueError(f"table {name!r} of {run_id} has no rows; give a record that holds some")
    for row in rows:
        if len(row.labels) != len(labels) or len(row.cells) != len(columns):
            raise ValueError(
                f"table {name!r}: a row has {len(row.labels)} labels and {len(row.cells)} cells, "
                f"expected {len(labels)} and {len(columns)}"
            )
    arrows = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}
    heads = [*map(escape, labels), *(escape(c.heading) + arrows[c.better] for c in columns)]
    marked = [marks(rows, place, column) for place, column in enumerate(columns)]
    lines = [
        f"% {' '.join(run_id.split())}", r"\begin{table}", r"\centering", r"\small",
        rf"\caption{{{escape(caption)} [{escape(run_id)}]}}", rf"\label{{tab:{name}}}",
        r"\setlength{\tabcolsep}{3pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(labels)}{'r' * len(columns)}}}", r"\toprule",
        " & ".join(heads) + r" \\", r"\midrule",
    ]  # fmt: skip
    for place, row in enumerate(rows):
        if place and row.group != rows[place - 1].group:
            lines.append(r"\midrule")
        cells = [
            _cell(cell, column, marked[at][place])
            for at, (cell, column) in enumerate(zip(row.cells, columns, strict=True))
        ]
        # Braces: a label that begins with [ is no length for the \\ before it.
        lines.append(" & ".join([*(f"{{{escape(x)}}}" for x in row.labels), *cells]) + r" \\")
        ends = [_ends(cell, column) for cell, column in zip(row.cells, columns, strict=True)]
        if any(ends):
            lines[-1] += "[-3pt]"
            lines.append(" & ".join([*("" for _ in labels), *ends]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def _number(value: float, column: Column) -> str:
    return f"{value:.{column.decimals}f}".replace("-", "$-$")  # a minus, not a hyphen


def _shown(value: float | None, column: Column) -> float | None:
    return None if value is None else round(value, column.decimals)


def _cell(cell: Cell, column: Column, mark: str) -> str:
    if cell.value is None:
        return "--"
    text = _number(cell.value, column)
    return rf"\{mark}{{{text}}}" if mark else text


def _ends(cell: Cell, column: Column) -> str:
    if cell.value is None or (cell.low is None and cell.high is None):
        return ""
    ends = ("--" if end is None else _number(end, column) for end in (cell.low, cell.high))
    return rf"{{\tiny [{', '.join(ends)}]}}"
