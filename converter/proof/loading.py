"""Loading an upstream library's model from a checkpoint in fp32, and telling it what a recipe says against its files."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tokenizers import Tokenizer

from converter.source.checkpoint import Checkpoint
from shim.architectures import architecture
from shim.errors import SourceError
from shim.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
    from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

    Upstream = SentenceTransformer | CrossEncoder | SparseEncoder | MultiVectorEncoder
Model = TypeVar("Model", bound="torch.nn.Module")

POOLINGS = {"last": "lasttoken"}  # our name -> sentence-transformers', where it is another
# Of these tokenizers, transformers 5 rebuilds the normaliser and loses rules of the published file: bge-m3's trailing spaces.
REBUILT = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast", "CamembertTokenizer", "CamembertTokenizerFast")
SMALL = 100_000_000  # weights that are held in float32; of larger models those stored in 16 bits stay so, and widen as they run


def load(loader: type[Model], checkpoint: Checkpoint) -> Model:
    """A model of sentence-transformers on the CPU, from local files, in fp32."""
    path = str(checkpoint.upstream.absolute())
    return _quietly(
        lambda dtype: loader(path, device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}),
        checkpoint,
        "sentence-transformers",
    )


def load_transformers(loader: "type[AutoModelForCausalLM]", checkpoint: Checkpoint) -> "PreTrainedModel":
    """A model of transformers in fp32."""
    return _quietly(
        lambda dtype: loader.from_pretrained(checkpoint.upstream, dtype=dtype, local_files_only=True),
        checkpoint,
        "transformers",
    )


def _quietly(load: "Callable[[torch.dtype], Model]", checkpoint: Checkpoint, library: str) -> Model:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    stored = {tensor.type for name, tensor in checkpoint.tensors.items() if name not in checkpoint.heads}
    small = checkpoint.spec.projected or sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values()) < SMALL
    narrow = {"BF16": torch.bfloat16, "F16": torch.float16}
    dtype = narrow.get(next(iter(stored)), torch.float32) if len(stored) == 1 and not small else torch.float32
    try:
        model = load(dtype)
    except Exception as error:  # the libraries raise whatever their parsers do
        reason = str(error).strip().split("\n")[0]
        where = checkpoint.upstream
        raise SourceError(f"{where}: {library} cannot load it ({type(error).__name__}: {reason})") from None
    if dtype is not torch.float32:
        _widen(model)
    return model.eval()


def give_published_tokenizer(model: "Upstream", checkpoint: Checkpoint, given: dict[str, object]) -> None:
    """Give the model the published tokenizer.json where transformers builds its own instead."""
    import transformers

    if type(model.tokenizer).__name__ not in REBUILT:
        return
    limit, module = model.max_seq_length, model[0]
    module.processor = module.input_formatter.processor = None  # as large as the one that takes its place
    published = transformers.PreTrainedTokenizerFast.from_pretrained(checkpoint.directory, local_files_only=True)
    published.model_max_length = limit
    if module.do_lower_case:
        _lower_case(published)
    module.processor = module.input_formatter.processor = published
    given["tokenizer"] = "tokenizer.json as published, in place of the one that transformers rebuilds"


def _lower_case(tokenizer: "PreTrainedTokenizerFast") -> None:
    from tokenizers import normalizers

    own = tokenizer.backend_tokenizer.normalizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])


def apply_overrides(model: "Upstream", checkpoint: Checkpoint, given: dict[str, object]) -> None:
    """Tell the model what the recipe overrides, and what no file says."""
    spec, overrides = checkpoint.spec, checkpoint.overrides
    places = architecture(spec.architecture).Config.read(checkpoint.config).max_tokens
    if "max_tokens" in overrides:
        model.max_seq_length = given["max_tokens"] = spec.max_tokens
    elif places is not None and (model.max_seq_length is None or model.max_seq_length > places):  # it fails on a text that long
        model.max_seq_length = given["max_tokens"] = places
    if "dense" in spec.heads:
        _apply_modules(model, spec, checkpoint, given)
    if "layer" in overrides or (spec.layer is not None and "layer" not in checkpoint.facts):
        given["layer"] = spec.layer
        output = ["last_hidden_state"] if spec.layer is None else ["hidden_states", spec.layer]
        model[0].modality_config = {"text": {"method": "forward", "method_output_name": output}}
    if "lower_case" in overrides:
        given["lower_case"] = spec.lower_case
        published = Tokenizer.from_file(str(checkpoint.directory / "tokenizer.json"))
        model.tokenizer.backend_tokenizer.normalizer = published.normalizer
        if spec.lower_case:
            _lower_case(model.tokenizer)
    for key, attribute in (("default_prompt", "default_prompt_name"), ("prompt_names", "prompts")):
        if key in overrides:
            given[key] = getattr(spec, key)
            setattr(model, attribute, getattr(spec, key) or ({} if key == "prompt_names" else None))


def _apply_modules(model: "Upstream", spec: ModelSpec, checkpoint: Checkpoint, given: dict[str, object]) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    unsaid = {"pooling", "modules"} - checkpoint.facts.keys()
    said = {"pooling", "modules"} & (unsaid | checkpoint.overrides.keys())
    if "pooling" in said:
        mode = POOLINGS.get(spec.pooling, spec.pooling)
        model[1] = Pooling(model[0].get_embedding_dimension(), mode)
        given["pooling"] = spec.pooling
    if "modules" in said:
        dense = [module for module in model if type(module).__name__ == "Dense"]
        while len(model) > 2:
            del model[-1]
        for step in spec.modules:
            model.append(Normalize() if step.type == "normalize" else dense.pop(0))
        given["modules"] = [step.type for step in spec.modules]


def _widen(model: "torch.nn.Module") -> None:
    """Compute in float32 with weights that stay in 16 bits: each module has its own in float32 only while it runs."""
    import torch

    def before(module: torch.nn.Module, _: object) -> None:
        module.narrow = {name: weight.data for name, weight in module.named_parameters(recurse=False)}
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.float()

    def after(module: torch.nn.Module, *_: object) -> None:
        for name, weight in module.named_parameters(recurse=False):
            weight.data = module.narrow[name]

    def rows(module: torch.nn.Embedding, given: tuple[torch.Tensor, ...], _: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.embedding(given[0], module.weight).float()
        return found * getattr(module, "scalar_embed_scale", 1.0)  # Gemma's, which it has rounded to 16 bits

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(rows)
        elif next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
