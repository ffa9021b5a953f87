"""The files beside an artifact's weights by which other loaders make the same vectors: the checkpoint's own, or made anew."""

import json
from pathlib import Path

from converter.source.checkpoint import TOKENIZER, Checkpoint, read_json
from converter.source.colbert import METADATA
from converter.source.front_matter import NOTICES
from converter.source.layout import MODULES
from converter.source.sentence_config import sentence_file
from shim.jsons import Json, JsonObject
from shim.spec import ModelSpec

MODEL_CONFIG, SENTENCE_CONFIG = "config_sentence_transformers.json", "sentence_bert_config.json"
TYPES = "sentence_transformers.models"
POOLINGS = {"last": "lasttoken"}  # ours -> sentence-transformers', where it is another
OUTPUT = ("modality_config", "module_output_name")  # in SENTENCE_CONFIG, which output of the transformer is pooled
SUFFIXES = (".json", ".safetensors", ".bin")  # of the files in a module's folder that its library reads


def companions(checkpoint: Checkpoint) -> dict[str, bytes]:
    """{name in the artifact: content}: the tokenizer, the files of sentence-transformers' modules, the text of the license.

    Where the checkpoint lists no modules, or the recipe overrides them, modules.json and its folders are written from the
    model; a transformer in a folder of its own moves to the top.
    """
    layout, root, spec = checkpoint.layout, checkpoint.root, checkpoint.spec
    found = {name: checkpoint.directory / name for name in (*TOKENIZER, METADATA)} | {name: root / name for name in NOTICES}
    made: dict[str, bytes] = {}
    if not layout.listed or {"pooling", "modules"} & checkpoint.overrides.keys():
        made = _modules(spec, checkpoint.config) if "dense" in spec.heads else {}
    else:
        found[MODEL_CONFIG] = root / MODEL_CONFIG
        if settings := sentence_file(root, layout):
            found[Path(settings).name] = root / settings
        for folder in layout.folders:
            paths = sorted((root / folder).glob("*")) if (root / folder).is_dir() else []
            found |= {f"{folder}/{path.name}": path for path in paths if path.suffix in SUFFIXES}
        made |= _overridden(checkpoint)
        if spec.layer is not None and settings:  # the artifact ends at that layer
            name = Path(settings).name
            kept = json.loads(made[name]) if name in made else read_json(root / settings)
            made[name] = _json({key: value for key, value in kept.items() if key not in OUTPUT})
        made[MODULES] = (root / MODULES).read_bytes()
        if layout.transformer:
            entries = json.loads(made[MODULES])
            made[MODULES] = _json([entry | ({"path": ""} if entry["path"] == layout.transformer else {}) for entry in entries])
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()} | made


def write(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the companions into `directory`."""
    for name, content in companions(checkpoint).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def _overridden(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The settings that the recipe overrides, put into the files that other loaders read."""
    spec, overrides = checkpoint.spec, checkpoint.overrides
    file = sentence_file(checkpoint.root, checkpoint.layout)
    texts: dict[str, JsonObject] = {
        "max_tokens": {"max_seq_length": spec.max_tokens},
        "lower_case": {"do_lower_case": spec.lower_case},
    }
    model: dict[str, JsonObject] = {
        "prompt_names": {"prompts": spec.prompt_names},
        "default_prompt": {"default_prompt_name": spec.default_prompt or None},
        "similarity": {"similarity_fn_name": spec.similarity},
    }
    made: dict[str, bytes] = {}
    for path, name, keys in (
        (checkpoint.root / (file or SENTENCE_CONFIG), Path(file or SENTENCE_CONFIG).name, texts),
        (checkpoint.root / MODEL_CONFIG, MODEL_CONFIG, model),
    ):
        changes = {key: value for override in overrides.keys() & keys.keys() for key, value in keys[override].items()}
        if changes:
            made[name] = _json((read_json(path) if path.is_file() else {}) | changes)
    return made


def _modules(spec: ModelSpec, config: JsonObject) -> dict[str, bytes]:
    kinds = ["Transformer", "Pooling", *(step.type.title() for step in spec.modules)]
    entries: list[JsonObject] = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": f"{TYPES}.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    width, mode = config.get("hidden_size", config.get("n_embd", config.get("dim"))), POOLINGS.get(spec.pooling, spec.pooling)
    return {
        MODULES: _json(entries),
        "1_Pooling/config.json": _json({"word_embedding_dimension": width, "pooling_mode": mode}),
        SENTENCE_CONFIG: _json({"max_seq_length": spec.max_tokens, "do_lower_case": spec.lower_case}),
    }


def _json(value: Json) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
