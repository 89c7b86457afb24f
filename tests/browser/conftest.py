"""One browser for all tests, and one JupyterLab for those of a file."""

import shutil
from pathlib import Path

import pytest
from browser_lab import BOOKS, ROOT, SHOTS, lab

from benchmarks.player import chromium, missing

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    lacks = missing()
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.browser)
        item.add_marker(pytest.mark.skipif(bool(lacks), reason=lacks))
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def browser():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a user, with the notebooks and what they read."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for path in (*BOOKS, ROOT / "notebooks" / "their_model.py"):
        shutil.copy(path, folder / "notebooks")
    for name in ("runs", "figures"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with lab(folder) as address:
        yield address
