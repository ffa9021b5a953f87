"""All that is served, by name: loaded, found, reloaded, ended."""

import asyncio
import logging
import threading
from collections.abc import Callable

from shim.errors import SealportError, UsageError
from shim.model import Model
from shim.serve.faults import Kind, Refusal
from shim.serve.metrics import Metrics
from shim.serve.served_model import WORK, ServedModel, overloaded
from shim.serve.settings import Settings
from shim.serve.turns import CLIENT
from shim.serve.unanswered import BrokenOutputError

LOOK = 1.0  # seconds between looks at the models' threads
AGAIN = 10.0  # seconds after a start that failed
log = logging.getLogger("shim")


class Models:
    """All that is served. The first artifact of a recipe answers to the recipe's name, too."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self.settings, self.metrics = settings, metrics
        self.by_name: dict[str, ServedModel] = {}
        self.aliases: dict[str, str] = {}
        self._replaced: list[ServedModel] = []  # which still have requests to answer
        self.unanswered = 0  # requests that the end came too early for
        self._reloading = asyncio.Lock()
        self._closing = threading.Event()
        self._watch: threading.Thread | None = None

    def add(self, opener: Callable[[], Model]) -> None:
        """Load one more artifact. Raises what `opener` raises, and UsageError for a name given twice."""
        found = ServedModel(opener, self.settings, self.metrics)
        if found.model.name in self.by_name:
            found.close(drain=False)
            raise UsageError(f"{found.model.name} is given twice")
        self.by_name[found.model.name] = found
        self.aliases.setdefault(found.model.manifest.recipe, found.model.name)
        if self._watch is None:
            self._watch = threading.Thread(target=self._watching, name="watch", daemon=True)
            self._watch.start()

    def find(self, name: str | None, task: str, head: str = "") -> ServedModel:
        """The artifact of that name; where none is asked for, the first of the task with that head. Raises Refusal."""
        if name is None:
            for found in self.by_name.values():
                if found.model.task == task and head in ("", *found.model.manifest.model.heads):
                    return found
            raise Refusal(Kind.NO_MODEL, f"no {head} {task} model is served here".replace("  ", " "), "model")
        found_or_none = self.by_name.get(name) or self.by_name.get(self.aliases.get(name, ""))
        if found_or_none is None:
            message = f"model {name[:100]!r} is not served here; there is {', '.join(self.by_name)}"
            raise Refusal(Kind.NO_MODEL, message, "model")
        return found_or_none

    def full(self, characters: int) -> Refusal | None:
        """The refusal of a request of so many characters that no model would accept now of this client, whichever it names."""
        error = None
        for found in self.by_name.values():
            error = found.thread.full(CLIENT.get(), 1 + characters // WORK)
            if error is None:
                return None
        return overloaded(error) if error else None

    def has(self, task: str) -> bool:
        """Whether a model of that task is served."""
        return any(found.model.task == task for found in self.by_name.values())

    @property
    def unready(self) -> list[str]:
        """Models that do not answer as they should."""
        return [name for name, found in self.by_name.items() if not found.thread.ready]

    async def reload(self, name: str) -> ServedModel:
        """Load what lies at the artifact's path now, beside the old one, which serves until the new one is verified and warm.

        Raises whatever is wrong with the new one; the old one stays then.
        """
        async with self._reloading:
            old = self.find(name, "")
            new = await asyncio.to_thread(ServedModel, old.opener, self.settings, self.metrics)
            if new.model.name != old.model.name:
                new.close(drain=False)
                raise UsageError(f"the path holds {new.model.name} now, not {old.model.name}; restart to serve another model")
            self.by_name[old.model.name] = new
            new.thread.succeed(old.thread)
            # Requests that the old one accepted are still answered by it, unless it hangs.
            self._replaced.append(old)
            if not await asyncio.to_thread(old.close, True, float(self.settings.drain_timeout)):
                old.thread.refuse()
            self._replaced.remove(old)
            return new

    def refuse(self) -> None:
        """Take no more requests, and refuse those accepted: their time is over."""
        self.unanswered += sum(found.thread.refuse() for found in (*self.by_name.values(), *self._replaced))

    def _watching(self) -> None:
        while not self._closing.wait(LOOK):
            for name in list(self.by_name):
                self._look_after(name)

    def _look_after(self, name: str) -> None:
        """Start the model of that name anew where only that helps, from its artifact, which is checked again."""
        try:
            if self.by_name[name].revive():
                log.warning("the model is started anew", extra={"model": name})
        except Exception as error:  # whatever a runtime raises; a later look tries again
            message = str(error) if isinstance(error, SealportError | BrokenOutputError) else type(error).__name__
            log.error("the model cannot be started anew", extra={"model": name, "error": message})
            self._closing.wait(AGAIN)

    def close(self) -> bool:
        """End every model after the batch in progress, and say whether all did; two seconds are enough for one that can."""
        self._closing.set()
        ended = [found.close(drain=False, timeout=2) for found in (*self.by_name.values(), *self._replaced)]
        return all(ended)
