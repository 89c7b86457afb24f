import json
from pathlib import Path

import pytest
from tiny_notebook import K, executed, notebook, write

from easytune_lib.app.notebook import (
    Parameter,
    code_cells,
    contract_breaches,
    parameters_of,
    parse_values,
    publish,
    read_notebook,
    read_settings,
    source_hash,
    staleness,
    title,
)

CELL = """\
# what is varied
k: int = 10  # recorded steps, from the clean end
lr: float = 1e-4  # learning rate
shift: float = -2.0  # metres
base: str = "mdm"  # base model: mdm | mld
name: str = "007"  # of the run
ema: bool = True  # average weights
"""
PARAMETERS = parameters_of(notebook(parameters=CELL))


def named(name: str) -> Parameter:
    return next(parameter for parameter in PARAMETERS if parameter.name == name)


def test_parameters_are_read_with_kind_default_help_and_choices():
    assert [(p.name, p.kind, p.default) for p in PARAMETERS] == [
        ("k", "int", 10),
        ("lr", "float", 1e-4),
        ("shift", "float", -2.0),
        ("base", "str", "mdm"),
        ("name", "str", "007"),
        ("ema", "bool", True),
    ]
    assert named("k").help == "recorded steps, from the clean end"
    assert named("base").choices == ("mdm", "mld") and named("name").choices == ()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("k", "3", 3),
        ("lr", "1e-4", 1e-4),
        ("lr", "2", 2.0),
        ("name", "007", "007"),
        ("name", "True", "True"),
        ("base", "mld", "mld"),
        ("ema", "false", False),
        ("ema", "True", True),
    ],
)
def test_a_command_lines_text_becomes_what_its_parameter_is(name, text, value):
    parsed = named(name).parse(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("k", "3.5"),
        ("k", "1e3"),
        ("k", "True"),
        ("lr", "nan"),
        ("lr", "fast"),
        ("lr", ""),
        ("ema", "maybe"),
        ("base", "sdm"),
    ],
)
def test_ill_typed_text_is_refused_with_what_is_right(name, text):
    with pytest.raises(ValueError, match=f"{name}: {named(name).kind}"):
        named(name).parse(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 3.0), ("k", True), ("k", "3"), ("lr", True), ("lr", "quick"), ("name", 7), ("ema", 1)],
)
def test_ill_typed_yaml_is_refused(name, value):
    with pytest.raises(ValueError, match="is no value for the parameter"):
        named(name).check(value)


def test_unknown_names_are_refused_with_a_list_of_the_right_ones(tmp_path: Path):
    with pytest.raises(ValueError, match=r"01_x has no parameter 'kk'\. .*k: int = 10; lr: float"):
        parse_values([("kk", "3"), ("k", "4")], PARAMETERS, "01_x")
    settings = tmp_path / "01_x.yaml"
    settings.write_text("kk: 3")
    with pytest.raises(ValueError, match=r"01_x\.yaml has no parameter 'kk'"):
        read_settings(settings, PARAMETERS)


def test_yaml_settings_and_its_numbers_that_yaml_takes_for_text(tmp_path: Path):
    settings = tmp_path / "x.yaml"
    settings.write_text("lr: 1e-5\nk: 50\nema: false\nname: '012'\n")
    values = read_settings(settings, PARAMETERS)
    assert values == {"lr": 1e-5, "k": 50, "ema": False, "name": "012"}
    settings.write_text("")
    assert read_settings(settings, PARAMETERS) == {}


@pytest.mark.parametrize("text", ["k: [", "- k", "3"])
def test_yaml_that_is_no_mapping_is_refused_by_its_name(tmp_path: Path, text: str):
    settings = tmp_path / "broken.yaml"
    settings.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.yaml"):
        read_settings(settings, PARAMETERS)


@pytest.mark.parametrize(
    "source",
    [
        "k = 3  # steps",
        "k: int = 3",
        "k: list = []  # steps",
        "k: int = 1 + len('a')  # steps",
        "k: int = 3.5  # steps",
        "import os  # x",
        "base: str = 'x'  # base model: mdm | mld",
    ],
)
def test_a_parameters_cell_holds_typed_commented_values_only(source: str):
    with pytest.raises(ValueError, match="parameter"):
        parameters_of(notebook(parameters=source))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nbformat": 3, "cells": []}'])
