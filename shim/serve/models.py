"""All that is served, by name: loaded, found, reloaded, ended."""

import asyncio
from collections.abc import Callable

from shim.errors import UsageError
from shim.model import Model
from shim.serve.faults import Kind, Refusal
from shim.serve.metrics import Metrics
from shim.serve.served_model import ServedModel, overloaded
from shim.serve.settings import Settings


class Models:
    """All that is served. The first artifact of a recipe answers to the recipe's name, too."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self.settings, self.metrics = settings, metrics
        self.by_name: dict[str, ServedModel] = {}
        self.aliases: dict[str, str] = {}
        self._replaced: list[ServedModel] = []  # which still have requests to answer
        self.unanswered = 0  # requests that the end came too early for
        self._reloading = asyncio.Lock()

    def add(self, opener: Callable[[], Model]) -> None:
        """Load one more artifact. Raises what `opener` raises, and UsageError for a name given twice."""
        found = ServedModel(opener, self.settings, self.metrics)
        if found.model.name in self.by_name:
            found.close(drain=False)
            raise UsageError(f"{found.model.name} is given twice")
        self.by_name[found.model.name] = found
        self.aliases.setdefault(found.model.manifest.recipe, found.model.name)

    def find(self, name: str | None, task: str, head: str = "") -> ServedModel:
        """The artifact of that name; where none is asked for, the first of the task with that head. Raises Refusal."""
        if name is None:
            for found in self.by_name.values():
                if found.model.task == task and head in ("", *found.model.manifest.model.heads):
                    return found
            raise Refusal(Kind.NO_MODEL, f"no {head} {task} model is served here".replace("  ", " "), "model")
        found_or_none = self.by_name.get(self.aliases.get(name, name))
        if found_or_none is None:
            message = f"model {name[:100]!r} is not served here; there is {', '.join(self.by_name)}"
            raise Refusal(Kind.NO_MODEL, message, "model")
        return found_or_none

    def full(self) -> Refusal | None:
        """The refusal of a request that no model would accept now, whichever it names."""
        error = None
        for found in self.by_name.values():
            error = found.thread.full()
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

    def close(self) -> bool:
        """End every model after the batch in progress, and say whether all did; two seconds are enough for one that can."""
        ended = [found.close(drain=False, timeout=2) for found in (*self.by_name.values(), *self._replaced)]
        return all(ended)
