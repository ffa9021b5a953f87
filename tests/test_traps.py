"""Whatever file or key of a checkpoint changes what the upstream library returns is followed or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from support.checkpoints import WORDS
from test_saved import TEXTS, checkpoint, off, published
from test_witness import (
    CROSS,
    MODERN,
    MPNET,
    NOMIC,
    PLAIN,
    PROMPTED,
    QWEN,
    RANKER,
    READ_OTHERWISE,
    XLM,
    edit,
    reading,
    witnessed,
)

from converter import corpus
from shim.errors import SourceError, UsageError


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traps")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a saved checkpoint, to be spoilt."""
    return lambda kind: Path(shutil.copytree(checkpoint(kind, folder), tmp_path / "mine"))


@pytest.fixture
def asked(corpus_file: Path) -> list[corpus.Text]:
    return corpus.read(corpus_file)


def renamed(path: Path, name: str, **changes: Any) -> None:
    """Change a JSON file and its name."""
    edit(path.name, **changes)(path.parent)
    path.rename(path.with_name(name))


def moved(source: Path, old: str, new: str) -> None:
    """Another folder for a module, as modules.json says."""
    (source / old).rename(source / new)
    path = source / "modules.json"
    path.write_text(path.read_text().replace(old, new))


def module(kind: str, folder: str, place: int | None = None) -> Callable[[Path], None]:
    """One more module, at the end or before another."""

    def apply(source: Path) -> None:
        entries = json.loads((source / "modules.json").read_text())
        entry = {"idx": 9, "name": "9", "path": folder, "type": kind}
        entries.insert(len(entries) if place is None else place, entry)
        (source / "modules.json").write_text(json.dumps(entries))

    return apply


SENTENCE, TOKENIZER, MODEL = "sentence_bert_config.json", "tokenizer_config.json", "config_sentence_transformers.json"
POOLING = "1_Pooling/config.json"
OUTPUT = {"method": "forward", "method_output_name": ["hidden_states", -2]}


OLD = {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 2}  # as transformers 4 saved ModernBERT


def bases(full: float, sliding: float, kind: str = "default") -> dict[str, Any]:
    """ModernBERT's rotary bases, as transformers 5 saves them."""
    found = {"full_attention": {"rope_theta": full}, "sliding_attention": {"rope_theta": sliding}}
    return {name: entry | {"rope_type": kind, "factor": 2.0} for name, entry in found.items()}


def replacing(source: Path) -> None:
    """A rule of tokenizer.json that transformers drops when it builds BERT's tokenizer itself."""
    path = source / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    rule = {"type": "Replace", "pattern": {"String": "ferry"}, "content": "boat"}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [rule, tokenizer["normalizer"]]}
    path.write_text(json.dumps(tokenizer))


