"""Small checkpoints without a vector for a text, in the layouts of sentence-transformers, PyLate and ColBERT's authors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers import AddedToken
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, DistilBertForMaskedLM, ModernBertForMaskedLM

from support.checkpoints import WORDS
from support.saved import SHAPE, bert, bert_tokenizer, xlm_roberta
from support.saved_encoders import ENCODERS
from support.seeded import seeded

WIDTH = 32  # of ColBERT's vectors


def masked_bert(folder: Path, **more: Any) -> Path:
    """A BERT that predicts masked words."""
    seeded(BertForMaskedLM(BertConfig(vocab_size=WORDS, max_position_embeddings=64, **SHAPE, **more))).save_pretrained(folder)
    bert_tokenizer(folder)
    return folder


def splade(base: Path, folder: Path, pooling: str = "max", activation: str = "relu", **settings: Any) -> Path:
    """`base`, a masked language model, saved by sentence-transformers as a SparseEncoder."""
    modules = [Transformer(str(base), transformer_task="fill-mask"), SpladePooling(pooling, activation)]
    SparseEncoder(modules=modules, device="cpu", **settings).save_pretrained(str(folder), create_model_card=False)
    return folder


def old_splade(base: Path, folder: Path) -> Path:
    """What sentence-transformers 5 saved: a module of its own for masked language models, and no task."""
    splade(base, folder)
    entries = json.loads((folder / "modules.json").read_text())
    kinds = ("MLMTransformer", "SpladePooling")
    for entry, kind in zip(entries, kinds, strict=True):
        entry["type"] = f"sentence_transformers.sparse_encoder.models.{kind}"
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": False}))
    return folder


SPARSE: dict[str, Callable[[Path, Path], Path]] = {
    "splade, bert, max": lambda base, to: splade(masked_bert(base), to),
    "splade, bert, sum, prompts": lambda base, to: splade(
        masked_bert(base), to, "sum", prompts={"query": "ask: ", "document": ""}, default_prompt_name="query"
    ),
    "splade, bert, a decoder of its own": lambda base, to: splade(masked_bert(base, tie_word_embeddings=False), to),
    "splade, bert, as version 5 saves it": lambda base, to: old_splade(masked_bert(base), to),
    "splade, distilbert, log1p twice": lambda base, to: splade(
        ENCODERS["distilbert"](base, DistilBertForMaskedLM), to, "max", "log1p_relu"
    ),
    "splade, modernbert, sum": lambda base, to: splade(ENCODERS["modernbert"](base, ModernBertForMaskedLM), to, "sum"),
    "splade, modernbert, biases": lambda base, to: splade(
        ENCODERS["modernbert"](base, ModernBertForMaskedLM, norm_bias=True, classifier_bias=True, mlp_bias=True), to
    ),
}


def projection(inputs: int, width: int = WIDTH, **more: Any) -> Dense:
    """A seeded Dense module over the hidden states."""
    torch.manual_seed(width)
    identity = torch.nn.Identity()
    return Dense(inputs, width, bias=False, activation_function=identity, module_input_name="token_embeddings", **more)


def multi_vector(base: Path, folder: Path, words: list[str], *dense: Dense, **settings: Any) -> Path:
    """`base` with the modules of ColBERT, saved by sentence-transformers."""
    kept = {key: settings.pop(key) for key in ("query_length", "document_length", "query_expansion") if key in settings}
    modules = [Transformer(str(base), **kept), *dense, MultiVectorMask(words), Normalize("token_embeddings")]
    model = MultiVectorEncoder(modules=modules, device="cpu", **settings)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def pylate(base: Path, folder: Path, prefixes: tuple[str, str] | None = ("[Q] ", "[D] "), **settings: Any) -> Path:
    """PyLate's layout: prefixes as tokens of their own, a transformer, a Dense module of PyLate's class; nothing else."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = len(tokenizer)
    if prefixes:
        tokenizer.add_tokens([AddedToken(prefix) for prefix in prefixes if prefix])
        tokenizer.save_pretrained(base)
        weights, config = load_file(base / "model.safetensors"), json.loads((base / "config.json").read_text())
        (table,) = (name for name in weights if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
        torch.manual_seed(2)
        weights[table] = torch.cat([weights[table], 0.1 * torch.randn(len(tokenizer) - rows, weights[table].shape[1])])
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        (base / "config.json").write_text(json.dumps(config | {"vocab_size": len(tokenizer)}))
    width = json.loads((base / "config.json").read_text())["hidden_size"]
    multi_vector(base, folder, [], projection(width))
    for name in ("2_MultiVectorMask", "3_Normalize"):
        shutil.rmtree(folder / name)
    entries = json.loads((folder / "modules.json").read_text())[:2]
    entries[0]["type"], entries[1]["type"] = "sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(entries))
    dense = json.loads((folder / "1_Dense/config.json").read_text())
    kept = {key: dense[key] for key in ("in_features", "out_features", "bias", "activation_function")}
    (folder / "1_Dense/config.json").write_text(json.dumps(kept))
    stated = {"query_prefix": prefixes[0], "document_prefix": prefixes[1]} if prefixes else {}
    stated |= {"model_type": "ColBERT", "similarity_fn_name": "MaxSim", "prompts": {}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(stated | settings))
    return folder


def stanford(folder: Path, **metadata: Any) -> Path:
    """A ColBERT as its authors' code saves it: BERT and `linear.weight` in one file, its settings in `artifact.metadata`."""
    config = BertConfig(vocab_size=WORDS, max_position_embeddings=64, **SHAPE)
    seeded(BertModel(config)).save_pretrained(folder)
    bert_tokenizer(folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"architectures": ["HF_ColBERT"]}))
    weights = {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    torch.manual_seed(3)
    weights["linear.weight"] = torch.randn(WIDTH, SHAPE["hidden_size"]) / 8
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    stated = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 16, "doc_maxlen": 40, "dim": WIDTH}
    (folder / "artifact.metadata").write_text(json.dumps(stated | metadata))
    return folder


FIXED = {"strategy": "fixed", "length": 16}
MULTI: dict[str, Callable[[Path, Path], Path]] = {
    "colbert, pylate over bert": lambda base, to: pylate(
        bert(base), to, query_length=16, document_length=40, attend_to_expansion_tokens=False, skiplist_words=[*",.;"]
    ),
    "colbert, pylate over modernbert": lambda base, to: pylate(
        ENCODERS["modernbert"](base), to, query_length=20, document_length=40, attend_to_expansion_tokens=False
    ),
    "colbert, pylate, attended": lambda base, to: pylate(
        bert(base), to, query_length=12, attend_to_expansion_tokens=True, do_query_expansion=True
    ),
    "colbert, pylate, no expansion": lambda base, to: pylate(
        bert(base), to, None, query_length=12, document_length=30, do_query_expansion=False, skiplist_words=[]
    ),
    "colbert, two dense, prompts": lambda base, to: multi_vector(
        bert(base), to, [",", "?"], projection(64, 48), projection(48), prompts={"query": "ask: ", "document": "say: "}
    ),
    "colbert, at least so many": lambda base, to: multi_vector(
        bert(base), to, [], projection(64), query_expansion={"strategy": "min", "attend": True, "length": 12}
    ),
    "colbert, xlm-roberta": lambda base, to: multi_vector(
        xlm_roberta(base), to, [","], projection(64), query_length=18, query_expansion=FIXED, document_length=30
    ),
    "colbert, stanford": lambda _, to: stanford(to),
    "colbert, stanford, punctuation, attended": lambda _, to: stanford(to, mask_punctuation=False, attend_to_mask_tokens=True),
}
