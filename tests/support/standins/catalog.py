"""Which stand-in is what, and how a small one is made: train its family, write it in the real layout, check it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from support.standins.checks import check
from support.standins.data import INSTRUCT
from support.standins.layouts import Standin, write
from support.standins.tokenizers import bpe, unigram
from support.standins.training import FAMILIES, Weights, train


def _xlm_roberta(repo: str, pooling: str, **more: Any) -> Standin:
    return Standin(repo, "xlm_roberta", pooling, **more)


def _qwen3(repo: str, **more: Any) -> Standin:
    reranker = (
        {"family": "qwen3_reranker"}
        if "Reranker" in repo
        else {"family": "qwen3", "pooling": "last", "prompts": (INSTRUCT, "")}
    )
    return Standin(repo, type="BF16", **{"positions": 40960} | reranker | more)


E5 = {"kind": "e5", "positions": 514}
MODELS = {
    "bge-m3": _xlm_roberta("BAAI/bge-m3", "cls", kind="bge-m3", full=True),
    "user-bge-m3": _xlm_roberta("deepvk/USER-bge-m3", "cls", kind="bge-m3"),
    "bge-reranker-v2-m3": Standin("BAAI/bge-reranker-v2-m3", "xlm_roberta_reranker", kind="bge-reranker", full=True),
    "multilingual-e5-large": _xlm_roberta(
        "intfloat/multilingual-e5-large", "mean", prompts=("query: ", "passage: "), full=True, **E5
    ),
    "multilingual-e5-large-instruct": _xlm_roberta(
        "intfloat/multilingual-e5-large-instruct", "mean", prompts=(f"{INSTRUCT} ", ""), type="F16", **E5
    ),
    "qwen3-embedding-0.6b": _qwen3("Qwen/Qwen3-Embedding-0.6B", positions=32768, full=True),
    "qwen3-embedding-4b": _qwen3("Qwen/Qwen3-Embedding-4B", shards=2, full=True),
    "qwen3-embedding-8b": _qwen3("Qwen/Qwen3-Embedding-8B", shards=2, tied=False),
    "qwen3-reranker-0.6b": _qwen3("Qwen/Qwen3-Reranker-0.6B", full=True),
    "qwen3-reranker-4b": _qwen3("Qwen/Qwen3-Reranker-4B", shards=2),
    "qwen3-reranker-8b": _qwen3("Qwen/Qwen3-Reranker-8B", shards=2, tied=False),
    "nomic-embed-text-v1.5": Standin(
        "nomic-ai/nomic-embed-text-v1.5", "nomic_bert", "mean", ("search_query: ", "search_document: ")
    ),
}


def build(name: str, directory: Path, families: Callable[[str], Path], progress: Callable[[str], None]) -> None:
    """Write the small checkpoint of MODELS[name] into an empty directory, and check what transformers makes of it.

    families: gives the folder of a family's trained weights. Raises RuntimeError where the check fails.
    """
    standin = MODELS[name]
    weights, tokenizer = read_family(families(standin.family))
    if standin.kind:
        tokenizer = unigram(tokenizer, standin.kind)
    elif standin.family.startswith("qwen3"):
        tokenizer = bpe(tokenizer, append=standin.family == "qwen3")
    write(standin, directory, weights, tokenizer)
    check(standin, directory, progress)


def build_family(name: str, directory: Path, start: Path | None, progress: Callable[[str], None]) -> None:
    """Train a family and write its float32 weights and its tokenizer into an empty directory."""
    weights, tokenizer = train(name, read_family(start) if start else None, progress)
    tokenizer.save(str(directory / "tokenizer.json"))
    weights.pop("lm_head.weight", None)  # tied
    weights = {key: value.contiguous() for key, value in weights.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def parent(family: str) -> str:
    """The family whose weights this one starts from, or nothing."""
    return FAMILIES[family].parent


def read_family(directory: Path) -> tuple[Weights, Tokenizer]:
    """What `build_family` wrote."""
    return load_file(directory / "model.safetensors"), Tokenizer.from_file(str(directory / "tokenizer.json"))
