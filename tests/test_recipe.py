"""Recipes: ours are what the design pins and the real repositories say; a wrong one is one line naming file and key."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import minilm, write_recipe

from converter import recipe
from converter.source.derive import derive
from converter.source.layout import read_layout
from converter.source.settle import settle
from shim.errors import UsageError
from shim.prompts import INSTRUCTIONS, prompt_for

BGE = {"retrieval.query": "Represent this sentence for searching relevant passages: "}
E5 = {"retrieval.query": "query: ", "retrieval.passage": "passage: "}
QWEN3 = {"instruction": "Instruct: {instruction}\nQuery:"}
QWEN3_PAIR = {
    "pair": "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "default": "Given a web search query, retrieve relevant passages that answer the query",
}
# name: repo, revision (design.md, section 7), prompts of retrieval.
PINNED = {
    "all-minilm-l6-v2": ("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf", {}),
    "bge-small-en-v1.5": ("BAAI/bge-small-en-v1.5", "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a", BGE),
    "bge-base-en-v1.5": ("BAAI/bge-base-en-v1.5", "a5beb1e3e68b9ab74eb54cfd186867f64f240e1a", BGE),
    "bge-large-en-v1.5": ("BAAI/bge-large-en-v1.5", "d4aa6901d3a41ba39fb536a557fa166f842b0e09", BGE),
    "e5-base-v2": ("intfloat/e5-base-v2", "f52bf8ec8c7124536f0efb74aca902b2995e5bcd", E5),
    "multilingual-e5-large": ("intfloat/multilingual-e5-large", "3d7cfbdacd47fdda877c5cd8a79fbcc4f2a574f3", E5),
    "multilingual-e5-large-instruct": (
        "intfloat/multilingual-e5-large-instruct",
        "274baa43b0e13e37fafa6428dbc7938e62e5c439",
        {"instruction": "Instruct: {instruction}\nQuery: "},
    ),
    "multilingual-e5-small": ("intfloat/multilingual-e5-small", "fd1525a9fd15316a2d503bf26ab031a61d056e98", E5),
    "multilingual-e5-base": ("intfloat/multilingual-e5-base", "d13f1b27baf31030b7fd040960d60d909913633f", E5),
    "all-mpnet-base-v2": ("sentence-transformers/all-mpnet-base-v2", "9a3225965996d404b775526de6dbfe85d3368642", {}),
    "gte-modernbert-base": ("Alibaba-NLP/gte-modernbert-base", "e7f32e3c00f91d699e8c43b53106206bcc72bb22", {}),
    "modernbert-embed-base": (
        "nomic-ai/modernbert-embed-base",
        "5960f1566fb7cb1adf1eb6e816639cf4646d9b12",
        {"retrieval.query": "search_query: ", "retrieval.passage": "search_document: "},
    ),
    "jina-embeddings-v3": (
        "jinaai/jina-embeddings-v3-hf",
        "d18862d9a48706220815554fac3ebb4dfa46fc28",
        {
            "retrieval.query": "Represent the query for retrieving evidence documents: ",
            "retrieval.passage": "Represent the document for retrieval: ",
        },
    ),
    "bge-m3": ("BAAI/bge-m3", "5617a9f61b028005a4858fdac845db406aefb181", {}),
    "user-bge-m3": ("deepvk/USER-bge-m3", "main", {}),
    "bge-reranker-v2-m3": ("BAAI/bge-reranker-v2-m3", "953dc6f6f85a1b2dbfca4c34a2796e7dde08d41e", {}),
    "qwen3-embedding-0.6b": ("Qwen/Qwen3-Embedding-0.6B", "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3", QWEN3),
    "qwen3-embedding-4b": ("Qwen/Qwen3-Embedding-4B", "5cf2132abc99cad020ac570b19d031efec650f2b", QWEN3),
    "qwen3-embedding-8b": ("Qwen/Qwen3-Embedding-8B", "1d8ad4ca9b3dd8059ad90a75d4983776a23d44af", QWEN3),
    "qwen3-reranker-0.6b": ("Qwen/Qwen3-Reranker-0.6B", "e61197ed45024b0ed8a2d74b80b4d909f1255473", QWEN3_PAIR),
    "qwen3-reranker-4b": ("Qwen/Qwen3-Reranker-4B", "22e683669bc0f0bd69640a1354a6d0aebcfeede5", QWEN3_PAIR),
    "qwen3-reranker-8b": ("Qwen/Qwen3-Reranker-8B", "5fa94080caafeaa45a15d11f969d7978e087a3db", QWEN3_PAIR),
    "nomic-embed-text-v1.5": (
        "nomic-ai/nomic-embed-text-v1.5",
        "e9b6763023c676ca8431644204f50c2b100d9aab",
        {
            "retrieval.query": "search_query: ",
            "retrieval.passage": "search_document: ",
            "classification": "classification: ",
            "clustering": "clustering: ",
            "separation": "clustering: ",
        },
    ),
}


def broken(tmp_path: Path, old: str, new: str) -> str:
    """A recipe with one thing wrong; `old` must be there, or the test would prove nothing."""
    path = write_recipe(tmp_path / "mine.toml", more='[prompts]\n"retrieval.query" = "q: "\n[parity]\ncosine = 0.99')
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


def test_every_recipe_is_in_the_table() -> None:
    assert set(recipe.names()) == set(PINNED)


@pytest.mark.parametrize("name", PINNED)
def test_repo_revision_and_prompts_are_the_pinned_ones(name: str) -> None:
    loaded = recipe.load(name)
    repo, revision, prompts = PINNED[name]
    assert (loaded.name, loaded.source.repo, loaded.source.revision) == (name, repo, revision)
    pinned = ("retrieval.query", "retrieval.passage", "instruction", "pair", "default", *prompts)
    assert {task: text for task, text in loaded.model.prompts.items() if task in pinned} == prompts
    assert loaded.parity.cosine == 0.999


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "bge-small-en-v1.5", "multilingual-e5-large"])
def test_shape_and_pooling_are_those_of_the_real_repository(name: str, request: pytest.FixtureRequest) -> None:
    loaded = recipe.load(name)
    folder = minilm() if "minilm" in name else request.getfixturevalue("shared") / "hub" / loaded.source.repo
    config, modes, limits = (
        json.loads((folder / file).read_text())
        for file in ("config.json", "1_Pooling/config.json", "sentence_bert_config.json")
    )
    flag = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}[loaded.model.pooling]
    assert [key for key, value in modes.items() if value is True and key.startswith("pooling_mode")] == [flag]
    shape = (config["model_type"].replace("-", "_"), config["hidden_size"])
    assert (loaded.architecture, loaded.model.dimensions) == shape
    assert loaded.model.max_tokens == limits["max_seq_length"]


def test_a_recipe_of_ones_own_loads_by_path(tmp_path: Path) -> None:
    loaded = recipe.load(broken(tmp_path, 'license = "mit"', 'license = "apache-2.0"'))
    assert (loaded.name, loaded.license, loaded.source.revision) == ("tiny", "apache-2.0", "main")
    assert (loaded.model.prompts, loaded.parity.cosine) == ({"retrieval.query": "q: "}, 0.99)


@pytest.mark.parametrize(("asked", "offered"), [("bge-smal-en", "bge-small-en-v1.5"), ("e5-base", "e5-base-v2")])
def test_an_unknown_recipe_offers_the_nearest(asked: str, offered: str) -> None:
    with pytest.raises(UsageError, match=f"recipe '{asked}' unknown; did you mean .*{offered}"):
        recipe.load(asked)


def test_an_unknown_recipe_like_none_of_ours_gets_the_list() -> None:
    with pytest.raises(UsageError, match=r"unknown; there are all-minilm-l6-v2, .*e5-base-v2"):
        recipe.load("zzz")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pooling =", "poolin =", "key 'poolin' in [model] unknown; did you mean pooling?"),
        ("license =", "licence =", "key 'licence' unknown; did you mean license?"),
        ("[parity]", "[paritty]", "key 'paritty' unknown; did you mean parity?"),
        ('"retrieval.query"', '"retrieval.qeury"', "key 'retrieval.qeury' in [prompts] unknown"),
        ("cosine", "surprise", "key 'surprise' in [parity] unknown; known: cosine"),
        ("max_tokens = 128", 'max_tokens = "128"', "max_tokens in [model] must be int, not '128'"),
        ("max_tokens = 128", "max_tokens = true", "max_tokens in [model] must be int, not True"),
        ('heads = ["dense"]', 'heads = "dense"', "heads in [model] must be list, not 'dense'"),
        ('"q: "', "3", "retrieval.query in [prompts] must be str, not 3"),
        ('license = "mit"', "", "key 'license' missing"),
        ('license = "mit"', 'license = "my-own"', 'license "my-own" is no id of the hub; write "other", license_name and'),
        ('license = "mit"', 'license = "MIT"', 'license "MIT" is no id of the hub'),
        ('license = "mit"', 'license = "other"', 'license "other", license_name and license_link go together'),
        ('license = "mit"', 'license = "other"\nlicense_name = "mine"', "license_name and license_link go together"),
        ('license = "mit"', 'license = "mit"\nlicense_name = "mine"', "license_name and license_link go together"),
        ("dimensions = 64", "", "key 'dimensions' in [model] missing"),
        ('[source]\nrepo = "nobody/tiny"', "", "key 'repo' in [source] missing"),
        ('[source]\nrepo = "nobody/tiny"', 'source = "nobody/tiny"', "source must be a section, [source]"),
        ('"mean"', '"avg"', 'pooling "avg" unknown (cls, mean, last, max, mean_sqrt_len_tokens, weightedmean)'),
        ('"embed"', '"translate"', 'task "translate" unknown (embed'),
        ('"bert"', '"bret"', "architecture 'bret' unknown"),
        ('["dense"]', '["dense", "thick"]', 'heads "thick" unknown (dense'),
        ('["dense"]', "[]", 'heads must hold "dense"'),
        ("dimensions = 64", "dimensions = 0", "dimensions must be positive"),
        ("cosine = 0.99", "cosine = 1.5", "cosine must be over 0 and at most 1"),
        ("cosine = 0.99", "cosine = nan", "cosine must be over 0 and at most 1"),
        ('name = "tiny"', 'name = "../tiny"', "name '../tiny' must be"),
        ('repo = "nobody/tiny"', 'repo = "nobody/tiny"\npackage = "no.such"', "package 'no.such' must be"),
        ('"mean"', "mean", "not valid TOML"),
        ('task = "embed"', 'task = "embed"\ntask = "embed"', "not valid TOML"),
    ],
)
def test_a_wrong_line_is_named_with_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = broken(tmp_path, old, new)
    with pytest.raises(UsageError) as caught:
        recipe.load(path)
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: cannot be read \(No such file"):
        recipe.load(str(tmp_path / "nowhere.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(UsageError, match=r"latin\.toml: not valid TOML"):
        recipe.load(str(tmp_path / "latin.toml"))


def test_on_the_command_line_it_is_exit_code_2_one_line_and_one_object(
    tmp_path: Path, convert: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = convert(broken(tmp_path, '"mean"', '"avg"'), "--to", "onnx", "--json", check=2)
    line = 'mine.toml: pooling "avg" unknown (cls, mean, last, max, mean_sqrt_len_tokens, weightedmean)'
    assert done.stderr == f"convert: {line}\n"
    assert json.loads(done.stdout) == {"error": line, "exit_code": 2}
    assert done.stdout.count("\n") == 1


def test_a_template_without_its_slot_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "mine.toml", more='[prompts]\ninstruction = "Instruct: "')
    with pytest.raises(UsageError, match=r'mine.toml: instruction in \[prompts\] must hold \{instruction\}, not "Instruct: "'):
        recipe.load(str(path))


# Of the others, ../shared/hub has no files.
PUBLISHED = (
    "all-minilm-l6-v2",
    "bge-m3",
    "bge-reranker-v2-m3",
    "bge-small-en-v1.5",
    "multilingual-e5-large",
    "qwen3-embedding-0.6b",
    "qwen3-embedding-4b",
    "qwen3-reranker-0.6b",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_agrees_with_its_repositorys_files_or_states_an_override(name: str, shared: Path) -> None:
    loaded = recipe.load(name)
    folder = minilm() if "minilm" in name else shared / "hub" / loaded.source.repo
    facts = derive(folder, read_layout(folder))
    spec = settle(loaded, facts)
    differing = {key for key in loaded.stated & facts.keys() if getattr(loaded.model, key) != facts[key].value}
    assert differing <= loaded.overrides.keys()
    assert all(reason.endswith(".") for reason in loaded.overrides.values())
    assert spec.normalized
    if name.startswith("qwen3-embedding"):
        assert set(spec.prompt_names) == {"query", "document"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('heads = ["dense"]', 'heads = ["dense"]\nmodules = ["normalise"]', 'modules "normalise" unknown (normalize, dense)'),
        ('heads = ["dense"]', 'heads = ["dense"]\nmodules = [{type = "dense"}]', "a dense module has a width"),
        ('heads = ["dense"]', 'heads = ["dense"]\nsimilarity = "near"', 'similarity "near" unknown'),
        ('heads = ["dense"]', 'heads = ["dense"]\nlower_case = 1', "lower_case in [model] must be bool"),
        ("[parity]", '[overrides]\nsurprise = "why"\n[parity]', 'overrides "surprise" unknown'),
        ("[parity]", '[overrides]\npooling = ""\n[parity]', "pooling in [overrides] must be text"),
        ("[parity]", "[prompt_names]\nquery = 1\n[parity]", "query in [prompt_names] must be text"),
    ],
)
def test_a_wrong_line_of_what_a_checkpoint_says_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.load(broken(tmp_path, old, new))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [*(f"qwen3-embedding-{n}b" for n in ("0.6", "4", "8")), "multilingual-e5-large-instruct"])
def test_a_task_has_its_instruction(name: str) -> None:
    """Both cards write `Instruct: {task}\\nQuery:`; e5-instruct has a space behind it, Qwen3 has none."""
    prompts, space = recipe.load(name).model.prompts, " " if "e5" in name else ""
    for task, instruction in INSTRUCTIONS.items():
        assert prompt_for(prompts, task) == (f"Instruct: {instruction}\nQuery:{space}" if instruction else "")
    assert {task for task in INSTRUCTIONS if not prompt_for(prompts, task)} == {"retrieval.passage", "code.passage"}
    assert prompt_for(prompts, "clustering") == f"Instruct: Represent this text for clustering\nQuery:{space}"
