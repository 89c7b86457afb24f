import io
from pathlib import Path

import pytest

from easytune_lib import progress as module
from easytune_lib.app.execute import CellStarted, Finished
from easytune_lib.app.progress import Progress
from easytune_lib.progress import Ticker, spell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 5 min"),
        (59.6, "1 min 0 s"),
    ],
)
def test_times_for_people(seconds: float, text: str):
    assert spell(seconds) == text


def test_the_time_left_is_from_history_and_unknown_notebooks_are_average_ones(clock):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin({"a": 10.0, "b": None, "c": 30.0}, total=4)
    progress.skipped("z", 5.0)
    progress.started("a")  # 10 + (5 + 10 + 30) / 3 + 30
    clock[0] += 4
    progress.cell(CellStarted(2, 5, "x = 1"))
    progress.done(Finished(12.0, 300, ""), figures=1)
    progress.started("b")  # (5 + 10 + 30 + 12) / 4 + 30
    assert stream.getvalue().splitlines() == [
        "[1/4] z: done before, in 5 s",
        "[2/4] a, about 55 s left",
        "  cell 2 of 5 (`x = 1`), 4 s, about 51 s left",
        "  done in 12 s, 300 MB, 1 figure",
        "[3/4] b, about 44 s left",
    ]


def test_without_history_no_time_is_made_up(clock):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin({"a": None}, total=1)
    progress.started("a")
    assert stream.getvalue() == "[1/1] a\n"


def test_a_log_gets_few_lines_and_a_terminal_one_that_is_overwritten(clock):
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        progress = Progress(stream)
        progress.begin({"a": None}, total=1)
        progress.started("a")
        for _ in range(61):
            clock[0] += 1
            progress.cell(None)
        progress.failed(Finished(61.0, 0, "cell 1 of 2 (`x`): ValueError: no"), Path("none"))
    assert log.getvalue().splitlines() == [
        "[1/1] a",
        "  starting the kernel, 31 s",
        "  FAILED after 1 min 1 s in cell 1 of 2 (`x`): ValueError: no.",
    ]
    assert terminal.getvalue().count("\n") == 2
    assert terminal.getvalue().count("\r\x1b[K") == 63


def test_the_table_has_one_row_a_notebook():
    stream = io.StringIO()
    rows = [("00_tour", "9", "812", "tour"), ("01_x", "120", "1024", "-")]
    Progress(stream).table(("notebook", "seconds", "peak MB", "figures"), rows)
    assert stream.getvalue().splitlines()[1:] == [
        "notebook  seconds  peak MB  figures",
        "--------  -------  -------  -------",
        "00_tour         9      812  tour",
        "01_x          120     1024  -",
    ]


def test_a_ticker_says_what_is_urgent(clock):
    stream = io.StringIO()
    ticker = Ticker(stream)
    ticker.passing("one", urgent=True)
    ticker.passing("two")
    ticker.passing("three", urgent=True)
    assert stream.getvalue() == "one\nthree\n"
