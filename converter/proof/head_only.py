"""The upstream library's own loaders of models without a vector for a text: SPLADE and ColBERT, see upstream.py."""

import numpy as np

from converter.packages import version
from converter.proof.loading import apply_overrides, give_published_tokenizer, load
from converter.proof.outputs import Outputs
from converter.proof.rules import rules
from converter.source.checkpoint import Checkpoint
from shim.prompts import is_query

Tokens = tuple[list[int], list[int]]  # ids and segment ids of one text


class SparseEmbedder:
    """A SparseEncoder with its default settings. view: what it has read of the files, in our words."""

    library = "sentence-transformers"

    def __init__(self, checkpoint: Checkpoint):
        from sentence_transformers import SparseEncoder

        self.version = version(self.library)
        self.given: dict[str, object] = {}
        self.model = load(SparseEncoder, checkpoint)
        give_published_tokenizer(self.model, checkpoint, self.given)
        apply_overrides(self.model, checkpoint, self.given)
        pooling = self.model[-1]
        self.view = {
            "max_tokens": self.model.max_seq_length,
            "pooling": pooling.pooling_strategy,
            "splade": pooling.activation_function,
            "default_prompt": self.model.default_prompt_name or "",
            "similarity": str(self.model.similarity_fn_name),
            "prompt_names": {name: text for name, text in self.model.prompts.items() if text},
            **rules(self.model.tokenizer.backend_tokenizer.to_str()),
        }

    def tokens(self, text: str, name: str | None = None, task: str | None = None, prompt: str | None = None) -> Tokens:
        """Token ids and segment ids of a text alone, as `encode` would make them."""
        return _tokens(self.model.preprocess([text], prompt=self.model._resolve_prompt(prompt, name)))

    def outputs(self, texts: list[str], name: str | None = None, task: str | None = None, prompt: str | None = None) -> Outputs:
        """The weights that `encode` gives of the vocabulary's words, several texts in a batch."""
        rows = self.model.encode(
            texts, prompt_name=name, prompt=prompt, batch_size=4, show_progress_bar=False, convert_to_sparse_tensor=False
        ).numpy()
        return Outputs(sparse=[{int(word): float(row[word]) for word in np.flatnonzero(row)} for row in rows])


class MultiVectorEmbedder:
    """A MultiVectorEncoder with its default settings, which reads PyLate's and the authors' checkpoints, too."""

    library = "sentence-transformers"

    def __init__(self, checkpoint: Checkpoint):
        from sentence_transformers import MultiVectorEncoder

        self.version = version(self.library)
        self.given: dict[str, object] = {}
        self.model = load(MultiVectorEncoder, checkpoint)
        give_published_tokenizer(self.model, checkpoint, self.given)
        if self.given:  # the words that are control tokens were the other tokenizer's
            self.model._apply_legacy_fixups()
        apply_overrides(self.model, checkpoint, self.given)
        transformer = self.model[0]
        self.view = {
            "max_tokens": transformer.document_length or transformer.max_seq_length,
            "modules": [
                name for name in (type(module).__name__.lower() for module in self.model) if name in ("dense", "normalize")
            ],
            "similarity": str(self.model.similarity_fn_name),
            "prompt_names": {name: text for name, text in self.model.prompts.items() if text},
            **rules(self.model.tokenizer.backend_tokenizer.to_str()),
        }

    def tokens(self, text: str, name: str | None = None, task: str | None = None, prompt: str | None = None) -> Tokens:
        """Token ids and segment ids of a text alone, as `encode_query` or `encode_document` would make them."""
        role = "query" if is_query(task, name) else "document"
        given = self.model._resolve_prompt(None, role if role in self.model.prompts else None)
        return _tokens(self.model.preprocess([text], prompt=given, task=role))

    def outputs(self, texts: list[str], name: str | None = None, task: str | None = None, prompt: str | None = None) -> Outputs:
        """The vectors that `encode_query` or `encode_document` gives, several texts in a batch."""
        encode = self.model.encode_query if is_query(task, name) else self.model.encode_document
        return Outputs(colbert=list(encode(texts, batch_size=4, show_progress_bar=False, convert_to_numpy=True)))


def _tokens(features: dict[str, "np.ndarray"]) -> Tokens:
    ids, types = features["input_ids"][0].tolist(), features.get("token_type_ids")
    return ids, [0] * len(ids) if types is None else types[0].tolist()


HeadOnly = SparseEmbedder | MultiVectorEmbedder
