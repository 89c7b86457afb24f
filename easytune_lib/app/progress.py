"""What a terminal, or a log, is told while something long runs."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easytune_lib.app.execute import CellStarted, Finished
from easytune_lib.progress import Ticker, spell

if TYPE_CHECKING:
    from easytune_lib.app.sweep import State, SweepJob


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

    def _eta(self, spent: float) -> str:
        """Time left for all notebooks; one that was never run is taken for an average one."""
        if not self._known:
            return ""
        average = sum(self._known) / len(self._known)
        current, *rest = (
            average if s is None else s for s in (self._current, *self._waiting.values())
        )
        return f", about {spell(max(current - spent, 0.0) + sum(rest))} left"


class SweepTable(Ticker):
    """How the jobs of a sweep stand: drawn over on a terminal, a line a change in a log."""

    def __init__(self, stream: TextIOBase | None = None, most: int = 20):
        super().__init__(stream)
        self._most, self._drawn = most, 0
        self._before: dict[str, str] = {}

    def __call__(
        self, jobs: Sequence["SweepJob"], states: Sequence["State"], left: float | None
    ) -> None:
        """Show all; those that run first, and no more than fit."""
        counts = Counter(state.state for state in states)
        summary = ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
        eta = f", about {spell(left)} left" if left else ""
        if not self._terminal:
            for job, state in zip(jobs, states, strict=True):
                if self._before.get(job.folder.name, "waiting") != state.state:
                    what = " ".join(f"{k}={v}" for k, v in job.varied.items())
                    rest = f": {state.note}" if state.state == "failed" else ""
                    self.say(f"{what}: {state.state}{rest} ({summary}{eta})")
                self._before[job.folder.name] = state.state
            return
        from easytune_lib.app.sweep import table

        rank = {"running": 0, "failed": 1, "waiting": 2, "done": 3}
        rows = sorted(table(jobs, states), key=lambda row: rank[row["state"]])[: self._most]
        lines = [summary + eta]
        lines += ["  " + "  ".join(filter(None, row.values())) for row in rows]
        if len(states) > len(rows):
            lines.append(f"  and {len(states) - len(rows)} more")
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._write(up + "".join(f"\r\x1b[K{line[:110]}\n" for line in lines) + "\x1b[J")
        self._drawn = len(lines)

    def chosen(self, rows: Sequence[dict[str, Any]], choose: str, by: str) -> None:
        """The best of each combination, with intervals where there are several seeds."""
        if not rows:
            return
        ends = tuple(f"{name}{end}" for name in rows[0] for end in ("_low", "_high"))
        names = [name for name in rows[0] if name not in ends]

        def text(row: dict[str, Any], name: str) -> str:
            value, low = row.get(name, ""), row.get(f"{name}_low")
            if isinstance(value, float):
                value = f"{value:.4g}"
                if low is not None:
                    value += f" [{low:.4g}, {row[f'{name}_high']:.4g}]"
            return str(value)

        how = f"; {choose} is the one with the best {by}" if choose else ""
        self.say(f"Means over seeds, with 95 % intervals{how}")
        self.table(names, [[text(row, name) for name in names] for row in rows])
