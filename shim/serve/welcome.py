"""What `shim serve` says on a terminal once it takes requests."""

import shlex
from collections.abc import Mapping, Sequence

import orjson

from shim.artifact import Manifest
from shim.serve.settings import Settings

SHOWN = 4  # characters of a key: enough to tell it from another
# For each task a request of its own: the route, and what is sent beside the model's name.
REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "embed": ("/v1/embeddings", {"input": ["Hello"]}),
    "rerank": ("/v1/rerank", {"query": "When does it leave?", "documents": ["At nine.", "Soup."]}),
}


def welcome(manifests: Mapping[str, Manifest], address: str, settings: Settings) -> str:
    """Three lines: what is served, by the names that it is listed under, where and with which key, and a request to try."""
    served = ", ".join(f"{name} ({_proof(one)})" for name, one in manifests.items())
    name, first = next(iter(manifests.items()))
    path, body = REQUESTS[first.task]
    given = shlex.quote(orjson.dumps({"model": name, **body}).decode())
    key = ' -H "authorization: Bearer $SEALPORT_API_KEY"' if settings.keys else ""
    page = ", which is a page to try them" if settings.pages else ""
    return "\n".join(
        (
            f"Serving  {served}",
            f"at       {address}{page}; {_keys(settings.keys)}",
            f"Try      curl -s {address}{path} -H 'content-type: application/json'{key} -d {given}",
        )
    )


def _proof(manifest: Manifest) -> str:
    worst = min(manifest.parity.worst.values(), default=None)
    return manifest.verdict if worst is None else f"{manifest.verdict}, worst cosine {worst:.5f}"


def _keys(keys: Sequence[str]) -> str:
    if not keys:
        return "no key is needed"
    first = f"{keys[0][:SHOWN]}…" if len(keys[0]) > 2 * SHOWN else "…"
    return f"with the key {first}" if len(keys) == 1 else f"with one of {len(keys)} keys, the first is {first}"
