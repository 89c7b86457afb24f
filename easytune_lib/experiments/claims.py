"""The paper's claims, each held against the committed records."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from easytune_lib.experiments.compare import paired_rows
from easytune_lib.experiments.time_to_reward import speedup
from easytune_lib.metrics.intervals import spread
from easytune_lib.records import MissingRecord, RunRecord
from easytune_lib.viz.paper import TABLE_2

Verdict = Literal["holds", "does not hold here", "not shown here"]

BETTER = "EasyTune aligns better than DRaFT through the whole chain"
LEANER = "EasyTune needs a third of the additional memory"
FASTER = "EasyTune reaches a reward sooner"
STARVED = "Early steps starve in the chain"
READABLE = "Noised motions stay readable"
GENERAL = "EasyTune improves six pre-trained models"
REFINED = "Self-refinement (SPL) improves the reward"
"""What the paper's abstract says, in our words; a claim that is about none of it says more."""

A_THIRD = 31.16
"""EasyTune's additional memory in percent of DRaFT-50's, says the abstract."""


@dataclass(frozen=True)
class Claim:
    """One claim of the paper in one regime, with what we found."""

    claim: str
    paper: str  # its number
    regime: str  # where ours was measured
    ours: float | None  # None: there is nothing to compare
    low: float | None  # ends of the 95 % interval over training seeds, where there are seeds
    high: float | None
    unit: str
    verdict: Verdict
    record: str  # run id
    figure: str  # of figures/, without suffix
    about: str = ""  # which of the abstract's claims, where it is one of its own


def verdict(low: float | None, high: float | None, wanted: float = 0.0) -> Verdict:
    """What an interval says of "more than ``wanted``"; without an interval, nothing."""
    if low is None or high is None:
        return "not shown here"
    if low > wanted:
        return "holds"
    return "does not hold here" if high < wanted else "not shown here"


def _estimated(
    claim: str,
    paper: str,
    regime: str,
    ends: Sequence[float | None],
    unit: str,
    record: RunRecord,
    figure: str,
    about: str = "",
    wanted: float = 0.0,
) -> Claim:
    """A claim of more than ``wanted``, by a mean and the ends of its interval."""
    ours, low, high = ends
    says = verdict(low, high, wanted)
    return Claim(claim, paper, regime, ours, low, high, unit, says, record.run_id, figure, about)


def _counted(
    claim: str,
    paper: str,
    regime: str,
    ours: float,
    unit: str,
    holds: bool,
    record: RunRecord,
    figure: str,
    about: str = "",
) -> Claim:
    """A claim by a number that is counted, and so has no interval."""
    says: Verdict = "holds" if holds else "does not hold here"
    return Claim(claim, paper, regime, ours, None, None, unit, says, record.run_id, figure, about)


def alignment_claims(
    record: RunRecord, rivals: Sequence[str], method: str = "EasyTune", metric: str = "mm_dist"
) -> list[Claim]:
    """Does ``method`` align better than each rival at equal compute, seed by seed?

    In percent of the rival's MM-Dist, as the abstract has it: more is better for ``method``. A
    seed gives both methods the same prompts and noise, so that differences are paired.

    Args:
        record: Of notebook 04, or 14 for equal evaluations of the reward; reads
            ``tables["methods"]``, one row a method and seed.
        rivals: Labels; those the record lacks are left out.
        method: A label.
        metric: A column of which less is better.
    """
    rows = {(row["method"], row["seed"]): row[metric] for row in record.tables["methods"]}
    base = str(record.parameters["base"])
    timed = "seconds" in record.parameters
    budget = f"{record.parameters['seconds']:g} s" if timed else "equal evaluations"
    chain = f"DRaFT-{record.parameters.get('n_steps', 50)}"
    claims = []
    for rival in rivals:
        seeds = [seed for name, seed in rows if name == rival and (method, seed) in rows]
        if not seeds:
            continue
        gains = [100 * (1 - rows[method, seed] / rows[rival, seed]) for seed in seeds]
        claims.append(
            _estimated(
                f"{method} aligns better than {rival}"
                f"{'' if timed else ', equal evaluations'} (MM-Dist)",
                "8.2 %" if (method, rival) == ("EasyTune", "DRaFT-50") else "",
                f"{base}, {budget}, {len(gains)} seeds",
                spread(gains),
                "%",
                record,
                f"full/methods_{base}" if timed else f"full/equal_evaluations_{base}",
                BETTER if (method, rival) == ("EasyTune", chain) else "",
            )
        )
    return claims


