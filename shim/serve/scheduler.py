"""One thread per model: it loads the model, then answers calls in the order they came. It knows no HTTP."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from shim.model import Embeddings, Model


class ModelThread:
    """A model and the only thread that touches it."""

    def __init__(self, opener: Callable[[], Model]):
        """Load the model in its own thread and wait for it; whatever `opener` raises is raised here."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        try:
            self.model = self._executor.submit(opener).result()
        except BaseException:
            self._executor.shutdown(wait=False)
            raise

    async def embed(self, texts: list[str], task: str | None, dimensions: int | None) -> Embeddings:
        """`Model.embed` in the model's thread, when its turn comes."""
        call = partial(self.model.embed, texts, task=task, dimensions=dimensions)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Finish the call in progress, drop the others."""
        self._executor.shutdown(wait=True, cancel_futures=True)
