"""Claims are held against records by rules that are written down."""

from pathlib import Path

import pytest

from easytune_lib.experiments.claims import (
    BETTER,
    FASTER,
    GENERAL,
    Claim,
    abstract_rows,
    alignment_claims,
    all_claims,
    backbone_claims,
    bench_claims,
    gradient_claims,
    longest,
    memory_claims,
    noise_claims,
    refinement_claims,
    reward_claims,
    rows_of,
    speed_claims,
    verdict,
)
from easytune_lib.records import RunRecord

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 2.0, "holds"), (-2.0, -0.1, "does not hold here"), (-1.0, 1.0, "not shown here"),
        (0.0, 1.0, "not shown here"), (None, None, "not shown here"),
    ],
)  # fmt: skip
def test_an_interval_must_exclude_zero(low, high, said):
    assert verdict(low, high) == said


def compared(values):
    rows = [
        {"method": method, "seed": seed, "mm_dist": value}
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]
    parameters = {"base": "mld", "seconds": 45.0}
    return RunRecord("step_finetuning", parameters, tables={"methods": rows})


def test_alignment_is_paired_by_seed_and_in_percent_of_the_rival():
    """A seed that is hard for both does not blur the difference: 10 % each time."""
    record = compared({"EasyTune": [0.9, 1.8, 0.45], "DRaFT-50": [1.0, 2.0, 0.5], "base": [3.0]})
    (claim,) = alignment_claims(record, ("DRaFT-50", "DRaFT-20"))
    assert claim.ours == pytest.approx(10) and claim.low == pytest.approx(10)
    assert (claim.verdict, claim.paper, claim.unit) == ("holds", "8.2 %", "%")
    assert claim.regime == "mld, 45 s, 3 seeds" and claim.record == record.run_id
    (worse,) = alignment_claims(record, ("EasyTune",), "DRaFT-50")
    assert worse.verdict == "does not hold here" and worse.paper == ""
    (one,) = alignment_claims(compared({"EasyTune": [0.9], "ReFL": [1.0]}), ("ReFL",))
    assert (one.low, one.verdict) == (None, "not shown here")


def test_at_equal_evaluations_there_is_no_budget_of_seconds():
    record = compared({"EasyTune": [0.9, 0.8], "DRaFT-50": [1.0, 1.0], "ReFL": [1.0, 1.0]})
    record = RunRecord("equal_evaluations", {"base": "mld", "n_steps": 50}, tables=record.tables)
    chain, refl = alignment_claims(record, ("DRaFT-50", "ReFL"))
    assert chain.claim == "EasyTune aligns better than DRaFT-50, equal evaluations (MM-Dist)"
    assert chain.regime == "mld, equal evaluations, 2 seeds"
    assert (chain.about, refl.about) == (BETTER, "")
    assert chain.figure == "full/equal_evaluations_mld"


def reached(method, low, middle, high, **more):
    row = {
        "base": "mld", "clock": "seconds", "threshold": 0.75, "method": method, "seeds": 3,
        "reached": 3, "median": middle, "low": low, "high": high, "ran": 45.0,
    }  # fmt: skip
    return row | more


def test_speed_holds_if_even_the_worst_case_is_sooner():
    """5 s [4, 8] against 20 s [16, 40] of the whole chain, and 6 s [4, 9] of ReFL."""
    rows = [
        reached("EasyTune", 4.0, 5.0, 8.0), reached("DRaFT-10", 1.0, 1.0, 1.0),
        reached("DRaFT-50", 16.0, 20.0, 40.0), reached("ReFL", 4.0, 6.0, 9.0),
        reached("EasyTune", 1.0, 1.0, 1.0, clock="evaluations"),
    ]  # fmt: skip
    chain, refl = speed_claims(RunRecord("alignment_cost", {}, tables={"reach": rows}))
    assert (chain.ours, chain.low, chain.high, chain.verdict) == (4.0, 2.0, 10.0, "holds")
    assert chain.claim == "EasyTune reaches a reward of 0.75 sooner than DRaFT-50"
    assert (chain.paper, chain.about, refl.about) == ("7.3 x", FASTER, "")
    assert refl.verdict == "not shown here" and (refl.low, refl.high) == (0.5, 2.25)