def memory_claims(record: RunRecord) -> list[Claim]:
    """EasyTune's memory for backward as a share of full DRaFT's, on each base.

    Args:
        record: Of notebook 05; reads ``tables["memory_by_k"]``.
    """
    claims = []
    rows = record.tables["memory_by_k"]
    steps = max(row["steps"] for row in rows)
    for base in dict.fromkeys(row["base"] for row in rows):
        saved = {
            r["method"]: r["saved_mib"] for r in rows if (r["base"], r["steps"]) == (base, steps)
        }
        share = 100 * saved["EasyTune"] / saved["DRaFT"]
        claims.append(
            _counted(
                f"EasyTune needs a third of DRaFT-{steps}'s additional memory",
                f"{A_THIRD} %",
                f"{base}, {record.parameters['batch_size']} prompts, counted",
                share,
                "%",
                share < A_THIRD,
                record,
                "full/backbone_cost",
                LEANER,
            )
        )
    return claims


def bench_claims(record: RunRecord) -> list[Claim]:
    """EasyTune's memory beyond sampling's, the most alive, as a share of DRaFT's.

    Plainly, with the exact tricks for both, and against a DRaFT that keeps checkpoints, which the
    paper does not show.

    Args:
        record: Of ``easytune bench``; reads ``tables["methods"]``.
    """
    rows, given = record.tables["methods"], record.parameters
    chain = f"DRaFT-{given['n_steps']}"
    third = f"EasyTune needs a third of {chain}'s additional memory"
    parted = f"{third}, both in two phases"
    less = f"EasyTune needs less memory than {chain} with checkpoints"
    claims = []
    for space in dict.fromkeys(row["space"] for row in rows):
        alive = {row["method"]: row["live_mib"] for row in rows if row["space"] == space}
        least = alive["sampling alone"]
        size = {"latent": "published", "feature": "laptop"}[space]
        for claim, method, rival, limit, paper in (
            (third, "EasyTune", "DRaFT", A_THIRD, f"{A_THIRD} %"),
            (parted, "EasyTune, two-phase", "DRaFT, two-phase", A_THIRD, ""),
            (less, "EasyTune, two-phase", "DRaFT, checkpoints, two-phase", 100.0, ""),
        ):
            share = 100 * (alive[method] - least) / (alive[rival] - least)
            claims.append(
                _counted(
                    claim,
                    paper,
                    f"{space} space at {size} size, {given['batch_size']} prompts, alive",
                    share,
                    "%",
                    share < limit,
                    record,
                    "full/bench",
                    LEANER if limit == A_THIRD else "",
                )
            )
    return claims


def backbone_claims(record: RunRecord) -> list[Claim]:
    """Does EasyTune lower each backbone's MM-Dist, and more than DRaFT does at equal compute?

    In percent of the base's. EasyTune is one random step a trajectory, DRaFT its last ten.

    Args:
        record: Of notebook 13; reads ``tables["backbones"]`` and ``tables["scores"]``.
    """
    given, claims = record.parameters, []
    for row in record.tables["backbones"]:
        if row["method"] != "EasyTune":
            continue
        name, (before, after) = row["backbone"], TABLE_2[row["backbone"]]
        own = [r for r in record.tables["scores"] if r["backbone"] == name]
        base = next(r for r in record.tables["backbones"] if r["backbone"] == name)["mm_dist"]
        (apart,) = paired_rows(own, "test", "DRaFT", ("mm_dist",))
        ahead = [
            None if (gain := apart[key]) is None else -100 * gain / base
            for key in ("mm_dist", "mm_dist_high", "mm_dist_low")
        ]
        gained = [row[f"mm_dist_percent{end}"] for end in ("", "_low", "_high")]
        for says, paper, found, about in (
            (f"EasyTune improves {name}", f"{100 * (1 - after / before):.1f} %", gained, GENERAL),
            (f"EasyTune improves {name} more than DRaFT does", "", ahead, ""),
        ):
            claims.append(
                _estimated(
                    f"{says} (MM-Dist)",
                    paper,
                    f"T = {row['n_steps']}, {given['seconds']:g} s, {given['seeds']} seeds",
                    found,
                    "%",
                    record,
                    "full/six_backbones",
                    about,
                )
            )
    return claims


