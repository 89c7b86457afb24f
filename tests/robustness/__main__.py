"""Kill runs, or damage files, many times: ``python -m tests.robustness torture|fuzz``."""

import argparse
from pathlib import Path

from tests.robustness import fuzz, torture

RUNS = Path(__file__).parents[2] / "runs"


def main(arguments: list[str] | None = None) -> int:
    """Run the trial that is named and save its record; 1 if it found anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("what", choices=("torture", "fuzz"))
    parser.add_argument("--count", type=int, default=0, help="kills (200) or inputs (10,000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.count < 0:
        raise ValueError(f"--count is 1 or more, got {options.count}")
    if options.what == "torture":
        size = torture.TortureSize(options.count or 200, seed=options.seed)
        record, table = torture.torture(size, _say), torture.table
        bad = record.metrics["different"] or record.metrics["failed"]
    else:
        record = fuzz.fuzz(fuzz.FuzzSize(options.count or 10_000, options.seed), _say)
        table, bad = fuzz.table, record.metrics["found"]
    print(table(record))
    print(f"Record: {record.save(RUNS)}")
    return int(bool(bad))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
