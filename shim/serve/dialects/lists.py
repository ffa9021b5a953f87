"""A request's list of texts, of which no more is looked into than may be in it."""

from pydantic import BeforeValidator, ValidationInfo

MOST = "max_inputs"  # the key of the validation's context


def _first(value: object, info: ValidationInfo) -> object:
    most = (info.context or {}).get(MOST)
    return value[: most + 1] if most is not None and isinstance(value, list) else value


FIRST = BeforeValidator(_first)  # one more than there may be, so that the list is still seen to be too long
