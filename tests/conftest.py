import dataclasses
import functools
import gc
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from support import servers
from support.checkpoints import write_bert, write_recipe
from support.commands import run, run_process
from support.hub import WRITE, Hub
from support.servers import Server, Started
from support.shared import MiniLM, shared_by_all, thinned

from converter import corpus, pipeline, recipe
from converter.proof import reference
from converter.recipe import Recipe
from shim import artifact
from shim.artifact import Manifest
from shim.runtimes.mlx import _import_mlx

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The same examples in every run of CI: what a new one finds is found where it is looked for.
settings.register_profile("ci", derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")
# Where tests run in parallel, each process keeps to one core: the threads of all libraries follow.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):  # not on macOS
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
_import_mlx()  # before a test does: on Linux it is then 30 times as fast, for the whole process
pytest_plugins = ["support.publishing", "support.published"]  # fixtures
ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
# The weights of another model in another layout, or behind another prompt: the target and the bits of each.
SIBLINGS = {
    "user-bge-m3": ("onnx", 32),
    "multilingual-e5-large-instruct": ("mlx", 8),
    "qwen3-embedding-4b": ("onnx", 16),
    "qwen3-embedding-8b": ("mlx", 8),
    "qwen3-reranker-4b": ("mlx", 8),
    "qwen3-reranker-8b": ("onnx", 8),
}
# Fixtures and functions that convert, or make, train, quantize or witness a whole checkpoint, or start a server of one.
FIXTURES = {"tiny_artifact", "precisions", "below", "minilm_artifacts", "convert", "serve", "start", "folder", "small", "maker"}
FIXTURES |= {"working", "family", "converting"}
FUNCTIONS = {"made", "standin", "standin_recipe", "convert", "converted", "quantize", "prepare", "witnessed", "refused"}
FUNCTIONS |= {"apart", "run_process", "stop"}
LEARN = 10  # every so many calibration texts are enough where the quality of codes is not the point
FEW = (
    "A short line.\nЧто нового?\n天气很好，我们去散步。\nA somewhat longer sentence about the price of copper in March 1998.\n"
)


@pytest.fixture(autouse=True, scope="session")
def together() -> Iterator[None]:
    """A test that converts in its own process asks the upstream library there, too: another would import it again each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "apart", lambda work, *given, progress: work(*given, progress))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real texts and the real repositories' files, beside the checkout; required in CI."""
    if not SHARED.is_dir():
        assert os.environ.get("CI") != "true", f"CI needs {SHARED}"
        pytest.skip("../shared is not here")
    return SHARED


@functools.cache
def standin(name: str) -> Path:
    """The folder of a small trained checkpoint in the layout of the recipe's real one; made once, kept in the cache folder."""
    from support.standins.store import stored  # it imports torch and transformers

    return stored(name, "tiny")


def standin_recipe(name: str) -> Recipe:
    """The recipe with the width of its small checkpoint; everything else is as it is for the real one."""
    config = json.loads((standin(name) / "config.json").read_text())
    loaded = recipe.load(name)
    width = config.get("hidden_size") or config["n_embd"]
    return dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, dimensions=width))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what converts, a test that asks for such a fixture or names such a function, and what reads real repositories."""
    for item in items:
        if isinstance(item, pytest.Function):
            called = item.function.__code__.co_names
            if FIXTURES.intersection(item.fixturenames) or FUNCTIONS.intersection(called):
                item.add_marker("convert")
            if "shared" in item.fixturenames:
                item.add_marker("slow")  # each real tokenizer takes a second or more to read


def pytest_collection_finish() -> None:
    """The libraries that tests import hold a million objects: no collection of garbage goes through them again and again."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ["SEALPORT_TESTS"] = tempfile.mkdtemp(prefix="sealport-tests-")


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["SEALPORT_TESTS"])


