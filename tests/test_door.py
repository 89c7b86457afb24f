"""The door: every name is there, and nothing heavy is imported before it is used."""

import doctest
import inspect
import subprocess
import sys

import pytest
import torch

import easytune_lib as et


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, easytune_lib; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", et.__all__)
def test_a_name_of_the_door_is_there_and_explained(name: str):
    assert (getattr(et, name).__doc__ or "").strip()
    assert name in dir(et)


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match="open_workbench"):
        _ = et.open_workbensh


@pytest.fixture(scope="module")
def bench() -> et.Workbench:
    return et.open_workbench("mld_early", 4)


def examples(name: str) -> list[doctest.DocTest]:
    """The examples in the docstring of a name and, of a class, of its public methods."""
    found = doctest.DocTestFinder(recurse=False)
    thing = getattr(et, name)
    parts = [thing]
    if inspect.isclass(thing):
        parts += [part for key, part in vars(thing).items() if key[0] != "_" and callable(part)]
    return [test for part in parts for test in found.find(part, name, globs={}) if test.examples]


@pytest.mark.parametrize("name", et.__all__)
def test_the_example_in_a_docstring_runs(name: str, bench: et.Workbench, tmp_path):
    tests = examples(name)
    assert tests, f"et.{name} has no example in its docstring"
    for test in tests:
        test.globs.update({"et": et, "torch": torch, "bench": bench, "tmp": tmp_path})
        said: list[str] = []
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        failed = doctest.DocTestRunner(optionflags=flags).run(test, out=said.append).failed
        assert not failed, "".join(said)