FOLLOWED = {
    "a default prompt": (PLAIN, edit(MODEL, prompts={"query": "Ask: "}, default_prompt_name="query")),
    "max_seq_length": (PLAIN, edit(SENTENCE, max_seq_length=20)),
    "model_max_length": (PLAIN, edit(TOKENIZER, model_max_length=20)),
    "a limit among the tokenizer's arguments": (PLAIN, edit(SENTENCE, tokenizer_args={"model_max_length": 20})),
    "a limit in both places": (PLAIN, edit(SENTENCE, max_seq_length=30, processor_kwargs={"model_max_length": 20})),
    "a config of another name": (XLM, lambda d: renamed(d / SENTENCE, "sentence_xlm-roberta_config.json", max_seq_length=20)),
    "do_lower_case over BERT's own": (PLAIN, edit(SENTENCE, do_lower_case=True)),
    "do_lower_case over XLM-RoBERTa": (XLM, edit(SENTENCE, do_lower_case=True)),
    "old flags of pooling": (PLAIN, edit(POOLING, pooling_mode=None, pooling_mode_cls_token=True)),
    "a pooling without a mode": (XLM, edit(POOLING, pooling_mode=None)),
    "a list of one mode": (PLAIN, edit(POOLING, pooling_mode=["lasttoken"])),
    "include_prompt without prompts": (PLAIN, edit(POOLING, include_prompt=False)),
    "a Dropout module": (PLAIN, module("sentence_transformers.models.Dropout", "9_Dropout")),
    "a folder of another name": (PLAIN, lambda d: moved(d, "1_Pooling", "pool")),
    "another epsilon": (PLAIN, edit("config.json", layer_norm_eps=0.1)),
    "another rotary base": (QWEN, edit("config.json", rope_parameters={"rope_type": "default", "rope_theta": 77.0})),
    "nomic's other rotary base": (NOMIC, edit("config.json", rope_parameters={"rope_type": "default", "rope_theta": 77.0})),
    "GTE's other rotary base": ("gte", edit("config.json", rope_parameters={"rope_type": "default", "rope_theta": 77.0})),
    "another padding id": ("roberta", edit("config.json", pad_token_id=5)),
    "a padding id that MPNet does not look at": (MPNET, edit("config.json", pad_token_id=0)),
    "BERT's names of DistilBERT's keys": ("distilbert", edit("config.json", n_heads=None, num_attention_heads=3)),
    "ModernBERT's other epsilon": (MODERN, edit("config.json", norm_eps=0.1)),
    "another window": (MODERN, edit("config.json", local_attention=4)),
    "a window of one token": (MODERN, edit("config.json", local_attention=1)),
    "windows in other layers": (MODERN, edit("config.json", layer_types=["sliding_attention", "full_attention"] * 2)),
    "another global base": (MODERN, edit("config.json", rope_parameters=bases(77.0, 1e4))),
    "another local base": (MODERN, edit("config.json", rope_parameters=bases(16e4, 77.0))),
    "ModernBERT as transformers 4 saves it": (MODERN, edit("config.json", **OLD, global_rope_theta=88.0, local_rope_theta=7.0)),
    "a base that no key says": (MODERN, edit("config.json", **OLD)),
    "a passage prompt": (PLAIN, edit(MODEL, prompts={"query": "query: ", "passage": "passage: "})),
    "another similarity": (PLAIN, edit(MODEL, similarity_fn_name="euclidean")),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_changes_upstream_is_followed(case: str, copy: Callable[[str], Path], asked: list[corpus.Text]) -> None:
    follow(*FOLLOWED[case], copy, asked)


def follow(kind: str, change: Callable[[Path], Any], copy: Callable[[str], Path], asked: list[corpus.Text]) -> None:
    """What is changed changes both alike."""
    source = copy(kind)
    (source / "9_Dropout").mkdir()
    (source / "9_Dropout/config.json").write_text('{"dropout": 0.1}')
    change(source)
    upstream = SentenceTransformer(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    published(upstream, source)
    ours = reading(witnessed(source, asked))
    assert off(ours.embed(TEXTS).dense, upstream.encode(TEXTS)) < 1e-4
    assert off(ours.embed(TEXTS, task="retrieval.passage").dense, upstream.encode_document(TEXTS)) < 1e-4
    assert off(ours.embed(TEXTS, prompt_name="document").dense, upstream.encode(TEXTS, prompt_name="document")) < 1e-4


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "GTE's positions, scaled": ("gte", edit("config.json", rope_parameters={"rope_type": "dynamic"}), "rope_type 'dynamic'"),
    "modes together": (PLAIN, edit(POOLING, pooling_mode=["cls", "mean"]), "cls and mean together"),
    "an unknown mode": (PLAIN, edit(POOLING, pooling_mode="median"), "pooling_mode 'median' unknown"),
    "prompts left out": (PROMPTED, edit(POOLING, include_prompt=False), "leaves prompts out of the mean"),
    "fewer dimensions": (PLAIN, edit(MODEL, truncate_dim=16), "truncate_dim 16"),
    "no such default": (PLAIN, edit(MODEL, default_prompt_name="none"), "'none' is none of its prompts"),
    "sparse": (PLAIN, edit(MODEL, model_type="SparseEncoder"), "a SparseEncoder model"),
    "query_length": (PLAIN, edit(SENTENCE, query_length=16), "query_length 16"),
    "processing": (PLAIN, edit(SENTENCE, processing_kwargs={"text": {"add_special_tokens": False}}), "processing_kwargs"),
    "a key to come": (PLAIN, edit(SENTENCE, surprise=1), "surprise 1"),
    "model arguments": (PLAIN, edit(SENTENCE, model_args={"output_hidden_states": True}), "sets output_hidden_states"),
    "tokenizer arguments": (PLAIN, edit(SENTENCE, tokenizer_args={"add_special_tokens": False}), "sets add_special_tokens"),
    "a chat template": (PLAIN, edit(SENTENCE, modality_config={"message": {}}), "through the chat template"),
    "another layer": (PLAIN, edit(SENTENCE, modality_config={"text": OUTPUT}), "layer -2 of a bert model"),
    "a layer that is a word": (
        PLAIN,
        edit(SENTENCE, modality_config={"text": OUTPUT | {"method_output_name": ["hidden_states", "last"]}}),
        "not the number of a layer",
    ),
    "another task": (PLAIN, edit(SENTENCE, transformer_task="fill-mask"), "transformer_task 'fill-mask'"),
    "another output": (PLAIN, edit(SENTENCE, module_output_name="pooler"), "module_output_name 'pooler'"),
    "a limit over the table": (PLAIN, edit(SENTENCE, max_seq_length=100), "max_tokens 100, but config.json has 64 positions"),
    "a Router": (PLAIN, module("sentence_transformers.base.modules.router.Router", "9"), "Router module, which sends queries"),
    "images": (PLAIN, module("sentence_transformers.models.CLIPModel", "9", 0), "CLIPModel module, which embeds images"),
    "code of its own": (PLAIN, module("mine.Pooling", "9"), "the repository's own code"),
    "a folder outside": (PLAIN, module("sentence_transformers.models.Normalize", "../9"), "lies outside"),
    "dense before pooling": (PLAIN, module("sentence_transformers.models.Dense", "2_Dense", 1), "an order that is not"),
    "a decoder": (PLAIN, edit("config.json", is_decoder=True), "is_decoder True"),
    "another activation": (PLAIN, edit("config.json", hidden_act="gelu_new"), "hidden_act 'gelu_new'"),
    "DistilBERT's other activation": ("distilbert", edit("config.json", activation="relu"), "hidden_act 'relu'"),
    "two names that disagree": ("distilbert", edit("config.json", hidden_size=48), "dim 96 is not hidden_size 48"),
    "other buckets": (MPNET, edit("config.json", relative_attention_num_buckets=16), "relative_attention_num_buckets 16"),
    "MPNet's other activation": (MPNET, edit("config.json", hidden_act="relu"), "hidden_act 'relu'"),
    "ModernBERT's other activation": (MODERN, edit("config.json", hidden_activation="silu"), "hidden_activation 'silu'"),
    "ModernBERT's scaled bases": (MODERN, edit("config.json", rope_parameters=bases(77.0, 77.0, "linear")), "'linear'"),
    "bases scaled by an old key": (MODERN, edit("config.json", rope_scaling={"rope_type": "linear"}), "rope_scaling"),
    "a base that is null": (MODERN, edit("config.json", rope_parameters=bases(None, 1e4)), "full_rope_theta must be a pos"),
    "a window by another name": (MODERN, edit("config.json", sliding_window=3), "sliding_window 3 is not supported (only 5)"),
    "a window of nothing": (MODERN, edit("config.json", local_attention=-1), "local_attention must be a positive number"),
    "heads of another width": (MODERN, edit("config.json", head_dim=8), "head_dim 8 is not supported (only 16)"),
    "too few kinds of layers": (MODERN, edit("config.json", layer_types=["full_attention"] * 3), "layer_types must be 4 times"),
    "a kind of layer to come": (MODERN, edit("config.json", layer_types=["chunked"] * 4), "layer_types must be 4 times"),
    "every 0 layers": (MODERN, edit("config.json", layer_types=None, global_attn_every_n_layers=0), "attn_every_n_layers must"),
    "norms with a bias that is not there": (MODERN, edit("config.json", norm_bias=True), "tensors missing from"),
    "a bias that is neither": (MODERN, edit("config.json", mlp_bias="no"), "mlp_bias must be true or false"),
    "a reranker's other activation": (RANKER, edit("config.json", classifier_activation="relu"), "fier_activation 'relu'"),
    "a reranker's other pooling": (RANKER, edit("config.json", classifier_pooling="last"), "classifier_pooling 'last'"),
    "no limit at all": (QWEN, edit(SENTENCE, max_seq_length=10**9), "no limit of tokens"),
    "a limit that is a word": (PLAIN, edit(SENTENCE, max_seq_length="many"), "max_seq_length must be a positive number"),
    "architectures that are a number": (PLAIN, edit("config.json", architectures=3), "malformed"),
    "prompts that are a list": (PLAIN, edit(MODEL, prompts=["query"]), "prompts is not an object"),
    "a mode that is a number": (PLAIN, edit(POOLING, pooling_mode=3), "malformed"),
    "modalities that are a list": (PLAIN, edit(SENTENCE, modality_config=["text"]), "malformed"),
    "an unknown kind": (PLAIN, edit("config.json", model_type="deberta-v2"), "'deberta_v2', which is not supported"),
    "cut on the left": (PLAIN, edit(TOKENIZER, truncation_side="left"), READ_OTHERWISE),
    "a tokenizer that keeps capitals": (PLAIN, edit(TOKENIZER, do_lower_case=False), READ_OTHERWISE),
    "a rule that transformers drops": (PLAIN, replacing, READ_OTHERWISE),
    "one more special token": (PLAIN, edit(TOKENIZER, extra_special_tokens=["ferry"]), "has another added_tokens"),
    "a token in a file of its own": (PLAIN, edit("added_tokens.json", unusedword=WORDS), READ_OTHERWISE),
    "padding on the left": (PLAIN, edit(TOKENIZER, padding_side="left"), "the dense output of"),
    "the other weights": (PLAIN, edit(SENTENCE, model_args={"use_safetensors": False}), "sets use_safetensors"),
    "an endless limit": (PLAIN, edit(TOKENIZER, model_max_length="x"), "model_max_length must be a number"),
    "a prompt that is no text": (PLAIN, edit(MODEL, prompts={"query": ["a"]}), "prompt 'query' is not text"),
    "a prompt that cannot be encoded": (PLAIN, edit(MODEL, prompts={"query": "\ud800"}), "lone surrogate"),
    "no modules": (PLAIN, lambda d: (d / "modules.json").write_text("[]"), "modules.json is an empty list"),
    "a layer that slides": (QWEN, edit("config.json", layer_types=["sliding_attention", "full_attention"]), ""),
    "no pooling": (PLAIN, lambda d: (d / "modules.json").unlink(), "--pooling cls"),
    "several labels": (CROSS, edit("config.json", id2label={"0": "a", "1": "b"}), "a classifier of 2 labels"),
    "an activation of scores": (
        CROSS,
        edit("config.json", sentence_transformers={"activation_fn": "torch.nn.modules.activation.Tanh"}),
        "activation 'torch.nn.modules.activation.Tanh' is not supported",
    ),
    "no segments": (CROSS, edit(TOKENIZER, model_input_names=["input_ids", "attention_mask"]), READ_OTHERWISE),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_followed_is_refused_in_one_line(case: str, copy: Callable[[str], Path], asked: list[corpus.Text]) -> None:
    refuse(*REFUSED[case], copy, asked)


def refuse(
    kind: str, change: Callable[[Path], Any], message: str, copy: Callable[[str], Path], asked: list[corpus.Text]
) -> None:
    """What is changed is refused in one line that says this."""
    source = copy(kind)
    change(source)
    with pytest.raises((UsageError, SourceError)) as caught:
        witnessed(source, asked)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
