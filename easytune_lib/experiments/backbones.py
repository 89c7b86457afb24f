"""EasyTune and DRaFT on every kind of backbone, at one budget each: the paper's Figure 1(b)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easytune_lib.experiments.compare import Run, best_rates, cost_rows, summary
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.records import RunRecord
from easytune_lib.workbench import Base, Workbench

RATES = (1e-5, 5e-5, 2e-4, 5e-4)
"""Learning rates that are tried on validation prompts, for each backbone and method."""

FALLBACK = 1e-4
"""The rate of a method for which none was chosen."""

RATE_SEED = 1000
"""Training seed of that search, which is never reported."""


@dataclass(frozen=True)
class Backbone:
    """A base with its number of steps, and the two methods in the form that suits it."""

    name: str  # the paper's
    base: Base
    n_steps: int
    easytune: EasyTune
    draft: DRaFT

    @property
    def methods(self) -> dict[str, EasyTune | DRaFT]:
        """By the label that figures use on every backbone."""
        return {"EasyTune": self.easytune, "DRaFT": self.draft}


def six_backbones(n_steps: int = 50) -> tuple[Backbone, ...]:
    """The paper's six, the many-step ones with ``n_steps``.

    EasyTune rewards one random step a trajectory. It reads the one-step estimate where the
    sampler is an ODE's or jumps to the clean end, and the state with its step where noise is
    drawn on the way (MotionDiffuse), as the paper splits them. DRaFT records the last 10 steps,
    or all of the few there are. With one step the two are one method.

    Deviation: MDM samples by DDIM here, an ODE's sampler, and not by DDPM.
    """
    step, state = EasyTune(1, "random"), EasyTune(1, "random", reads="x_t")
    last = DRaFT(min(10, n_steps))
    return (
        Backbone("MLD", "mld", n_steps, step, last),
        Backbone("MLD++", "mldpp", n_steps, step, last),
        Backbone("MotionLCM-1", "motionlcm", 1, step, DRaFT(1)),
        Backbone("MotionLCM-4", "motionlcm", 4, step, DRaFT(4)),
        Backbone("MDM", "mdm", n_steps, step, last),
        Backbone("MotionDiffuse", "motiondiffuse", n_steps, state, last),
    )


def runs_of(
    backbone: Backbone,
    bench: Workbench,
    rates: Mapping[str, float],
    seeds: Sequence[int],
    **options: Any,
) -> list[Run]:
    """Both methods, each at its rate, for each training seed; ``options`` are those of a run."""
    return [
        Run(backbone.base, bench.digest, label, method, rates[label], seed,
            n_steps=backbone.n_steps, **options)
        for seed in seeds
        for label, method in backbone.methods.items()
    ]  # fmt: skip


def rate_search(backbone: Backbone, bench: Workbench, **options: Any) -> list[Run]:
    """Both methods at each of :data:`RATES`, judged on validation prompts."""
    asked = options | {"splits": ("validation",), "noise_seeds": 1, "prompts": 0}
    return [
        run
        for rate in RATES
        for run in runs_of(
            backbone, bench, dict.fromkeys(backbone.methods, rate), [RATE_SEED], **asked
        )
    ]


def chosen_rates(
    backbone: Backbone, bench: Workbench, planned: Sequence[Run], records: Sequence[RunRecord]
) -> RunRecord:
    """The record of a search: of each method, the rate of the lowest MM-Dist.

    Args:
        backbone: Whose methods.
        bench: Opened for it.
        planned: Of :func:`rate_search`.
        records: Theirs, in order.
    """
    best, tried = best_rates(planned, records)
    spent = {"seconds": planned[0].seconds}
    return RunRecord(
        "backbone_rates", _key(backbone, bench), best, tables={"tried": tried}, machine=spent
    )


def recorded_rates(backbone: Backbone, bench: Workbench, runs: Path) -> dict[str, float]:
    """The rates that were chosen for these weights, :data:`FALLBACK` where none was."""
    found = RunRecord.find(runs, "backbone_rates", _key(backbone, bench))
    return {
        label: found.metrics.get(label, FALLBACK) if found else FALLBACK
        for label in backbone.methods
    }


def _key(backbone: Backbone, bench: Workbench) -> dict[str, Any]:
    """What a choice of rates holds for; not the number of steps, which a quick look changes."""
    return {"backbone": backbone.name, "weights": bench.digest}


def backbone_rows(
    backbone: Backbone,
    bench: Workbench,
    scores: Sequence[dict[str, Any]],
    metrics: Sequence[str] = ("r1", "mm_dist", "fid", "reward"),
) -> list[dict[str, Any]]:
    """What each method did for a backbone: one row for the base and one a method.

    Beside the columns of :func:`~easytune_lib.experiments.compare.summary` there are
    ``mm_dist_percent``, by how much of the base's MM-Dist it fell, with ``_low`` and ``_high``
    of the 95 % interval; and ``saved_mib`` held for backward, for 4 prompts (none for the base).

    Args:
        backbone: Whose methods.
        bench: Opened for it; no weight of it is changed.
        scores: Of :func:`~easytune_lib.experiments.compare.base_rows` and ``score_rows``.
        metrics: Columns of the scores; MM-Dist among them.
    """
    held = {row["method"]: row["saved_mib"] for row in cost_rows(bench, backbone.methods)}
    lines = summary(scores, "test", metrics)
    (whole,) = (line["mm_dist"] for line in lines if line["method"] == "base")

    def percent(gain: float | None) -> float | None:
        return None if gain is None else 100 * (1 - (whole + gain) / whole)

    return [
        {"backbone": backbone.name, "n_steps": backbone.n_steps}
        | line
        | {
            "mm_dist_percent": percent(line["mm_dist_gain"]),
            "mm_dist_percent_low": percent(line["mm_dist_gain_high"]),
            "mm_dist_percent_high": percent(line["mm_dist_gain_low"]),
            "saved_mib": held.get(line["method"]),
        }
        for line in lines
    ]
