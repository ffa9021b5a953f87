"""Checkpoints as the upstream libraries save them: small, seeded weights, real tokenizers or small ones of their kinds."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    NomicBertConfig,
    NomicBertModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from shim.spec import NORMALIZE
from support import saved_decoders
from support.checkpoints import WORDS, write_bert_tokenizer
from support.saved_decoders import DECODERS, write_byte_level
from support.saved_encoders import CLASSIFIERS, ENCODERS, TASKS
from support.seeded import LIMIT, seeded, unigram, write_xlm_tokenizer

__all__ = ["NORMALIZE"]

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
PROMPTS = {"query": "Find what answers: ", "document": "", "clustering": "Group by matter: "}


def bert_tokenizer(folder: Path, limit: int = LIMIT, cased: bool = False) -> None:
    """As transformers 5 saves BERT's, with few words."""
    with tempfile.TemporaryDirectory() as few:
        write_bert_tokenizer(Path(few))
        tokenizer = BertTokenizerFast.from_pretrained(few, do_lower_case=not cased, model_max_length=limit)
    tokenizer.save_pretrained(folder)


def bert(folder: Path, limit: int = LIMIT, cased: bool = False) -> Path:
    """A BertModel and its tokenizer, saved by transformers 5. cased: the tokenizer keeps capitals and accents."""
    seeded(BertModel(BertConfig(vocab_size=WORDS, max_position_embeddings=64, **SHAPE))).save_pretrained(folder)
    bert_tokenizer(folder, limit, cased)
    return folder


def xlm_roberta(folder: Path, limit: int = LIMIT) -> Path:
    """An XLMRobertaModel, whose table of positions has two rows more than a text may have tokens."""
    config = XLMRobertaConfig(
        vocab_size=unigram().get_vocab_size(), max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, **SHAPE
    )
    seeded(XLMRobertaModel(config)).save_pretrained(folder)
    write_xlm_tokenizer(folder, limit)
    return folder


def qwen3(folder: Path, kind: Any = Qwen3ForCausalLM, append: bool = True, limit: int = LIMIT, **more: Any) -> Path:
    """A Qwen3 model in bfloat16 and a byte-level tokenizer; append: its tokenizer ends each text with <|endoftext|>."""
    own = write_byte_level(folder, append, limit)
    config = Qwen3Config(
        head_dim=16, num_key_value_heads=2, max_position_embeddings=2 * limit, tie_word_embeddings=True, **own, **SHAPE, **more
    )
    seeded(kind(config)).bfloat16().save_pretrained(folder)
    return folder


def nomic(folder: Path) -> Path:
    """A NomicBertModel saved by transformers 5, under its own names of the settings."""
    seeded(NomicBertModel(NomicBertConfig(vocab_size=WORDS, max_position_embeddings=64, **SHAPE))).save_pretrained(folder)
    bert_tokenizer(folder)
    return folder


def sentence_transformer(
    base: Path, folder: Path, pooling: Any, *behind: Any, layer: int | None = None, **settings: Any
) -> Path:
    """`base` with these modules, saved by sentence-transformers. layer: of hidden states. settings: of SentenceTransformer."""
    output = {"text": {"method": "forward", "method_output_name": ["hidden_states", layer]}}
    chosen = {} if layer is None else {"modality_config": output, "module_output_name": "token_embeddings"}
    transformer = Transformer(str(base), **chosen)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling), *behind]
    torch.manual_seed(1)
    model = SentenceTransformer(modules=modules, device="cpu", **settings)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def _json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def old_layout(new: Path, folder: Path) -> Path:
    """What sentence-transformers 2 saved: the transformer in a folder of its own, with a config named after its kind."""
    inside = folder / "0_Transformer"
    shutil.copytree(new, folder)
    inside.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inside / name)
    (folder / "sentence_bert_config.json").unlink()
    _json(inside / "sentence_xlm-roberta_config.json", max_seq_length=40, do_lower_case=False)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def e5_small(folder: Path) -> Path:
    """BERT's layers over XLM-RoBERTa's tokenizer, as multilingual-e5-small has them."""
    config = BertConfig(vocab_size=unigram().get_vocab_size(), max_position_embeddings=64, **SHAPE)
    seeded(BertModel(config)).save_pretrained(folder)
    write_xlm_tokenizer(folder, LIMIT)
    return folder


