"""Texts as the tokens that a model's task asks for: behind a prompt, through an adapter; of ColBERT as query or document."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from shim.contents import Steps
from shim.errors import UsageError
from shim.prompts import adapter_of, is_query
from shim.spec import ColBert, ModelSpec
from shim.text import Encoded, TextEncoder, adapted

Encode = Callable[[Sequence[str]], Steps[list[Encoded]]]


def encoding(
    encoder: TextEncoder,
    spec: ModelSpec,
    prompt: str,
    task: str | None = None,
    name: str | None = None,
    side: str = "right",
) -> Encode:
    """What makes texts tokens behind the prompt, as `TextEncoder.encoding` cuts and refuses them.

    task, name: see `prompt_of`; they also say which adapter a text goes through, and whether it is a query. Raises UsageError
    for a task that a model with adapters has none for, and for ColBERT's texts, whose sign stands first, cut on the left.
    """
    adapter, colbert, query = adapter_of(spec, task, name), spec.colbert, is_query(task, name)
    if colbert is not None and side == "left":
        raise UsageError("this model's texts are cut on the right: what they are stands before them")
    limit = colbert.query_length if colbert is not None and query else None

    def encode(texts: Sequence[str]) -> Steps[list[Encoded]]:
        found = adapted((yield from encoder.encoding(texts, prompt, side, limit)), adapter)
        return found if colbert is None else [_of_colbert(item, colbert, query) for item in found]

    return encode


def _of_colbert(item: Encoded, colbert: ColBert, query: bool) -> Encoded:
    """A query, filled up with masks, or a document; and which of their tokens have a vector.

    Source: Khattab and Zaharia 2020, ColBERT, section 3.2; the settings as sentence-transformers' MultiVectorEncoder has them.
    """
    missing = max(0, colbert.expansion - len(item.ids)) if query else 0
    ids = item.ids + [colbert.mask] * missing
    skipped = set(colbert.skipped) if ("query" if query else "document") in colbert.skipped_in else set[int]()
    return replace(
        item,
        ids=ids,
        type_ids=item.type_ids + [0] * missing,
        unattended=0 if colbert.attended else missing,
        kept=tuple(place for place, id in enumerate(ids) if id not in skipped),
    )
