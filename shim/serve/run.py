"""Take the port, load the models, then serve until a signal."""

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from shim.errors import UsageError
from shim.model import Model

log = logging.getLogger("shim")


def serve_forever(openers: Sequence[Callable[[], Model]], host: str, port: int) -> None:
    """Open every model in a thread of its own and serve them on host:port.

    Raises UsageError for a port that cannot be had, a name given twice and a missing extra.
    """
    try:
        import fastapi  # noqa: F401
        import orjson  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'sealport[serve]'") from None
    from shim.serve.app import create_app
    from shim.serve.scheduler import ModelThread

    threads: dict[str, ModelThread] = {}
    aliases: dict[str, str] = {}
    with _bind(host, port) as listener:
        try:
            for opener in openers:
                thread = ModelThread(opener)
                model = thread.model
                if model.name in threads:
                    thread.close()
                    raise UsageError(f"{model.name} is given twice")
                threads[model.name] = thread
                aliases.setdefault(model.manifest.recipe, model.name)  # the first artifact of a recipe answers to its name
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
            logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
            shown = f"[{host}]" if ":" in host else host
            listener.listen(128)  # who reads the next line may connect at once
            log.info("%s running on http://%s:%d", ", ".join(threads), shown, listener.getsockname()[1])
            config = uvicorn.Config(create_app(threads, aliases), log_config=None, access_log=False)
            with contextlib.suppress(KeyboardInterrupt):  # raised by the signal that ended it, once all is answered
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            for thread in threads.values():
                thread.close()


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
