"""What a checkpoint's own files say of it: facts, each with the file that says it, by the upstream library's own rules.

Source of the rules: sentence-transformers 6.2 (what its loaders read, in which order, and what they take where a key is
missing), and transformers' `config.json` and `tokenizer_config.json`.
"""

import contextlib
from pathlib import Path

from converter.source.checkpoint import read_json
from converter.source.colbert import METADATA, colbert_facts, stanford_width
from converter.source.facts import Fact, Facts
from converter.source.front_matter import front_matter
from converter.source.layout import Layout
from converter.source.sentence_config import sentence_facts
from converter.source.splade import splade_facts
from shim.architectures import architecture
from shim.checks import check_text
from shim.errors import SourceError, UsageError
from shim.jsons import JsonObject, array, table
from shim.pooling import LINEAR
from shim.spec import NORMALIZE, SIMILARITIES, Module

CONFIG, MODEL_CONFIG, TOKENIZER_CONFIG = "config.json", "config_sentence_transformers.json", "tokenizer_config.json"
# sentence-transformers' names of what a pooling does -> ours, in the order in which it lists them.
POOLINGS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
KINDS = {"SentenceTransformer": "embed", "CrossEncoder": "rerank"}
SPARSE, PER_TOKEN = ("SparseEncoder",), ("MultiVectorEncoder", "ColBERT")  # kinds of SPLADE; of ColBERT, the last one PyLate's
ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}
UNBOUNDED = 10**9  # tokens; transformers writes 10**30 where a tokenizer has no limit
LONGEST = 1_000_000  # tokens; a limit beyond is none


def derive(directory: Path, layout: Layout) -> Facts:
    """The facts of the checkpoint in `directory`; what no file says is not among them.

    Keys: task, architecture, dimensions, max_tokens, heads; those of front_matter.py; of an embedder pooling, modules,
    prompt_names, default_prompt, similarity, lower_case, include_prompt where it is false, layer where it is not the last,
    splade, colbert; of a reranker activation, prompt (that goes before a query).
    Raises SourceError for files that cannot be read, UsageError for what is not supported.
    """
    raw = read_json(directory / layout.transformer / CONFIG)
    config_file = layout.file(CONFIG)
    facts: Facts = {}
    if "model_type" in raw:
        facts["architecture"] = Fact(str(raw["model_type"]).replace("-", "_"), config_file)
    settings, settings_file = _model_config(directory, layout)
    task = _task(layout, raw, settings, settings_file)
    if task is not None:
        facts["task"] = task
    if task is not None and task.value == "rerank":
        facts |= _reranker(layout, raw, settings, settings_file)
    elif layout.splade is not None:
        facts |= _prompted(settings, settings_file) | splade_facts(directory, layout, raw, settings, settings_file)
    elif layout.listed and not layout.per_token:
        facts |= _embedder(directory, layout, settings, settings_file)
    own = sentence_facts(directory, layout) if layout.listed else {}
    facts |= {"max_tokens": _limit(directory, layout, raw, own.pop("max_tokens", None))} | own
    if layout.per_token:
        facts["modules"] = Fact(_per_token(directory, layout), "modules.json" if layout.listed else config_file)
        prompts = _prompted(settings, settings_file)
        facts |= prompts | colbert_facts(directory, layout, settings, settings_file, prompts, facts["max_tokens"])
    if facts["max_tokens"].value > LONGEST:
        file = facts["max_tokens"].file
        raise UsageError(f"{file}: no limit of tokens, or one over {LONGEST}; set max_seq_length or model_max_length")
    facts |= _width(layout, raw, facts) if layout.splade is None else {}
    if layout.splade is not None or layout.per_token:
        facts["heads"] = Fact(["sparse" if layout.splade is not None else "colbert"], "modules.json")
        return facts | front_matter(directory)
    heads = [head for head, name in LINEAR.items() if (directory / layout.transformer / f"{name}.pt").is_file()]
    files = ", ".join(f"{LINEAR[head]}.pt" for head in heads)
    reranks = task is not None and task.value == "rerank"
    facts["heads"] = Fact(["score"], config_file) if reranks else Fact(["dense", *heads], files or config_file)
    return facts | front_matter(directory)


def _model_config(directory: Path, layout: Layout) -> tuple[JsonObject, str]:
    """`config_sentence_transformers.json`, which its library reads only beside a modules.json."""
    path = directory / MODEL_CONFIG
    return (read_json(path) if layout.listed and path.is_file() else {}), MODEL_CONFIG


