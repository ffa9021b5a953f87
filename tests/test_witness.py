"""The witness: a mistake of ours, in a recipe, in what we make of a file, or in the code that computes, is caught."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from support import bugs, saved
from test_saved import TEXTS, checkpoint, off

from converter import companions, corpus
from converter.proof.measure import prepare
from converter.proof.reading import TorchRuntime, _manifest
from converter.quantize.layerwise import LayerwiseOps
from converter.quantize.torch_ops import TorchOps
from converter.recipe import Recipe
from converter.source import open as opening
from converter.source.checkpoint import Checkpoint
from converter.source.draft import draft
from converter.source.open import find, open_source
from shim.errors import SourceError, UsageError
from shim.model import Model
from shim.text import TextEncoder

PLAIN, XLM, QWEN, NOMIC = "bert, mean, normalised", "xlm-roberta, mean", "qwen3, last token, prompts", "nomic"
CROSS, PROMPTED = "bert, by transformers alone", "bert, prompts and a default"
MPNET, MODERN, BIASED, RANKER = "mpnet", "modernbert", "modernbert, biases", "modernbert, mean"
READ_OTHERWISE = "read otherwise than"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness")


@pytest.fixture
def asked(corpus_file: Path) -> list[corpus.Text]:
    return corpus.read(corpus_file)


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file; None removes one."""

    def apply(source: Path) -> None:
        path = source / file
        path.parent.mkdir(exist_ok=True)
        values = (json.loads(path.read_text()) if path.is_file() else {}) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return apply


def witnessed(source: Path, texts: list[corpus.Text], recipe: Recipe | None = None) -> Checkpoint:
    """The checkpoint, after the witness agreed."""
    recipe = recipe or draft(find(str(source)))
    found = open_source(recipe, str(source))
    prepare(found, recipe.task, texts, lambda *_: None)
    return found


def reading(found: Checkpoint) -> Model:
    """Our reading as a model: what an artifact is before anything is rounded."""
    spec = found.spec
    encoder = TextEncoder(found.directory, spec.max_tokens, spec.lower_case, markers=spec.markers)
    return Model(_manifest(found), encoder, TorchRuntime(found))


def longer(self: TextEncoder, *given: Any) -> Any:
    found = yield from ENCODE(self, *given)
    return [dataclasses.replace(item, ids=[item.ids[0], *item.ids], type_ids=[0, *item.type_ids]) for item in found]


def shorter(self: TextEncoder, *given: Any) -> Any:
    found = yield from ENCODE(self, *given)
    return [dataclasses.replace(item, ids=item.ids[:-1], type_ids=item.type_ids[:-1]) for item in found]


ENCODE, ROTATE, POSITIONS, AFTER = TextEncoder.encoding, TorchOps.rotate, TorchOps.positions, TorchOps.positions_after
POOL, NORM, RELATIVE, SPLIT = TorchOps.pool, TorchOps.layer_norm, TorchOps.relative, LayerwiseOps.split
ATTEND, LINEAR, RMS, TYPES = TorchOps.attention, TorchOps.linear, TorchOps.rms_norm, TorchOps.token_type_ids


