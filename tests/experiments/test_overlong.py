"""An over-long run is looked at, goes on after a kill, and its parting point is found."""

from dataclasses import replace

import pytest
import torch
from tiny_world import tiny_bench

from easytune_lib.experiments.overlong import (
    Course,
    agreement,
    drift,
    examined,
    look_rows,
    moved,
    overtrained,
    parting_rows,
    run_courses,
    weights_of,
)
from easytune_lib.finetuning.methods import EasyTune
from easytune_lib.records import RunRecord

BENCH = tiny_bench()
COURSE = Course(
    "mdm", "tiny", "no anchor", EasyTune(2), lr=1e-2, seed=0, updates=8, every=4, batch_size=3,
    n_steps=2, prompts=6,
)  # fmt: skip


def test_looks_at_the_start_and_every_few_updates(tmp_path):
    before = {name: w.clone() for name, w in BENCH.model.denoiser.state_dict().items()}
    list(overtrained(BENCH, COURSE, tmp_path))
    record = RunRecord.find(tmp_path, "hacking", COURSE.parameters)
    looks = record.tables["looks"]
    assert [(row["updates"], row["split"]) for row in looks] == [
        (updates, split) for updates in (0, 4, 8) for split in ("validation", "test")
    ]
    assert looks[0]["drift"] == looks[0]["moved"] == 0 < looks[2]["drift"] and looks[4]["moved"] > 0
    assert {"reward", "r1", "mm_dist", "fid", "diversity", "foot_skate", "jerk"} <= set(looks[0])
    for name, weight in BENCH.model.denoiser.state_dict().items():
        assert torch.equal(weight, before[name]), "the bench is left as it was"
    assert list(overtrained(BENCH, COURSE, tmp_path)) == []


def test_a_killed_course_goes_on_from_its_last_look(tmp_path):
    killed = overtrained(BENCH, COURSE, tmp_path / "killed")
    for _ in range(6):
        next(killed)
    killed.close()
    rest = list(overtrained(BENCH, COURSE, tmp_path / "killed"))
    assert [step.updates for step in rest] == [5, 6, 7, 8]
    list(overtrained(BENCH, COURSE, tmp_path / "unbroken"))
    killed, unbroken = (
        RunRecord.find(tmp_path / name, "hacking", COURSE.parameters)
        for name in ("killed", "unbroken")
    )
    assert (killed.tables, killed.series) == (unbroken.tables, unbroken.series)


def test_a_course_that_is_killed_before_its_record_is_written_learns_no_further(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunRecord, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        list(overtrained(BENCH, COURSE, tmp_path / "killed"))
    assert list(overtrained(BENCH, COURSE, tmp_path / "killed")) == []
    list(overtrained(BENCH, COURSE, tmp_path / "unbroken"))
    killed, unbroken = (
        RunRecord.load(tmp_path / name / COURSE.record_id) for name in ("killed", "unbroken")
    )
    assert (killed.tables, killed.series) == (unbroken.tables, unbroken.series)


def test_a_model_from_elsewhere_is_looked_at_in_the_same_way(tmp_path):
    (record,) = run_courses(BENCH, [COURSE], tmp_path, lambda line: None)
    bench = replace(BENCH, model=replace(BENCH.model, n_steps=COURSE.n_steps))
    rows = examined(bench, [weights_of(COURSE, tmp_path)], "mine", prompts=COURSE.prompts)
    known = [row for row in record.tables["looks"] if row["updates"] in (0, COURSE.updates)]
    for row, expected in zip(rows, known, strict=True):
        assert row == {"method": "mine", "seed": 0, "anchor": 0.0} | expected | {
            "updates": expected["updates"] // COURSE.updates
        }
    assert parting_rows(rows)[0]["end"] == 1
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not fit"):
        examined(bench, [tmp_path / "other.pt"], "other")


def test_an_anchor_keeps_the_model_near(tmp_path):
    courses = [COURSE, replace(COURSE, label="anchor", anchor=1e4)]
    said = []
    rows = look_rows(courses, run_courses(BENCH, courses, tmp_path, said.append))
    free, held = (
        [row["drift"] for row in rows if row["method"] == name][-1]
        for name in ("no anchor", "anchor")
    )
    assert held < free / 2 and len(said) == 4


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the course is for weights other, the bench has tiny"):
        list(overtrained(BENCH, replace(COURSE, weights="other"), tmp_path))


def test_distances_by_hand():
    other = replace(BENCH.model, denoiser=tiny_bench().model.denoiser)
    assert drift(BENCH, BENCH.model, other, 4) == moved(BENCH.model, other) == 0
    with torch.no_grad():
        for weight in other.denoiser.parameters():
            weight.mul_(1.1)
    assert moved(BENCH.model, other) == pytest.approx(0.1, rel=1e-4)
    assert drift(BENCH, BENCH.model, other, 4) > 0


def look(split, updates, reward, mm_dist):
    rest = dict.fromkeys(("r1", "fid", "diversity", "foot_skate", "jerk", "drift"), float(updates))
    return {
        "method": "a", "seed": 0, "anchor": 0.0, "split": split, "updates": updates,
        "reward": reward, "mm_dist": mm_dist, **rest,
    }  # fmt: skip


def test_where_to_stop_is_chosen_on_validation_and_reported_on_test():
    rows = [
        look("validation", 0, 0.1, 1.0), look("validation", 5, 0.2, 0.8),
        look("validation", 9, 0.3, 0.9), look("test", 0, 0.1, 1.5), look("test", 5, 0.2, 1.4),
        look("test", 9, 0.4, 1.2),
    ]  # fmt: skip
    (row,) = parting_rows(rows)
    assert (row["stop"], row["end"], row["parted"]) == (5, 9, True)
    assert (row["mm_dist_start"], row["mm_dist_stop"], row["mm_dist_end"]) == (1.5, 1.4, 1.2)
    rows[2] = look("validation", 9, 0.3, 0.7)
    (row,) = parting_rows(rows)
    assert (row["stop"], row["parted"]) == (9, False)


def test_two_judges_that_are_one_agree_wholly():
    """A reward that is the judge's own nearness."""

    def nearness(motion, prompts, t=None):
        seen = BENCH.judge.embed_motion(motion, prompts.lengths)
        return -(BENCH.judge.embed_text(prompts.texts) - seen).norm(dim=1)

    one = agreement(replace(BENCH, reward=nearness), BENCH.model, noise_seeds=3)
    assert one["across"] == pytest.approx(1) and one["within"] == pytest.approx(1)
    two = agreement(BENCH, BENCH.model, noise_seeds=3)
    assert -1 <= two["within"] < 0.99 and -1 <= two["across"] < 0.99
