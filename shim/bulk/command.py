"""`shim embed --in … --out …`: options to a run, and its counts to lines."""

from collections.abc import Mapping

import click

from shim.console import show_json
from shim.errors import UsageError

try:
    import fsspec  # noqa: F401  # the extra's libraries, before a file of ours needs them
    import pyarrow  # noqa: F401
except ModuleNotFoundError as error:
    raise UsageError(f"a corpus needs {error.name}: pip install 'sealport[bulk]'") from None

from shim.bulk.request import REJECTS, Request
from shim.bulk.run import run


def embed_corpus(
    artifact: str,
    loading: Mapping[str, str | bool | float | None],
    asked: Mapping[str, object],
    *,
    inputs: tuple[str, ...],
    out: str,
    text: str,
    id: str | None,
    columns: str,
    embedding_type: str,
    processes: int | None,
    rows: int,
    strict: bool,
    price: float | None,
    ray: str | None,
    as_json: bool,
) -> int:
    """Embed a corpus and print the counts; the exit code. asked: keywords of Embedder; the rest: see the options."""
    request = Request(
        artifact,
        inputs,
        out,
        text,
        id,
        tuple(name for name in map(str.strip, columns.split(",")) if name),
        {**asked, "embedding_type": embedding_type},
        dict(loading),
        rows,
        strict,
    )
    if ray is None:
        done = run(request, processes)
    else:
        from shim.bulk.on_ray import run_on_ray

        done = run_on_ray(request, ray, processes)
    click.echo(done.summary(f"{out.rstrip('/')}/{REJECTS}", price), err=True)
    if not done.texts + done.skipped + done.rejected:
        raise UsageError(f"{', '.join(inputs)}: no rows")
    if not done.texts + done.skipped:
        raise UsageError(f"none of {done.rejected} texts could be embedded; see {out.rstrip('/')}/{REJECTS}")
    if as_json:
        show_json(done.as_json(price))
    return 0
