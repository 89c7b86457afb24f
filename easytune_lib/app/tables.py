"""The tables of a paper as LaTeX, made from the records alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easytune_lib.experiments.compare import summary
from easytune_lib.metrics.intervals import spread
from easytune_lib.records import RunRecord, leading
from easytune_lib.storage import write_atomic
from easytune_lib.viz.latex import Cell, Column, Row, latex_table

LEFT_OUT = {
    "S3": "shows fine-tuning on a second data set (KIT-ML), of which there is no record",
}
"""Tables of the paper that no record gives, and why."""

_JUDGED = {
    "r1": Column("R@1", 1), "r2": Column("R@2", 1), "r3": Column("R@3", 1),
    "fid": Column("FID", -1), "mm_dist": Column("MM-Dist", -1),
    "diversity": Column("Diversity"), "mmodality": Column("MModality"),
}  # fmt: skip
_RECALL = ("R@1", "R@2", "R@3", "R@5", "R@10")
_GAIN = (
    "in brackets: 95 % interval of the gain over the base, over training seeds "
    "(of ceilings: of the value)"
)
Made = tuple[Sequence[str], Sequence[Column], Sequence[Row]]


@dataclass(frozen=True)
class Table:
    """One table and the records it may be made from; ``{...}`` are the record's parameters."""

    name: str
    kind: str
    make: Callable[[RunRecord], Made]
    caption: str
    by: str = "seconds"  # of several records, that with the most of this is taken


