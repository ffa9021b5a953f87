"""A body as its route wants it: what a large one may cost the others is bounded before and while it is read."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import TypeAdapter, ValidationError

from shim.serve.dialects.lists import MOST
from shim.serve.faults import Kind, Refusal
from shim.serve.refusals import invalid_refusal
from shim.serve.turns import CLIENT, Turns

LARGE = 65_536  # bytes of a body that is read in a turn of its own
REST = 3  # times as long as the last large body took, the event loop is left to others
FIELDS = 64  # of a request, and one of each text


class Parsing:
    """Bodies read one after the other, the large ones in their clients' turns."""

    def __init__(self, max_inputs: int):
        self.max_inputs, self._turns = max_inputs, Turns()

    async def read(self, adapter: TypeAdapter[object], content: bytes) -> object:
        """The body. Raises ValidationError for a small one that is not what the route wants, Refusal for a large one."""
        if len(content) <= LARGE:
            return self._validated(adapter, content)
        await self._turns.take(CLIENT.get())
        started = time.perf_counter()
        try:
            most = FIELDS + 2 * self.max_inputs
            # There are no more names than colons, which are counted fifty times as fast.
            if content.count(b":") > most and (names := _names(content)) > most:
                raise Refusal(Kind.INVALID, f"{names} names in the body: more than any request has")
            with _without_collections():
                return self._validated(adapter, content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise invalid_refusal(first | {"loc": ("body", *first["loc"])}) from None
        finally:
            asyncio.get_running_loop().call_later(REST * (time.perf_counter() - started), self._turns.give)

    def _validated(self, adapter: TypeAdapter[object], content: bytes) -> object:
        return adapter.validate_json(content, context={MOST: self.max_inputs})


def _names(content: bytes) -> int:
    """Names in a body's objects, about: quotes before a colon, but for those that a backslash makes a text's own."""
    bare = content.translate(None, b" \t\r\n")
    return bare.count(b'":') - bare.count(b'\\":') + bare.count(b'\\\\":')


@contextmanager
def _without_collections() -> Iterator[None]:
    """No collection of garbage: through all that a body makes, again and again, they take most of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