def _task(layout: Layout, raw: JsonObject, settings: JsonObject, file: str) -> Fact | None:
    architectures = [str(name) for name in array(raw, "architectures")]
    classifier = any(name.endswith("ForSequenceClassification") for name in architectures)
    if layout.stanford:
        return Fact("embed", layout.file(CONFIG))
    if layout.listed:
        kind = settings.get("model_type", "SentenceTransformer" if layout.splade is None else SPARSE[0])
        if kind in (SPARSE if layout.splade is not None else PER_TOKEN if layout.per_token else ()):
            return Fact("embed", file)
        if kind not in KINDS:
            raise UsageError(f"{file}: a {kind} model, which is not supported in this layout ({', '.join(KINDS)})")
        if layout.splade is not None or (layout.per_token and layout.steps):
            raise UsageError(f"{file}: a {kind} model, whose modules.json has no Pooling module: no vector for a text")
        said_in = file if settings.get("model_type") else "modules.json"
        if layout.logit_score is not None or (layout.pooling is None and (classifier or kind == "CrossEncoder")):
            return Fact("rerank", said_in)
        if layout.pooling is None:
            raise UsageError("modules.json has no Pooling module: a model without pooling, which gives no vector for a text")
        if classifier:
            named = next(name for name in architectures if name.endswith("ForSequenceClassification"))
            raise UsageError(f"{CONFIG}: {named} is a classifier or reranker, but modules.json pools its tokens")
        return Fact(KINDS[kind], said_in)
    if classifier:
        return Fact("rerank", layout.file(CONFIG))
    return None


def _reranker(layout: Layout, raw: JsonObject, settings: JsonObject, settings_file: str) -> dict[str, Fact]:
    config_file = layout.file(CONFIG)
    if layout.logit_score is None:
        names = raw.get("id2label")
        labels = len(names) if isinstance(names, dict) else raw.get("num_labels", 2)
        if labels != 1:
            raise UsageError(f"{config_file}: a classifier of {labels} labels, which is not supported; a reranker has one")
    stored = table(raw, "sentence_transformers").get("activation_fn") or raw.get("sbert_ce_default_activation_function")
    named, file = (settings["activation_fn"], settings_file) if settings.get("activation_fn") else (stored, config_file)
    activation = str(named).rsplit(".", 1)[-1] if named else "Sigmoid"
    if activation not in ACTIVATIONS:
        raise UsageError(f"{file}: activation {named!r} is not supported ({', '.join(ACTIVATIONS)})")
    facts = {"activation": Fact(ACTIVATIONS[activation], file)}
    name = settings.get("default_prompt_name")
    if name is not None:
        facts["prompt"] = Fact(str(_prompts(settings, settings_file).get(str(name), "")), settings_file)
    return facts


def _embedder(directory: Path, layout: Layout, settings: JsonObject, file: str) -> dict[str, Fact]:
    assert layout.pooling is not None
    facts = {"pooling": _pooling(directory, f"{layout.pooling}/{CONFIG}" if layout.pooling else CONFIG)}
    facts["modules"] = Fact([_step(directory, step) for step in layout.steps], "modules.json")
    if read_json(directory / facts["pooling"].file).get("include_prompt") is False:
        facts["include_prompt"] = Fact(False, facts["pooling"].file)
    similarity = settings.get("similarity_fn_name")
    facts["similarity"] = Fact(similarity if similarity in SIMILARITIES else "cosine", file)
    return facts | _prompted(settings, file)


def _prompted(settings: JsonObject, file: str) -> dict[str, Fact]:
    if settings.get("truncate_dim") is not None:
        raise UsageError(
            f"{file}: truncate_dim {settings['truncate_dim']} is not supported; ask for fewer `dimensions` instead"
        )
    prompts, default = _prompts(settings, file), settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise UsageError(f"{file}: default_prompt_name {default!r} is none of its prompts ({', '.join(prompts)})")
    return {"prompt_names": Fact(prompts, file), "default_prompt": Fact(default or "", file)}


def _prompts(settings: JsonObject, file: str) -> dict[str, str]:
    stated, prompts = settings.get("prompts") or {}, dict[str, str]()
    if not isinstance(stated, dict):
        raise SourceError(f"{file}: prompts is not an object")
    for name, text in stated.items():
        if not isinstance(text, str | None):
            raise SourceError(f"{file}: prompt {name!r} is not text")
        prompts[name] = check_text(text or "", f"{file}: prompt {name!r}", empty=True)
    return prompts


