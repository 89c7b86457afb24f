"""The paper's claims, each held against the committed records."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from easytune_lib.metrics.intervals import spread
from easytune_lib.records import RunRecord

Verdict = Literal["holds", "does not hold here", "not shown here"]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper in one regime, with what we found."""

    claim: str
    paper: str  # its number
    regime: str  # where ours was measured
    ours: float
    low: float | None  # ends of the 95 % interval over training seeds, where there are seeds
    high: float | None
    unit: str
    verdict: Verdict
    record: str  # run id
    figure: str  # of figures/, without suffix


def verdict(low: float | None, high: float | None, wanted: float = 0.0) -> Verdict:
    """What an interval says of "more than ``wanted``"; without an interval, nothing."""
    if low is None or high is None:
        return "not shown here"
    if low > wanted:
        return "holds"
    return "does not hold here" if high < wanted else "not shown here"


def held(yes: bool) -> Verdict:
    """What a number that is counted, not estimated, says."""
    return "holds" if yes else "does not hold here"


def alignment_claims(
    record: RunRecord, rivals: Sequence[str], method: str = "EasyTune", metric: str = "mm_dist"
) -> list[Claim]:
    """Does ``method`` align better than each rival at equal compute, seed by seed?

    In percent of the rival's MM-Dist, as the abstract has it: more is better for ``method``. A
    seed gives both methods the same prompts and noise, so that differences are paired.

    Args:
        record: Of notebook 04; reads ``tables["methods"]``, one row a method and seed.
        rivals: Labels; those the record lacks are left out.
        method: A label.
        metric: A column of which less is better.
    """
    rows = {(row["method"], row["seed"]): row[metric] for row in record.tables["methods"]}
    base = str(record.parameters["base"])
    claims = []
    for rival in rivals:
        seeds = [seed for name, seed in rows if name == rival and (method, seed) in rows]
        if not seeds:
            continue
        gains = [100 * (1 - rows[method, seed] / rows[rival, seed]) for seed in seeds]
        mean, low, high = spread(gains)
        claims.append(
            Claim(
                f"{method} aligns better than {rival} (MM-Dist)",
                "8.2 %" if (method, rival) == ("EasyTune", "DRaFT-50") else "",
                f"{base}, {record.parameters['seconds']:g} s, {len(gains)} seeds",
                mean,
                low,
                high,
                "%",
                verdict(low, high),
                record.run_id,
                f"full/methods_{base}",
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
            Claim(
                f"EasyTune needs a third of DRaFT-{steps}'s additional memory",
                "31.16 %",
                f"{base}, {record.parameters['batch_size']} prompts, counted",
                share,
                None,
                None,
                "%",
                held(share < 31.16),
                record.run_id,
                "full/backbone_cost",
            )
        )
    return claims


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
        Claim(
            "Early steps starve in the chain (first quarter's share over the last quarter's)",
            "falls to 0",
            f"{record.parameters['base']}, {record.parameters['prompts']} prompts",
            ratio,
            None,
            None,
            "",
            held(ratio < 0.1),
            record.run_id,
            f"full/gradient_norms_{record.parameters['base']}",
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
        Claim(
            "Noised motions stay readable (cosine at half of the steps)",
            "0.945",
            f"{base}, {record.parameters['prompts']} prompts",
            found["x_t_at_half"],
            None,
            None,
            "",
            held(found["x_t_at_half"] > 0.9),
            record.run_id,
            figure,
        ),
        Claim(
            "It is the reward's encoder that reads them (its cosine less that of plain features)",
            "",
            f"{base}, {record.parameters['prompts']} prompts",
            excess,
            None,
            None,
            "",
            held(excess > 0),
            record.run_id,
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
            mean, low, high = spread(gains)
            words = {"before": "than it was before", "plain": "than as many plain steps"}
            claims.append(
                Claim(
                    f"{arm} makes retrieval better {words[against]} (R@1)",
                    paper,
                    f"{name}, {start} steps before, {len(gains)} seeds",
                    mean,
                    low,
                    high,
                    "points",
                    verdict(low, high),
                    record.run_id,
                    "full/retrieval_spl_real",
                )
            )
    return claims


def longest(runs: Path, name: str, size: str, **wanted: Any) -> RunRecord:
    """The record of ``name`` with the ``wanted`` parameters and the largest ``size``.

    Raises:
        ValueError: There is none.
    """
    found = [
        record
        for path in sorted(runs.glob(f"{name}-*"))
        if (record := RunRecord.load(path)).name == name
        and all(record.parameters.get(key) == value for key, value in wanted.items())
    ]
    if not found:
        raise ValueError(
            f"{runs} has no record {name!r} with {wanted}: run the notebook that makes it"
        )
    return max(found, key=lambda record: record.parameters.get(size, 0))


def all_claims(runs: Path) -> list[Claim]:
    """Every claim that the records in ``runs`` can speak of.

    Raises:
        ValueError: A record is missing.
    """
    rivals = ("DRaFT-50", "DRaFT-20", "DRaFT-10", "ReFL")
    compared = [
        longest(runs, "step_finetuning", "seconds", base=b) for b in ("mld_early", "mld", "mdm")
    ]
    forms = ("EasyTune", "EasyTune (random step)")
    return [
        *(
            c
            for form in forms
            for record in compared
            for c in alignment_claims(record, rivals, form)
        ),
        *memory_claims(longest(runs, "backbones", "batch_size")),
        *gradient_claims(longest(runs, "gradient_norms", "prompts", base="mld")),
        *noise_claims(longest(runs, "noise_similarity", "prompts", base="mld")),
        *refinement_claims(longest(runs, "reward_training_spl", "refine", data="bnr+cmu")),
    ]


def rows_of(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Claims as a record's table."""
    return [asdict(claim) for claim in claims]
