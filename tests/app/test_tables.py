import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from easytune_lib.app.cli import main
from easytune_lib.app.tables import TABLES, chosen, make_tables
from easytune_lib.records import RunRecord
from easytune_lib.viz.latex import Cell, Column, Row, escape, latex_table, marks

RUNS = Path(__file__).parents[2] / "runs"
COMMITTED = RUNS.parent / "figures" / "tables"
UP, DOWN = Column("R@1", 1), Column("FID", -1)
HOSTILE = "a_b & 50% \\input{x} $#^~ [1]\nnew"


def rows(*values: float | None, group: str = "all") -> list[Row]:
    return [Row(["m"], [Cell(value)], group) for value in values]


def weights(name: str = "EasyTune", created: str = "", **parameters: object) -> RunRecord:
    keys = ("r1", "r2", "r3", "fid", "mm_dist", "diversity")
    lines = [
        {"method": m, "split": "test"} | dict.fromkeys(keys, v)
        for m, v in (("base", 0.25), (name, 0.5))
    ]
    given = {"base": "mld", "seconds": 5.0, "seeds": 1} | parameters
    return RunRecord("step_weights", given, tables={"summary": lines}, machine={"created": created})


def test_best_and_second_best_are_marked_in_the_direction_of_the_column():
    assert marks(rows(0.1, 0.3, 0.2), 0, UP) == ["", "textbf", "underline"]
    assert marks(rows(0.1, 0.3, 0.2), 0, DOWN) == ["textbf", "", "underline"]
    assert marks(rows(0.1, 0.3), 0, Column("Diversity")) == ["", ""]


def test_equal_as_printed_is_equally_marked_and_what_is_missing_is_not():
    assert marks(rows(0.30001, 0.3, 0.2, None), 0, UP) == ["textbf", "textbf", "underline", ""]


def test_groups_are_ranked_apart_and_ceilings_not_at_all():
    several = rows(1.0, group="") + rows(0.2, 0.1, group="a") + rows(0.3, group="b")
    assert marks(several, 0, UP) == ["", "textbf", "underline", "textbf"]


def test_text_of_strangers_cannot_command_comment_or_break_a_line():
    text = escape(HOSTILE)
    assert text == (
        r"a\_b \& 50\% \textbackslash{}input\{x\} \$\#\textasciicircum{}\textasciitilde{} [1] new"
    )
    assert escape("\u00e9\x07") == "??"
    table = latex_table([HOSTILE], [UP], rows(0.5), HOSTILE, "name", "run-1\n\\input{x}")
    assert not re.search(r"^\\input", table, re.MULTILINE)
    assert "50%" not in table


def test_intervals_are_printed_and_an_open_end_is_a_dash():
    table = latex_table(
        ["m"], [UP, DOWN], [Row(["a"], [Cell(0.5, -0.25, None), Cell(None)])], "c", "n", "run-1"
    )
    assert "{a} & \\textbf{0.500} & -- \\\\[-3pt]\n & {\\tiny [$-$0.250, --]} &  \\\\\n" in table
    assert table.startswith("% run-1\n") and r"\caption{c [run-1]}" in table


def test_a_table_without_rows_or_with_a_ragged_one_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        latex_table(["m"], [UP], [], "c", "n", "run-1")
    with pytest.raises(ValueError, match="1 labels and 1 cells, expected 1 and 2"):
        latex_table(["m"], [UP, DOWN], rows(0.5), "c", "n", "run-1")


def test_of_several_records_the_longest_then_the_one_with_most_seeds_is_taken(tmp_path: Path):
    for record in (weights(seeds=9), weights(seconds=20.0), weights(seconds=20.0, seeds=3)):
        record.save(tmp_path)
    ((_, record),) = chosen(tmp_path).values()
    assert record.parameters["seconds"] == 20.0 and record.parameters["seeds"] == 3


def test_names_of_strangers_lead_nowhere(tmp_path: Path):
    weights(HOSTILE, base="../../x").save(tmp_path / "runs")
    (path,) = make_tables(tmp_path / "runs", tmp_path / "out", lambda _: None)
    assert path.parent == tmp_path / "out" and path.name == "s4_step_weights_------x.tex"
    assert escape(HOSTILE) in path.read_text()


def test_a_record_that_lacks_a_table_is_named(tmp_path: Path):
    RunRecord("step_weights", weights().parameters).save(tmp_path)
    with pytest.raises(ValueError, match="step_weights-.* lacks 'summary'"):
        make_tables(tmp_path, tmp_path / "out", lambda _: None)


def test_every_table_is_made_from_the_committed_records_as_committed(tmp_path: Path):
    said: list[str] = []
    made = make_tables(RUNS, tmp_path, said.append)
    assert {table.kind for table, _ in chosen(RUNS).values()} == {table.kind for table in TABLES}
    assert {path.name for path in made} == {path.name for path in COMMITTED.glob("*.tex")}
    for path in made:
        assert path.read_bytes() == (COMMITTED / path.name).read_bytes()
    assert any(line.startswith("not made: S3") for line in said)


def test_a_number_in_a_table_is_that_of_its_record():
    table, record = chosen(RUNS)["t2_backbones"]
    first = json.loads((RUNS / record.run_id / "record.json").read_text())["tables"]["backbones"][0]
    _, columns, rows = table.make(record)
    found = {c.heading: cell.value for c, cell in zip(columns, rows[0].cells, strict=True)}
    assert [found["R@1"], found["FID"], found["MM-Dist"]] == [
        first["r1"], first["fid"], first["mm_dist"],
    ]  # fmt: skip
    assert found["R@1"] < found["R@2"] < found["R@3"] and found["Diversity"] > 0


def test_the_command_writes_where_it_is_told(tmp_path: Path):
    assert main(["tables", "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.tex"))) == len(chosen(RUNS))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_the_tables_compile_within_the_line_and_those_of_strangers_do(tmp_path: Path, columns: str):
    made = make_tables(RUNS, tmp_path, lambda _: None)
    every = "".join(map(chr, range(1, 0x180)))
    texts = [HOSTILE, every, "[1pt] x", "*", r"\end{document}"]
    wide = [Cell(-123.456, -200.0, 1e6)] * 9
    rows = [Row([text, text[:20]], wide, text) for text in texts]
    heads = [Column(text, 1) for text in (*texts, *"abcd")]
    (tmp_path / "evil.tex").write_text(latex_table(texts[:2], heads, rows, every, "evil", every))
    inputs = [rf"\input{{{name}}}\clearpage" for name in (*(p.name for p in made), "evil.tex")]
    head = r"\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    lines = [rf"\documentclass[{columns}]{{article}}", head, *inputs, r"\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error"]
    ran = subprocess.run([*command, "all.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:]
    own, _, _ = ran.stdout.partition("evil.tex")  # a caption may be one word without end
    assert re.findall(r"^Overfull.*|^LaTeX Warning: Float too.*", own, re.MULTILINE) == []
