from dataclasses import FrozenInstanceError

import pytest

from easytune_lib.plan import GradientPlan

ONE, TWO = frozenset({1}), frozenset({2})


def test_last_is_the_last_rewarded_step():
    plan = GradientPlan(frozenset({2, 5, 7}), frozenset({2, 5}), detach_state=True)
    assert plan.last == 5


def test_nothing_need_be_recorded():
    assert GradientPlan(frozenset(), TWO).last == 2


@pytest.mark.parametrize(
    "recorded, rewarded, detach, message",
    [
        (ONE, frozenset(), False, "at least one rewarded step"),
        (ONE | TWO, ONE | TWO, False, "2 rewarded steps share one graph.*detach_state=True"),
        (ONE, ONE | TWO, True, r"steps \[2\] are rewarded but not recorded"),
        (TWO, ONE, False, "no recorded step comes before the rewarded step 1"),
    ],
)
def test_plans_without_a_meaning_are_refused(recorded, rewarded, detach, message):
    with pytest.raises(ValueError, match=message):
        GradientPlan(recorded, rewarded, detach_state=detach)


def test_before_the_switch_the_reward_is_given_the_other_state():
    plan = GradientPlan(TWO, TWO, reads="x_t", switch=2)
    assert [plan.reads_at(i) for i in range(4)] == ["x0_hat", "x0_hat", "x_t", "x_t"]
    assert [GradientPlan(TWO, TWO, switch=1).reads_at(i) for i in range(2)] == ["x_t", "x0_hat"]


def test_weights_count_one_each_where_none_are_given():
    assert GradientPlan(TWO, TWO).weight_at(2) == 1.0
    assert GradientPlan(TWO, TWO, weights=(0.0, 0.5, 2.5)).weight_at(2) == 2.5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weights": (1.0, 1.0)}, "2 weights do not reach the rewarded step 2"),
        ({"renoised": 1}, 'make one update: set updates="sum"'),
        ({"renoised": 1, "updates": "sum"}, "detach_state=True"),
        ({"hop": 0}, "a hop is 1 step or more, got 0"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradientPlan(TWO, TWO, **options)


def test_hops_lead_up_to_the_first_step_that_matters():
    late = frozenset({7, 8})
    assert GradientPlan(late, late, detach_state=True).visited == list(range(9))
    assert GradientPlan(late, late, detach_state=True, hop=3).visited == [0, 1, 4, 7, 8]
    assert GradientPlan(late, frozenset({9}), hop=50).visited == [0, 7, 8, 9]
    assert GradientPlan(ONE, frozenset({3}), hop=4).visited == [0, 1, 2, 3]
    assert GradientPlan(frozenset(), TWO, hop=2).visited == [0, 2]


def test_a_plan_is_a_value():
    assert len({GradientPlan(ONE, ONE), GradientPlan(ONE, frozenset([1]))}) == 1
    with pytest.raises(FrozenInstanceError):
        GradientPlan(ONE, ONE).detach_state = True  # type: ignore[misc]
