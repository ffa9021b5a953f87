"""The upstream libraries' own loaders: they read a checkpoint's configuration themselves, and get weights in fp32.

sentence-transformers for embedders and cross-encoders; FlagEmbedding's formulas for bge-m3's further heads; the model card's
own snippet for Qwen3-Reranker. What they are given of ours is recorded as `given`, in the manifest: what a recipe overrides,
what no file of the checkpoint says, and the published tokenizer.json where transformers would build another one.
"""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.packages import version
from converter.proof.head_only import HeadOnly, MultiVectorEmbedder, SparseEmbedder
from converter.proof.loading import POOLINGS, apply_overrides, give_published_tokenizer, load, load_transformers
from converter.proof.rules import rules
from converter.source.checkpoint import Checkpoint, read_json
from shim.errors import UsageError
from shim.prompts import PAIR

if TYPE_CHECKING:
    from torch import Tensor

    from converter.proof.loading import Upstream

# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, "Transformers Usage".
CARD = {
    "before": "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    "pair": "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    "after": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "instruction": "Given a web search query, retrieve relevant passages that answer the query",
}

Tokens = tuple[list[int], list[int]]  # ids and segment ids of one text or pair


class Embedder:
    """A SentenceTransformer with its default settings. view: what it has read of the files, in our words."""

    library = "sentence-transformers"

    def __init__(self, checkpoint: Checkpoint):
        from sentence_transformers import SentenceTransformer

        self.version = version(self.library)
        self.given: dict[str, object] = {}
        self.model = load(SentenceTransformer, checkpoint)
        give_published_tokenizer(self.model, checkpoint, self.given)
        apply_overrides(self.model, checkpoint, self.given)
        self.adapters = list(checkpoint.adapters.values())
        if self.adapters and importlib.util.find_spec("peft") is None:
            raise UsageError(f"{checkpoint.directory}: reading its adapters upstream needs peft: pip install 'sealport[peft]'")
        for folder in self.adapters:
            self.model.load_adapter(str((checkpoint.directory / folder).absolute()), adapter_name=folder)
        for name, weight in self.model.named_parameters():
            if ".lora_" in name:  # stored in 16 bits, it would be multiplied in 16 bits
                weight.data = weight.data.float()
        self.adapt(-1)
        kinds = [(type(module).__name__, module) for module in self.model if type(module).__name__ != "Dropout"]
        modes = [module.pooling_mode for kind, module in kinds if kind == "Pooling"]
        names = {theirs: ours for ours, theirs in POOLINGS.items()}
        self.view = {
            "max_tokens": self.model.max_seq_length,
            "pooling": names.get(modes[0], modes[0]) if len(modes) == 1 and isinstance(modes[0], str) else str(modes),
            "modules": [kind.lower() for kind, _ in kinds if kind not in ("Transformer", "Pooling")],
            "default_prompt": self.model.default_prompt_name or "",
            "similarity": str(self.model.similarity_fn_name),
            "prompt_names": {name: text for name, text in self.model.prompts.items() if text},
            **rules(self.model.tokenizer.backend_tokenizer.to_str()),
        }

    def adapt(self, number: int) -> None:
        """What follows goes through the adapter of this number, of the model's own; -1 for none."""
        if number >= 0:
            self.model.enable_adapters()
            self.model.set_adapter(self.adapters[number])
        elif self.adapters:
            self.model.disable_adapters()

    def prompt(self, task: str, ours: str) -> str:
        """What goes before a text of a task with an adapter: its own prompt of that name, else ours."""
        own: str = self.model.prompts.get(task) or ours
        if own and own == ours and task not in self.model.prompts:
            self.given["prompts"] = {**dict(self.given.get("prompts") or {}), task: ours}  # type: ignore[call-overload]
        return own

    def tokens(self, text: str, prompt_name: str | None = None, prompt: str | None = None) -> Tokens:
        """Token ids and segment ids of a text alone, as `encode` would make them."""
        return _tokens(self.model, text, self.model._resolve_prompt(prompt, prompt_name))

    def encode(self, texts: list[str], prompt_name: str | None, prompt: str | None = None) -> np.ndarray:
        """(n, d) float32, by default settings, several texts in a batch. prompt: in place of the one by its name."""
        found: np.ndarray = self.model.encode(
            texts, prompt_name=prompt_name, prompt=prompt, batch_size=4, show_progress_bar=False
        )
        return found

    def forward(self, texts: list[str], prompt: str) -> tuple[np.ndarray, "Tensor", "Tensor"]:
        """(n, d) float32 as `encode` gives them; hidden states (n, length, width) and their mask, torch tensors."""
        import torch

        with torch.inference_mode():
            features = self.model.preprocess(texts, prompt=prompt or None)
            out = self.model(features)
        return out["sentence_embedding"].float().numpy(), out["token_embeddings"], features["attention_mask"]


