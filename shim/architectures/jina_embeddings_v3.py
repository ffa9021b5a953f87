"""jina-embeddings-v3 (Sturua et al. 2024): XLM-RoBERTa's post-norm layers with rotary positions, and adapters by task.

An adapter is a side path of low rank beside each linear layer and each table (Hu et al. 2021, LoRA): one base serves all tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from shim.architectures import Array, Ops, bert
from shim.errors import SourceError
from shim.jsons import JsonObject, array, table

# The names of transformers' classes, which saves them as the repositories first had them.
KEYS = (
    (r"^roberta\.", ""),
    (r"^emb_ln\.", "embeddings.LayerNorm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.mixer\.out_proj\.", ".self_attn.o_proj."),
    (r"\.norm1\.", ".post_attention_layernorm."),
    (r"\.norm2\.", ".post_mlp_layernorm."),
)
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
# Tensors whose rows are those of several modules, in equal parts.
FUSED = ((r"\bmixer\.Wqkv\b", QKV),)
DROPPED = (r"^lm_head\.",)
OPTIONAL = bert.OPTIONAL
FULL_PRECISION = bert.FULL_PRECISION
TABLES = (r"^embeddings\..*\.weight$",)
ROWS = ()
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {"hidden_act": "gelu", "is_decoder": False}
WORDS, SEGMENTS = "embeddings.word_embeddings", "embeddings.token_type_embeddings"


@dataclass(frozen=True)
class Config:
    """The keys of a jina-embeddings-v3 `config.json` that the encoder needs.

    adapters: the tasks, in the order in which `lora_A` and `lora_B` of a module have them; lora_rank: of each;
    lora_alpha: over the rank, what a side path is multiplied by.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    type_vocab_size: int
    layer_norm_eps: float
    rope_theta: float
    adapters: tuple[str, ...]
    lora_rank: int
    lora_alpha: float

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        bert.check_only(raw, ONLY)
        rope = bert.plain_rope(table(raw, "rope_parameters"))
        tasks = tuple(str(task) for task in array(raw, "lora_adaptations"))
        config = bert.read_config(cls, {"lora_rank": 1, "lora_alpha": 1, **rope, **raw, "adapters": tasks})
        check_heads(config)
        return config

    @property
    def max_tokens(self) -> None:
        """Rotary positions have no table that ends."""
        return


class Rotary(Protocol):
    """What other rotary encoders' Config has, too."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def type_vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def layer_norm_eps(self) -> float: ...
    @property
    def rope_theta(self) -> float: ...


def check_heads(config: Rotary) -> None:
    """Raise SourceError where the heads have no width, or one that cannot be rotated."""
    if config.hidden_size % (2 * config.num_attention_heads):
        raise SourceError("config.json: hidden_size is not a multiple of twice num_attention_heads")


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint may have; a weight of two axes is a table or a matrix (out, in).

    Of adapters `lora_A` (tasks, in, rank) and `lora_B` (tasks, rank, out); `in` of a table are its rows.
    """
    width, inner = config.hidden_size, config.intermediate_size
    shapes = base(config)
    for index in range(config.num_hidden_layers):
        shapes |= bert.with_bias(f"layers.{index}.mlp.fc1", (inner, width))
        shapes |= bert.with_bias(f"layers.{index}.mlp.fc2", (width, inner))
    return shapes | side_paths(config, shapes)


def side_paths(config: Config, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of the adapters beside all matrices and tables but the pooler's."""
    tasks, rank = len(config.adapters), config.lora_rank
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if tasks and len(shape) == 2 and not name.startswith("pooler."):
            rows, columns = shape if name.startswith("embeddings.") else shape[::-1]
            module = name.removesuffix(".weight")
            found |= {f"{module}.lora_A": (tasks, rows, rank), f"{module}.lora_B": (tasks, rank, columns)}
    return found


def base(config: Rotary) -> dict[str, tuple[int, ...]]:
    """`parameters` but those between two norms of a layer, and adapters; other rotary encoders have the same."""
    width = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        f"{WORDS}.weight": (config.vocab_size, width),
        f"{SEGMENTS}.weight": (config.type_vocab_size, width),
        **bert.with_bias("embeddings.LayerNorm", (width,)),
        **bert.with_bias("pooler.dense", (width, width)),
    }
    for index in range(config.num_hidden_layers):
        for name in (*QKV, "self_attn.o_proj"):
            shapes |= bert.with_bias(f"layers.{index}.{name}", (width, width))
        for name in ("post_attention_layernorm", "post_mlp_layernorm"):
            shapes |= bert.with_bias(f"layers.{index}.{name}", (width,))
    return shapes


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) of the last layer, each text through the adapter of its task."""
    scale = config.lora_alpha / config.lora_rank

    def linears(names: Sequence[str], x: Array) -> Sequence[Array]:
        found = ops.linears(names, x)
        if not config.adapters:
            return found
        return [ops.adapted(name, x, y, scale) for name, y in zip(names, found, strict=True)]

    def rows(name: str, ids: Array) -> Array:
        found = ops.embedding(name, ids)
        return ops.adapted(name, ids, found, scale, table=True) if config.adapters else found

    def feed_forward(layer: str, x: Array) -> Array:
        (inner,) = linears([f"{layer}.mlp.fc1"], x)
        return linears([f"{layer}.mlp.fc2"], ops.gelu(inner))[0]

    x = ops.add(rows(WORDS, ops.input_ids()), rows(SEGMENTS, segment_ids(ops, config)))
    return layers(ops, config, ops.layer_norm("embeddings.LayerNorm", x, config.layer_norm_eps), linears, feed_forward)


def segment_ids(ops: Ops[Array], config: Rotary) -> Array:
    """Those of the tokens; of a table of one row always the first, as its tokenizers give none."""
    return ops.index(0) if config.type_vocab_size == 1 else ops.token_type_ids()


def layers(
    ops: Ops[Array],
    config: Rotary,
    x: Array,
    linears: Callable[[Sequence[str], Array], Sequence[Array]],
    feed_forward: Callable[[str, Array], Array],
) -> Array:
    """The layers over embedded tokens.

    linears: what computes linear layers of one input, by their names. feed_forward: what is between the two norms, of the layer
    of this name.
    """
    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}"
        parts = linears([f"{layer}.{name}" for name in QKV], x)
        query, key, value = (ops.split_heads(part, config.num_attention_heads) for part in parts)
        query, key = (ops.rotate(part, config.rope_theta) for part in (query, key))
        (attended,) = linears([f"{layer}.self_attn.o_proj"], ops.attention(query, key, value))
        x = ops.layer_norm(f"{layer}.post_attention_layernorm", ops.add(attended, x), config.layer_norm_eps)
        x = ops.layer_norm(f"{layer}.post_mlp_layernorm", ops.add(feed_forward(layer, x), x), config.layer_norm_eps)
    return x
