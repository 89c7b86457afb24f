"""All figures and tables of a paper, redrawn from the records alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

from easytune_lib.storage import write_atomic
from easytune_lib.viz.figures import LEFT_OUT, printed
from easytune_lib.viz.style import OURS, VENUES, Venue

FOLDERS = {"laptop": ".", "full": "full"}
"""Where the figures of each size lie below a folder of figures."""


def draw_figures(
    runs: Path, out: Path, venue: str = "ours", say: Callable[[str], None] = print
) -> list[Path]:
    """Draw each figure that the records of ``runs`` give, into ``out`` and ``out/full``.

    Drawn twice, a figure has the same bytes. Other files there are left as they are.

    Args:
        runs: The folder of records.
        out: The folder of figures; made if missing.
        venue: A key of :data:`~easytune_lib.viz.style.VENUES`, whose widths figures have.
        say: Is told what was drawn and what was not.

    Returns:
        The PDFs.

    Raises:
        ValueError: The venue is unknown, or a record does not hold what its figure shows.
    """
    if venue not in VENUES:
        raise ValueError(f"no venue {venue!r}; there are {', '.join(VENUES)}")
    drawn = list(_drawn(runs, out, VENUES[venue], say))
    for name, why in LEFT_OUT.items():
        say(f"not drawn: {name} {why}")
    return drawn


def _drawn(runs: Path, out: Path, venue: Venue, say: Callable[[str], None]) -> Iterator[Path]:
    for size, folder in FOLDERS.items():
        captions = []
        for name, entry, record in printed(runs, size):
            yield entry.save(record, out / folder, venue)
            say(f"{size}: {name} from {record.run_id}")
            captions.append(f"{name}: {entry.of(record, entry.caption)} [{record.run_id}]")
        if captions and venue is not OURS:
            write_atomic(out / folder / "captions.txt", "\n".join([*captions, ""]).encode())
