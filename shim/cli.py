"""The `shim` command; errors are printed and exit codes set by console.py."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import shim
from shim import hub
from shim.bulk.options import corpus as of_corpus
from shim.console import HELP, run, show_json
from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.lines import RANKING, TEXT, lines, text_of
from shim.loading_options import ARTIFACT, Opener, choosing, loading
from shim.nearest import meant
from shim.results import Embeddings
from shim.serve.command import serve

BATCH = 64  # lines embedded at a time


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


main_group.add_command(serve)


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
