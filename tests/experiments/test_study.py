"""A study is blind until it is tallied, survives a kill, and counts exactly."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from tiny_world import StubEncoder, tiny_bench

from easytune_lib.diffusion.rollout import sample
from easytune_lib.experiments.study import (
    Share,
    Study,
    Vote,
    Votes,
    agreement,
    build_study,
    consensus,
    export_csv,
    judge_scores,
    latest,
    merge,
    raters_of,
    read_votes,
    reward_scores,
    tally,
    votes_by_score,
)
from easytune_lib.seeding import stream
from easytune_lib.storage import save_tensors
from easytune_lib.types import Prompts

PAIRS = 12
EVIL = '=HYPERLINK("http://x")<script>'


def study(pairs: int = PAIRS, seed: int = 0) -> Study:
    motion = 0.1 * torch.randn(2, pairs, 8, 263, generator=stream(0, "motion"))
    texts = (EVIL, *(f"caption {i}" for i in range(1, pairs)))
    return Study(("base", "tuned"), texts, torch.full((pairs,), 8), motion, seed)


STUDY = study()


def says(rater: str, verdicts: str, of: Study = STUDY) -> list[Vote]:
    """Votes for b(ase), s(ame) or t(uned), one a pair from the first on; - is none."""
    votes = []
    for pair, verdict in enumerate(verdicts):
        left = of.on_the_left(rater, pair)
        choice = "same" if verdict == "s" else "left" if (verdict == "t") == left else "right"
        if verdict != "-":
            votes.append(Vote(of.id, rater, pair, choice, 1.0))
    return votes


def test_both_models_move_from_the_same_noise():
    bench = tiny_bench()
    prompts = bench.prompts["test"].prompts
    built = build_study({"base": bench.model, "tuned": bench.model}, prompts, seed=3)
    assert built.motion[0].equal(built.motion[1])
    assert built.motion[0].equal(sample(bench.model, prompts, stream(3, "study")))
    assert built.texts == prompts.texts and len(built) == 8
    with pytest.raises(ValueError, match="compares 2 models, got 1"):
        build_study({"base": bench.model}, prompts, 0)


def test_sides_and_order_are_the_raters_own_and_can_be_derived_again():
    sides = {rater: [STUDY.on_the_left(rater, p) for p in range(PAIRS)] for rater in ("a", "b")}
    assert sides["a"] != sides["b"] and STUDY.order("a") != STUDY.order("b")
    assert sorted(STUDY.order("a")) == list(range(PAIRS))
    many = study(400)
    assert 160 < sum(many.on_the_left("a", p) for p in range(400)) < 240
    assert [study().on_the_left("a", p) for p in range(PAIRS)] == sides["a"]


def test_a_side_shows_the_motion_that_a_vote_for_it_prefers():
    for pair in range(PAIRS):
        left, right = STUDY.shown("a", pair)
        for choice, motion in (("left", left), ("right", right)):
            system = STUDY.verdict(Vote(STUDY.id, "a", pair, choice, 0.0))
            own = STUDY.motion[STUDY.systems.index(system)]
            alone = replace(STUDY, motion=torch.stack([own, own]))
            assert np.array_equal(alone.shown("a", pair)[0].joints, motion.joints)


def test_a_study_comes_back_with_its_id(tmp_path):
    path = STUDY.save(tmp_path / "study.safetensors")
    again = Study.load(path)
    assert again.id == STUDY.id and again.texts == STUDY.texts and again.motion.equal(STUDY.motion)
    others = (study(seed=1), replace(STUDY, systems=("base", "x")), study(PAIRS - 1))
    assert len({STUDY.id, *(other.id for other in others)}) == 4
    with pytest.raises(ValueError, match="holds no study"):
        Study.load(save_tensors(tmp_path / "other.safetensors", {}, {"study": {}}))


def test_votes_are_kept_and_the_rest_is_left_to_do(tmp_path):
    votes = Votes(STUDY, "anna", tmp_path)
    assert not votes.path.exists() and votes.answers == {} and len(votes.pairs) == PAIRS
    votes.cast(0, "left", 2.5)
    votes.cast(3, "same", 1.0)
    votes.cast(0, "right", 1.0)
    again = Votes(STUDY, "anna", tmp_path)
    assert again.answers == {0: "right", 3: "same"} and not again.notice
    assert [vote.pair for vote in again.cast_so_far] == [STUDY.order("anna")[i] for i in (0, 3, 0)]
    with pytest.raises(ValueError, match="place 12"):
        again.cast(12, "left", 0.0)


def test_the_file_tells_no_system_and_no_seed(tmp_path):
    votes = Votes(STUDY, "anna", tmp_path)
    votes.cast(0, "left", 2.0)
    text = votes.path.read_text()
    assert set(json.loads(text)) == {"study", "rater", "pair", "choice", "seconds", "at"}
    assert not any(word in text for word in (*STUDY.systems, "seed", EVIL))


def test_a_kill_loses_the_vote_under_way_alone(tmp_path):
    votes = Votes(STUDY, "anna", tmp_path)
    for place in range(3):
        votes.cast(place, "left", 1.0)
    whole = votes.path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for cut in range(start, len(whole)):  # wherever in the last line it strikes
        votes.path.write_bytes(whole[:cut])
        again = Votes(STUDY, "anna", tmp_path)
        assert set(again.answers) == {0, 1}
        assert ("by half" in again.notice) == (cut > start)
        assert votes.path.read_bytes() == whole[:start]
    again.cast(2, "same", 1.0)
    assert Votes(STUDY, "anna", tmp_path).answers[2] == "same"


def test_a_vote_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    votes = Votes(STUDY, "anna", tmp_path)
    votes.cast(0, "left", 1.0)
    before = votes.path.read_bytes()

    def full(_: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="disk full"):
            votes.cast(1, "left", 1.0)
    assert votes.path.read_bytes() == before and set(votes.answers) == {0}
    votes.cast(1, "right", 1.0)
    assert Votes(STUDY, "anna", tmp_path).answers == {0: "left", 1: "right"}


@pytest.mark.parametrize(
    "name", ["", "../a", "a/b", "a\\b", ".a", "a b", "ä", "a\n", "a" * 41, "~"]
)
def test_a_raters_name_cannot_leave_the_folder(name, tmp_path):
    with pytest.raises(ValueError, match="a rater's name is"):
        Votes(STUDY, name, tmp_path)


def test_a_file_of_another_case_is_not_taken_over(tmp_path):
    Votes(STUDY, "Anna", tmp_path).cast(0, "left", 1.0)
    (tmp_path / f"{STUDY.id}-Anna.jsonl").rename(tmp_path / f"{STUDY.id}-anna.jsonl")
    with pytest.raises(ValueError, match="votes of 'Anna', not of 'anna'"):
        Votes(STUDY, "anna", tmp_path)


GOOD = {"study": STUDY.id, "rater": "a", "pair": 0, "choice": "left", "seconds": 1.0,
        "at": "2026-01-01T00:00:00.000+00:00"}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "{", "[1]", "null", '"x"', "[" * 100_000, "\\xff",
        *(json.dumps(GOOD | change) for change in (
            {"choice": "up"}, {"pair": -1}, {"pair": "0"}, {"pair": True}, {"seconds": -1},
            {"seconds": None}, {"seconds": 10**400}, {"rater": "../x"}, {"study": 3},
            {"at": "yesterday"}, {"at": "2026-01-01"},
        )),
        json.dumps(GOOD).replace("1.0", "NaN"),
    ],
)  # fmt: skip
def test_lines_of_strangers_are_checked(line, tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"votes.jsonl, line 2: "):
        read_votes(path)


def test_merging_counts_each_raters_last_vote_once(tmp_path):
    early = [replace(vote, at=datetime(2026, 1, 1, tzinfo=UTC)) for vote in says("a", "bbs")]
    late = [replace(vote, at=vote.at + timedelta(hours=1)) for vote in early]
    late[0] = replace(late[0], choice={"left": "right", "right": "left"}[late[0].choice])
    files = {"new": late, "old": early, "b": says("b", "t-s")}
    for name, votes in files.items():
        (tmp_path / name).write_text("".join(vote.line + "\n" for vote in votes))
    (tmp_path / "b").write_text((tmp_path / "b").read_text() + '{"study')
    merged, notices = merge(STUDY, [tmp_path / name for name in files])
    assert len(merged) == 5 and {name: len(v) for name, v in raters_of(merged).items()} == {
        "a": 3, "b": 2,
    }  # fmt: skip
    assert [STUDY.verdict(v) for v in raters_of(merged)["a"]] == ["tuned", "base", "same"]
    again, _ = merge(STUDY, [tmp_path / name for name in ("b", "old", "new", "old")])
    assert set(again) == set(merged) and latest(merged) == merged
    assert len(notices) == 1 and notices[0].startswith("b: ")


def test_votes_of_another_study_are_refused(tmp_path):
    path = tmp_path / "votes"
    path.write_text(says("a", "b", study(seed=1))[0].line + "\n")
    with pytest.raises(ValueError, match=rf"votes: a vote of study .* this is {STUDY.id}"):
        merge(STUDY, [path])
    path.write_text(replace(says("a", "b")[0], pair=PAIRS).line + "\n")
    with pytest.raises(ValueError, match="a vote on pair 12"):
        merge(STUDY, [path])
    with pytest.raises(ValueError, match="of study"):
        tally(says("a", "b", study(seed=1)), STUDY)


def test_a_tally_is_exact():
    found = tally(says("a", "bsstttttttt"), STUDY)
    assert (found.first.count, found.same.count, found.second.count) == (1, 2, 8)
    assert found.sign_test == pytest.approx(binomtest(8, 9).pvalue)
    row = found.row("a")
    assert row["votes"] == 11 and row["tuned_share"] == pytest.approx(8 / 11)
    for share in (found.first, found.same, found.second, found.left):
        exact = binomtest(share.count, share.of).proportion_ci(method="exact")
        assert share.interval == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("count", [0, 1, 5, 10])
def test_clopper_pearson_at_the_edges(count):
    exact = binomtest(count, 10).proportion_ci(method="exact")
    assert Share(count, 10).interval == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_no_votes_say_nothing():
    found = tally([], STUDY)
    assert found.same.share is None and found.same.interval == (0.0, 1.0) and found.sign_test == 1
    json.dumps(found.row("nobody"), allow_nan=False)


def test_who_always_says_left_shows_a_bias_and_no_preference():
    many = study(400)
    found = tally([Vote(many.id, "a", pair, "left", 0.0) for pair in range(400)], many)
    assert found.left.share == 1.0 and found.left.interval[0] > 0.98
    assert 0.4 < found.second.share < 0.6


def test_cohens_kappa_by_hand():
    """10 pairs, 7 equal. Chance: .5 * .4 (base) + .3 * .2 (same) + .2 * .4 (tuned) = .34."""
    votes = says("a", "bbbbbssstt") + says("b", "bbbbtssttt")
    votes = [vote for vote in votes if vote.pair < 10]
    found = agreement(votes, STUDY, np.random.default_rng(0))
    assert found.statistic == "Cohen's kappa" and found.raters == ("a", "b") and found.pairs == 10
    assert found.raw == pytest.approx(0.8)
    assert found.kappa == pytest.approx((0.8 - 0.34) / (1 - 0.34))
    assert found.low < found.kappa < found.high <= 1


def test_fleiss_kappa_by_hand():
    """3 raters, 4 pairs: bbb, bbt, sst, ttt. Pairwise agreement 1, 1/3, 1/3, 1.

    Shares: base 5/12, same 2/12, tuned 5/12, so chance is 54/144.
    """
    votes = says("a", "bbstb") + says("b", "bbst") + says("c", "bttt")
    found = agreement(votes, STUDY, np.random.default_rng(0))
    assert found.statistic == "Fleiss' kappa" and found.pairs == 4
    assert found.raw == pytest.approx(2 / 3)
    assert found.kappa == pytest.approx((2 / 3 - 54 / 144) / (1 - 54 / 144))


def test_agreement_where_chance_is_full_and_where_there_is_none():
    found = agreement(says("a", "ttt") + says("b", "ttt"), STUDY, np.random.default_rng(0))
    assert (found.raw, found.kappa, found.low) == (1.0, None, None)
    apart = agreement(says("a", "t-") + says("b", "-t"), STUDY, np.random.default_rng(0))
    assert (apart.pairs, apart.raw, apart.kappa) == (0, None, None)
    with pytest.raises(ValueError, match="at least two raters, got 1"):
        agreement(says("a", "tt"), STUDY, np.random.default_rng(0))


def test_consensus_is_one_vote_a_pair():
    votes = says("a", "ttbs") + says("b", "tbbs") + says("c", "bsbt")
    found = consensus(votes, STUDY)
    assert [STUDY.verdict(vote) for vote in found] == ["tuned", "same", "base", "tuned"]


def test_who_votes_by_score_prefers_the_higher_one():
    scores = torch.zeros(2, PAIRS)
    scores[1] = torch.arange(PAIRS) - 5.25
    kinds = [STUDY.verdict(vote) for vote in votes_by_score(STUDY, "judge", scores, same=0.25)]
    assert kinds == ["base"] * 4 + ["same"] * 3 + ["tuned"] * 5
    assert all(STUDY.verdict(v) == "same" for v in votes_by_score(STUDY, "judge", 0 * scores))
    with pytest.raises(ValueError, match="or NaN"):
        votes_by_score(STUDY, "judge", scores / 0 * 0)


def test_judge_and_reward_see_the_studys_motions():
    bench = tiny_bench()
    prompts = bench.prompts["test"].prompts
    built = build_study({"base": bench.model, "tuned": bench.model}, prompts, 0)
    for scores in (judge_scores(bench.judge, built), reward_scores(bench.reward, prompts, built)):
        assert scores.shape == (2, 8) and scores[0].allclose(scores[1])
    other = Prompts(StubEncoder().encode(["x"] * 8), prompts.lengths)
    with pytest.raises(ValueError, match="not the study's prompts"):
        reward_scores(bench.reward, other, built)


def test_a_table_for_spreadsheets_lifts_the_blind_and_runs_no_formula(tmp_path):
    path = export_csv(STUDY, says("a", "tbs") + says("a", "b"), tmp_path / "votes.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["preferred"] for row in rows] == ["base", "base", "same"]
    for row in rows:
        assert {row["left"], row["right"]} == set(STUDY.systems)
        assert row["choice"] == "same" or row[row["choice"]] == row["preferred"]
    assert rows[0]["caption"] == "'" + EVIL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": ("base", "base")}, "two names"),
        ({"systems": ("base", "same")}, "two names"),
        ({"texts": ()}, "0 captions"),
        ({"texts": ("one",)}, "1 captions"),
        ({"lengths": torch.full((PAIRS,), 9)}, "1 to 8 frames"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(STUDY, **change)


def test_a_misspelt_choice_is_refused_and_not_counted_as_right(types_unchecked):
    with pytest.raises(ValueError, match=r"choice='lfet'.*'left', 'same', 'right'"):
        Vote("study", "me", 0, "lfet", 1.0)
