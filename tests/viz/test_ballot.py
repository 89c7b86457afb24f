import json
import re

import pytest
from viz_walking import walking

from easytune_lib.viz.ballot import Ballot, side_by_side

EVIL = '</script><img src=x onerror="alert(1)">'
PAIRS = [(walking(6, text=f"walk {i}"), walking(6, speed=0.1, text=f"walk {i}")) for i in range(4)]


class Box:
    """Keeps votes, and can be full."""

    def __init__(self) -> None:
        self.votes: list[tuple] = []
        self.full = False

    def __call__(self, *vote: object) -> None:
        if self.full:
            raise OSError("disk full")
        self.votes.append(vote)


def press(ballot: Ballot, choice: object, place: object = None, seconds: object = 2.0) -> None:
    """As the page says it."""
    place = ballot.place if place is None else place
    ballot._handle_custom_msg({"choice": choice, "place": place, "seconds": seconds}, [])


def test_a_pair_looks_alike_but_for_its_motion():
    spec = side_by_side(PAIRS[0]).spec
    left, right = spec["tracks"]
    assert (left["name"], right["name"]) == ("left", "right")
    alike = {"data", "name"}
    assert {k: v for k, v in left.items() if k not in alike} == {
        k: v for k, v in right.items() if k not in alike
    }
    assert left["data"] != right["data"] and spec["caption"] == "walk 0"


def test_votes_are_handed_on_and_the_next_pair_is_shown():
    box = Box()
    ballot = Ballot(PAIRS, box)
    for choice in ("left", "same", "right"):
        before = ballot.spec
        press(ballot, choice)
        assert ballot.spec != before
    assert box.votes == [(0, "left", 2.0), (1, "same", 2.0), (2, "right", 2.0)]
    assert ballot.state["voted"] == 3 and ballot.state["left"] == "less than a minute left"
    press(ballot, "left", seconds=100.0)
    assert ballot.place == 4 and ballot.spec == {} and repr(ballot) == "Ballot(4 of 4 voted)"
    press(ballot, "left")
    assert len(box.votes) == 4


def test_it_goes_on_where_it_was_left():
    ballot = Ballot(PAIRS, Box(), {0: "left", 2: "same"}, notice="half a line was left out")
    assert ballot.place == 1 and ballot.state["notice"] == "half a line was left out"
    press(ballot, "right")
    assert ballot.place == 3 and not ballot.state["notice"]
    assert Ballot(PAIRS, Box(), dict.fromkeys(range(4), "left")).place == 4


def test_one_can_go_back_and_change_a_vote():
    box = Box()
    ballot = Ballot(PAIRS, box)
    press(ballot, "left")
    press(ballot, "back")
    assert ballot.place == 0 and ballot.state["answer"] == "left"
    press(ballot, "back")
    assert ballot.place == 0
    press(ballot, "right")
    assert ballot.place == 1 and box.votes == [(0, "left", 2.0), (0, "right", 2.0)]


def test_after_the_last_pair_one_can_go_back():
    ballot = Ballot(PAIRS[:1], Box(), {0: "left"})
    ballot.back()
    assert ballot.place == 0 and ballot.spec["tracks"]


def test_a_second_click_on_a_pair_that_is_gone_does_not_count():
    box = Box()
    ballot = Ballot(PAIRS, box)
    press(ballot, "left", place=0)
    press(ballot, "left", place=0)
    assert len(box.votes) == 1 and ballot.place == 1


@pytest.mark.parametrize("choice", ["up", None, ["left"], {}])
def test_what_is_no_choice_is_not_heard(choice):
    box = Box()
    ballot = Ballot(PAIRS, box)
    press(ballot, choice)
    press(ballot, "left", seconds=None)
    ballot._handle_custom_msg("left", [])
    assert not box.votes and ballot.place == 0


def test_a_vote_that_is_not_stored_is_said_and_asked_again():
    box = Box()
    ballot = Ballot(PAIRS, box)
    box.full = True
    press(ballot, "left")
    assert ballot.place == 0 and ballot.state["notice"] == "This vote was not stored: disk full"
    box.full = False
    press(ballot, "left")
    assert ballot.place == 1 and not ballot.state["notice"]


def test_time_left_follows_the_raters_pace():
    ballot = Ballot(PAIRS * 5, Box())
    assert ballot.state["left"] == ""
    press(ballot, "left", seconds=60.0)
    assert ballot.state["left"] == "about 19 min left"


def test_without_a_kernel_it_shows_a_pair_and_says_how_to_vote():
    data = Ballot(PAIRS, Box())._repr_mimebundle_()
    bundle = data[0] if isinstance(data, tuple) else data
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "<iframe" in bundle["text/html"] and "Run this notebook" in bundle["text/html"]


def test_words_stay_words():
    pairs = [(walking(4, text=EVIL), walking(4, text=EVIL))]
    ballot = Ballot(pairs, Box(), question=EVIL)
    page = ballot._repr_mimebundle_()
    bundle = page[0] if isinstance(page, tuple) else page
    assert "<img" not in bundle["text/html"]
    assert json.loads(json.dumps(ballot.spec))["caption"] == EVIL
    assert "innerHTML" not in Ballot._esm and "insertAdjacentHTML" not in Ballot._esm


def test_it_is_one_module_that_asks_for_nothing():
    script = str(Ballot._esm)
    assert script.count("export default") == 1 and "export function mount" in script
    assert not re.search(r"https?://|\bfetch\(|\bimport\s*\(", script)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        Ballot([], Box())
