"""pyproject.toml, environment.yml, requirements.lock and what is installed say the same."""

import platform
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
EXTRAS = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
DECLARED = [Requirement(text) for text in PROJECT["dependencies"]]
ALL = DECLARED + [Requirement(text) for text in EXTRAS]


def name_of(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lines_of_lock() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


LOCK = {name_of(line.partition("==")[0]): line.partition("==")[2] for line in lines_of_lock()}


def test_conda_gives_python_and_pip_and_pip_gives_the_same_as_pyproject():
    *conda, pip = CONDA
    assert [re.split("[=<>]", text)[0] for text in conda] == ["python", "pip"]
    wanted = {(name_of(r.name), r.specifier) for r in DECLARED}
    assert {(name_of(r.name), r.specifier) for r in map(Requirement, pip["pip"])} == wanted
    assert len(pip["pip"]) == len(DECLARED)


def test_condas_python_is_one_that_pyproject_allows():
    (pin,) = [text.split("=")[-1] for text in CONDA if str(text).startswith("python")]
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert f"{pin}.0" in allowed
    assert platform.python_version() in allowed


@pytest.mark.parametrize("line", lines_of_lock())
def test_the_lock_pins_public_versions_and_names_no_place(line: str):
    assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)


@pytest.mark.parametrize("requirement", ALL, ids=str)
def test_the_lock_and_what_is_installed_satisfy(requirement: Requirement):
    locked = LOCK.get(name_of(requirement.name))
    assert locked, f"{requirement.name} is not in requirements.lock"
    assert requirement.specifier.contains(locked, prereleases=True)
    assert Version(version(requirement.name)).public == locked


def test_the_lock_is_without_the_project_itself():
    assert name_of(PROJECT["name"]) not in LOCK and len(LOCK) == len(lines_of_lock())
