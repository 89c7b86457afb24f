"""Notebooks as pages, without a network."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from browser_lab import BOOKS, ROOT, SHOTS, Notebook, worries
from PIL import Image

from benchmarks.player import QUICK_PLAYER, bench_player
from easytune_lib.app.page import write_site


@pytest.mark.parametrize(("dark", "scale"), [(False, 1), (True, 2)])
def test_the_export_works_without_a_network(browser, tmp_path, dark, scale):
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--output-dir"]
    books = [str(b) for b in BOOKS if b.stem in ("10_explore", "cockpit")]
    subprocess.run([*command, str(tmp_path), *books], check=True, capture_output=True,
                   env=os.environ | {"PYTHONWARNINGS": "ignore"})  # fmt: skip
    context = browser.new_context(
        offline=True, viewport={"width": 1100, "height": 1000}, device_scale_factor=scale,
        color_scheme="dark" if dark else "light",
    )  # fmt: skip
    page, asked, errors = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: asked.append(r.url) if r.frame != page.main_frame else None)
    for name, count in (("10_explore", 4), ("cockpit", 3)):
        path = tmp_path / f"{name}.html"
        assert path.stat().st_size < 3_000_000
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        frames = page.locator("iframe")
        assert frames.count() == count
        for i in range(count):
            root = page.frame_locator("iframe").nth(i).locator(".et-panel, .et-player").first
            root.wait_for()
            shot = SHOTS / f"export_{name}_{i}_{'dark' if dark else 'light'}_{scale}x.png"
            frames.nth(i).scroll_into_view_if_needed()
            page.wait_for_timeout(400)
            frames.nth(i).screenshot(path=shot)
        if name == "10_explore":
            scrubber = page.frame_locator("iframe").nth(0)
            slider = scrubber.locator('[data-name="step"]')
            slider.focus()
            for _ in range(5):
                page.keyboard.press("ArrowLeft")
            assert scrubber.locator(".et-note").inner_text().startswith("step 15 of 20")
            gradients = page.frame_locator("iframe").nth(1)
            gradients.locator('[data-name="guidance"]').select_option("1.0")
            assert "run the notebook" in gradients.locator(".et-note").inner_text()
    inside = [url for url in asked if not url.startswith(("about:", "data:", "file:"))]
    assert inside == []
    assert [error for error in errors if "MathJax" not in error and "require" not in error] == []
    context.close()


@pytest.mark.long
def test_every_page_of_the_site_opens_without_a_network(browser, tmp_path):
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1000})
    contents, *pages = write_site(ROOT, tmp_path)
    assert len(pages) == len(BOOKS)
    for path in (contents, *pages):
        page, asked, errors = context.new_page(), [], []
        page.on("pageerror", lambda error, found=errors: found.append(str(error)))
        page.on("console", lambda m, found=errors: found.append(m.text) if m.type == "error" else 0)
        page.on("request", lambda request, found=asked: found.append(request.url))
        page.goto(path.as_uri(), wait_until="load")
        page.wait_for_timeout(300)
        away = [url for url in asked if not url.startswith(("about:", "data:", "file:", "blob:"))]
        assert (away, worries(errors)) == ([], []), path.name
        width = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert width <= 1, f"{path.name} is {width} points too wide"
        links = page.locator("a[href$='.html']").evaluate_all("all => all.map(a => a.href)")
        assert all(Path(unquote(urlparse(link).path)).exists() for link in links), path.name
        page.close()
    context.close()


EXPLORED = {"06_motion": 1, "sweep": 2}  # plotly's views in them


def vermillion(view) -> int:
    """Points of a view that have EasyTune's colour, or nearly, once it is drawn."""
    view.scroll_into_view_if_needed()
    for _ in range(20):
        view.page.wait_for_timeout(2000)
        shot = np.asarray(Image.open(io.BytesIO(view.screenshot())).convert("RGB"), dtype=int)
        points = int((abs(shot - [0xD5, 0x5E, 0x00]).max(-1) < 80).sum())
        if points > 30:  # two thin lines have some fifty
            break
    return points


def see(page, name: str, where: str) -> None:
    views = page.locator(".js-plotly-plot:has(canvas)")
    views.nth(EXPLORED[name] - 1).wait_for(timeout=60_000)
    assert views.count() == EXPLORED[name]
    for place, view in enumerate(views.all()):
        assert vermillion(view) > 30, f"view {place} of {name} is empty on the {where}"
        view.screenshot(path=SHOTS / f"explored_{name}_{place}_{where}.png")


@pytest.mark.long
@pytest.mark.parametrize("name", EXPLORED)
def test_what_is_explored_is_drawn_in_a_dark_lab_and_without_a_network(
    browser, address, tmp_path, name
):
    source = ROOT / "notebooks" / f"{name}.ipynb"
    write_site(ROOT, tmp_path, {name: source})
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1000})
    page = context.new_page()
    page.goto((tmp_path / f"{name}.html").as_uri())
    see(page, name, "page")
    context.close()  # drawing by software, it would slow the lab down
    book = Notebook(
        browser, address, str(next(b for b in BOOKS if b.stem == name).relative_to(ROOT))
    )
    book.theme("Dark")
    see(book.page, name, "lab")
    assert worries(book.errors) == []
    book.close()


def test_the_player_is_fast_enough(tmp_path):
    with ThreadPoolExecutor(1) as apart:  # a thread has one Playwright, and ours has one
        record = apart.submit(bench_player, QUICK_PLAYER, lambda line: None).result()
    assert record.metrics["kilobytes_1"] < 60
    assert record.machine["player"][0]["frames_per_second"] > 10  # on a machine that is busy
