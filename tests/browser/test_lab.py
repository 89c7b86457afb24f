"""Notebooks in a real JupyterLab, and as pages, in a headless Chromium."""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from PIL import Image

from easytune_lib.batch.browser import QUICK_PLAYER, bench_player, chromium, missing
from easytune_lib.batch.page import write_site

_spec = importlib.util.spec_from_file_location("lab", Path(__file__).with_name("lab.py"))
assert _spec and _spec.loader
lab_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lab_module)
ROOT, Notebook, lab = lab_module.ROOT, lab_module.Notebook, lab_module.lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.filterwarnings("default"),
]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOTS = ROOT / "outputs" / "screenshots"
UNDER_WAY = re.compile(r"update ([3-9]|[1-3]\d)")
BENIGN = ("favicon", "ResizeObserver loop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name in ("17_explorers", "18_cockpit"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
    shutil.copytree(ROOT / "runs", folder / "runs")
    SHOTS.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with lab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def worries(errors):
    return [error for error in errors if not any(word in error for word in BENIGN)]


def note(panel) -> str:
    return panel.locator(".et-note").first.inner_text()


def control(panel, name: str):
    return panel.locator(f'[data-name="{name}"]').first


def test_the_explorers_move_and_python_hears_of_it(browser, address):
    book = Notebook(browser, address, "notebooks/17_explorers.ipynb")
    book.run_all()
    page = book.page

    scrubber = book.panel("Denoising")
    slider, before = control(scrubber, "step"), note(scrubber)
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(500)
    assert note(scrubber) != before and note(scrubber).startswith("step 8 of 20")
    assert book.python("print(scrubber.values['step'])") == "8"
    player = scrubber.locator(".et-player")
    scrubber.get_by_label("One frame on").click()
    frame = int(player.get_attribute("data-frame"))
    scrubber.get_by_label("One frame on").click()
    assert int(player.get_attribute("data-frame")) == frame + 1
    canvas = scrubber.locator(".et-chart canvas").first
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] - 10, "y": 60})  # a click into a chart is a step
    page.wait_for_timeout(400)
    assert book.python("print(scrubber.values['step'])") == "20"
    slider.focus()
    for _ in range(14):
        page.keyboard.press("ArrowLeft")
    book.shots(scrubber, "scrubber", SHOTS)

    gradients = book.panel("Where the reward gradient")
    control(gradients, "steps").select_option("20")
    gradients.locator(".et-note", has_text="of 20 steps").wait_for(timeout=60_000)
    control(gradients, "method").select_option("EasyTune")
    gradients.locator(".et-note", has_text="EasyTune").wait_for(timeout=60_000)
    slider = control(gradients, "k")
    slider.focus()
    page.keyboard.press("Home")
    began = time.perf_counter()
    gradients.locator(".et-note", has_text="K = 1 of 20").wait_for(timeout=10_000)
    assert time.perf_counter() - began < 1.0  # from the kept trajectory
    assert book.python("print(explorer.values['k'], explorer.values['method'])") == "1 EasyTune"
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    book.shots(gradients, "gradients", SHOTS)

    noise = book.panel("What is left of")
    before = note(noise)
    control(noise, "prompt").select_option(index=3)
    control(noise, "reward").select_option("clean")
    page.wait_for_timeout(400)
    assert note(noise) != before
    assert book.python("print(noise.values['reward'])") == "clean"
    book.shots(noise, "noise", SHOTS)

    table = book.panel("runs")
    everything = int(table.locator(".et-table").get_attribute("data-rows"))
    control(table, "filter").fill("tour")
    assert int(table.locator(".et-table").get_attribute("data-rows")) == 2 < everything
    table.get_by_role("button", name="run", exact=True).click()
    table.locator("tbody input, tr input").first.uncheck()
    page.wait_for_timeout(400)
    assert book.python("print(table.values['chosen'].count('tour'))") == "1"
    table.locator("tr input").first.check()
    control(table, "filter").fill("own_reward")
    table.locator("tr input").first.check()
    page.wait_for_timeout(400)
    assert book.python("print(len(table.values['chosen'].split()))") == "3"
    book.shots(table, "run_table", SHOTS)
    assert worries(book.errors) == []
    page.close()


