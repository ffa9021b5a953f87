"""Values that clients write in more ways than one: "true" for true, "256" for 256."""

from typing import Annotated

from pydantic import BeforeValidator, StrictBool, StrictInt

FLAGS = {"true": True, "false": False}
DIGITS = 18  # of a number in a string


def _flag(value: object) -> object:
    return FLAGS.get(value.lower(), value) if isinstance(value, str) else value


def _count(value: object) -> object:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= DIGITS:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Flag = Annotated[StrictBool, BeforeValidator(_flag)]
Count = Annotated[StrictInt, BeforeValidator(_count)]
