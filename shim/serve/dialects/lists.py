"""A request's list of texts, of which no more is looked into than may be in it."""

from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic.config import JsonDict

from shim.token_ids import TokenIds

MOST = "max_inputs"  # the key of the validation's context
MOST_IDS = 131_072  # token ids of a text: more than any model reads
TEXT: JsonDict = {"type": "string", "minLength": 1}
ID: JsonDict = {"type": "array", "minItems": 1, "items": {"type": "integer"}}
STRINGS: JsonDict = {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": TEXT}]}
IDS: JsonDict = {"anyOf": [ID, {"type": "array", "minItems": 1, "items": ID}]}
BOTH: JsonDict = {"anyOf": [STRINGS, IDS]}


def _first(value: object, info: ValidationInfo) -> object:
    most = (info.context or {}).get(MOST)
    if most is None or not isinstance(value, list) or (value and type(value[0]) is int):
        return value
    return value[: most + 1]


def _read(value: object, info: ValidationInfo) -> object:
    """Texts, a string or a list, as a list: each {"text": …} as its text, each list of integers as TokenIds."""
    value = _first(value, info)
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        value = [value]
    if not isinstance(value, list):
        return value
    return [_text(item) for item in value]


def _text(item: object) -> object:
    if isinstance(item, dict) and "text" in item:
        return item["text"]
    if not isinstance(item, list) or not item or len(item) > MOST_IDS or any(type(id) is not int for id in item):
        return item
    try:
        return TokenIds(item)
    except OverflowError:
        return item


Item = TypeVar("Item")
FIRST = BeforeValidator(_first)  # one more than there may be, so that the list is still seen to be too long
READ = BeforeValidator(_read)
Some = Annotated[list[Item], Field(min_length=1, fail_fast=True), FIRST]  # told of the first entry that is wrong
Strings = Annotated[object, READ, Field(json_schema_extra=STRINGS, description="A string, or a list of strings.")]
Ids = Annotated[object, READ, Field(json_schema_extra=IDS, description="Token ids, or a list of such lists.")]
Texts = Annotated[
    object,
    READ,
    Field(
        json_schema_extra=BOTH,
        description='A string, or a list of strings or of {"text": …}; or token ids, as /tokenize gives.',
    ),
]