def attending(changed: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Attention with other settings than it is asked for."""
    return lambda self, query, key, value, **settings: ATTEND(self, query, key, value, **changed(settings))


def norming(wanted: Callable[[str], bool]) -> Any:
    """Norms that leave some out."""
    return lambda self, name, x, eps, bias=True: NORM(self, name, x, eps, bias) if wanted(name) else x


def without(end: str) -> Any:
    """RMS norms but those whose names end so."""
    return lambda self, name, x, *how: x if name.endswith(end) else RMS(self, name, x, *how)


def turning(changed: Callable[[float, tuple[float, ...]], tuple[float, tuple[float, ...]]]) -> Any:
    """Rotary positions with another base, or with other factors."""
    return lambda self, x, base, factors=(): ROTATE(self, x, *changed(base, factors))


# Our own code, wrong: (kind of checkpoint, where, name, what it does instead).
BUGS: dict[str, tuple[str, Any, str, Any]] = {
    "a wrong pooling": (PLAIN, TorchOps, "pool", lambda self, hidden, pooling: POOL(self, hidden, "cls")),
    "padding in the mean": (PLAIN, TorchOps, "pool", lambda self, hidden, pooling: hidden.float().mean(dim=1)),
    "a doubled special token": (PLAIN, TextEncoder, "encoding", longer),
    "a missing special token": (QWEN, TextEncoder, "encoding", shorter),
    "another rotary base": (QWEN, TorchOps, "rotate", turning(lambda base, factors: (base * 1.01, factors))),
    "nomic's other rotary base": (NOMIC, TorchOps, "rotate", lambda self, x, base: ROTATE(self, x, base * 1.01)),
    "positions off by one": (PLAIN, TorchOps, "positions", lambda self, first=0: POSITIONS(self, first + 1)),
    "XLM-RoBERTa's positions off by one": (XLM, TorchOps, "positions_after", lambda self, padding: AFTER(self, padding) - 1),
    "places for <pad> in a text": (XLM, TorchOps, "positions_after", lambda self, padding: POSITIONS(self, padding + 1)),
    "another epsilon": (PLAIN, TorchOps, "layer_norm", lambda self, name, x, eps, bias=True: NORM(self, name, x, 1e-3)),
    "another GELU": (PLAIN, TorchOps, "gelu", lambda self, x: torch.nn.functional.gelu(x, approximate="tanh")),
    "attention to what follows": (QWEN, TorchOps, "attention", lambda self, q, k, v, **_: ATTEND(self, q, k, v)),
    "a dropped norm": (QWEN, TorchOps, "rms_norm", without("model.norm")),
    "segments mixed up": (PLAIN, TorchOps, "token_type_ids", lambda self: 1 - TYPES(self)),
    "RoBERTa's positions off by one": ("roberta", TorchOps, "positions_after", lambda self, padding: AFTER(self, padding) - 1),
    "DistilBERT's positions off by one": ("distilbert", TorchOps, "positions", lambda self, first=0: POSITIONS(self, 1)),
    "DistilBERT's head without its ReLU": ("distilbert, one label", TorchOps, "relu", lambda self, x: x),
    "MPNet's head without its tanh": ("mpnet, one label", TorchOps, "tanh", lambda self, x: x),
    "no bias by distance": (MPNET, TorchOps, "attention", lambda self, q, k, v, **_: ATTEND(self, q, k, v)),
    "a bias by distance that is scaled, too": (MPNET, TorchOps, "attention", attending(lambda o: o | {"bias": o["bias"] / 4})),
    "before and behind mixed up": (MPNET, TorchOps, "relative", lambda self, values: RELATIVE(self, values[::-1])),
    "distances that end too soon": (MPNET, TorchOps, "relative", lambda self, values: RELATIVE(self, values[98:-98])),
    "no windows": (MODERN, TorchOps, "attention", lambda self, q, k, v, **_: ATTEND(self, q, k, v)),
    "a window one token wider": (MODERN, TorchOps, "attention", attending(lambda o: {"window": 6 if o["window"] else None})),
    "windows in the other layers": (MODERN, TorchOps, "attention", attending(lambda o: {"window": None if o["window"] else 5})),
    "another scale of attention": (MODERN, TorchOps, "attention", lambda self, q, k, v, **o: ATTEND(self, q * 1.01, k, v, **o)),
    "another global base": (MODERN, TorchOps, "rotate", lambda self, x, base: ROTATE(self, x, min(base, 1.5e5))),
    "another local base": (MODERN, TorchOps, "rotate", lambda self, x, base: ROTATE(self, x, max(base, 1.1e4))),
    "input and gate mixed up": (MODERN, LayerwiseOps, "split", lambda self, x, parts: SPLIT(self, x, parts)[:: 2 * parts - 5]),
    "ModernBERT's other GELU": (MODERN, TorchOps, "gelu", lambda self, x: torch.nn.functional.gelu(x, approximate="tanh")),
    "a larger epsilon": (MODERN, TorchOps, "layer_norm", lambda self, name, x, _, bias: NORM(self, name, x, 1e-3, bias)),
    "no last norm": (MODERN, TorchOps, "layer_norm", norming(lambda name: name != "final_norm")),
    "one norm more": (MODERN, TorchOps, "full", lambda self, x: torch.nn.functional.layer_norm(x, x.shape[-1:])),
    "norms without their bias": (BIASED, TorchOps, "layer_norm", lambda self, *given: NORM(self, *given[:-1], False)),
    "layers without their bias": (BIASED, TorchOps, "linear", lambda self, name, x, bias: LINEAR(self, name, x, False)),
    "a score from the first token": (RANKER, TorchOps, "pool", lambda self, hidden, pooling: POOL(self, hidden, "cls")),
    "a score without its norm": (RANKER, TorchOps, "layer_norm", norming(lambda name: name != "head.norm")),
} | bugs.ROTARY | bugs.HEADS  # fmt: skip
RIGHT: set[str] = set()  # kinds on which our code as it is was seen to agree


@pytest.mark.parametrize("bug", BUGS)
def test_a_mistake_of_our_own_is_caught(
    bug: str, folder: Path, asked: list[corpus.Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    catch(*BUGS[bug], folder, asked, monkeypatch)


def catch(
    kind: str, where: Any, name: str, wrong: Any, folder: Path, asked: list[corpus.Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The witness agrees, and no more where `wrong` takes the place of a part of our own."""
    source = checkpoint(kind, folder)
    if kind not in RIGHT:
        witnessed(source, asked)
        RIGHT.add(kind)
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(UsageError, match=f"{READ_OTHERWISE} sentence-transformers .*nothing was sealed"):
        witnessed(source, asked)


# What derive makes of a checkpoint, wrong: (kind of checkpoint, key, the wrong value).
MISREAD: dict[str, tuple[str, str, Any]] = {
    "a limit": (PLAIN, "max_tokens", 47),
    "a pooling": (PLAIN, "pooling", "cls"),
    "a dropped Normalize": (PLAIN, "modules", []),
    "an invented Normalize": ("bert, cls, dot", "modules", [saved.NORMALIZE]),
    "a dropped Dense": ("bert, two dense", "modules", None),
    "a dropped default prompt": (PROMPTED, "default_prompt", ""),
    "swapped prompts": (
        PROMPTED,
        "prompt_names",
        saved.PROMPTS | {"query": "Group by matter: ", "clustering": "Find what answers: "},
    ),
    "a prompt without its space": (PROMPTED, "prompt_names", saved.PROMPTS | {"query": "Find what answers:"}),
    "capitals kept": ("bert, cased tokenizer, do_lower_case", "lower_case", False),
    "a layer": ("olmo3, before the last layer", "layer", 1),
    "a layer more": ("olmo3, before the last layer", "layer", -1),
    "an activation": (CROSS, "activation", "identity"),
}


@pytest.mark.parametrize("case", MISREAD)
def test_a_file_misread_is_caught(case: str, folder: Path, asked: list[corpus.Text], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, key, value = MISREAD[case]
    source = checkpoint(kind, folder)
    right = opening.derive

    def wrong(*arguments: Any) -> Any:
        facts = right(*arguments)
        steps = facts["modules"].value[1:] if value is None else value
        changed = {key: dataclasses.replace(facts[key], value=steps)}
        return facts | changed

    monkeypatch.setattr(opening, "derive", wrong)
    with pytest.raises((UsageError, SourceError), match=f"{READ_OTHERWISE}|left over"):
        witnessed(source, asked)


def witnessed_by_others(found: Checkpoint, folder: Path) -> SentenceTransformer:
    """The weights beside the files that an artifact gets: another loader takes the overrides from them."""
    for path in found.directory.glob("*"):
        if path.name in ("config.json", "model.safetensors"):
            shutil.copyfile(path, folder / path.name)
    companions.write(found, folder)
    return SentenceTransformer(str(folder), device="cpu")


RECIPES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a wrong pooling": (PLAIN, {"pooling": "cls"}, "pooling 'cls', but 1_Pooling/config.json says 'mean'"),
    "a wrong limit": (PLAIN, {"max_tokens": 40}, "max_tokens 40, but"),
    "a dropped module": (PLAIN, {"modules": []}, r"modules .*, but modules.json says"),
    "a dropped default prompt": (PROMPTED, {"default_prompt": ""}, "default_prompt '', but config_sentence_transformers.json"),
    "swapped prompts": (
        PROMPTED,
        {"prompts": {"retrieval.query": "Group by matter: "}},
        "the prompt of retrieval.query is 'Group by matter: ', but .* says 'Find what answers: '",
    ),
    "a template that does not fit": (PROMPTED, {"prompts": {"instruction": "Do: {instruction}"}}, "does not fit"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_that_says_otherwise_is_refused_and_an_override_is_recorded(
    case: str, folder: Path, asked: list[corpus.Text], tmp_path: Path
) -> None:
    kind, changes, message = RECIPES[case]
    source = checkpoint(kind, folder)
    drafted = draft(find(str(source)))
    model = dataclasses.replace(drafted.model, **changes)
    wrong = dataclasses.replace(drafted, model=model, stated=frozenset(changes))
    with pytest.raises(UsageError, match=message):
        witnessed(source, asked, wrong)
    meant = dataclasses.replace(wrong, overrides=dict.fromkeys(changes, "it is meant so"))
    found = open_source(meant, str(source))
    recorded = prepare(found, "embed", asked, lambda *_: None).given
    again = witnessed_by_others(found, tmp_path)
    assert off(reading(found).embed(TEXTS).dense, again.encode(TEXTS)) < 1e-4
    assert set(changes) - {"prompts"} <= recorded.keys()
    assert found.spec.normalized == ("modules" not in changes)


def test_a_head_by_other_words_is_scored_by_them(folder: Path, tmp_path: Path, asked: list[corpus.Text]) -> None:
    """A causal reranker answers by the tokens that its LogitScore module names, not always "yes" and "no"."""
    base = saved.qwen3(tmp_path / "base", append=False, limit=400)
    CrossEncoder(str(base), device="cpu").save_pretrained(str(tmp_path / "mine"))
    edit("1_LogitScore/config.json", true_token_id=70, false_token_id=71)(tmp_path / "mine")
    place = find(str(tmp_path / "mine"))
    with pytest.raises(UsageError, match="no file says the text around a pair"):
        draft(place)
    ours = open_source(causal(place, "given"), str(tmp_path / "mine"))
    head = torch.from_numpy(ours.read("score.weight"))
    table = torch.from_numpy(ours.read("model.embed_tokens.weight"))
    np.testing.assert_array_equal(head.numpy(), table[[71, 70]].numpy())
    prepare(ours, "rerank", asked, lambda *_: None)


def causal(place: Any, reason: str) -> Recipe:
    """A recipe for a causal reranker with a template of its own."""
    from converter.recipe import Source
    from shim.spec import ModelSpec

    facts = {key: fact.value for key, fact in place.facts.items()}
    prompts = {"pair": "Q {instruction} {query} D {document} A", "default": "find"}
    spec = ModelSpec("qwen3", "last", facts["max_tokens"], 64, ["score"], prompts)
    return Recipe("mine", "rerank", "qwen3", "mit", Source("o/r"), spec, overrides={"prompts": reason})


def test_the_witness_sees_what_a_tokenizer_alone_would_not(folder: Path, asked: list[corpus.Text]) -> None:
    """Weights count, too: a tensor that we read from elsewhere gives other vectors."""
    source = checkpoint(PLAIN, folder)
    drafted = draft(find(str(source)))
    found = open_source(drafted, str(source))
    key, other = (f"encoder.layer.{layer}.output.dense.weight" for layer in (0, 1))
    swapped = dataclasses.replace(found, tensors={**found.tensors, key: found.tensors[other]})
    with pytest.raises(UsageError, match="the dense output of"):
        prepare(swapped, "embed", asked, lambda *_: None)
