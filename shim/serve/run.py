"""Take the port, load the models, then serve until a signal."""

import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from shim.errors import UsageError
from shim.held import remove_folders
from shim.serve.given import Given
from shim.serve.settings import Settings

BACKLOG = 256  # connections that the system keeps for us; all of them may come at once
OTHERS = 384  # open files that are no connections, SPARE and BACKLOG included
log = logging.getLogger("shim")
if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp


def serve_forever(given: Sequence[Given], host: str, port: int, settings: Settings) -> int:
    """Open every model that stays in a thread of its own and serve all on host:port; 1 when the end left requests unanswered.

    Else 0. Raises UsageError for a port that cannot be had, a name given twice and a missing extra. A signal that comes while
    models are loaded ends the process.
    """
    try:
        return _served(given, host, port, settings)
    except KeyboardInterrupt:
        remove_folders()
        _leave(0)


def _served(given: Sequence[Given], host: str, port: int, settings: Settings) -> int:
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import orjson  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401

        from shim.serve.connections import Connections
        from shim.serve.server import Server
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'sealport[serve]'") from None
    from shim.serve.app import create_app
    from shim.serve.logs import set_up
    from shim.serve.metrics import Metrics
    from shim.serve.models import Models
    from shim.serve.welcome import welcome

    # Its threads, woken for every request, would take the cores from the models'.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    metrics = Metrics()
    models = Models(settings, metrics)
    connections = Connections(settings, metrics)

    def code() -> int:
        return int(models.unanswered > 0 or server.unanswered > 0)

    with _bind(host, port) as listener:
        try:
            for one in given:
                models.add(one.opener, one.name) if one.manifest is None else models.offer(one.opener, one.manifest)
            models.check_memory()
            models.name()
            set_up()
            shown = f"[{host}]" if ":" in host else host
            connections.limit = _places(settings.max_connections)
            listener.listen(BACKLOG)  # who reads the next line may connect at once
            names, address = ", ".join(models.listed), f"http://{shown}:{listener.getsockname()[1]}"
            facts = {"models": list(models.listed), "address": address}
            config = _config(create_app(models, metrics), settings)
            gc.freeze()  # all that stays: under load, collections would go through it again and again
            started = partial(log.info, "%s running on %s", names, address, extra=facts)
            if sys.stderr.isatty():
                manifests = {name: found.manifest for name, found in models.listed.items()}
                started = partial(print, welcome(manifests, address, settings), file=sys.stderr, flush=True)
            server = Server(config, connections, started, models.refuse, code)
            server.run(sockets=[listener])
            log.info("stopped", extra={"unanswered": models.unanswered})
        finally:
            ended = models.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # python's own handlers are gone before it has ended: a signal then would kill it
    if not ended:
        _leave(code())
    return code()


def _leave(code: int) -> NoReturn:
    # What loads, or a batch that hangs, is in a runtime's own code, which aborts an interpreter that ends under it.
    logging.shutdown()
    os._exit(code)


def _config(app: "ASGIApp", settings: Settings) -> "uvicorn.Config":
    """What uvicorn is to do, and what is done here in its place."""
    import uvicorn

    from shim.serve.protocol import Protocol

    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.drain_timeout,
    )


def _places(wanted: int) -> int:
    """How many connections the process may have, at most `wanted`: the limit of open files is raised as far as it can be."""
    needed, endless = wanted + OTHERS, resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if endless != soft < needed:
        soft = needed if hard == endless else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    places = wanted if endless == soft else min(wanted, soft - OTHERS)
    if places < 1:
        raise UsageError(f"a limit of {soft} open files leaves no connection; raise it (ulimit -n)")
    if places < wanted:
        log.warning("the limit of open files leaves fewer connections", extra={"files": soft, "connections": places})
    return places


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket: a port in use is found out before minutes of loading."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host} port {port} ({error.strerror})") from None
    return listener
