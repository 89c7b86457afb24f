import base64
import gzip
import json
import re
from pathlib import Path

import nbformat
import pytest
from plotly.offline import get_plotlyjs
from tiny_notebook import cell, executed, notebook, write

from easytune_lib.app import page as pages
from easytune_lib.app.cli import main
from easytune_lib.app.page import HEAVY, PLOTLY, math, page, write_site

LOADED = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)\s*=\s*[\"']?(?:https?:)?//[^\"' >]*"
    r"|@import\s+url\([^)]*|url\([\"']?https?:[^)]*|\bimport\s*\(?[\"']https?:[^\"']*",
    re.IGNORECASE,
)


def made(*markdown: str):
    content = notebook("print(3)", heading="# Does $x_t$ move?")
    for number, text in enumerate(markdown):
        content["cells"].insert(1, cell(text, "markdown") | {"id": f"m{number}"})
    return nbformat.reads(json.dumps(executed(content)), as_version=4)


def test_a_page_loads_nothing_and_draws_its_math():
    text = page(made("Let $a_1 < b$.\n\n$$\\frac{dx}{d\\theta} = \\partial \\pi$$"))
    assert not LOADED.findall(text)
    assert text.count("<math") == 3 and 'display="block"' in text and "<mfrac>" in text
    assert "&lt;" in text and "$$" not in text


def test_what_would_be_loaded_is_found():
    for bad in ('<script src="https://x/y.js"></script>', "url(https://x/f.woff)",
                '<link rel="x" href="//x/y.css">', 'await import("https://x/m.mjs")'):  # fmt: skip
        assert LOADED.search(bad)


def test_links_lead_to_pages_and_outputs_stay():
    text = page(made("See [it](04_tuning.ipynb#x) and [web](https://a.org/b.ipynb)."))
    assert 'href="04_tuning.html#x"' in text and "https://a.org/b.ipynb" in text
    assert "3\n" in text


def test_figures_of_plotly_are_drawn_by_a_script_that_lies_in_the_page_once():
    content = made()
    assert "DecompressionStream" not in page(content)
    shown = {"data": [{"type": "parcoords"}], "layout": {"title": "</script><b>"}}
    content.cells[-1].outputs = [
        nbformat.v4.new_output("display_data", {PLOTLY: shown}) for _ in range(2)
    ]
    text = page(content)
    (packed,) = re.findall(r'atob\("([^"]+)"\)', text)
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert text.count("newPlot(") == 2 == text.count(r"\u003c/script\u003e")
    assert len(text.encode()) < HEAVY - 600_000 and not LOADED.findall(text)
    assert PLOTLY in content.cells[-1].outputs[0].data  # the notebook is as it was


@pytest.mark.parametrize("formula", ["", "\\frac{", "}{", "\\nonsense <script>"])
def test_math_that_cannot_be_read_stays_as_text(formula):
    assert "<script>" not in math(formula)


def test_a_site_has_contents_and_every_notebook(tmp_path: Path, monkeypatch, capsys):
    said = "**In one sentence:** it *moves* by $x_t$, see [b](01_b.ipynb) & more."
    for name in ("00_a", "01_b"):
        content = notebook("k", heading=f"# Does {name} move?")
        content["cells"].insert(1, cell(said, "markdown") | {"id": "m"})
        write(tmp_path, name, executed(content))
    monkeypatch.setattr("easytune_lib.app.runner.ROOT", tmp_path)
    assert main(["html", "--to", str(tmp_path / "site")]) == 0
    assert "3 pages" in capsys.readouterr().out
    index = (tmp_path / "site" / "index.html").read_text()
    assert 'href="00_a.html"' in index and "Does 01_b move?" in index
    assert "<math" in index and "&amp; more" in index and "ipynb" not in index
    for path in (tmp_path / "site").iterdir():
        assert not LOADED.findall(path.read_text())


def test_a_heavy_page_is_named(tmp_path: Path, monkeypatch):
    write(tmp_path, "00_a", executed(notebook("k")))
    monkeypatch.setattr(pages, "HEAVY", 1000)
    with pytest.raises(ValueError, match="00_a.ipynb has .* MB, at most"):
        write_site(tmp_path, tmp_path / "site")


@pytest.mark.slow
def test_no_committed_notebook_loads_anything(tmp_path: Path):
    root = Path(__file__).parents[2]
    for path in write_site(root, tmp_path):
        assert not LOADED.findall(path.read_text()), path.name
        for name in re.findall(r'href="([\w./-]+\.html)', path.read_text()):
            assert (path.parent / name).exists(), f"{path.name} leads to {name}"