def speed_claims(record: RunRecord, method: str = "EasyTune") -> list[Claim]:
    """Is ``method`` sooner at a training reward than DRaFT through the whole chain, and than ReFL?

    The ratio of median CPU seconds, "at least" where the rival never gets there and "at most"
    where the method does not; its ends are the worst and the best case over the seeds of both. It
    holds if even the worst is above 1.

    Args:
        record: Of notebook 14; reads ``tables["reach"]``.
        method: A label.
    """
    rows = [row for row in record.tables["reach"] if row["clock"] == "seconds"]
    claims = []
    for base, threshold in dict.fromkeys((row["base"], row["threshold"]) for row in rows):
        here = [r for r in rows if (r["base"], r["threshold"]) == (base, threshold)]
        chain = max((r["method"] for r in here if r["method"].startswith("DRaFT-")), key=_depth)
        for rival in (chain, "ReFL"):
            reached = ", ".join(
                f"{name} {row['reached']} of {row['seeds']}"
                for name in (method, rival) for row in here if row["method"] == name
            )  # fmt: skip
            own = method == "EasyTune" and rival == chain
            claims.append(
                _estimated(
                    f"{method} reaches a reward of {threshold:.2f} sooner than {rival}",
                    "7.3 x" if own and threshold == 0.75 else "",
                    f"{base}, seeds that do: {reached}",
                    speedup(here, method, rival),
                    "x",
                    record,
                    f"full/reach_{base}",
                    FASTER if own else "",
                    wanted=1.0,
                )
            )
    return claims


def reward_claims(record: RunRecord, rivals: Sequence[str]) -> list[Claim]:
    """Is EasyTune's tuned model ahead on the reward itself, on *test* prompts, at equal compute?

    What a time to a training reward can not say: EasyTune's is that of prompts that it has just
    been updated on. Differences are paired by seed.

    Args:
        record: Of notebook 04; reads ``tables["methods"]``.
        rivals: Labels; those the record lacks are left out.
    """
    rows = {(row["method"], row["seed"]): row["reward"] for row in record.tables["methods"]}
    base, chain = str(record.parameters["base"]), f"DRaFT-{record.parameters['n_steps']}"
    claims = []
    for rival in dict.fromkeys(name for name, _ in rows if name in rivals):
        gains = [
            value - rows[rival, seed] for (name, seed), value in rows.items() if name == "EasyTune"
        ]
        claims.append(
            _estimated(
                f"EasyTune's reward on test prompts ends above that of {rival}",
                "",
                f"{base}, {record.parameters['seconds']:g} s, {len(gains)} seeds",
                spread(gains),
                "reward",
                record,
                f"full/methods_{base}",
                FASTER if rival == chain else "",
            )
        )
    return claims


def _depth(label: str) -> int:
    return int(label.removeprefix("DRaFT-"))


def gradient_claims(record: RunRecord) -> list[Claim]:
    """Does the chain starve early steps, so that their share of the gradient vanishes?

    Held to be so if the first quarter's mean share is below a tenth of the last quarter's.

    Args:
        record: Of notebook 01; reads ``series["share/DRaFT-..."]``.
    """
    name = next(key for key in record.series if key.startswith("share/DRaFT"))
    shares = record.series[name]
    quarter = len(shares) // 4
    ratio = sum(shares[:quarter]) / sum(shares[-quarter:])
    return [
        _counted(
            "Early steps starve in the chain (first quarter's share over the last quarter's)",
            "falls to 0",
            f"{record.parameters['base']}, {record.parameters['prompts']} prompts",
            ratio,
            "",
            ratio < 0.1,
            record,
            f"full/gradient_norms_{record.parameters['base']}",
            STARVED,
        )
    ]


def noise_claims(record: RunRecord) -> list[Claim]:
    """Does a reward still read a motion half way through the chain, and thanks to what?

    Args:
        record: Of notebook 02; reads the metrics ``x_t_at_half`` and ``features_at_half``.
    """
    base, found = str(record.parameters["base"]), record.metrics
    figure = f"full/noise_similarity_{base}"
    excess = found["x_t_at_half"] - found["features_at_half"]
    return [
        _counted(
            "Noised motions stay readable (cosine at half of the steps)",
            "0.945",
            f"{base}, {record.parameters['prompts']} prompts",
            found["x_t_at_half"],
            "",
            found["x_t_at_half"] > 0.9,
            record,
            figure,
            READABLE,
        ),
        _counted(
            "It is the reward's encoder that reads them (its cosine less that of plain features)",
            "",
            f"{base}, {record.parameters['prompts']} prompts",
            excess,
            "",
            excess > 0,
            record,
            f"full/noise_apart_{base}",
        ),
    ]