class Ranker:
    """A CrossEncoder with its default settings."""

    library = "sentence-transformers"

    def __init__(self, checkpoint: Checkpoint):
        from sentence_transformers import CrossEncoder

        self.version = version(self.library)
        self.given: dict[str, object] = {}
        self.model = load(CrossEncoder, checkpoint)
        give_published_tokenizer(self.model, checkpoint, self.given)
        apply_overrides(self.model, checkpoint, self.given)
        name = type(self.model.activation_fn).__name__.lower()
        own = rules(self.model.tokenizer.backend_tokenizer.to_str())
        self.view = {"max_tokens": self.model.max_seq_length, "activation": name, **own}

    def tokens(self, pair: tuple[str, str]) -> Tokens:
        """Token ids and segment ids of a pair, as `predict` would make them."""
        return _tokens(self.model, pair, self.model._resolve_prompt(None, None))

    def logits(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """(n,) float32 relevance logits."""
        import torch

        with torch.inference_mode():
            features = self.model.preprocess(pairs, prompt=self.model._resolve_prompt(None, None))
            found: np.ndarray = self.model(features)["scores"][:, 0].float().numpy()
        return found

    def predict(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """(n,) float32 scores, by default settings, several pairs in a batch."""
        found: np.ndarray = self.model.predict(pairs, batch_size=4, show_progress_bar=False)
        return found


class CardRanker:
    """Qwen3-Reranker by its model card: the frame and the pair tokenized apart, the pair cut, logits of "yes" and "no"."""

    library = "transformers"

    def __init__(self, checkpoint: Checkpoint):
        import transformers

        self.version = version(self.library)
        self.given: dict[str, object] = {}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.upstream, local_files_only=True)
        self.model = load_transformers(transformers.AutoModelForCausalLM, checkpoint)
        self.limit = self.given["max_tokens"] = checkpoint.spec.max_tokens  # the card leaves it to the caller
        self.card = dict(CARD)
        if "prompts" in checkpoint.overrides:
            before, after = checkpoint.spec.prompts[PAIR].split("{document}")
            self.card = {
                "before": "",
                "pair": before + "{document}",
                "after": after,
                "instruction": checkpoint.spec.prompts["default"],
            }
            self.given["prompts"] = self.card
        answers = [self.tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
        if checkpoint.layout.logit_score is not None:
            settings = read_json(checkpoint.root / checkpoint.layout.logit_score / "config.json")
            answers = [settings["false_token_id"], settings["true_token_id"]]
        self.answers = self.model.lm_head.weight[answers].detach().float()
        self.view: dict[str, object] = dict(rules(self.tokenizer.backend_tokenizer.to_str()))

    def tokens(self, pair: tuple[str, str]) -> Tokens:
        """Token ids of a pair; there are no segments."""
        card, (query, document) = self.card, pair
        before, after = (self.tokenizer.encode(card[part], add_special_tokens=False) for part in ("before", "after"))
        body = card["pair"].replace("{instruction}", card["instruction"]).replace("{query}", query) + "\0"
        body = body.replace("{document}\0", document)
        inner = self.tokenizer.encode(body, add_special_tokens=False)
        ids = before + inner[: self.limit - len(before) - len(after)] + after
        return ids, [0] * len(ids)

    def logits(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """(n,) float32: the logit of "yes" less that of "no" behind the last token."""
        import torch

        items = [{"input_ids": self.tokens(pair)[0]} for pair in pairs]
        batch = self.tokenizer.pad(items, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            hidden = self.model.model(**batch).last_hidden_state
            both = hidden[range(len(pairs)), batch["attention_mask"].sum(1) - 1] @ self.answers.T
        found: np.ndarray = (both[:, 1] - both[:, 0]).numpy()
        return found


def _tokens(model: "Upstream", text: str | tuple[str, str], prompt: str | None) -> Tokens:
    features = model.preprocess([text], prompt=prompt)
    ids = features["input_ids"][0].tolist()
    types = features.get("token_type_ids")
    return ids, [0] * len(ids) if types is None else types[0].tolist()


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Row numbers by length, shortest first, as many together as stay within `budget` padded tokens."""
    order, found = sorted(range(len(lengths)), key=lambda row: lengths[row]), []
    while order:
        count = 1
        while count < len(order) and (count + 1) * lengths[order[count]] <= budget:
            count += 1
        found.append(order[:count])
        order = order[count:]
    return found


def upstream_of(checkpoint: Checkpoint) -> Embedder | HeadOnly | Ranker | CardRanker:
    """The upstream library's own reading of the checkpoint."""
    if "dense" not in checkpoint.spec.heads and checkpoint.spec.heads != ["score"]:
        return MultiVectorEmbedder(checkpoint) if checkpoint.spec.splade is None else SparseEmbedder(checkpoint)
    if checkpoint.spec.heads != ["score"]:
        return Embedder(checkpoint)
    return CardRanker(checkpoint) if PAIR in checkpoint.spec.prompts else Ranker(checkpoint)
