"""XLM-RoBERTa's tokenizer as published, against transformers."""

from pathlib import Path


def test_ids_on_real_texts(shared: Path) -> None:
    """A real tokenizer of the family against transformers, trailing spaces included."""
    from transformers import AutoTokenizer

    from shim.text import TextEncoder

    texts = [line for path in sorted((shared / "data/tatoeba").glob("tatoeba.*")) for line in path.read_text().splitlines()]
    texts = [*texts, "trailing  ", "  leading", "ｆｕｌｌ　width", "\u200bzero", "tab\tand\nnewline "]
    folder = shared / "hub/intfloat/multilingual-e5-large"
    ours = [item.ids for item in TextEncoder(folder, 512).encode(texts)]
    assert ours == AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=512)["input_ids"]