def _pooling(directory: Path, file: str) -> Fact:
    settings = read_json(directory / file)
    stated = settings.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else array(settings, "pooling_mode")
    if stated is None:
        modes = [mode for key, mode in FLAGS.items() if settings.get(key)] or ["mean"]
    if len(modes) != 1:
        raise UsageError(f"{file}: pooling by {' and '.join(map(str, modes))} together is not supported; by one of them it is")
    if (pooling := POOLINGS.get(str(modes[0]))) is None:
        raise UsageError(f"{file}: pooling_mode {modes[0]!r} unknown ({', '.join(POOLINGS)})")
    return Fact(pooling, file)


def _per_token(directory: Path, layout: Layout) -> list[Module]:
    """What follows the hidden states of ColBERT. Raises UsageError unless its vectors have length 1."""
    if layout.stanford:
        return [Module("dense", stanford_width(directory)), NORMALIZE]
    steps = [_step(directory, step, "token_embeddings") for step in layout.steps]
    if layout.mask is None and NORMALIZE not in steps:  # PyLate normalises by itself
        return [*steps, NORMALIZE]
    if steps[-1:] != [NORMALIZE]:
        raise UsageError("modules.json ends without a Normalize module: vectors per token of any length are not supported")
    return steps


def _step(directory: Path, step: tuple[str, str], of: str = "sentence_embedding") -> Module:
    """A module behind the pooling: (its type, its folder); of: what it is to take and give."""
    kind, folder = step
    file = f"{folder}/{CONFIG}"
    settings = read_json(directory / file) if (directory / file).is_file() else {}
    before = "sentence_embedding" if kind == "Normalize" else of  # where nothing is said
    for key in ("module_input_name", "module_output_name"):
        before = str(settings.get(key) or before)
        if before != of:
            what = "pooled vectors" if of == "sentence_embedding" else "vectors per token"
            raise UsageError(f"{file}: {key} {before!r} is not supported; a {kind} module of {what} is")
    if kind == "Normalize":
        return NORMALIZE
    if settings.get("use_residual"):
        raise UsageError(f"{file}: use_residual is not supported")
    named = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = {"torch.nn.modules.activation.Tanh": "tanh", "torch.nn.modules.linear.Identity": "identity"}.get(named)
    if activation is None:
        raise UsageError(f"{file}: activation_function {named!r} is not supported (Tanh, Identity)")
    width = settings.get("out_features")
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise SourceError(f"{file}: out_features must be a positive number, not {width!r}")
    return Module("dense", width, bool(settings.get("bias", True)), activation)


def _limit(directory: Path, layout: Layout, raw: JsonObject, stated: Fact | None) -> Fact:
    """The token limit: max_seq_length as it is; else the tokenizer's, but no more than there are positions."""
    if stated is not None:
        return stated
    file = layout.file(TOKENIZER_CONFIG)
    path = directory / file
    length = read_json(path).get("model_max_length") if path.is_file() else None
    if isinstance(length, float) and length == int(min(length, UNBOUNDED)):
        length = int(length)
    if isinstance(length, bool) or not isinstance(length, int | float | None):
        raise UsageError(f"{file}: model_max_length must be a number, not {length!r}")
    limit = int(min(length, UNBOUNDED)) if length is not None else UNBOUNDED
    places = raw.get("max_position_embeddings", raw.get("n_positions"))
    if isinstance(places, int) and places < limit:
        limit, file = places, layout.file(CONFIG)
    own = _positions(raw)
    if own is not None and own < limit:  # XLM-RoBERTa's table has rows that no token uses; upstream fails on a text that long
        limit, file = own, layout.file(CONFIG)
    return Fact(limit, file)


def _positions(raw: JsonObject) -> int | None:
    with contextlib.suppress(UsageError, SourceError):
        places: int | None = architecture(str(raw.get("model_type")).replace("-", "_")).Config.read(raw).max_tokens
        return places
    return None


def _width(layout: Layout, raw: JsonObject, facts: Facts) -> dict[str, Fact]:
    steps = [step for step in (facts["modules"].value if "modules" in facts else []) if step.type == "dense"]
    if steps:
        files = [f"{folder}/{CONFIG}" for kind, folder in layout.steps if kind == "Dense"]
        return {"dimensions": Fact(steps[-1].width, files[-1] if files else METADATA)}
    width = raw.get("hidden_size", raw.get("n_embd", raw.get("dim")))
    return {"dimensions": Fact(width, layout.file(CONFIG))} if isinstance(width, int) else {}
