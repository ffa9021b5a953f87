"""Which models are in memory: loaded when asked for, unloaded when idle or where another needs their room. No HTTP here."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from shim.errors import SealportError
from shim.serve.faults import Kind, Refusal
from shim.serve.listed import Listed
from shim.serve.memory import expected, release, resident
from shim.serve.served_model import ServedModel, ending, overloaded
from shim.serve.settings import Settings
from shim.serve.turns import CLIENT, Shares
from shim.serve.unanswered import BrokenOutputError, ClosedError, FullError

AGAIN = 10.0  # seconds in which a model that could not be loaded is not tried again
LATER = {"retry-after": f"{AGAIN:.0f}"}
RETRY = 5  # seconds after which a client may ask again that had no place among those that wait for a model
log = logging.getLogger("shim")


@dataclass(eq=False)
class _State:
    """What is known of a listed model. users: requests that use it; waiters: those that wait until it is loaded."""

    waiting: Shares
    users: set[object] = field(default_factory=set)
    waiters: set[object] = field(default_factory=set)
    leaving: asyncio.Event | None = None  # it is to be unloaded; set when nobody uses it
    loading: "asyncio.Task[None] | None" = None
    idle: asyncio.TimerHandle | None = None
    used: float = 0.0  # when a request ended
    measured: int = 0  # bytes that it took
    failed: tuple[float, Refusal] | None = None  # when it could not be loaded, and why


class OnDemand:
    """Loads and unloads, one model at a time. Everything happens in the event loop, but what takes long.

    What models take is never over `max_memory`: room is made before one is loaded. What is used least recently goes first, and
    only once the requests that use it have ended; others wait meanwhile, within a share for each client.
    """

    def __init__(
        self,
        settings: Settings,
        listed: dict[str, Listed],
        opened: Callable[[Listed], ServedModel],
        ended: Callable[[Listed, ServedModel], bool],
    ):
        """opened: load a model, whatever that raises. ended: end a model, and whether it did; both take long."""
        self.settings, self._listed, self._opened, self._ended = settings, listed, opened, ended
        self._states: dict[Listed, _State] = {}
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._bare = resident()  # bytes of the process without models
        self.lost = 0  # bytes of models whose threads hang and will not end

    @property
    def taken(self) -> int:
        """Bytes of the models in memory, without their batches."""
        return self.lost + sum(one.memory for one in self._listed.values() if one.served is not None)

    async def use(self, one: Listed, who: object, work: int) -> ServedModel:
        """The model, loaded, and kept until `leave`. work: what waiting for it counts as. Raises Refusal."""
        state = self._state(one)
        if one.served is None or state.leaving is not None:
            await self._wait(one, state, who, work)
        state.users.add(who)
        if state.idle is not None:
            state.idle.cancel()
        assert one.served is not None
        return one.served

    def leave(self, one: Listed, who: object) -> None:
        """The request is over, whether it got the model or not."""
        state = self._state(one)
        if who in state.users:
            state.users.remove(who)
            state.used = time.monotonic()
            if not state.users:
                self._unused(one, state)

    def full(self, one: Listed, client: str, work: int) -> FullError | None:
        """Why no more requests of that client may wait for a model that is not loaded, if so."""
        waiting = self._state(one).waiting
        return FullError(len(self._state(one).waiters), RETRY) if waiting.full(client, work) else None

    def waits(self, one: Listed) -> bool:
        """Whether a request for it would wait until it is loaded."""
        return one.served is None or self._state(one).leaving is not None

    async def again(self, one: Listed) -> ServedModel:
        """Unload it, once its requests have ended, and load it as it lies there now. Raises Refusal."""
        state = self._state(one)
        if one.served is not None:
            async with self._turn:
                await self._unload(one, state)
        state.failed = None
        who = object()
        try:
            return await self.use(one, who, 1)
        finally:
            self.leave(one, who)

    def refuse(self) -> int:
        """Load nothing more, and refuse the requests that wait for it; how many that were."""
        self._closing = True
        waiting = sum(len(state.waiters) for state in self._states.values())
        for state in self._states.values():
            if state.loading is not None:
                state.loading.cancel()
        return waiting

    def _state(self, one: Listed) -> _State:
        if one not in self._states:
            self._states[one] = _State(Shares(self.settings.max_queue))
        return self._states[one]

    async def _wait(self, one: Listed, state: _State, who: object, work: int) -> None:
        if state.failed is not None and time.monotonic() - state.failed[0] < AGAIN:
            raise state.failed[1]
        if self._closing:
            raise ending(ClosedError())
        client = CLIENT.get()
        if (full := self.full(one, client, work)) is not None:
            raise overloaded(full)
        state.waiting.take(client, work)
        state.waiters.add(who)
        try:
            if state.loading is None:
                state.loading = self._begin(self._load(one, state))
            loading = state.loading
            try:
                await asyncio.shield(loading)
            except asyncio.CancelledError:
                if not loading.cancelled():
                    raise  # the client left; the model is loaded all the same
                raise ending(ClosedError()) from None
        finally:
            state.waiters.discard(who)
            state.waiting.give(client, work)

    async def _load(self, one: Listed, state: _State) -> None:
        try:
            async with self._turn:
                if one.served is None and state.waiters:  # else all have left
                    await self._make_room(one, one.memory)
                    log.info("loading", extra={"model": one.name, "memory": one.memory})
                    before = resident()
                    one.served = await asyncio.to_thread(self._opened, one)
                    # What others compute meanwhile makes the process larger, too: no more than was expected counts.
                    state.measured = max(state.measured, one.manifest.size, resident() - before)
                    one.memory = min(state.measured, expected(one.manifest))
                    state.failed = None
                state.users |= state.waiters
            if not state.users:
                self._unused(one, state)
        except Refusal as refusal:
            state.failed = time.monotonic(), refusal
            raise
        except Exception as error:  # whatever a runtime raises
            message = str(error) if isinstance(error, SealportError | BrokenOutputError) else type(error).__name__
            log.error("the model cannot be loaded", extra={"model": one.name, "error": message})
            # The message may name files of this machine, which are nothing to clients.
            told = Refusal(Kind.NOT_LOADED, f"{one.name} cannot be loaded; the server's log says why", headers=LATER)
            state.failed = time.monotonic(), told
            raise told from None
        finally:
            state.loading = None

    async def _make_room(self, one: Listed, need: int) -> None:
        """Unload others until there are so many bytes for it. Raises Refusal where what stays leaves no room."""
        limit = self.settings.max_memory
        while limit is not None and max(self.taken, resident() - self._bare) + need > limit:
            others = [other for other in self._listed.values() if other.served and not other.stays]
            if others:
                first = min(others, key=lambda other: (bool(self._state(other).users), self._state(other).used))
                await self._unload(first, self._state(first))
            elif self.taken + need > limit:
                message = f"{one.name} cannot be loaded: it needs {need / 1e9:.2f} GB of --max-memory {limit / 1e9:.2f} GB"
                message += f", and {self.taken / 1e9:.2f} GB stay taken" if self.taken else ""
                raise Refusal(Kind.NOT_LOADED, message, headers=LATER)
            else:
                break  # what is left of others, the process will use again

    async def _unload(self, one: Listed, state: _State) -> None:
        """Unload it as soon as no request uses it. Those that come meanwhile wait until it is loaded again."""
        state.leaving = asyncio.Event()
        try:
            if state.users:
                await state.leaving.wait()
        finally:
            state.leaving = None
        served, one.served = one.served, None
        if served is None:
            return
        ended = await asyncio.to_thread(self._ended, one, served)
        log.info("unloaded" if ended else "unloaded, but its thread hangs", extra={"model": one.name})
        if not ended:
            self.lost += one.memory
        del served
        await asyncio.to_thread(release)

    def _unused(self, one: Listed, state: _State) -> None:
        if state.leaving is not None:
            state.leaving.set()
        elif not one.stays and one.served is not None and self.settings.keep_alive is not None:
            if state.idle is not None:
                state.idle.cancel()
            loop = asyncio.get_running_loop()
            state.idle = loop.call_later(self.settings.keep_alive, lambda: self._begin(self._expire(one, state)))

    async def _expire(self, one: Listed, state: _State) -> None:
        async with self._turn:
            if one.served is not None and not state.users:
                await self._unload(one, state)

    def _begin(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # else nobody holds it
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the requests that wait for it tell it