def refinement_claims(record: RunRecord, arm: str = "SPL") -> list[Claim]:
    """Does SPL improve retrieval, over the start as in the paper, and over plain training?

    Args:
        record: Of notebook 03; reads ``tables["recall"]``.
        arm: Which one.
    """
    rows = [r for r in record.tables["recall"] if (r["k"], r["direction"]) == (1, "t2m")]
    claims = []
    for start, name in dict.fromkeys((r["trained"], r["set"]) for r in rows):
        found = {
            (r["model"], r["seed"]): 100 * r["recall"]
            for r in rows
            if (r["trained"], r["set"]) == (start, name)
        }
        for against, paper in (("before", "1.72 points"), ("plain", "")):
            gains = [v - found[against, seed] for (model, seed), v in found.items() if model == arm]
            words = {"before": "than it was before", "plain": "than as many plain steps"}
            claims.append(
                _estimated(
                    f"{arm} makes retrieval better {words[against]} (R@1)",
                    paper,
                    f"{name}, {start} steps before, {len(gains)} seeds",
                    spread(gains),
                    "points",
                    record,
                    "full/retrieval_spl_real",
                    REFINED,
                )
            )
    return claims


def longest(runs: Path, name: str, size: str, **wanted: Any) -> RunRecord:
    """The record of ``name`` with the ``wanted`` parameters and the largest ``size``.

    Of equally large ones, that with the most ``seeds``.

    Raises:
        MissingRecord: There is none.
    """
    found = [
        record
        for path in sorted(runs.glob(f"{name}-*"))
        if (record := RunRecord.load(path)).name == name
        and all(record.parameters.get(key) == value for key, value in wanted.items())
    ]
    if not found:
        raise MissingRecord(
            f"no record of {name!r} with {wanted} in {runs.name}: `easytune reproduce --size full` "
            "makes it"
        )
    ranks = [(r.parameters.get(size, 0), r.parameters.get("seeds", 0)) for r in found]
    return found[ranks.index(max(ranks))]


def all_claims(runs: Path) -> list[Claim]:
    """Every claim that the records in ``runs`` can speak of.

    Raises:
        ValueError: A record is missing.
    """
    rivals = ("DRaFT-50", "DRaFT-20", "DRaFT-10", "ReFL")
    compared = [
        longest(runs, "step_finetuning", "seconds", base=b) for b in ("mld_early", "mld", "mdm")
    ]
    equal = longest(runs, "equal_evaluations", "updates")
    costs = longest(runs, "alignment_cost", "batch_size")
    forms = ("EasyTune", "EasyTune (random step)")
    return [
        *(
            c
            for form in forms
            for record in compared
            for c in alignment_claims(record, rivals, form)
        ),
        *(c for form in forms for c in alignment_claims(equal, ("DRaFT-50", "ReFL"), form)),
        *backbone_claims(longest(runs, "six_backbones", "seconds")),
        *memory_claims(longest(runs, "backbones", "batch_size")),
        *bench_claims(longest(runs, "bench", "batch_size")),
        *(c for form in forms for c in speed_claims(costs, form)),
        *(c for record in compared for c in reward_claims(record, rivals)),
        *gradient_claims(longest(runs, "gradient_norms", "prompts", base="mld")),
        *noise_claims(longest(runs, "noise_similarity", "prompts", base="mld")),
        *refinement_claims(longest(runs, "reward_training_spl", "refine", data="bnr+cmu")),
    ]


def abstract_rows(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The abstract, claim by claim: the paper's number, ours where it was measured, one verdict.

    It *holds* if it does wherever we looked, *holds only where* is said, *does not hold here* if
    nowhere and somewhere the contrary is seen, and is *not shown here* otherwise.
    """
    rows = []
    for about in dict.fromkeys(claim.about for claim in claims if claim.about):
        own = [claim for claim in claims if claim.about == about]
        said = [claim.verdict for claim in own]
        where = [claim for claim in own if claim.verdict == "holds"]
        if len(where) == len(own):
            word = "holds"
        elif where:
            word = "holds only where"
        else:
            word = "does not hold here" if "does not hold here" in said else "not shown here"
        rows.append({
            "claim": about,
            "paper": ", ".join(dict.fromkeys(claim.paper for claim in own if claim.paper)),
            "verdict": word,
            "where": "; ".join(map(_place, where)) if word == "holds only where" else "",
            "holds": len(where),
            "of": len(own),
            "records": sorted({claim.record for claim in own}),
            "figures": sorted({claim.figure for claim in own}),
        })  # fmt: skip
    return rows


def _place(claim: Claim) -> str:
    return f"{claim.claim} ({claim.regime.split(',')[0]})"


def rows_of(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Claims as a record's table."""
    return [asdict(claim) for claim in claims]
