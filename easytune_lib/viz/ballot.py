"""A blind vote in a notebook: two motions side by side, and buttons for left, same and right."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Literal

import anywidget
import traitlets

from easytune_lib.motion.motion import Motion
from easytune_lib.viz.player import PLAYER, MotionPlayer, script
from easytune_lib.viz.style import OKABE_ITO

Choice = Literal["left", "same", "right"]

QUESTION = "Which motion fits the caption better?"
_CHOICES = ("left", "same", "right")
_SCRIPT = PLAYER.with_name("ballot.js")


def side_by_side(pair: tuple[Motion, Motion], title: str = "") -> MotionPlayer:
    """A pair that gives nothing away: both in one colour, named for their sides.

    Needs no kernel; a ballot shows the same.
    """
    blue = OKABE_ITO["blue"]
    return MotionPlayer(pair, names=("left", "right"), colors=(blue, blue), title=title)


class Ballot(anywidget.AnyWidget):
    """Asks for a vote on one pair after the other, on a live kernel.

    Keys 1, 2 and 3 vote left, same and right, backspace goes back; every pair can be voted on
    again. Where no kernel is, it shows its first pair and says how to vote.

    Args:
        pairs: Left and right motion, in the order in which they are shown.
        vote: Is called with place, choice and seconds for each vote. Where it raises
            ``OSError`` or ``ValueError`` the ballot says so and stays where it is.
        answers: What was voted before, by place; the ballot goes on with the first place
            that is missing.
        question: Above the pair.
        notice: Said below the buttons until the next vote.

    Raises:
        ValueError: There are no pairs.
    """

    _esm = script(PLAYER, _SCRIPT)
    spec = traitlets.Dict().tag(sync=True)
    question = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        pairs: Sequence[tuple[Motion, Motion]],
        vote: Callable[[int, Choice, float], object],
        answers: Mapping[int, Choice] | None = None,
        *,
        question: str = QUESTION,
        notice: str = "",
    ) -> None:
        if not pairs:
            raise ValueError("a ballot needs at least one pair of motions")
        super().__init__(question=question)
        self._pairs, self._vote = pairs, vote
        self._answers: dict[int, Choice] = dict(answers or {})
        self._seconds: list[float] = []
        self.on_msg(self._hear)
        self._show(self._next(), notice)

    def __repr__(self) -> str:
        return f"Ballot({len(self._answers)} of {len(self._pairs)} voted)"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and the first pair for pages that have no kernel."""
        shown = super()._repr_mimebundle_(**kwargs)
        title = f"{self.question} Run this notebook to vote on {len(self._pairs)} pairs."
        still = {"text/html": side_by_side(self._pairs[0], title)._repr_html_()}
        if isinstance(shown, tuple):
            return {**still, **shown[0]}, *shown[1:]
        return still | (shown or {})

    @property
    def place(self) -> int:
        """Of the pair that is shown; the number of pairs when all are done."""
        return self.state["place"]

    def choose(self, choice: Choice, seconds: float = 0.0) -> None:
        """Vote on the pair that is shown, and go on."""
        if self.place >= len(self._pairs):
            return
        try:
            self._vote(self.place, choice, seconds)
        except (OSError, ValueError) as error:
            self._show(self.place, f"This vote was not stored: {error}")
            return
        self._answers[self.place] = choice
        self._seconds.append(seconds)
        self._show(self._next(), "")

    def back(self) -> None:
        """Show the pair before."""
        self._show(max(self.place - 1, 0), "")

    def _hear(self, _: object, content: Any, buffers: object) -> None:
        """A message of the page. One that was meant for another pair comes too late."""
        if not isinstance(content, dict) or content.get("place") != self.place:
            return
        seconds = content.get("seconds")
        if content.get("choice") == "back":
            self.back()
        elif content.get("choice") in _CHOICES and isinstance(seconds, int | float):
            self.choose(content["choice"], float(seconds))

    def _next(self) -> int:
        """The first place without a vote; the number of pairs where there is none."""
        places = range(len(self._pairs))
        return next((i for i in places if i not in self._answers), len(self._pairs))

    def _show(self, place: int, notice: str) -> None:
        done = place >= len(self._pairs)
        state = {
            "place": place,
            "total": len(self._pairs),
            "voted": len(self._answers),
            "left": self._left(),
            "answer": self._answers.get(place, ""),
            "notice": notice,
        }
        with self.hold_sync():
            if done:
                self.spec = {}
            elif place != self.state.get("place"):
                self.spec = side_by_side(self._pairs[place]).spec
            self.state = state

    def _left(self) -> str:
        """How long the rest will take at this rater's pace."""
        if not self._seconds:
            return ""
        minutes = median(self._seconds) * (len(self._pairs) - len(self._answers)) / 60
        return "less than a minute left" if minutes < 1 else f"about {math.ceil(minutes)} min left"
