import time

import pytest

from benchmarks.timing import gains, machine_now, timed


def test_ratios_are_taken_turn_by_turn():
    """Way b takes half of what a takes in each turn, though turns differ tenfold."""
    taken = {"a": [(2.0, 4.0), (20.0, 40.0)], "b": [(1.0, 1.0), (10.0, 10.0)]}
    a, b = gains(taken, count=2)
    assert (a["way"], a["gain"], a["cpu_gain"]) == ("a", 1.0, 1.0)
    assert (b["gain_low"], b["gain"], b["gain_high"]) == (2.0, 2.0, 2.0)
    assert (b["cpu_gain"], b["wall"], b["wall_low"], b["wall_high"]) == (4.0, 2.75, 0.5, 5.0)


def test_waiting_takes_wall_time_alone():
    wall, cpu = timed(lambda: time.sleep(0.05))
    assert wall >= 0.05 and cpu < wall


def test_the_machine_says_what_shares_it():
    machine = machine_now()
    assert machine["threads"] >= 1 and machine["processor"]
    assert machine["load"] == pytest.approx(machine["load"]) and len(machine["load"]) == 3
    assert isinstance(machine["bf16_instructions"], bool)