@functools.cache
def made(name: str, target: str, bits: int) -> tuple[Path, Manifest]:
    """The artifact of a small checkpoint, calibrated on few texts and verified on every 4th; every 8th must do for SIBLINGS
    and from 16 bits on, where tests compare with upstream themselves. For all texts see MiniLM.

    A small reranker is verified on the texts that it was trained on: to all others it gives nearly the same score, and that
    would prove nothing; so it is not calibrated on them.
    """
    with shared_by_all(f"{name}-{target}-{bits}") as out:
        for before in out.iterdir():
            return before, artifact.read(before)
        loaded = standin_recipe(name)
        judging = corpus.CALIBRATION if loaded.task == "rerank" else corpus.VERIFICATION
        texts = thinned(judging, out.with_name(f"{out.name}.jsonl"), 8 if bits >= 16 or name in SIBLINGS else 4)
        request = pipeline.Request(loaded, target, bits, str(standin(name)), out, corpus=texts)
        if loaded.task == "rerank" or name in SIBLINGS:
            request = dataclasses.replace(request, effort="fast")
        elif target == "onnx" and bits == 8:
            learned = thinned(corpus.CALIBRATION, out.with_name(f"{out.name}.learn.jsonl"), LEARN)
            request = dataclasses.replace(request, calibration=learned)
        return pipeline.convert(request, lambda *_: None)


@pytest.fixture(scope="session")
def convert() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command, in this process."""
    return partial(run, "converter")


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short texts, for conversions whose parity figures are not the point."""
    path = tmp_path_factory.mktemp("corpus") / "few.txt"
    path.write_text(FEW, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def few_to_learn_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenth of the calibration texts, for codes whose quality is not the point."""
    return thinned(corpus.CALIBRATION, tmp_path_factory.mktemp("corpus") / "learn.jsonl", LEARN)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small BERT checkpoint (`checkpoint`) and its recipe (`tiny.toml`)."""
    folder = tmp_path_factory.mktemp("tiny")
    write_bert(folder / "checkpoint")
    write_recipe(folder / "tiny.toml")
    return folder


@pytest.fixture(scope="session")
def tiny_artifact(tiny: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small BERT as a sealed 32-bit ONNX artifact; tests that change it copy it first."""
    out = tmp_path_factory.mktemp("artifacts")
    arguments = ("--to", "onnx", "--bits", 32, "--source", tiny / "checkpoint", "--corpus", corpus_file, "--out", out)
    run("converter", tiny / "tiny.toml", *arguments)
    return out / "tiny-onnx-32bit"


@pytest.fixture(scope="session")
def below(
    tiny: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A conversion that cannot reach parity, as a user runs it, and where it lies."""
    out = tmp_path_factory.mktemp("below")
    arguments = ("--to", "mlx", "--bits", 2, "--source", tiny / "checkpoint", "--corpus", corpus_file, "--out", out)
    return run_process("converter", tiny / "tiny.toml", *arguments, "--effort", "fast", check=1), out / "tiny-mlx-2bit"


@pytest.fixture(scope="session")
def minilm_artifacts() -> Mapping[str, Path]:
    """See MiniLM: `mlx-8`, `onnx-8`, `onnx-16`, `onnx-32`."""
    return MiniLM()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub over loopback, empty; the client in this process has its Xet off, as `hub.environment` has it in others."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with Hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def api(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "HfApi":
    """The hub's client in this process, with an owner's token and a new cache."""
    from huggingface_hub import HfApi  # it takes a while, and few tests need it

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return HfApi(endpoint=hub.url, token=WRITE)


@pytest.fixture
def start(tmp_path: Path, tiny_artifact: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*arguments: object, artifact: Path | None = None) -> Server:
        made.append(Server(tmp_path, artifact or tiny_artifact, *arguments))
        return made[-1]

    yield make
    for server in made:
        server.end()
        server.ended()


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., str]]:
    """Start `shim serve` on a free port; returns its address. Every server must end well on SIGTERM."""
    started: list[Started] = []

    def start(*arguments: object) -> str:
        started.append(servers.shim(*arguments))
        return started[-1].url

    yield start
    for server in started:
        server.end()
    for server in started:
        server.ended()
