"""Lines about something that runs long: on a terminal they overwrite each other."""

import sys
import time
from collections.abc import Sequence
from io import TextIOBase


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

    def _write(self, text: str) -> None:
        self._said = time.monotonic()
        self._stream.write(text)
        self._stream.flush()
