"""`encode` and `similarity`, with the names and the defaults that code written for sentence-transformers calls them by."""

from collections.abc import Iterable

import numpy as np

from shim.checks import check_texts
from shim.computing import Computing
from shim.errors import UsageError
from shim.pooling import check_dimensions
from shim.prompts import adapter_of
from shim.text import adapted

ROLES = {"query": "", "document": ""}  # prompts that every model has by name: a checkpoint's default stands in for neither


class Sentences(Computing):
    """The half of a model that drops into code written for `SentenceTransformer`. Vectors are numpy's."""

    def encode(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> np.ndarray:
        """Dense vectors (n, d) float32, of one string (d,).

        prompt: goes before each text as it is. prompt_name: the prompt that the checkpoint has under this name; without either,
        its default prompt. batch_size: at most so many at once; None as many as fit. normalize_embeddings: to length 1, also
        where the model's are not. truncate_dim: the first so many dimensions, with the length that is left.
        Raises UsageError for tensors, other outputs and precisions, and for another device than the model was loaded on.
        """
        self.check_embed()
        if convert_to_tensor or not convert_to_numpy:
            raise UsageError("encode gives numpy arrays, as no PyTorch is needed here; call torch.from_numpy on them")
        if output_value != "sentence_embedding":
            raise UsageError(f"output_value {output_value!r:.100}: encode gives sentence_embedding only")
        if precision != "float32":
            raise UsageError(f"precision {precision!r:.100}: encode gives float32 only")
        if device not in (None, self.runtime.device):
            raise UsageError(f"{self.name} is on {self.runtime.device}; say device {device!r:.100} to shim.load")
        if prompt is None:
            prompt = self._named_prompt(prompt_name)
        width, single = check_dimensions(truncate_dim, self.dimensions), isinstance(inputs, str)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if not texts:
            return np.empty((0, width), np.float32)
        encoded = self.tokenized(check_texts(texts, empty=True), prompt)
        encoded = adapted(encoded, adapter_of(self.manifest.model, None, prompt_name))
        outputs = self.compute_all(encoded, ("dense",), batch_size, bool(show_progress_bar))
        vectors = self.embeddings(outputs, ("dense",)).dense[:, :width]
        if normalize_embeddings:
            vectors = _unit(vectors)
        return vectors[0] if single else vectors

    def encode_query(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> np.ndarray:
        """`encode` behind the checkpoint's prompt `query`, where it has one and no other is given."""
        name = "query" if prompt_name is None and prompt is None else prompt_name
        return self.encode(
            inputs,
            name,
            prompt,
            batch_size,
            show_progress_bar,
            convert_to_numpy=convert_to_numpy,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )

    def encode_document(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> np.ndarray:
        """`encode` behind the checkpoint's prompt `document`, where it has one and no other is given."""
        name = "document" if prompt_name is None and prompt is None else prompt_name
        return self.encode(
            inputs,
            name,
            prompt,
            batch_size,
            show_progress_bar,
            convert_to_numpy=convert_to_numpy,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """(n, m) float32: each vector of the first with each of the second, greater where they are more alike.

        How they are compared is the checkpoint's word: cosine, dot, and of euclidean and manhattan the negative distance.
        Raises UsageError for a model without a vector for a text, and for vectors of different lengths.
        """
        self.check_embed()
        first, second = (np.atleast_2d(np.asarray(one, np.float32)) for one in (embeddings1, embeddings2))
        if first.shape[1] != second.shape[1]:
            raise UsageError(f"vectors of {first.shape[1]} and of {second.shape[1]} numbers cannot be compared")
        if self.similarity_fn_name == "cosine":
            first, second = _unit(first), _unit(second)
        if self.similarity_fn_name in ("cosine", "dot"):
            return first @ second.T
        order = 1 if self.similarity_fn_name == "manhattan" else 2
        return np.stack([-np.linalg.norm(second - row, order, axis=1) for row in first])

    def similarity_pairwise(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """(n,) float32: each vector of the first with the one at its place in the second, as `similarity` compares them."""
        pairs = zip(np.atleast_2d(embeddings1), np.atleast_2d(embeddings2), strict=True)
        return np.array([self.similarity(one, other)[0, 0] for one, other in pairs], np.float32)

    @property
    def similarity_fn_name(self) -> str:
        """How vectors are compared: cosine, dot, euclidean or manhattan."""
        return self.manifest.model.similarity or "cosine"

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by the names that the checkpoint gives them."""
        return ROLES | self.manifest.model.prompt_names

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest text, special tokens included."""
        return self.max_tokens

    def get_embedding_dimension(self) -> int:
        """Numbers of a vector."""
        return self.dimensions

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before sentence-transformers 5.2

    def _named_prompt(self, name: str | None) -> str:
        known = self.prompts
        if name is not None and name not in known:
            raise UsageError(f"prompt_name {name!r:.100} unknown ({', '.join(known)})")
        return known.get(self.manifest.model.default_prompt if name is None else name, "")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
