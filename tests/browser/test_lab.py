"""Explorers and the cockpit in a real JupyterLab, moved by hand."""

import re
import time

import pytest
from browser_lab import SHOTS, Notebook, worries


def note(panel) -> str:
    return panel.locator(".et-note").first.inner_text()


def control(panel, name: str):
    return panel.locator(f'[data-name="{name}"]').first


def test_the_explorers_move_and_python_hears_of_it(browser, address):
    book = Notebook(browser, address, "notebooks/10_explore.ipynb")
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


@pytest.mark.long
def test_from_a_prompt_of_ones_own_to_a_video_by_clicking(browser, address, folder):
    began = time.perf_counter()
    book = Notebook(browser, address, "notebooks/studies/cockpit.ipynb")
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
