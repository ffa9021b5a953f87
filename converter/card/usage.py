"""How to use a model, library by library: code to copy, of those libraries only that were seen to load its like."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from shim.artifact import Manifest
from shim.parity import PARITY_TARGET
from shim.prompts import prompt_of
from shim.spec import NORMALIZE

QUERY, DOCUMENT = "How do I reset my password?", "Choose a new one in the settings."
Code = tuple[str, str]  # its language, and itself


@dataclass(frozen=True)
class Subject:
    """What the code is about. where: ORG/NAME, or a local artifact's name; precision: its key there, "" of a local one."""

    where: str
    precision: str
    manifest: Manifest

    @property
    def query(self) -> str:
        """A query with what goes before it, as a string of Python, JavaScript and JSON."""
        prompt = prompt_of(self.manifest.model, "retrieval.query") if self.manifest.task == "embed" else ""
        return json.dumps(prompt + QUERY, ensure_ascii=False)

    @property
    def graph(self) -> PurePosixPath:
        """The ONNX graph."""
        return next(PurePosixPath(name) for name in self.manifest.files if name.endswith(".onnx"))


def own(subject: Subject) -> list[Code]:
    """Our own: the library, then the server and a request to it."""
    manifest = subject.manifest
    accepted, flag = _accepted(manifest)
    precision = f', precision="{subject.precision}"' if subject.precision else ""
    lines = ["import shim", "", f'model = shim.load("{subject.where}"{precision}{accepted})']
    if manifest.task == "rerank":
        lines += [f'model.rerank("{QUERY}", ["{DOCUMENT}"])  # best first: index, score, logit']
        path, request = "/v1/rerank", {"query": QUERY, "documents": [DOCUMENT]}
    else:
        spec = manifest.model
        head, given = spec.heads[0], f"(1, {spec.dimensions}) float32"
        if head != "dense":
            given = (
                "token id -> weight, of each text" if head == "sparse" else f"(tokens, {spec.dimensions}) float32, of each text"
            )
        lines += [f'model.embed(["{QUERY}"], task="retrieval.query").{head}  # {given}']
        lines += [f'model.embed(["{DOCUMENT}"], task="retrieval.passage").{head}']
        if len(spec.heads) > 1:
            lines += [f'model.embed(["{DOCUMENT}"], heads={json.dumps(spec.heads)})']
        path, request = "/v1/embeddings", {"input": [QUERY], "task": "retrieval.query"}
        request |= {} if head == "dense" else {"heads": spec.heads}
    body = shlex.quote(json.dumps({"model": manifest.recipe, **request}))
    server = f"shim serve {subject.where}{flag} --port 8080 &\n"
    server += f"curl -s http://127.0.0.1:8080{path} -H 'content-type: application/json' \\\n  -d {body}"
    return [("python", "\n".join(lines)), ("bash", server)]


def _accepted(manifest: Manifest) -> tuple[str, str]:
    """What `shim` must be told to load it, in Python and on the command line; nothing for a pass at our own target."""
    if manifest.verdict != "pass":
        return ", allow_unverified=True", " --allow-unverified"
    promised = manifest.parity.promised
    return ("", "") if promised >= PARITY_TARGET else (f", min_parity={promised:g}", f" --min-parity {promised:g}")


def _sentence_transformers(subject: Subject) -> Code:
    return (
        "python",
        f"""\
from sentence_transformers import SentenceTransformer  # below 6, with optimum-onnx

graph = {{"file_name": "{subject.graph}"}}
model = SentenceTransformer("{subject.where}", backend="onnx", model_kwargs=graph)
vectors = model.encode([{subject.query}])""",
    )


def _optimum_scores(subject: Subject) -> Code:
    return (
        "python",
        f"""\
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer

name, query, document = "{subject.where}", "{QUERY}", "{DOCUMENT}"
model = ORTModelForSequenceClassification.from_pretrained(name, subfolder="onnx", file_name="{subject.graph.name}")
batch = AutoTokenizer.from_pretrained(name)([query], [document], return_tensors="np")
logits = model(**batch).logits""",
    )


POOLED = {"cls": "hidden[:, 0]", "mean": "hidden.mean(axis=1)", "last": "hidden[:, -1]"}  # of one text, without padding


def _mlx_embeddings(subject: Subject) -> Code:
    spec = subject.manifest.model
    lines = ["import mlx.core as mx", "from mlx_embeddings.utils import load"]
    named = f'"{subject.where}"'
    lines += ["from transformers import PreTrainedTokenizerFast"] * (spec.architecture == "xlm_roberta")
    lines += ["", f"model, tokenizer = load({named})"]
    if spec.architecture == "xlm_roberta":  # transformers 5 rebuilds its tokenizer, and splits spaces otherwise
        lines += [f"tokenizer = PreTrainedTokenizerFast.from_pretrained({named})  # the published one, as it is"]
    lines += [f'ids = mx.array(tokenizer([{subject.query}])["input_ids"])  # one text at a time: no padding']
    if spec.architecture == "bert" and spec.pooling == "mean":
        lines += ["vector = model(ids, attention_mask=mx.ones_like(ids)).text_embeds"]
    else:
        lines += ["hidden = model(ids, attention_mask=mx.ones_like(ids)).last_hidden_state.astype(mx.float32)"]
        lines += [f"vector = {POOLED[spec.pooling]}", "vector = vector / mx.linalg.norm(vector, axis=1, keepdims=True)"]
    return "python", "\n".join(lines)