def test_from_a_prompt_of_ones_own_to_a_video_by_clicking(browser, address, folder):
    began = time.perf_counter()
    book = Notebook(browser, address, "notebooks/18_cockpit.ipynb")
    book.run_all()
    page, panel = book.page, book.panel("Fine-tune")
    control(panel, "caption").fill("a person jumps up high, full of joy.")
    control(panel, "updates").select_option("40")
    control(panel, "every").select_option("10")
    page.wait_for_timeout(300)
    control(panel, "start").click()
    panel.locator(".et-note", has_text="run 2").wait_for(timeout=30_000)
    panel.locator(".et-note", has_text=re.compile(r"update ([3-9]|[1-3]\d)")).wait_for(
        timeout=60_000
    )
    assert book.python("print(cockpit.run.state)") == "running"  # the kernel is free meanwhile
    control(panel, "pause").click()
    panel.locator(".et-note", has_text="is paused").wait_for(timeout=10_000)
    page.wait_for_timeout(1500)
    paused = int(book.python("print(cockpit.run.updates)"))
    page.wait_for_timeout(1500)
    assert int(book.python("print(cockpit.run.updates)")) == paused < 40
    control(panel, "resume").click()
    panel.locator(".et-note", has_text="is done").wait_for(timeout=180_000)
    control(panel, "save").click()
    panel.locator(".et-note", has_text="Saved in").wait_for(timeout=60_000)
    seconds = time.perf_counter() - began
    saved = {path.name for path in (folder / "outputs" / "cockpit").rglob("*")}
    assert {"record.json", "motions.npz", "before_after.html", "tuned.safetensors"} <= saved
    assert {"before_after.mp4", "before_after.gif"} & saved
    print(f"from JupyterLab's start page to the video: {seconds:.0f} s")
    assert seconds < 900  # about 100 on two cores that have nothing else to do

    control(panel, "method").select_option("DRaFT-5")
    control(panel, "start").click()
    panel.locator(".et-note", has_text="run 3").wait_for(timeout=30_000)
    panel.locator(".et-note", has_text=re.compile(r"update ([5-9]|[1-3]\d)")).wait_for(
        timeout=60_000
    )
    control(panel, "stop").click()
    panel.locator(".et-note", has_text="is stopped").wait_for(timeout=30_000)
    panel.locator(".et-player canvas[role=img]").nth(2).wait_for(timeout=30_000)  # drawn anew
    assert panel.locator(".et-name").all_inner_texts()[0] == "before"
    assert panel.locator(".et-player canvas[role=img]").count() >= 3
    book.shots(panel, "cockpit", SHOTS)
    assert worries(book.errors) == []
    page.close()


@pytest.mark.parametrize(("dark", "scale"), [(False, 1), (True, 2)])
def test_the_export_works_without_a_network(browser, tmp_path, dark, scale):
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--output-dir"]
    books = [str(ROOT / "notebooks" / f"{name}.ipynb") for name in ("17_explorers", "18_cockpit")]
    subprocess.run([*command, str(tmp_path), *books], check=True, capture_output=True,
                   env=os.environ | {"PYTHONWARNINGS": "ignore"})  # fmt: skip
    context = browser.new_context(
        offline=True, viewport={"width": 1100, "height": 1000}, device_scale_factor=scale,
        color_scheme="dark" if dark else "light",
    )  # fmt: skip
    page, asked, errors = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: asked.append(r.url) if r.frame != page.main_frame else None)
    for name, count in (("17_explorers", 4), ("18_cockpit", 3)):
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
        if name == "17_explorers":
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


EXPLORED = {"06_motion_visualization": 1, "20_sweep": 2}  # plotly's views in them


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


@pytest.mark.parametrize("name", EXPLORED)
def test_what_is_explored_is_drawn_in_a_dark_lab_and_without_a_network(
    browser, address, folder, tmp_path, name
):
    source = ROOT / "notebooks" / f"{name}.ipynb"
    write_site(ROOT, tmp_path, {name: source})
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1000})
    page = context.new_page()
    page.goto((tmp_path / f"{name}.html").as_uri())
    see(page, name, "page")
    context.close()  # drawing by software, it would slow the lab down
    shutil.copy(source, folder / "notebooks")
    book = Notebook(browser, address, f"notebooks/{name}.ipynb")
    book.theme("Dark")
    see(book.page, name, "lab")
    assert worries(book.errors) == []
    book.page.evaluate("() => jupyterapp.commands.execute('kernelmenu:shutdown')")
    book.page.close()


def test_every_notebook_opens_in_the_lab(browser, address, folder):
    for path in BOOKS:
        shutil.copy(path, folder / "notebooks")
        book = Notebook(browser, address, f"notebooks/{path.name}")
        assert book.page.locator(".jp-Cell").count() > 4
        assert worries(book.errors) == [], path.name
        book.page.evaluate("() => jupyterapp.commands.execute('kernelmenu:shutdown')")
        book.page.close()


def test_the_player_is_fast_enough(tmp_path):
    with ThreadPoolExecutor(1) as apart:  # a thread has one Playwright, and ours has one
        record = apart.submit(bench_player, QUICK_PLAYER, lambda line: None).result()
    assert record.metrics["kilobytes_1"] < 60
    assert record.machine["player"][0]["frames_per_second"] > 10  # on a machine that is busy
