"""The `shim` command; errors are printed and exit codes set by console.py."""

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

import shim
from shim import hub
from shim.batches import BATCH_TOKENS
from shim.bulk.options import corpus as of_corpus
from shim.console import HELP, run, show_json
from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.lines import RANKING, TEXT, lines, text_of
from shim.loading import describe, load
from shim.model import Model
from shim.nearest import meant
from shim.results import Embeddings

Result = TypeVar("Result")
Opener = partial[Model]
BATCH = 64  # lines embedded at a time
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
ARTIFACT = "ARTIFACT|ORG/NAME[@REV]"
NAMED = f"[NAME=]{ARTIFACT}"
LOADING = ("runtime", "device", "allow_unverified", "min_parity", "precision", "require_signature")


def choosing(command: Callable[..., Result]) -> Callable[..., Result]:
    """The options of every command that takes an artifact of the hub."""
    for option in (
        click.option("--require-signature", metavar="KEY", type=FILE, help="Take only what this public key's owner signed."),
        click.option("--precision", help="Which one of a repository that has several, such as 8bit."),
    ):
        command = option(command)
    return command


def loading(command: Callable[..., Result]) -> Callable[..., Result]:
    """The options of every command that loads an artifact; it gets an `opener`, which loads one as they say."""

    @functools.wraps(command)
    def opening(**given: Any) -> Result:
        opener = partial(load, **{name: given.pop(name) for name in LOADING})
        return command(opener=opener, **given)

    with_options = choosing(opening)
    for option in (
        click.option("--min-parity", type=click.FloatRange(0, 1), help="Accept an artifact sealed at this lower parity."),
        click.option("--allow-unverified", is_flag=True, help="Load an artifact without checking verdict and hashes."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, gpu (MLX) or cuda (ONNX)."),
        click.option("--runtime", default="auto", show_default=True, help="openvino: of an ONNX artifact verified with it."),
    ):
        with_options = option(with_options)
    return with_options


class ShimGroup(click.Group):
    """Its commands; of a word that is near one of them, that one is offered."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r:.100}{meant(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=ShimGroup, no_args_is_help=True, context_settings=HELP)
@click.version_option(shim.__version__, message="%(version)s")
def main_group() -> None:
    """Serve sealed embedding and reranking artifacts.

    Exit codes: 0 done; 1 an output is not finite; 2 wrong usage or input; 3 the hub or the disk could not be read or written;
    4 integrity check failed; 130 interrupted.
    """


@main_group.command()
@click.argument("artifacts", metavar=f"{NAMED}...", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."
)
@click.option("--served-model-name", metavar="NAME", help="A name for the only embedder, and for the only reranker.")
@click.option("--alias", multiple=True, metavar="NAME=MODEL", help="Another name of a model; may be repeated.")
@click.option(
    "--default-task",
    multiple=True,
    metavar="NAME=TASK",
    help="The task of requests that name none, by model or alias, such as retrieval.query; may be repeated.",
)
@click.option(
    "--models", metavar="DIR", type=FOLDER, help="Serve the artifacts in a folder, too, each loaded when it is asked for."
)
@click.option(
    "--keep-alive",
    default="10m",
    show_default=True,
    help="How long a model of --models stays unused: 30s, 10m, 1h; 0 for not at all.",
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    help="Bytes that models may take in all, such as 6GB: models of --models make room for each other.",
)
@click.option("--max-body", default=6_500_000, show_default=True, type=click.IntRange(1), help="Bytes of a request.")
@click.option("--max-inputs", default=2048, show_default=True, type=click.IntRange(1), help="Texts of a request.")
@click.option(
    "--max-queue",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Work that a model takes on of each key (or address): 1 a request, and 1 more for 32768 characters.",
)
@click.option(
    "--batch-tokens", default=BATCH_TOKENS, show_default=True, type=click.IntRange(1), help="Padded tokens computed at once."
)
@click.option(
    "--batch-timeout",
    default=120,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds, and ten times what its like took, until a batch hangs and the model is started anew.",
)
@click.option("--plain-text", is_flag=True, help="Take control tokens in texts, such as <|im_end|>, for text.")
@click.option(
    "--max-connections", default=512, show_default=True, type=click.IntRange(1), help="Connections, beside 16 for health only."
)
@click.option(
    "--max-held",
    default=64_000_000,
    show_default=True,
    type=click.IntRange(0),
    help="Bytes of bodies and answers held at once, beyond 64 KiB each; a client may hold half of them.",
)
@click.option(
    "--request-timeout",
    default=60,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds for a client to send a request, and to read its answer.",
)
@click.option(
    "--drain-timeout", default=30, show_default=True, type=click.IntRange(1), help="Seconds to finish and end, on SIGTERM."
)
@click.option("--api-key", envvar="SEALPORT_API_KEY", help="Key that clients must send; others see it in the process list.")
@click.option("--api-key-file", type=FILE, help="File of keys, one a line.")
@click.option("--admin-key", envvar="SEALPORT_ADMIN_KEY", help="Key of POST /admin/reload, which is shut without one.")
@click.option("--admin-key-file", type=FILE, help="File of admin keys, one a line.")
@click.option("--insecure", is_flag=True, help="Listen on an address that others can reach without a key.")
@click.option(
    "--allowed-host", multiple=True, help="Name that requests may be sent to, in `Host`; may be repeated. Any by default."
)
@click.option("--no-ui", is_flag=True, help="Leave out the pages for people, / and /docs.")
@click.option("--cors-origin", multiple=True, help="Origin whose pages may ask; may be repeated. None by default.")
@loading
def serve(
    artifacts: tuple[str, ...],
    opener: Opener,
    host: str,
    port: int,
    insecure: bool,
    plain_text: bool,
    no_ui: bool,
    **given: Any,
) -> int:
    """Serve artifacts over HTTP, of this machine or of the hub; GET / is a page to try them, GET /docs lists the routes.

    Keys may also come from the environment: SEALPORT_API_KEY, SEALPORT_ADMIN_KEY.
    """
    from shim.serve.given import BYTES, SECONDS, Given, amount, folder, named, pair
    from shim.serve.run import serve_forever
    from shim.serve.settings import Settings, check_exposure, read_keys

    keys = read_keys(given.pop("api_key"), given.pop("api_key_file"), "--api-key")
    admin_keys = read_keys(given.pop("admin_key"), given.pop("admin_key_file"), "--admin-key")
    check_exposure(host, keys, insecure)
    origins, hosts = given.pop("cors_origin"), given.pop("allowed_host")
    memory, models = given.pop("max_memory"), given.pop("models")
    given["max_memory"] = None if memory is None else int(amount(memory, "--max-memory", BYTES))
    given["keep_alive"] = amount(given.pop("keep_alive"), "--keep-alive", SECONDS)
    given["aliases"] = tuple(pair(text, "--alias") for text in given.pop("alias"))
    given["tasks"] = tuple(pair(text, "--default-task") for text in given.pop("default_task"))
    settings = Settings(
        keys=keys,
        admin_keys=admin_keys,
        origins=origins,
        hosts=hosts,
        pages=not no_ui,
        served_name=given.pop("served_model_name"),
        **given,
    )
    found = [Given(partial(opener, artifact, plain_text=plain_text), name) for name, artifact in map(named, artifacts)]
    if models is not None:
        describing = partial(describe, **opener.keywords)
        for path, manifest in folder(models, describing):
            found.append(Given(partial(opener, str(path), plain_text=plain_text), manifest=manifest))
    if not found:
        raise UsageError("nothing to serve: give artifacts, or a folder of them by --models")
    return serve_forever(found, host, port, settings)


@main_group.command()
@click.argument("artifact", metavar=ARTIFACT)
@click.option("--task", help="The prompt to put before each text, such as retrieval.query.")
@click.option("--instruction", help="An instruction in place of the task's, for a model that takes one.")
@click.option("--prompt-name", help="The prompt by its name in the checkpoint, as in sentence-transformers.")
@click.option("--dimensions", type=int, help="Cut the vectors to this many dimensions and normalise again.")
@click.option("--heads", help="Comma-separated: dense, sparse, colbert; without it dense, or all of a model that has no dense.")
@of_corpus
@loading
def embed(artifact: str, opener: Opener, heads: str | None, corpus: dict[str, Any] | None, **asked: Any) -> int:
    """Embed JSON Lines on stdin, each a string or {"text": "…"}; write {"embedding", "tokens", "truncated"} lines in order.

    Further heads are written as "sparse", {"indices", "values"} of token ids and weights, and "colbert", a vector a token.

    With --in and --out a corpus: files of Parquet, JSON Lines, CSV or text (one a line) to Parquet, in several processes. The
    same command again goes on where one was killed, and embeds what is new. What cannot be embedded is listed in OUT/_rejects.
    """
    asked["heads"] = heads and heads.split(",")
    if corpus:
        from shim.bulk.command import embed_corpus  # pyarrow is an extra

        return embed_corpus(artifact, opener.keywords, asked, **corpus)
    model = opener(artifact)
    texts: list[str] = []
    seen = 0
    for number, value in lines(TEXT):
        texts.append(text_of(value, number))
        if len(texts) == BATCH:
            _show(model.embed(texts, **asked))
            seen, texts = seen + len(texts), []
    if texts:
        _show(model.embed(texts, **asked))
    elif not seen:
        raise UsageError("stdin holds no lines; give one JSON string or object a line")
    return 0


def _show(out: Embeddings) -> None:
    for row, vector in enumerate(out.dense):
        shown: JsonObject = {"embedding": vector.tolist()} if vector.size else {}
        shown |= {"tokens": out.tokens[row], "truncated": out.truncated[row]}
        if out.sparse is not None:
            shown["sparse"] = {"indices": list(out.sparse[row]), "values": list(out.sparse[row].values())}
        if out.colbert is not None:
            shown["colbert"] = out.colbert[row].tolist()
        click.echo(json.dumps(shown, allow_nan=False))


@main_group.command()
@click.argument("artifact", metavar=ARTIFACT)
@click.option("--instruction", help="What relevance means, for a model that takes an instruction.")
@click.option("--top-n", type=click.IntRange(min=1), help="Show only this many of the best documents.")
@loading
def rerank(artifact: str, opener: Opener, instruction: str | None, top_n: int | None) -> None:
    """Rank documents: JSON Lines on stdin, each {"query": "…", "documents": ["…", …]}.

    For each line writes {"results": [{"index", "score", "logit", "tokens", "truncated"}, …]}, best first; score is a
    probability.
    """
    model = opener(artifact)
    number = 0
    for number, value in lines(RANKING):
        if not isinstance(value, dict) or not {"query", "documents"} <= value.keys():
            raise UsageError(f"line {number}: not {RANKING}")
        try:
            ranked = model.rerank(value["query"], value["documents"], top_n=top_n, instruction=instruction)
        except UsageError as error:
            raise UsageError(f"line {number}: {error}") from None
        click.echo(json.dumps({"results": [asdict(item) for item in ranked]}, allow_nan=False))
    if not number:
        raise UsageError("stdin holds no lines; give one JSON object a line")


@main_group.command()
@click.argument("repository", metavar="ORG/NAME[@REV]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@choosing
def pull(repository: str, precision: str | None, require_signature: Path | None, as_json: bool) -> None:
    """Fetch an artifact of the hub into the cache folder, check every file of it, and print the folder."""
    found = hub.find(repository, precision, require_signature)
    folder, manifest = hub.fetch(found), found.manifest
    if not as_json:
        click.echo(folder)
        return
    facts: JsonObject = {"path": str(folder), "repository": found.repository, "revision": found.revision, "name": manifest.name}
    show_json(facts | {"precision": f"{manifest.bits}bit", "size": manifest.size, "verdict": manifest.verdict})


def main() -> None:
    """Entry point of `shim`."""
    run(main_group, "shim")