def _mlx_lm(subject: Subject) -> Code:
    return (
        "python",
        f"""\
import mlx.core as mx
from mlx_lm import load

model, tokenizer = load("{subject.where}")
hidden = model.model(mx.array([tokenizer.encode({subject.query})])).astype(mx.float32)
vector = {POOLED[subject.manifest.model.pooling]}
vector = vector / mx.linalg.norm(vector, axis=1, keepdims=True)""",
    )


def _transformers_js(subject: Subject) -> Code:
    dtype = {"model_fp16.onnx": "fp16", "model_quantized.onnx": "q8", "model_q4.onnx": "q4"}.get(subject.graph.name, "fp32")
    pooling = {"last": "last_token"}.get(subject.manifest.model.pooling, subject.manifest.model.pooling)
    return (
        "js",
        f"""\
import {{ pipeline }} from "@huggingface/transformers";

// It does not cut texts at {subject.manifest.model.max_tokens} tokens, as the model wants it.
const extract = await pipeline("feature-extraction", "{subject.where}", {{ dtype: "{dtype}" }});
const vectors = await extract([{subject.query}], {{ pooling: "{pooling}", normalize: true }});""",
    )


def _fastembed(subject: Subject) -> Code:
    spec, data = subject.manifest.model, f"{subject.graph}_data"
    more = f'\n    additional_files=["{data}"],' if data in subject.manifest.files else ""
    pooling = {"last": "LAST_TOKEN"}.get(spec.pooling, spec.pooling.upper())
    return (
        "python",
        f"""\
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

TextEmbedding.add_custom_model(
    model="{subject.where}",
    sources=ModelSource(hf="{subject.where}"),
    model_file="{subject.graph}",{more}
    pooling=PoolingType.{pooling},
    normalization=True,
    dim={spec.dimensions},
)
model = TextEmbedding("{subject.where}")
model.model.tokenizer.enable_truncation({spec.max_tokens})  # it takes the tokenizer's own limit otherwise
vectors = list(model.embed([{subject.query}]))""",
    )


def _tei(subject: Subject) -> Code:
    body = shlex.quote(f'{{"inputs": [{subject.query}]}}')
    return (
        "bash",
        f"""\
text-embeddings-router --model-id {subject.where} --port 8080 &
curl -s http://127.0.0.1:8080/embed -H 'content-type: application/json' \\
  -d {body}""",
    )


@dataclass(frozen=True)
class Loader:
    """Another library. name: as scripts/interop calls it. architectures: those that it was seen to load there.

    pooled: the code pools and normalises by itself, as the library leaves that to its user. hub: it loads repositories only.
    tag: the hub's, by which the library's users find a repository.
    """

    name: str
    target: str
    task: str
    architectures: tuple[str, ...]
    write: Callable[[Subject], Code]
    title: str = ""
    pooled: bool = False
    hub: bool = False
    tag: str = ""

    def loads(self, subject: Subject) -> bool:
        """Whether it was seen to load the like."""
        manifest, spec = subject.manifest, subject.manifest.model
        if manifest.task == "embed" and "dense" not in spec.heads:
            return False
        if self.pooled and (spec.pooling not in POOLED or spec.modules != [NORMALIZE]):
            return False
        known = (manifest.target, manifest.task) == (self.target, self.task) and spec.architecture in self.architectures
        return known and (bool(subject.precision) or not self.hub)


THREE = ("bert", "qwen3", "xlm_roberta")
# What scripts/interop has seen, and a test compares the two: whoever adds a case there adds the architecture here.
LOADERS = (
    Loader("mlx-embeddings", "mlx", "embed", THREE, _mlx_embeddings, pooled=True),
    Loader("mlx-lm", "mlx", "embed", ("qwen3",), _mlx_lm, pooled=True),
    Loader("sentence-transformers", "onnx", "embed", THREE, _sentence_transformers, tag="sentence-transformers"),
    Loader("optimum, scores", "onnx", "rerank", ("xlm_roberta",), _optimum_scores, title="optimum"),
    Loader(
        "transformers.js", "onnx", "embed", ("bert", "qwen3"), _transformers_js, pooled=True, hub=True, tag="transformers.js"
    ),
    Loader("fastembed", "onnx", "embed", THREE, _fastembed, pooled=True, hub=True),
    Loader("text-embeddings-inference", "onnx", "embed", (), _tei, hub=True, tag="text-embeddings-inference"),
)
UNWRITTEN = ("optimum",)  # of scripts/interop's loaders: sentence-transformers runs the same code, and pools


def loaders(subject: Subject) -> list[Loader]:
    """The libraries that were seen to load the like."""
    return [loader for loader in LOADERS if loader.loads(subject)]