def dense(width: int, activation: Any, inputs: int = 64) -> Dense:
    """A Dense module with seeded weights."""
    torch.manual_seed(width)
    return Dense(inputs, width, activation_function=activation)


IDENTITY, TANH = torch.nn.Identity(), torch.nn.Tanh()
# kind -> what makes it in (folder of the base model, folder of the checkpoint).
EMBEDDERS: dict[str, Callable[[Path, Path], Path]] = {
    "bert, mean, normalised": lambda base, to: sentence_transformer(bert(base), to, "mean", Normalize()),
    "bert, cls, dot": lambda base, to: sentence_transformer(bert(base), to, "cls", similarity_fn_name="dot"),
    "bert, max": lambda base, to: sentence_transformer(bert(base), to, "max", Normalize()),
    "bert, mean_sqrt_len": lambda base, to: sentence_transformer(bert(base), to, "mean_sqrt_len_tokens"),
    "bert, weightedmean": lambda base, to: sentence_transformer(bert(base), to, ["weightedmean"], Normalize()),
    "bert, dense tanh, normalised": lambda base, to: sentence_transformer(bert(base), to, "cls", dense(64, TANH), Normalize()),
    "bert, two dense": lambda base, to: sentence_transformer(bert(base), to, "mean", dense(48, IDENTITY), dense(32, TANH, 48)),
    "bert, prompts and a default": lambda base, to: sentence_transformer(
        bert(base), to, "mean", Normalize(), prompts=PROMPTS, default_prompt_name="query"
    ),
    "bert, cased tokenizer, do_lower_case": lambda base, to: _lower(sentence_transformer(bert(base, cased=True), to, "mean")),
    "bert, limit in the tokenizer": lambda base, to: sentence_transformer(bert(base, 32), to, "mean", Normalize()),
    "bert, no limit": lambda base, to: sentence_transformer(bert(base, 10**30), to, "mean", Normalize()),
    "xlm-roberta, mean": lambda base, to: sentence_transformer(xlm_roberta(base), to, "mean", Normalize()),
    "xlm-roberta, no limit": lambda base, to: sentence_transformer(xlm_roberta(base, 10**30), to, "cls", Normalize()),
    "xlm-roberta, old layout": lambda base, to: old_layout(
        sentence_transformer(xlm_roberta(base), base.with_name("new"), "cls", Normalize()), to
    ),
    "bert over xlm-roberta's tokenizer": lambda base, to: sentence_transformer(e5_small(base), to, "mean", Normalize()),
    "qwen3, last token, prompts": lambda base, to: sentence_transformer(
        qwen3(base), to, "lasttoken", Normalize(), prompts=PROMPTS
    ),
    "nomic": lambda base, to: sentence_transformer(nomic(base), to, "mean", Normalize()),
    "roberta": lambda base, to: sentence_transformer(ENCODERS["roberta"](base), to, "mean", Normalize()),
    "camembert": lambda base, to: sentence_transformer(ENCODERS["camembert"](base), to, "mean"),
    "distilbert": lambda base, to: sentence_transformer(ENCODERS["distilbert"](base), to, "mean", dense(64, TANH, 96)),
    "mpnet": lambda base, to: sentence_transformer(ENCODERS["mpnet"](base), to, "mean", Normalize()),
    "modernbert": lambda base, to: sentence_transformer(ENCODERS["modernbert"](base), to, "cls", Normalize(), prompts=PROMPTS),
    "gte": lambda base, to: sentence_transformer(ENCODERS["gte"](base), to, "cls", Normalize()),
    "modernbert, biases": lambda base, to: sentence_transformer(
        ENCODERS["modernbert"](base, norm_bias=True, attention_bias=True, mlp_bias=True), to, "mean", Normalize()
    ),
    "gemma, two dense": lambda base, to: sentence_transformer(
        DECODERS["gemma3_text"](base), to, "mean", *_narrowing(64, 96, 48), Normalize(), prompts=PROMPTS
    ),
    "gemma, causal": lambda base, to: sentence_transformer(
        DECODERS["gemma3_text"](base, use_bidirectional_attention=False), to, "lasttoken", Normalize()
    ),
    "llama": lambda base, to: sentence_transformer(DECODERS["llama"](base, append=True), to, "lasttoken", Normalize()),
    "llama, both sides": lambda base, to: sentence_transformer(DECODERS["llama"](base, is_causal=False), to, "mean"),
    "qwen2": lambda base, to: sentence_transformer(DECODERS["qwen2"](base, append=True), to, "lasttoken", Normalize()),
    "qwen2, both sides": lambda base, to: sentence_transformer(DECODERS["qwen2"](base, is_causal=False), to, "mean"),
    "qwen3, both sides": lambda base, to: sentence_transformer(
        DECODERS["qwen3"](base, is_causal=False), to, "mean", Normalize()
    ),
    "olmo3": lambda base, to: sentence_transformer(DECODERS["olmo3"](base), to, "mean", Normalize()),
    "olmo3, before the last layer": lambda base, to: sentence_transformer(
        DECODERS["olmo3"](base), to, "mean", Normalize(), layer=-2
    ),
}