def make_tables(runs: Path, out: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Write each table that the records of ``runs`` give into ``out``; twice, the same bytes.

    Args:
        runs: The folder of records.
        out: The folder of tables; made if missing.
        say: Is told what was made and what was not.

    Returns:
        The files.

    Raises:
        ValueError: A record does not hold what its table shows.
    """
    made = []
    for name, (table, record) in chosen(runs).items():
        try:
            labels, columns, rows = table.make(record)
        except KeyError as error:
            raise ValueError(f"{record.run_id} lacks {error}, which table {name} shows") from error
        caption = table.caption.format(**record.parameters)
        text = latex_table(labels, columns, rows, caption, name, record.run_id)
        made.append(write_atomic(out / f"{name}.tex", text.encode()))
        say(f"{name} from {record.run_id}")
    for name, why in LEFT_OUT.items():
        say(f"not made: {name} {why}")
    return made


def chosen(runs: Path) -> dict[str, tuple[Table, RunRecord]]:
    """By name of table: of its records the leading one."""
    return leading(runs, TABLES, lambda table, r: _file_name(table.name.format(**r.parameters)))


def _file_name(text: str) -> str:
    """No parameter of a stranger leads out of the folder, or out of a LaTeX label."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in text)


def _gained(row: Mapping[str, Any], key: str) -> Cell:
    return Cell(row[key], row.get(f"{key}_gain_low"), row.get(f"{key}_gain_high"))


def _methods(split: str) -> Callable[[RunRecord], Made]:
    """Ceilings, which are not ranked, then base and methods."""

    def make(record: RunRecord) -> Made:
        own = [row for row in record.tables["summary"] if row["split"] == split]
        keys = [key for key in _JUDGED if any(key in row for row in own)]
        rows = [
            Row(
                [c["method"]],
                [Cell(c.get(k), c.get(f"{k}_low"), c.get(f"{k}_high")) for k in keys],
                "",
            )
            for c in record.tables.get("ceilings", ())
            if c["split"] == split
        ]
        rows += [Row([row["method"]], [_gained(row, key) for key in keys]) for row in own]
        return ["Method"], [_JUDGED[key] for key in keys], rows

    return make


def _backbones(record: RunRecord) -> Made:
    """The columns of Tables 2 and S3, from every score of a backbone."""
    keys = ("r1", "r2", "r3", "fid", "mm_dist", "diversity")
    scores = record.tables["scores"]
    rows = [
        Row([name, row["method"]], [_gained(row, key) for key in keys], name)
        for name in dict.fromkeys(row["backbone"] for row in scores)
        for row in summary([row for row in scores if row["backbone"] == name], "test", keys)
    ]
    return ["Backbone", "Method"], [_JUDGED[key] for key in keys], rows


def _retrieval(record: RunRecord) -> Made:
    """Means over seeds in groups of 32, with their Student-t intervals."""
    values: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in record.tables["protocols"]:
        if row["protocol"] == "groups of 32" and row["metric"] in _RECALL:
            place = (row["set"], row["direction"], row["model"])
            values.setdefault(place, {}).setdefault(row["metric"], []).append(100 * row["value"])
    rows = [
        Row(place, [Cell(*spread(own[k])) for k in _RECALL], f"{place[0]}, {place[1]}")
        for place, own in sorted(values.items(), key=lambda item: item[0][:2])
    ]
    columns = [Column(f"{key} (%)", 1, 2) for key in _RECALL]
    return ["Captions", "Direction", "Model"], columns, rows


def _cost(record: RunRecord) -> Made:
    """Seconds an update, reward on test prompts at the end, and seconds to each threshold."""
    reach = {
        (row["base"], row["method"], row["threshold"]): Cell(row["median"], row["low"], row["high"])
        for row in record.tables["reach"]
        if row["clock"] == "seconds"
    }
    marks = sorted({threshold for _, _, threshold in reach})
    rows = []
    for row in record.tables["pace"]:
        own = [reach.get((row["base"], row["method"], mark), Cell(None)) for mark in marks]
        first = Cell(row["seconds"], row["seconds_low"], row["seconds_high"])
        cells = [first, Cell(row["test_reward"]), *own]
        rows.append(Row([row["base"], row["method"]], cells, row["base"]))
    columns = [Column("s/update", -1), Column("Test reward", 1)]
    columns += [*(Column(f"to {mark:g}", -1, 1) for mark in marks)]
    return ["Base", "Method"], columns, rows


TABLES = (
    Table(
        "t1_methods_{base}", "step_finetuning", _methods("test"),
        "Methods on {base}, test prompts, {seeds} seed(s) of {seconds:g} CPU seconds; " + _GAIN,
    ),
    Table(
        "t1_methods_unseen_{base}", "step_finetuning", _methods("unseen"),
        "Methods on {base}, unseen captions, {seeds} seed(s) of {seconds:g} CPU seconds; " + _GAIN,
    ),
    Table(
        "t2_backbones", "six_backbones", _backbones,
        "EasyTune and DRaFT on each recorded backbone, test prompts, {seeds} seed(s) of "
        "{seconds:g} CPU seconds; ranked within a backbone; " + _GAIN,
    ),
    Table(
        "t3_rewards_{base}", "which_reward", _methods("test"),
        "EasyTune on {base} by reward and state read, {seeds} seed(s) of {seconds:g} CPU seconds; "
        + _GAIN,
    ),
    Table(
        "t4_retrieval_{data}", "reward_training_spl", _retrieval,
        "Retrieval among 32, {data}, from {starts} steps of training, {seeds} seed(s); in "
        "brackets: 95 % interval over seeds", by="seeds",
    ),
    Table(
        "s4_step_weights_{base}", "step_weights", _methods("test"),
        "Weights of the steps' rewards on {base}, {seeds} seed(s) of {seconds:g} CPU seconds; "
        + _GAIN,
    ),
    Table(
        "s9_cost", "alignment_cost", _cost,
        "CPU seconds an update, reward on test prompts at the end of the run, and median seconds "
        "to a training reward; --: not reached by half of the seeds, or not asked on this base; "
        "brackets: the first and the last seed for times to a reward, 95 % intervals elsewhere",
        by="batch_size",
    ),
)  # fmt: skip
"""Each table; several of a kind share a record."""
