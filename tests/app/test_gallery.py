import json
import re
from html import unescape
from pathlib import Path

from tiny_notebook import notebook, write

from easytune_lib.app.gallery import write_gallery


def figure(root: Path, name: str, caption: str, *suffixes: str) -> None:
    folder = (root / "figures" / name).parent
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(name).name
    content = {"name": name, "runs": ["norms-12ab"], "caption": caption, "data": {}}
    (folder / f"{name}.json").write_text(json.dumps(content))
    for suffix in suffixes:
        (folder / f"{name}.{suffix}").write_text("image")


def test_every_figure_is_shown_with_caption_and_run_and_text_is_escaped(tmp_path: Path):
    write(tmp_path, "00_tour", notebook(heading="# Is 1 < 2 & <b>bold</b>?"))
    figure(tmp_path, "norms", '<script>alert("x")</script> & more', "svg", "png", "pdf")
    figure(tmp_path, "video", "only a PNG", "png")
    page = write_gallery(tmp_path).read_text()
    assert "<script" not in page and "<b>" not in page
    assert '<script>alert("x")</script> & more' in unescape(page)
    assert "Is 1 < 2 & <b>bold</b>?" in unescape(page)
    assert re.findall(r'<img src="([^"]+)"', page) == ["norms.svg", "video.png"]
    assert 'href="../runs/norms-12ab/record.json">norms-12ab<' in page
    assert 'href="../figures/norms.pdf">PDF<' in page
    assert 'href="../notebooks/00_tour.ipynb"' in page


def test_nothing_is_fetched(tmp_path: Path):
    figure(tmp_path, "norms", "caption", "svg")
    page = write_gallery(tmp_path).read_text()
    assert "http" not in page and "//" not in page
    assert not re.search(r'(src|href)="/', page)


def test_the_executed_page_is_linked_where_there_is_one(tmp_path: Path):
    write(tmp_path, "00_tour", notebook())
    page = tmp_path / "outputs" / "full" / "00_tour.html"
    page.parent.mkdir(parents=True)
    page.write_text("page")
    assert 'href="../outputs/full/00_tour.html"' in write_gallery(tmp_path, "full").read_text()
    assert 'href="../notebooks/00_tour.ipynb"' in write_gallery(tmp_path).read_text()


def test_broken_figures_are_named_and_do_not_stop_the_page(tmp_path: Path):
    figure(tmp_path, "alone", "no image")
    figure(tmp_path, "good", "caption", "svg")
    (tmp_path / "figures" / "bad.json").write_text("{")
    (tmp_path / "figures" / "list.json").write_text("[]")
    page = write_gallery(tmp_path).read_text()
    assert "bad.json is not the JSON of a figure" in page
    assert "list.json is not the JSON of a figure" in page
    assert "alone.json has no image" in page
    assert page.count("<figure") == 1


def test_figures_of_a_folder_stand_apart(tmp_path: Path):
    figure(tmp_path, "full/norms", "an hour", "svg")
    figure(tmp_path, "norms", "a minute", "svg")
    page = write_gallery(tmp_path).read_text()
    assert re.findall(r'<img src="([^"]+)"', page) == ["norms.svg", "full/norms.svg"]
    assert page.index("a minute") < page.index("Figures: full") < page.index("an hour")
    assert 'href="../figures/full/norms.svg">SVG<' in page
