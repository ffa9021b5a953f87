"""Pairs of texts, each with a query of its own, as a reranker scores them."""

from collections.abc import Sequence

from shim.results import Ranked
from shim.serve.served_model import ServedModel


async def scored(served: ServedModel, pairs: Sequence[tuple[str, str]], truncate: bool, side: str = "right") -> list[Ranked]:
    """The pairs' scores, in order: those of one query together. Raises UsageError or Refusal."""
    served.counted(pairs)
    rows: dict[str, list[int]] = {}
    for row, (query, _) in enumerate(pairs):
        rows.setdefault(query, []).append(row)
    found: dict[int, Ranked] = {}
    for query, own in rows.items():
        ranked = await served.rerank(query, [pairs[row][1] for row in own], None, truncate, side)
        found.update((own[item.index], item) for item in ranked)
    return [found[row] for row in range(len(pairs))]
