"""Load the models, then serve until a signal."""

import logging
from collections.abc import Callable, Sequence

from shim.errors import UsageError
from shim.model import Model


def serve_forever(openers: Sequence[Callable[[], Model]], host: str, port: int) -> None:
    """Open every model in a thread of its own and serve them on host:port.

    Raises UsageError for a name given twice and for a missing extra.
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
        uvicorn.run(create_app(threads, aliases), host=host, port=port, log_config=None, access_log=False)
    finally:
        for thread in threads.values():
            thread.close()
