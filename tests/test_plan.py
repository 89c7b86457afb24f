from dataclasses import FrozenInstanceError

import pytest
import torch

from easytune_lib.plan import GradientPlan, RolloutOptions, Weighting

ONE, TWO = frozenset({1}), frozenset({2})


def test_last_is_the_last_rewarded_step_and_nothing_need_be_recorded():
    plan = GradientPlan(frozenset({2, 5, 7}), frozenset({2, 5}), detach_state=True)
    assert plan.last == 5 and GradientPlan(frozenset(), TWO).last == 2


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize(
    "recorded, rewarded, options, message",
    [
        (ONE, frozenset(), {}, "at least one rewarded step"),
        (ONE | TWO, ONE | TWO, {}, "2 rewarded steps share one graph.*detach_state=True"),
        (ONE, ONE | TWO, {"detach_state": True}, r"steps \[2\] are rewarded but not recorded"),
        (TWO, ONE, {}, "no recorded step comes before the rewarded step 1"),
        (TWO, TWO, {"reads": "xt"}, "reads='xt': it is one of 'final', 'x0_hat', 'x_t'"),
        (TWO, TWO, {"reads": ("x_t", "xt", "x_t")}, "reads is 'final', 'x0_hat' or 'x_t'"),
        (TWO, TWO, {"reads": ("x_t",)}, "1 values of reads do not reach step 2"),
        (TWO, TWO, {"coupling": (1.0, 0.0)}, "2 values of coupling do not reach step 2"),
        (TWO, TWO, {"coupling": 1.5}, "a coupling is 0 to 1, got 1.5"),
    ],
)
def test_plans_without_a_meaning_are_refused(recorded, rewarded, options, message):
    with pytest.raises(ValueError, match=message):
        GradientPlan(recorded, rewarded, **options)


def test_what_is_read_and_coupled_may_be_said_for_each_step():
    plan = GradientPlan(ONE, TWO, reads=("x0_hat", "x_t", "final"), coupling=(0.0, 0.1, 1.0))
    assert [plan.reads_at(i) for i in range(3)] == ["x0_hat", "x_t", "final"]
    assert [plan.coupling_at(i) for i in range(3)] == [0.0, 0.1, 1.0]
    plan = GradientPlan(ONE, TWO, reads="x_t", coupling=0.3)
    assert (plan.reads_at(2), plan.coupling_at(0)) == ("x_t", 0.3)


@pytest.mark.parametrize(
    "options, gradient",
    [
        ({}, "gradient  .<  back through all recorded steps"),
        ({"coupling": 0.3}, "gradient  .<  back through all recorded steps, in part"),
        ({"coupling": 0.0}, "gradient  .-  back through the update rule alone"),
        ({"detach_state": True}, "gradient  .|  of each step alone"),
    ],
)
def test_a_plan_prints_one_column_a_step(options, gradient):
    lines = str(GradientPlan(ONE, ONE, reads="x_t", **options)).splitlines()
    assert lines == ["step      01", "recorded  .x", "rewarded  .R  reads x_t", gradient]
    assert len(str(GradientPlan(ONE, frozenset({11}))).splitlines()) == 5, "tens have a line"


def test_weights_count_one_each_where_none_are_given_and_a_target_bounds_scores():
    scores = torch.tensor([1.0, 3.0])
    assert Weighting().at(2) == 1.0 and Weighting((0.0, 0.5, 2.5)).at(2) == 2.5
    assert Weighting((0.0, 0.5))(scores, 1) == 1.0 and Weighting(target=2.0)(scores, 0) == 1.5


def test_skipped_steps_lead_up_to_the_first_step_that_matters():
    late = frozenset({7, 8})
    plan = GradientPlan(late, late, detach_state=True)
    assert RolloutOptions().visited(plan) == list(range(9))
    assert RolloutOptions(3).visited(plan) == [0, 1, 4, 7, 8]
    assert RolloutOptions(50).visited(GradientPlan(late, frozenset({9}))) == [0, 7, 8, 9]
    assert RolloutOptions(4).visited(GradientPlan(ONE, frozenset({3}))) == [0, 1, 2, 3]
    assert RolloutOptions(2).visited(GradientPlan(frozenset(), TWO)) == [0, 2]
    with pytest.raises(ValueError, match="skip is 1 or more"):
        RolloutOptions(0)


def test_a_plan_is_a_value():
    assert len({GradientPlan(ONE, ONE), GradientPlan(ONE, frozenset([1]))}) == 1
    with pytest.raises(FrozenInstanceError):
        GradientPlan(ONE, ONE).detach_state = True  # type: ignore[misc]
