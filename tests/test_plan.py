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


def test_a_plan_is_a_value():
    assert len({GradientPlan(ONE, ONE), GradientPlan(ONE, frozenset([1]))}) == 1
    with pytest.raises(FrozenInstanceError):
        GradientPlan(ONE, ONE).detach_state = True  # type: ignore[misc]
