"""What a tokenizer does beside its vocabulary: as the real repositories say it, and as transformers makes it."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from converter.proof.rules import rules


@pytest.mark.parametrize(
    "repo",
    [
        "BAAI/bge-m3",
        "BAAI/bge-reranker-v2-m3",
        "BAAI/bge-small-en-v1.5",
        "intfloat/multilingual-e5-large",
        "Qwen/Qwen3-Embedding-0.6B",
        "Qwen/Qwen3-Embedding-8B",
        "Qwen/Qwen3-Reranker-0.6B",
    ],
)
def test_the_rules_of_real_tokenizers_are_those_that_transformers_makes_of_them(repo: str, shared: Path) -> None:
    """Else their conversion would be refused; XLM-RoBERTa's is given as published."""
    folder = shared / "hub" / repo
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    loader = PreTrainedTokenizerFast if settings["tokenizer_class"] == "XLMRobertaTokenizer" else AutoTokenizer
    theirs = rules(loader.from_pretrained(folder).backend_tokenizer.to_str())
    assert theirs == rules(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())
