from dataclasses import KW_ONLY, dataclass
from typing import Literal

import pytest

from easytune_lib.choices import check_choices

Colour = Literal["red", "blue"]


@dataclass(frozen=True)
class Pen:
    width: int = 1
    _: KW_ONLY
    colour: Colour = "red"
    tip: Colour | None = None
    length: Literal["long"] | int = "long"

    def __post_init__(self) -> None:
        check_choices(self)


def test_what_is_listed_passes():
    Pen(2, colour="blue", tip="red", length=3)


@pytest.mark.parametrize(
    ("field", "value", "listed"),
    [
        ("colour", "rde", "'red', 'blue'"),
        ("tip", "rde", "'red', 'blue', None"),
        ("length", "lnog", "'long'"),
    ],
)
def test_a_misspelt_choice_is_refused_and_the_error_lists_what_there_is(field, value, listed):
    with pytest.raises(ValueError, match=f"Pen has no {field}='{value}': it is one of {listed}"):
        Pen(**{field: value})