def test_the_reward_that_counts_is_that_of_test_prompts():
    """0.1 above the chain on one seed, 0.1 below on the other."""
    values = {"EasyTune": (0.7, 0.5), "DRaFT-50": (0.6, 0.6), "ReFL": (0.9, 0.7)}
    rows = [
        {"method": m, "seed": s, "reward": v} for m, vs in values.items() for s, v in enumerate(vs)
    ]
    parameters = {"base": "mld", "n_steps": 50, "seconds": 45.0}
    record = RunRecord("step_finetuning", parameters, tables={"methods": rows})
    chain, refl = reward_claims(record, ("ReFL", "DRaFT-50", "DRaFT-20"))
    assert (chain.ours, chain.verdict) == (pytest.approx(0), "not shown here")
    assert (refl.ours, refl.verdict) == (pytest.approx(-0.2), "does not hold here")
    assert (chain.about, refl.about) == (FASTER, "")


def test_nobody_there_is_nothing_shown():
    rows = [reached(m, None, None, None, reached=0) for m in ("EasyTune", "DRaFT-50", "ReFL")]
    chain, _ = speed_claims(RunRecord("alignment_cost", {}, tables={"reach": rows}))
    assert (chain.ours, chain.verdict) == (None, "not shown here")
    assert chain.regime == "mld, seeds that do: EasyTune 0 of 3, DRaFT-50 0 of 3"


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "does not hold here"], "holds only where"),
        (["holds", "not shown here"], "holds only where"),
        (["not shown here", "does not hold here"], "does not hold here"),
        (["not shown here"], "not shown here"),
    ],
)
def test_one_verdict_a_claim_of_the_abstract(verdicts, said):
    claims = [
        Claim("c", "7 x" if i else "", f"base{i}, x", 1.0, None, None, "", word, f"r{i}", "f", "A")
        for i, word in enumerate(verdicts)
    ] + [Claim("c", "", "base, x", 1.0, None, None, "", "holds", "r", "f")]
    (row,) = abstract_rows(claims)
    assert (row["claim"], row["verdict"], row["of"]) == ("A", said, len(verdicts))
    assert row["where"] == ("c (base0)" if said == "holds only where" else "")
    assert row["records"] == [f"r{i}" for i in range(len(verdicts))]
    assert row["paper"] == ("7 x" if len(verdicts) > 1 else "")


def test_memory_is_a_share_of_the_whole_chain():
    rows = [
        {"base": base, "method": method, "steps": steps, "saved_mib": held}
        for base, held_draft in (("mld", 20.0), ("mdm", 100.0))
        for method, steps, held in (
            ("EasyTune", 1, 10.0), ("EasyTune", 50, 10.0), ("DRaFT", 1, 9.0),
            ("DRaFT", 50, held_draft),
        )
    ]  # fmt: skip
    record = RunRecord("backbones", {"batch_size": 4}, tables={"memory_by_k": rows})
    latent, features = memory_claims(record)
    assert (latent.ours, latent.verdict) == (50.0, "does not hold here")
    assert (features.ours, features.verdict) == (10.0, "holds")


def test_memory_at_published_size_is_what_comes_on_top_of_sampling():
    """20 for sampling: DRaFT takes 100 more, with checkpoints and two phases 25 more."""
    alive = {
        "sampling alone": 20.0, "DRaFT": 120.0, "DRaFT, two-phase": 120.0,
        "DRaFT, checkpoints, two-phase": 45.0, "EasyTune": 70.0, "EasyTune, two-phase": 40.0,
    }  # fmt: skip
    rows = [{"space": "latent", "method": name, "live_mib": mib} for name, mib in alive.items()]
    record = RunRecord("bench", {"n_steps": 50, "batch_size": 8}, tables={"methods": rows})
    plain, parted, kept = bench_claims(record)
    assert (plain.ours, parted.ours, kept.ours) == (50, 20, 80)
    assert (plain.verdict, parted.verdict) == ("does not hold here", "holds")
    assert kept.verdict == "holds" and not kept.about and plain.about == parted.about


def test_steps_starve_if_their_share_is_a_tenth():
    def claim(shares):
        record = RunRecord(
            "gradient_norms",
            {"base": "mld", "prompts": 8},
            series={"share/DRaFT-8": [float(share) for share in shares]},
        )
        return gradient_claims(record)[0]

    assert claim([0.01, 0.01, 1, 1, 1, 1, 1, 1]).verdict == "holds"
    assert claim([0.5, 0.5, 1, 1, 1, 1, 1, 1]).ours == pytest.approx(0.5)
    assert claim([0.5, 0.5, 1, 1, 1, 1, 1, 1]).verdict == "does not hold here"


