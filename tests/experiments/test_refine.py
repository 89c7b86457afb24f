"""Arms that start from one reward; what they find is looked at alike."""

from dataclasses import replace

import pytest
import torch
from tiny_world import StubEncoder, tiny_corpus

from easytune_lib.experiments import refine as refinement
from easytune_lib.experiments.refine import (
    TOP,
    Arm,
    Bench,
    RetrievalTest,
    load_start,
    recall_rows,
    refined,
    run_arms,
    share_series,
    starting_point,
    sweep_rows,
    win_rows,
)
from easytune_lib.records import RunRecord
from easytune_lib.rewards.spl import SPL, OfficialSPL
from easytune_lib.rewards.spm import SPM
from easytune_lib.text.table import CaptionTable

pytestmark = pytest.mark.slow

PLAIN = Arm("plain", None, 0, "tiny", before=3, steps=2, every=1)
SPL_ARM = replace(PLAIN, label="SPL", spl=SPL(top_k=1, pool=8))


def distinct():
    """The tiny corpus with a label a clip, so that groups of 32 can be filled."""
    clips = tuple(replace(clip, label=clip.id) for clip in tiny_corpus().clips)
    return replace(tiny_corpus(), clips=clips)


@pytest.fixture(scope="module", autouse=True)
def small():
    """A reward of a few thousand weights, saved every few steps."""

    def reward(corpus, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SPM(dim=8, layers=1, latent=8, max_frames=40)

    plan = refinement._plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "fresh_reward", reward)
        patch.setattr(refinement, "_plan", lambda *args, **_: plan(*args, save_every=4))
        yield


@pytest.fixture(scope="module")
def bench() -> Bench:
    corpus = distinct()
    said = ["", *{caption.text for clip in corpus.clips for caption in clip.captions}]
    table = CaptionTable(StubEncoder(), said)
    return Bench(corpus.split("train")[:64], corpus, table, RetrievalTest(corpus, table))


@pytest.fixture(scope="module")
def records(bench, tmp_path_factory) -> list[RunRecord]:
    """Of the plain arm and of SPL, two seeds each."""
    folder = tmp_path_factory.mktemp("arms")
    said: list[str] = []
    found = run_arms(bench, ARMS, folder, said.append)
    assert said[-1].startswith("[4/4] SPL, seed 1: refined for 2 of 2 steps")
    assert run_arms(bench, ARMS, folder, pytest.fail) == found, "nothing is done twice"
    return found


ARMS = [replace(arm, seed=seed) for seed in (0, 1) for arm in (PLAIN, SPL_ARM)]


def test_tests_hold_no_clip_that_the_reward_saw():
    corpus = distinct()
    half = tuple(replace(c, label="") if c.split == "train" else c for c in corpus.clips)
    mixed = replace(corpus, clips=half)
    table = CaptionTable(StubEncoder(), [c.text for clip in half for c in clip.captions] + [""])
    test = RetrievalTest(mixed, table)
    assert set(test.sets) == {"labels", "human captions"}
    trained = {clip.id for clip in refinement.assign_roles(mixed).reward}
    for batch in test.sets.values():
        assert not trained & set(batch.ids)
    assert test.names("labels") == test.sets["labels"].labels
    assert test.names("human captions") == test.sets["human captions"].texts


def test_a_set_that_fills_no_group_is_left_out():
    table = CaptionTable(StubEncoder(), [c.text for x in tiny_corpus().clips for c in x.captions])
    assert RetrievalTest(tiny_corpus(), table).sets == {}


def test_all_arms_of_a_seed_start_alike(records):
    starts = [[row for row in record.tables["recall"] if row["step"] == 0] for record in records]
    assert starts[0] == starts[1] and starts[2] == starts[3] and starts[0] != starts[2]


def test_records_say_what_was_looked_at(records):
    record = records[1]
    looks = {(row["step"], row["direction"], row["k"]) for row in record.tables["recall"]}
    assert looks == {(s, d, k) for s in (0, 1, 2) for d in ("t2m", "m2t") for k in TOP}
    assert len(record.series["refined"]) == 2 and "refined" not in records[0].series
    assert {row["protocol"] for row in record.tables["protocols"]} == {
        "groups of 32", "all", "all with threshold",
    }  # fmt: skip


def test_a_start_that_was_never_trained_can_not_be_refined(bench, tmp_path):
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        next(refined(bench, PLAIN, tmp_path))


def test_a_killed_start_goes_on(bench, tmp_path):
    arm = replace(PLAIN, before=8)
    killed = starting_point(bench, arm, tmp_path / "killed")
    for _ in range(6):
        next(killed)
    killed.close()
    rest = list(starting_point(bench, arm, tmp_path / "killed"))
    assert [step.step for step in rest] == [5, 6, 7, 8]
    list(starting_point(bench, arm, tmp_path / "unbroken"))
    one, other = (load_start(bench, arm, tmp_path / name) for name in ("killed", "unbroken"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_arms_of_other_settings_have_other_ids():
    others = [
        {"spl": None}, {"spl": OfficialSPL()}, {"spl": SPL(top_k=2, pool=8)}, {"seed": 1},
        {"corpus": "b"}, {"before": 4}, {"steps": 3}, {"every": 2}, {"lr": 1.0}, {"label": "x"},
    ]  # fmt: skip
    ids = {replace(SPL_ARM, **other).record_id for other in others}
    assert len(ids | {SPL_ARM.record_id}) == len(others) + 1


class TestRows:
    def test_recall_is_of_the_last_look_and_of_the_start_once(self, records):
        rows = recall_rows(ARMS, records)
        assert len(rows) == 3 * 2 * 2 * len(TOP)
        assert {row["model"] for row in rows} == {"before", "plain", "SPL"}
        assert {row["step"] for row in rows if row["model"] != "before"} == {2}
        assert {row["trained"] for row in rows} == {3}

    def test_wins_are_of_one_seed_and_step_and_ties_count_half(self):
        def found(values):
            looks = [
                {"step": step, "set": "s", "direction": "t2m", "k": 1, "recall": value}
                for step, value in enumerate(values)
            ]
            return RunRecord("refine", {}, tables={"recall": looks})

        records = [found([9.0, 0.5, 0.5, 0.5]), found([0.0, 0.6, 0.5, 0.4])]
        (row,) = win_rows(ARMS[:2], records, "SPL", "plain")
        assert row == {"set": "s", "k": 1, "wins": 1.5, "pairs": 3, "rate": 0.5}

    def test_a_sweep_has_its_gain_and_its_share(self, records):
        rows = sweep_rows(ARMS, records)
        assert [(row["k"], row["pool"], row["seed"]) for row in rows] == [(1, 8, 0), (1, 8, 1)]
        looks = [r for r in records[1].tables["recall"] if r["k"] == 1]
        end, start = (sum(r["recall"] for r in looks if r["step"] == step) / 2 for step in (2, 0))
        assert rows[0]["gain"] == pytest.approx(100 * (end - start))

    def test_shares_are_means_over_seeds(self, records):
        series = share_series(ARMS, records)
        assert set(series) == {"refined/SPL"}
        first = [record.series["refined"][0] for record in records[1::2]]
        assert series["refined/SPL"][0] == pytest.approx(sum(first) / 2)