def test_what_is_no_notebook_is_refused_by_its_name(tmp_path: Path, content: str):
    path = tmp_path / "odd.ipynb"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"odd\.ipynb is not a notebook"):
        read_notebook(path)
    with pytest.raises(ValueError, match=r"none\.ipynb cannot be read"):
        read_notebook(tmp_path / "none.ipynb")


def test_a_good_notebook_breaks_no_rule(tmp_path: Path):
    good = read_notebook(write(tmp_path, "00_good", notebook("print(k)")))
    assert contract_breaches(good) == []
    assert title(good) == "Does it run?"


def broken_ids():
    content = notebook("print(k)")
    del content["cells"][1]["id"]
    return content


def untagged():
    content = notebook("print(k)")
    content["cells"][1]["metadata"]["tags"] = []
    return content


def excepting():
    content = notebook("1 / 0")
    content["cells"][2]["metadata"]["tags"] = ["raises-exception"]
    return content


@pytest.mark.parametrize(
    ("content", "breach"),
    [
        (notebook(heading="# It runs"), "question"),
        (notebook(heading="Does it run?"), "question"),
        (broken_ids(), "no ids"),
        (untagged(), "tagged `parameters`"),
        (excepting(), "raises-exception"),
        (notebook(parameters="k = 3"), "expected `name: kind = value"),
        (notebook("def f():\n    pass"), "cell 2 defines `f`"),
        (notebook("if k:\n    class A: ..."), "defines `A`"),
        (notebook("\n".join(["k += 1"] * 26)), "has 26 lines"),
        (notebook("%matplotlib inline"), "no plain Python"),
        (notebook("ax.set_title('x');"), "ends with `;`"),
    ],
)
def test_each_breach_of_the_contract_is_named(content, breach):
    found = contract_breaches(content)
    assert len(found) == 1 and breach in found[0]


def test_the_hash_follows_the_code_not_the_prose_nor_the_outputs():
    plain = notebook("print(k)")
    assert source_hash(executed(plain)) == source_hash(plain)
    assert source_hash(notebook("print(k)", heading="# Better words?")) == source_hash(plain)
    assert source_hash(notebook("print(k )")) != source_hash(plain)
    tagged = notebook("print(k)")
    tagged["cells"][2]["metadata"]["tags"] = ["nbval-skip"]
    assert source_hash(tagged) != source_hash(plain)


def test_publishing_stores_outputs_and_later_changes_are_seen(tmp_path: Path):
    content = notebook("print(k)\nprint(k)")
    path, output = write(tmp_path, "00_x", content), tmp_path / "out.ipynb"
    assert "never run" in staleness(read_notebook(path))[0]
    output.write_text(json.dumps(executed(content)))

    publish(path, output, seconds=12.3, peak_mb=456)
    stored = read_notebook(path)
    assert staleness(stored) == []
    assert stored["metadata"]["easytune"] == {
        "sources": source_hash(content),
        "seconds": 12,
        "peak_mb": 456,
    }
    assert [c["outputs"][0]["text"] for c in code_cells(stored)] == [["3\n"]] * 2
    raw = json.loads(path.read_text())
    assert raw["cells"][2]["source"] == ["print(k)\n", "print(k)"]  # a line a line, for diffs

    path.write_text(path.read_text().replace("print(k)", "print(-k)"))
    assert "changed since it was run" in staleness(read_notebook(path))[0]
    with pytest.raises(ValueError, match="changed while it ran"):
        publish(path, output, 1.0, 1)


def test_unrun_cells_cells_out_of_order_and_errors_are_seen():
    content = executed(notebook("print(k)"))
    content["metadata"]["easytune"] = {"sources": source_hash(content)}
    assert staleness(content) == []
    content["cells"][2]["execution_count"] = 5
    assert "[1, 5]" in staleness(content)[0]
    content["cells"][2] |= {"execution_count": 2, "outputs": [{"output_type": "error"}]}
    assert "an error" in staleness(content)[0]


def test_k_is_the_parameter_of_the_small_notebooks():
    assert str(parameters_of(notebook(parameters=K))[0]) == "k: int = 3"
