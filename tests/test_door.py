"""The door: every name is there, and nothing heavy is imported before it is used."""

import subprocess
import sys

import pytest

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
