"""The run table: every record at hand, to be sorted, filtered and laid over another."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from easytune_lib.extras.widgets.kept import FILE, kept_motions
from easytune_lib.extras.widgets.panel import Panel, View
from easytune_lib.records import RunRecord
from easytune_lib.viz.player import MOST, MotionPlayer

COLUMNS = ("run", "of", "date", "base", "seed", "numbers", "parameters", "curves", "motions")
_ABSCISSAE = ("update", "updates", "step", "steps", "n_steps", "seconds", "k")
_POINTS = 160  # of a curve, at most
_CURVES = 24  # of a record, at most


class RunTable(Panel):
    """All records below some folders; nothing here can write or delete.

    Rows that are ticked lay their curves over each other, by what the curves are of, and open
    the motions that lie beside their records.

    Args:
        folders: Each is searched for ``record.json``.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        rows, curves = [], {}
        self.places: dict[str, Path] = {}
        for folder in map(Path, folders):
            for path in sorted(folder.rglob("record.json")):
                run = f"{folder.name}/{path.parent.relative_to(folder).as_posix()}"
                self.places[run] = path.parent
                row, found = _row(run, path)
                rows.append(row)
                curves[run] = found
        super().__init__(
            f"{len(rows)} runs",
            [{"kind": "filter", "name": "filter", "label": "filter: words that a row must hold"},
             {"kind": "table", "name": "chosen", "label": ""}],
            {"chosen": ""},
            {"table": {"columns": list(COLUMNS), "rows": rows}, "curves": curves},
            height=760,
        )  # fmt: skip

    def choose(self, *runs: str) -> View:
        """Tick rows by their name.

        Raises:
            ValueError: There is no such run.
        """
        if missing := [run for run in runs if run not in self.places]:
            raise ValueError(f"no run {', '.join(missing)} in this table")
        return self.set(chosen="\n".join(runs))

    def keep(self) -> None:
        """Compute what each run with motions shows alone, so that the exported page has it."""
        before = dict(self.values)
        for run, place in self.places.items():
            if (place / FILE).is_file():
                self.choose(run)
        self.values = before

    def compute(self, values: Mapping[str, str]) -> View:
        """The motions of what is ticked; the page lays the curves together by itself."""
        chosen = [run for run in values.get("chosen", "").split("\n") if run in self.places]
        if not chosen:
            return {"note": "Tick rows to compare them."}
        motions = {
            f"{run.split('/')[-1]}: {name}": motion
            for run in chosen
            for name, motion in kept_motions(self.places[run]).items()
        }
        note = f"{len(chosen)} chosen"
        if len(motions) > MOST:
            note += f"; the first {MOST} of {len(motions)} motions are shown"
        shown = dict(list(motions.items())[:MOST])
        player = None
        if shown:
            player = MotionPlayer(list(shown.values()), names=list(shown), height=430).spec
        return {"note": note, "player": player}


def _row(run: str, path: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    try:
        record = RunRecord.load(path)
    except ValueError as error:
        return [run, "unreadable", "", "", "", str(error), "", 0, ""], []
    curves = list(_curves(record))[:_CURVES]
    given = record.parameters
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in list(record.metrics.items())[:4]
                        if isinstance(value, int | float))  # fmt: skip
    row = [
        run, record.name, str(record.machine.get("created", ""))[:10],
        str(given.get("base", "")), str(given.get("seed", given.get("seeds", ""))), numbers,
        json.dumps(given, ensure_ascii=False)[:300], len(curves),
        "yes" if (path.parent / FILE).is_file() else "",
    ]  # fmt: skip
    return row, curves


def _curves(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Of series; of lists in tables; and of tables that count something, one a group of rows."""
    for name, values in record.series.items():
        if not name.endswith(("_low", "_high")):
            yield _curve(name, "", range(1, len(values) + 1), values)
    for table, rows in record.tables.items():
        if not rows:
            continue
        for row in rows:
            for column, value in row.items():
                if isinstance(value, list) and value and _numeric(value):
                    yield _curve(f"{table}: {column}", _group(row), range(1, len(value) + 1), value)
        counted = next((c for c in _ABSCISSAE if c in rows[0] and len(_of(rows, c)) > 2), None)
        if counted is None:
            continue
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(_group(row), []).append(row)
        for column in rows[0]:
            if column == counted or column == "seed" or column.endswith(("_low", "_high")):
                continue
            for group, some in groups.items():
                pairs = sorted((row[counted], row[column]) for row in some
                               if _numeric([row.get(counted), row.get(column)]))  # fmt: skip
                if len(pairs) > 1:
                    yield _curve(
                        f"{table}: {column} by {counted}", group, *zip(*pairs, strict=True)
                    )


def _of(rows: Sequence[Mapping[str, Any]], column: str) -> set[float | int]:
    return {row[column] for row in rows if _numeric([row.get(column)])}


def _group(row: Mapping[str, Any]) -> str:
    words = [str(value) for value in row.values() if isinstance(value, str)]
    return " ".join(words + ([f"seed {row['seed']}"] if "seed" in row else []))


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and v == v for v in values)


def _curve(
    title: str, name: str, x: Sequence[float | int], y: Sequence[float | int]
) -> dict[str, Any]:
    step = -(-len(y) // _POINTS)
    return {
        "title": title, "name": name, "x": [float(v) for v in x][::step],
        "y": [float(f"{v:.4g}") if _numeric([v]) and abs(v) < 1e300 else None for v in y][::step],
    }  # fmt: skip