def test_the_encoder_must_read_more_than_plain_features_do():
    metrics = {"x_t_at_half": 0.95, "features_at_half": 0.97}
    record = RunRecord("noise_similarity", {"base": "mld", "prompts": 9}, metrics=metrics)
    readable, encoder = noise_claims(record)
    assert readable.verdict == "holds" and encoder.verdict == "does not hold here"
    assert encoder.ours == pytest.approx(-0.02)


def test_refinement_is_held_against_the_start_and_against_plain_training():
    rows = [
        {"model": model, "seed": seed, "trained": 9, "set": "s", "direction": way, "k": 1,
         "recall": 0.5 + gain + 0.1 * seed}
        for model, gain in (("before", 0.0), ("plain", 0.05), ("SPL", 0.05))
        for seed in (0, 1, 2) for way in ("t2m", "m2t")
    ]  # fmt: skip
    record = RunRecord("reward_training_spl", {}, tables={"recall": rows})
    start, plain = refinement_claims(record)
    assert start.ours == pytest.approx(5) and start.verdict == "holds"
    assert plain.ours == pytest.approx(0) and plain.verdict == "not shown here"


def test_each_backbone_is_asked_whether_it_gains_and_whether_more_than_with_draft():
    def row(method, percent, low, high):
        ends = {
            "mm_dist_percent": percent,
            "mm_dist_percent_low": low,
            "mm_dist_percent_high": high,
        }
        return {"backbone": "MDM", "method": method, "n_steps": 50, "mm_dist": 0.5} | ends

    scores = [
        {"backbone": name, "split": "test", "method": method, "seed": seed, "noise_seed": 0,
         "mm_dist": value}
        for name, shift in (("MDM", 0.0), ("MLD", 9.0))
        for method, values in (("EasyTune", (0.40, 0.41, 0.42)), ("DRaFT", (0.45, 0.46, 0.47)))
        for seed, value in enumerate(v + shift for v in values)
    ]  # fmt: skip
    table = [row("base", 0.0, None, None), row("EasyTune", 18.0, 16.0, 20.0), row("DRaFT", 8, 7, 9)]
    record = RunRecord(
        "six_backbones",
        {"seconds": 30.0, "seeds": 3},
        tables={"backbones": table, "scores": scores},
    )
    gains, more = backbone_claims(record)
    assert (gains.claim, gains.paper) == ("EasyTune improves MDM (MM-Dist)", "6.4 %")
    assert (gains.ours, gains.low, gains.high, gains.verdict) == (18.0, 16.0, 20.0, "holds")
    assert more.ours == pytest.approx(100 * 0.05 / 0.5) and more.low == pytest.approx(more.high)
    assert more.verdict == "holds" and not more.about
    (said,) = abstract_rows([gains, more])
    assert said["claim"] == GENERAL and (said["holds"], said["of"]) == (1, 1)


def test_the_longest_record_speaks(tmp_path):
    for seconds in (6.0, 45.0, 20.0):
        RunRecord("a", {"base": "mld", "seconds": seconds}).save(tmp_path)
    RunRecord("a", {"base": "mdm", "seconds": 99.0}).save(tmp_path)
    for seeds in (3, 5, 2):
        RunRecord("a", {"base": "mld_early", "seconds": 45.0, "seeds": seeds}).save(tmp_path)
    assert longest(tmp_path, "a", "seconds", base="mld_early").parameters["seeds"] == 5
    assert longest(tmp_path, "a", "seconds", base="mld").parameters["seconds"] == 45.0
    with pytest.raises(ValueError, match="no record of 'b' with {'base': 'mld'}"):
        longest(tmp_path, "b", "seconds", base="mld")


def test_the_committed_records_speak_of_every_claim():
    claims = all_claims(ROOT / "runs")
    assert {claim.claim.split(" ")[0] for claim in claims} >= {
        "EasyTune", "Early", "Noised", "It", "SPL",
    }  # fmt: skip
    for row in rows_of(claims):
        assert (ROOT / "runs" / row["record"] / "record.json").exists()
        assert (ROOT / "figures" / f"{row['figure']}.png").exists(), row["figure"]
