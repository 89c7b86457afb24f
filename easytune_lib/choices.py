"""A check that a misspelt option is refused when an object is made, not taken silently."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Refuse a value that the ``Literal`` type ``kind`` does not list.

    Raises:
        ValueError: Says what came, and what there is.
    """
    if value not in get_args(kind):
        raise ValueError(
            f"no {name}={value!r}: it is one of {', '.join(map(repr, get_args(kind)))}"
        )


def check_choices(self: Any) -> None:
    """Refuse a value that its field's ``Literal`` annotation does not list.

    Call it in ``__post_init__`` of a dataclass. Fields of other types are not looked at; of
    ``Literal["auto"] | int`` an integer passes, and a string must be one that is listed.

    Raises:
        ValueError: Says which field, what came, and what there is.
    """
    for name, hint in get_type_hints(type(self)).items():
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [c for o in options if get_origin(o) is Literal for c in get_args(o)]
        others = tuple(o for o in (get_origin(o) or o for o in options) if isinstance(o, type))
        value = getattr(self, name, None)
        if choices and value not in choices and not isinstance(value, others):
            listed = choices + [None] * (NoneType in others)
            raise ValueError(
                f"{type(self).__name__} has no {name}={value!r}: it is one of "
                f"{', '.join(map(repr, listed))}"
            )
