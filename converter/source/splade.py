"""SPLADE, a masked language model's head over the tokens: what the checkpoint says of it, and its tensors.

Source: sentence-transformers 6.2, SparseEncoder and its SpladePooling; transformers' masked language models.
"""

import dataclasses
from pathlib import Path

from converter.source.checkpoint import read_json
from converter.source.facts import Fact
from converter.source.layout import Layout
from converter.source.tensors import Tensor
from shim.architectures import MaskedHead
from shim.errors import SourceError, UsageError
from shim.jsons import JsonObject
from shim.pooling import MASKED, VOCABULARY_POOLINGS
from shim.spec import SIMILARITIES, SPLADE


def splade_facts(directory: Path, layout: Layout, raw: JsonObject, settings: JsonObject, settings_file: str) -> dict[str, Fact]:
    """pooling, splade, modules, dimensions, similarity. raw: the config.json. Raises UsageError for what is not supported."""
    file = f"{layout.splade}/config.json"
    stated = read_json(directory / file) if (directory / file).is_file() else {}
    if settings.get("max_active_dims") is not None:
        raise UsageError(
            f"{settings_file}: max_active_dims {settings['max_active_dims']} is not supported; cut the answers instead"
        )
    pooling, activation = stated.get("pooling_strategy", "max"), stated.get("activation_function", "relu")
    for key, value, known in (
        ("pooling_strategy", pooling, VOCABULARY_POOLINGS),
        ("activation_function", activation, SPLADE),
    ):
        if value not in known:
            raise UsageError(f"{file}: {key} {value!r} is not supported ({', '.join(known)})")
    words, similarity = raw.get("vocab_size"), settings.get("similarity_fn_name")
    if isinstance(words, bool) or not isinstance(words, int) or words < 1:
        raise SourceError(f"{layout.file('config.json')}: vocab_size must be a positive number, not {words!r}")
    return {
        "pooling": Fact(pooling, file),
        "splade": Fact(activation, file),
        "modules": Fact([], "modules.json"),
        "dimensions": Fact(words, layout.file("config.json")),
        "similarity": Fact(similarity if similarity in SIMILARITIES else "dot", settings_file),
    }


def masked_head(found: dict[str, Tensor], head: MaskedHead, table: Tensor | None) -> dict[str, Tensor]:
    """The tensors of the head by their final names, taken out of `found`, where they have those of the checkpoint.

    table: of words, in place of a decoder that the checkpoint has not, as it is tied to it. Raises SourceError without both.
    """
    taken: dict[str, Tensor] = {}
    for part, name in (("dense", head.dense), ("norm", head.norm), ("decoder", head.decoder)):
        for kind in ("weight", "bias"):
            if (tensor := found.pop(f"{name}.{kind}", None)) is not None:
                taken[f"{MASKED}.{part}.{kind}"] = tensor
    if head.bias and (tensor := found.pop(head.bias, None)) is not None:
        taken.setdefault(f"{MASKED}.decoder.bias", tensor)
    if table is not None:
        taken.setdefault(f"{MASKED}.decoder.weight", dataclasses.replace(table))
    return taken
