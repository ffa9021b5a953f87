"""The settings of sentence-transformers' Transformer module, which lie beside the transformer's config.json."""

from pathlib import Path

from converter.source.checkpoint import read_json
from converter.source.facts import Fact
from converter.source.layout import Layout
from shim.errors import UsageError
from shim.jsons import JsonObject, table

# Of these, its library takes the first that is there and not empty.
FILES = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TASKS = {
    "feature-extraction": ("token_embeddings", "last_hidden_state"),
    "sequence-classification": ("scores", "logits"),
    "text-generation": ("causal_logits", "logits"),
    "fill-mask": ("token_embeddings", "logits"),
}
# What the loaders of model, tokenizer and config may be given that changes no output in fp32.
HARMLESS = {
    "model": ("attn_implementation", "dtype", "torch_dtype", "low_cpu_mem_usage", "add_pooling_layer"),
    "tokenizer": ("padding_side", "use_fast", "clean_up_tokenization_spaces"),
    "config": ("use_cache",),
}
ARGUMENTS = {
    "model_args": "model",
    "model_kwargs": "model",
    "tokenizer_args": "tokenizer",
    "processor_kwargs": "tokenizer",
    "config_args": "config",
    "config_kwargs": "config",
}
COLBERT = ("query_length", "document_length", "query_expansion")
KEYS = ("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name", "unpad_inputs")


def sentence_file(directory: Path, layout: Layout) -> str | None:
    """The file that is read, relative to the checkpoint's directory."""
    names = [layout.file(name) for name in FILES]
    return next((name for name in names if (directory / name).is_file() and read_json(directory / name)), None)


def sentence_facts(directory: Path, layout: Layout) -> dict[str, Fact]:
    """lower_case; max_tokens where it is stated, and layer where it is not the last. Raises UsageError for settings that change
    outputs in other ways.
    """
    file = sentence_file(directory, layout)
    known = KEYS if not layout.per_token else (*KEYS, *COLBERT)
    if file is None:
        return {"lower_case": Fact(False, layout.file(FILES[0]))}
    settings = read_json(directory / file)
    limit = settings.get("max_seq_length")
    for key, value in settings.items():
        if key in ARGUMENTS:
            given = dict(table(settings, key))
            stated = given.pop("model_max_length", None) if ARGUMENTS[key] == "tokenizer" else None
            limit = limit if stated is None else stated
            given.pop("trust_remote_code", None)
            if changes := given.keys() - set(HARMLESS[ARGUMENTS[key]]):
                raise UsageError(f"{file}: {key} sets {', '.join(sorted(changes))}, which is not supported")
        elif key not in known and value not in (None, {}, []):  # query_length, processing_kwargs, and whatever is to come
            raise UsageError(f"{file}: {key} {value!r} is not supported")
    layer = _layer(file, settings, layout.splade is not None)
    facts = {"lower_case": Fact(bool(settings.get("do_lower_case", False)), file)}
    facts |= {} if layer is None else {"layer": Fact(layer, file)}
    if limit is not None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise UsageError(f"{file}: max_seq_length must be a positive number, not {limit!r}")
        facts["max_tokens"] = Fact(limit, file)
    return facts


def _layer(file: str, settings: JsonObject, masked: bool) -> int | None:
    """The hidden states that its library takes; None for the last. Raises UsageError for another output than of a text.

    masked: whether a masked language model's logits are wanted, not hidden states.
    """
    wanted_of = [name for name in TASKS if (name == "fill-mask") == masked]
    task = settings.get("transformer_task", wanted_of[0])
    if task not in wanted_of:
        raise UsageError(f"{file}: transformer_task {task!r} is not supported ({', '.join(wanted_of)})")
    output, wanted = TASKS[task]
    if settings.get("module_output_name", output) != output:
        raise UsageError(f"{file}: module_output_name {settings['module_output_name']!r} is not supported (only {output!r})")
    modalities, layer = table(settings, "modality_config"), None
    for kind in modalities:
        if kind == "message" and task == "text-generation":
            continue  # its chat template is what a recipe writes out as `pair`
        if kind == "message":
            raise UsageError(f"{file}: modality_config sends texts through the chat template, which is not supported")
        method = table(modalities, kind)
        path = method.get("method_output_name")
        if task == "feature-extraction" and isinstance(path, list) and len(path) == 2 and path[0] == "hidden_states":
            layer, path = path[1], wanted
        if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int)):
            raise UsageError(f"{file}: modality_config has hidden_states {layer!r}, not the number of a layer")
        if kind != "text" or method.get("method") != "forward" or path not in (wanted, [wanted]):
            raise UsageError(f"{file}: modality_config {kind!r} {method!r} is not supported (only text, forward, {wanted!r})")
    return layer if layer != -1 else None
