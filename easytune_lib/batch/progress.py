"""What a terminal, or a log, is told while something long runs."""

import sys
import time
from collections.abc import Mapping, Sequence
from io import TextIOBase
from pathlib import Path

from easytune_lib.batch.worker import CellStarted, Finished


def spell(seconds: float) -> str:
    """A time for people: ``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Ticker:
    """Lines on a stream; on a terminal, passing ones overwrite each other.

    Args:
        stream: Where to; standard output where ``None``.
        every: Seconds between passing lines where there is no terminal to overwrite them.
    """

    def __init__(self, stream: TextIOBase | None = None, every: float = 30.0):
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._every, self._said = every, 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(("\r\x1b[K" if self._terminal else "") + text + "\n")

    def passing(self, text: str, urgent: bool = False) -> None:
        """A line that the next one may replace; rare in a log, unless it is urgent."""
        if self._terminal:
            self._write(f"\r\x1b[K{text[:100]}")
        elif urgent or time.monotonic() - self._said > self._every:
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        self._said = time.monotonic()
        self._stream.write(text)
        self._stream.flush()


class Progress(Ticker):
    """A line for each notebook and cell, with the time left."""

    def begin(self, expected: Mapping[str, float | None], total: int) -> None:
        """Say what is to come: seconds by name of what is not done, ``None`` where unknown."""
        self._waiting = dict(expected)
        self._known = [seconds for seconds in expected.values() if seconds is not None]
        self._total, self._number = total, 0

    def started(self, name: str) -> None:
        """A notebook begins."""
        self._number += 1
        self._began = time.monotonic()
        self._cell: CellStarted | None = None
        self._current = self._waiting.pop(name)
        self.say(f"[{self._number}/{self._total}] {name}{self._eta(0.0)}")

    def cell(self, event: CellStarted | None) -> None:
        """A cell begins, or goes on."""
        self._cell = event or self._cell
        spent = time.monotonic() - self._began
        shown = self._cell or "starting the kernel"
        self.passing(f"  {shown}, {spell(spent)}{self._eta(spent)}", urgent=event is not None)

    def done(self, finished: Finished, figures: int) -> None:
        """A notebook ended well."""
        self._known.append(finished.seconds)
        drew = f"{figures} figure{'s' * (figures != 1)}"
        self.say(f"  done in {spell(finished.seconds)}, {finished.peak_mb} MB, {drew}")

    def failed(self, finished: Finished, output: Path) -> None:
        """A notebook did not."""
        where = f" Its cells so far: {output}" if output.exists() else ""
        self.say(f"  FAILED after {spell(finished.seconds)} in {finished.error}.{where}")

    def skipped(self, name: str, seconds: float) -> None:
        """A notebook was done before."""
        self._number += 1
        self._known.append(seconds)
        self.say(f"[{self._number}/{self._total}] {name}: done before, in {spell(seconds)}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A closing table; numbers are aligned right."""
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        self.say("")
        for row in (head, ["-" * width for width in widths], *rows):
            cells = [
                text.rjust(width) if 0 < i < len(row) - 1 else text.ljust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.say("  ".join(cells).rstrip())

    def _eta(self, spent: float) -> str:
        """Time left for all notebooks; one that was never run is taken for an average one."""
        if not self._known:
            return ""
        average = sum(self._known) / len(self._known)
        current, *rest = (
            average if s is None else s for s in (self._current, *self._waiting.values())
        )
        return f", about {spell(max(current - spent, 0.0) + sum(rest))} left"
