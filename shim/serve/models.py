"""All that is served: loaded, found by its names, reloaded, ended."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from shim.artifact import Manifest
from shim.errors import SealportError, UsageError
from shim.late import fault
from shim.model import Model
from shim.serve.faults import Refusal
from shim.serve.listed import Listed, Names, Opener
from shim.serve.memory import expected, resident
from shim.serve.metrics import Metrics
from shim.serve.on_demand import OnDemand
from shim.serve.served_model import WORK, ServedModel, overloaded
from shim.serve.settings import Settings
from shim.serve.turns import CLIENT
from shim.serve.unanswered import BrokenOutputError

LOOK = 1.0  # seconds between looks at the models' threads
AGAIN = 10.0  # seconds after a start that failed
log = logging.getLogger("shim")


class Found(NamedTuple):
    """A model, and the task of the name by which it was asked for, where a request names none."""

    served: ServedModel
    task: str | None


class Models:
    """All that is served; see Names for what they are called, and OnDemand for which are in memory."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self.settings, self.metrics = settings, metrics
        self.listed: dict[str, Listed] = {}
        self.names = Names(self.listed)
        self.on_demand = OnDemand(settings, self.listed, self._load, self._unload)
        self._replaced: list[ServedModel] = []  # which still have requests to answer
        self.unanswered = 0  # requests that the end came too early for
        self._reloading = asyncio.Lock()
        self._closing = threading.Event()
        self._watch: threading.Thread | None = None
        metrics.memory.set_function(lambda: self.on_demand.taken)

    def add(self, opener: Opener, name: str | None = None) -> None:
        """Load one more artifact, which stays. name: in place of its own.

        Raises what `opener` raises, and UsageError for a name given twice.
        """
        before = resident()
        served = ServedModel(_named(opener, name), self.settings, self.metrics)
        manifest = served.model.manifest
        memory = max(manifest.size, resident() - before)
        one = Listed(served.model.name, served.opener, manifest, served=served, memory=memory)
        try:
            self._add(one)
        except UsageError:
            served.close(drain=False)
            raise

    def offer(self, opener: Opener, manifest: Manifest) -> None:
        """List one more artifact, which is loaded when it is asked for. Raises UsageError for a name given twice."""
        self._add(Listed(manifest.name, opener, manifest, stays=False, memory=expected(manifest)))

    def check_memory(self) -> None:
        """Raise UsageError where the models that stay take more than there may be."""
        limit, taken = self.settings.max_memory, self.on_demand.taken
        if limit is not None and taken > limit:
            gb = f"{limit / 1e9:.2f} GB, but the models that are given take {taken / 1e9:.2f} GB"
            raise UsageError(f"--max-memory is {gb}; give more, or let them be loaded when asked for, by --models")

    def name(self) -> None:
        """The names that the settings give, once all are added. Raises UsageError for one that cannot be meant."""
        if self.settings.served_name is not None:
            self.names.one_for_all(self.settings.served_name)
        for alias, target in self.settings.aliases:
            self.names.alias(alias, target)
        for name, task in self.settings.tasks:
            self.names.task(name, task)

    @contextmanager
    def asking(self, size: int = 0) -> Iterator["Asking"]:
        """For one request of so many bytes: what it finds is kept in memory until it ends."""
        asking = Asking(self, 1 + size // WORK)
        try:
            yield asking
        finally:
            asking.close()

    def full(self, characters: int) -> Refusal | None:
        """The refusal of a request of so many characters that no model would accept now of this client, whichever it names."""
        error, work = None, 1 + characters // WORK
        for one in self.listed.values():
            served = None if self.on_demand.waits(one) else one.served
            error = served.thread.full(CLIENT.get(), work) if served else self.on_demand.full(one, CLIENT.get(), work)
            if error is None:
                return None
        return overloaded(error) if error else None

    @property
    def loaded(self) -> dict[str, ServedModel]:
        """What is in memory, by name."""
        return {name: one.served for name, one in self.listed.items() if one.served is not None}

    @property
    def unready(self) -> list[str]:
        """Models that do not answer as they should."""
        return [name for name, found in self.loaded.items() if not found.thread.ready]

    async def reload(self, name: str) -> Model:
        """Load what lies at the artifact's path now, beside the old one, which serves until the new one is verified and warm.

        One that is loaded on demand is unloaded first. Raises whatever is wrong with the new one, Refusal for one on demand;
        the old one of others stays then.
        """
        async with self._reloading:
            one, _ = self.names.find(name, "")
            if not one.stays:
                return (await self.on_demand.again(one)).model
            old = one.served
            assert old is not None
            new = await asyncio.to_thread(ServedModel, old.opener, self.settings, self.metrics)
            if new.model.manifest.name != old.model.manifest.name:
                new.close(drain=False)
                names = f"{new.model.manifest.name} now, not {old.model.manifest.name}"
                raise UsageError(f"the path holds {names}; restart to serve another model")
            one.served, one.manifest = new, new.model.manifest
            new.thread.succeed(old.thread)
            # Requests that the old one accepted are still answered by it, unless it hangs.
            self._replaced.append(old)
            if not await asyncio.to_thread(old.close, True, float(self.settings.drain_timeout)):
                old.thread.refuse()
            self._replaced.remove(old)
            return new.model

    def refuse(self) -> None:
        """Take no more requests, and refuse those accepted: their time is over."""
        self.unanswered += self.on_demand.refuse()
        self.unanswered += sum(found.thread.refuse() for found in (*self.loaded.values(), *self._replaced))

    def close(self) -> bool:
        """End every model after the batch in progress, and say whether all did; two seconds are enough for one that can."""
        self._closing.set()
        ended = [found.close(drain=False, timeout=2) for found in (*self.loaded.values(), *self._replaced)]
        return all(ended)

    def _add(self, one: Listed) -> None:
        if one.name in self.listed:
            raise UsageError(f"{one.name} is given twice; give one of them as NAME=ARTIFACT")
        self.listed[one.name] = one
        self.names.add(one)
        self.metrics.model_memory.labels(one.name).set_function(lambda: one.memory if one.served else 0)
        if self._watch is None:
            self._watch = threading.Thread(target=self._watching, name="watch", daemon=True)
            self._watch.start()

    def _load(self, one: Listed) -> ServedModel:
        """Load a listed model, as it lies there now."""
        served = ServedModel(one.opener, self.settings, self.metrics)
        if served.model.name != one.name or served.model.task != one.manifest.task:
            served.close(drain=False)
            raise UsageError(f"the path holds {served.model.name} now; restart to serve another model")
        one.manifest = served.model.manifest
        return served

    def _unload(self, one: Listed, served: ServedModel) -> bool:
        """End a model that no request uses any more, and whether it did."""
        with one.lock:  # it is not started anew meanwhile
            ended = served.close(True, float(self.settings.drain_timeout))
        self.metrics.ready.remove(one.name)
        return ended

    def _watching(self) -> None:
        while not self._closing.wait(LOOK):
            for one in list(self.listed.values()):
                self._look_after(one)

    def _look_after(self, one: Listed) -> None:
        """Start the model anew where only that helps, from its artifact, which is checked again."""
        try:
            with one.lock:
                if one.served is not None and one.served.revive():
                    log.warning("the model is started anew", extra={"model": one.name})
        except Exception as error:  # whatever a runtime raises; a later look tries again
            message = str(error) if isinstance(error, SealportError | BrokenOutputError) else type(error).__name__
            log.error("the model cannot be started anew", extra={"model": one.name, "error": message})
            self._closing.wait(AGAIN)


class Asking:
    """What one request finds."""

    def __init__(self, models: Models, work: int):
        self.models, self.work = models, work
        self._used: list[Listed] = []

    async def find(self, name: str | None, task: str, head: str = "") -> Found:
        """The model of that name, loaded, see `Names.find`. Raises Refusal."""
        one, default = self.models.names.find(name, task, head)
        self._used.append(one)
        return Found(await self.models.on_demand.use(one, self, self.work), default)

    def has(self, task: str) -> bool:
        """Whether a model of that task is served."""
        return any(one.manifest.task == task for one in self.models.listed.values())

    def late_chunkers(self) -> list[str]:
        """The models here that do late chunking."""
        able = [one for one in self.models.listed.values() if one.manifest.task == "embed"]
        return [one.name for one in able if not fault(one.manifest.model)]

    def close(self) -> None:
        """The request is over."""
        for one in self._used:
            self.models.on_demand.leave(one, self)


def _named(opener: Opener, name: str | None) -> Opener:
    """The model under another name."""

    def opened() -> Model:
        model = opener()
        model.name = name or model.name
        return model

    return opened
