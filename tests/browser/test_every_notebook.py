"""Each notebook opened and run in a real JupyterLab, and what it draws moved by hand."""

import pytest
from browser_lab import BOOKS, ROOT, SHOTS, Notebook, worries

MOVED_ELSEWHERE = ("10_explore", "cockpit")
"""Notebooks whose explorers ``test_lab.py`` runs and moves."""

pytestmark = pytest.mark.long


@pytest.mark.parametrize("path", [b for b in BOOKS if b.stem not in MOVED_ELSEWHERE], ids=str)
def test_it_runs_in_the_lab_and_its_players_move(browser, address, path):
    name = path.stem
    book = Notebook(browser, address, str(path.relative_to(ROOT)))
    book.run_all(900)
    assert book.failed() == [] and worries(book.errors) == []
    frames = book.page.locator(".jp-OutputArea iframe")
    for place in range(frames.count()):
        moved(book.page, frames.nth(place), f"{name}_{place}")
    book.shots(book.page.locator(".jp-Notebook").first, name, SHOTS)
    book.close()


def moved(page, frame, name: str) -> None:
    """A player goes on frame by frame, and what is seen changes."""
    frame.scroll_into_view_if_needed()
    inside = frame.content_frame
    player = inside.locator(".et-player").first
    player.wait_for(timeout=30_000)
    frame.screenshot(path=SHOTS / f"{name}.png")
    button = inside.get_by_label("One frame on").first
    button.click()
    before = player.get_attribute("data-frame"), frame.screenshot()
    for _ in range(5):
        button.click()
    page.wait_for_timeout(300)
    assert player.get_attribute("data-frame") != before[0]
    assert frame.screenshot() != before[1]
