"""`shim serve`: options to settings."""

from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shim.batches import BATCH_TOKENS
from shim.errors import UsageError
from shim.loading import describe
from shim.loading_options import ARTIFACT, FILE, Opener, loading

NAMED = f"[NAME=]{ARTIFACT}"
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
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
    from shim.serve.given import BYTES, SECONDS, Given, amount, check_name, folder, named, pair
    from shim.serve.run import serve_forever
    from shim.serve.settings import Settings, check_exposure, read_keys

    keys = read_keys(given.pop("api_key"), given.pop("api_key_file"), "--api-key")
    admin_keys = read_keys(given.pop("admin_key"), given.pop("admin_key_file"), "--admin-key")
    check_exposure(host, keys, insecure)
    origins, hosts = given.pop("cors_origin"), given.pop("allowed_host")
    memory, models, served_name = given.pop("max_memory"), given.pop("models"), given.pop("served_model_name")
    alive = click.get_current_context().get_parameter_source("keep_alive")
    if models is None and alive is not ParameterSource.DEFAULT:
        raise UsageError("--keep-alive is for models of --models, which is not given")
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
        served_name=None if served_name is None else check_name(served_name, "--served-model-name"),
        **given,
    )
    named_ones = [named(text) for text in artifacts]
    found = [Given(partial(opener, artifact, plain_text=plain_text), name) for name, artifact in named_ones]
    if models is not None:
        describing = partial(describe, **opener.keywords)
        for path, manifest in folder(models, describing, [artifact for _, artifact in named_ones]):
            found.append(Given(partial(opener, str(path), plain_text=plain_text), manifest=manifest))
    if not found:
        raise UsageError("nothing to serve: give artifacts, or a folder of them by --models")
    return serve_forever(found, host, port, settings)
