"""Measure what training costs, and write a record: ``python -m benchmarks [WHAT] [--quick]``."""

import argparse
from pathlib import Path

from benchmarks import backbones, finetuning, player, reward_training

ROOT = Path(__file__).parents[1]
MEASURES = {
    "tuning": (finetuning.bench, finetuning.QUICK, finetuning.Size()),
    "reward": (
        reward_training.bench_reward,
        reward_training.QUICK_REWARD,
        reward_training.RewardSize(),
    ),
    "buckets": (
        reward_training.bench_buckets,
        reward_training.QUICK_LEARNING,
        reward_training.LearningSize(),
    ),
    "backbones": (
        backbones.bench_backbones,
        backbones.QUICK_BACKBONES,
        backbones.BackboneSize(),
    ),
    "player": (player.bench_player, player.QUICK_PLAYER, player.PlayerSize()),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark, print its table and save its record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", default="tuning", choices=MEASURES)
    parser.add_argument("--quick", action="store_true", help="see that it works; writes to outputs")
    options = parser.parse_args(arguments)
    measure, quick, full = MEASURES[options.what]
    record = measure(quick if options.quick else full, lambda line: print(line, flush=True))
    table = {
        "tuning": finetuning.table,
        "backbones": backbones.table,
        "player": player.table,
    }.get(options.what, reward_training.table)
    print(table(record))
    print(f"Record: {record.save(ROOT / ('outputs' if options.quick else 'runs'))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
