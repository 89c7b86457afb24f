"""The README's looping picture: one caption before and after tuning. ``python -m tools.teaser``."""

from pathlib import Path

import easytune_lib as et

CAPTION = "someone lifts both arms up like a lively young person."


def main() -> None:
    """Tune the weak base for a minute, and write ``figures/teaser.gif``."""
    bench = et.open_workbench("mld_early", n_steps=20)
    run = et.tune(bench, et.EasyTune(1, "random"), updates=150, lr=2e-4, batch_size=32)
    pair = [bench.sample([CAPTION], seconds=3.0)[0], run.sample([CAPTION], seconds=3.0)[0]]
    to = Path(__file__).parents[1] / "figures" / "teaser.gif"
    print(et.save_video(pair, to, names=["base", "EasyTune"]))


if __name__ == "__main__":
    main()