DECODING = [kind for kind in EMBEDDERS if kind.startswith(("gemma", "llama", "qwen2", "qwen3, both", "olmo3"))]


def _narrowing(*widths: int) -> list[Dense]:
    """Dense modules without a bias, one behind the other."""
    torch.manual_seed(len(widths))
    pairs = itertools.pairwise(widths)
    return [Dense(inputs, outputs, bias=False, activation_function=IDENTITY) for inputs, outputs in pairs]


TASK_PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
    "separation": "",
}


def adapted(base: Path, folder: Path) -> Path:
    """A jina-embeddings-v3 with an adapter for each task, in a folder named after it."""
    ENCODERS["jina_embeddings_v3"](base, TASKS)
    sentence_transformer(base, folder, "mean", Normalize(), prompts=TASK_PROMPTS)
    for task in TASKS:
        shutil.copytree(base / task, folder / task)
    return folder


ADAPTED = {"jina, adapters": adapted}


def _lower(folder: Path) -> Path:
    _json(folder / "sentence_bert_config.json", do_lower_case=True)
    return folder


def cross_encoder(base: Path, folder: Path, **settings: Any) -> Path:
    """`base`, saved by sentence-transformers as a CrossEncoder."""
    CrossEncoder(str(base), device="cpu", **settings).save_pretrained(str(folder), create_model_card=False)
    return folder


def bert_classifier(folder: Path, labels: int = 1) -> Path:
    """As transformers 5 saves a BERT with a head for sequences."""
    config = BertConfig(vocab_size=WORDS, max_position_embeddings=64, num_labels=labels, **SHAPE)
    seeded(BertForSequenceClassification(config)).save_pretrained(folder)
    bert_tokenizer(folder)
    return folder


def xlm_roberta_classifier(folder: Path) -> Path:
    """As transformers 5 saves an XLM-RoBERTa with a head for sequences."""
    config = XLMRobertaConfig(
        vocab_size=unigram().get_vocab_size(),
        max_position_embeddings=66,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=1,
        **SHAPE,
    )
    seeded(XLMRobertaForSequenceClassification(config)).save_pretrained(folder)
    write_xlm_tokenizer(folder, LIMIT)
    return folder


CROSS_ENCODERS: dict[str, Callable[[Path, Path], Path]] = {
    "bert, one label": lambda base, to: cross_encoder(bert_classifier(base), to),
    "bert, by transformers alone": lambda _, to: bert_classifier(to),
    "bert, identity, prompt": lambda base, to: cross_encoder(
        bert_classifier(base), to, activation_fn=IDENTITY, prompts={"ask": "Rank: "}, default_prompt_name="ask"
    ),
    "xlm-roberta, by transformers alone": lambda _, to: xlm_roberta_classifier(to),
    "qwen3 with a head of its own": lambda base, to: cross_encoder(
        qwen3(base, Qwen3ForSequenceClassification, append=False, num_labels=1), to
    ),
    **{
        f"{kind}, one label": lambda base, to, kind=kind: cross_encoder(
            ENCODERS[kind](base, CLASSIFIERS[kind], num_labels=1), to
        )
        for kind in ("roberta", "distilbert", "mpnet", "modernbert", "gte")
    },
    **{
        f"{kind}, one label": lambda base, to, kind=kind: cross_encoder(
            DECODERS[kind](base, saved_decoders.CLASSIFIERS[kind], num_labels=1), to
        )
        for kind in ("llama", "qwen2", "gemma3_text")
    },
    "modernbert, mean": lambda base, to: cross_encoder(
        ENCODERS["modernbert"](base, CLASSIFIERS["modernbert"], num_labels=1, classifier_pooling="mean", classifier_bias=True),
        to,
    ),
}
