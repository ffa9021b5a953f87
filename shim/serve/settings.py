"""How a server is to run: its limits and its keys."""

import ipaddress
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

from shim.batches import BATCH_TOKENS
from shim.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """max_body: bytes. max_inputs: texts a request. max_queue: work that a model takes on of one client at once: a request
    counts as one, and as one more for each WORK characters.

    batch_tokens: padded tokens computed at once. batch_timeout: seconds after which a batch that takes far longer than its like
    hangs, and the model is started anew. max_held: bytes of bodies and answers, see Held. request_timeout: seconds for a client
    to send a request, and to read an answer. drain_timeout: seconds to answer what was accepted and end, when told to stop.
    keys and admin_keys: each opens its routes; without a key the former are open and the latter shut. origins: whose pages may
    ask. hosts: names that requests may be sent to; any if there are none. pages: whether there are the pages for people.
    served_name: of the only embedder and the only reranker. aliases: (name, model). tasks: (model or alias, the task of
    requests that name none). max_memory: bytes of all models, None for any. keep_alive: seconds that a model on
    demand stays unused.
    """

    max_body: int = 6_500_000
    max_inputs: int = 2048
    max_queue: int = 64
    batch_tokens: int = BATCH_TOKENS
    batch_timeout: int = 120
    max_connections: int = 512
    max_held: int = 64_000_000
    request_timeout: int = 60
    drain_timeout: int = 30
    keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    served_name: str | None = None
    aliases: tuple[tuple[str, str], ...] = ()
    tasks: tuple[tuple[str, str], ...] = ()
    max_memory: int | None = None
    keep_alive: float | None = None
    hosts: tuple[str, ...] = ()
    pages: bool = True


def read_keys(key: str | None, path: Path | None, name: str) -> tuple[str, ...]:
    """The key given, and one more for each line of the file.

    Raises UsageError for a file that holds none or cannot be read, and for a key of odd characters.
    """
    keys = [key] if key is not None else []
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name} file {path} cannot be read ({type(error).__name__})") from None
        if mode & stat.S_IWOTH:
            warnings.warn(f"{name} file {path} may be written by every user; chmod o-w it", stacklevel=2)
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise UsageError(f"{name} file {path} holds no key; write one a line")
        keys += found
    if not all(key.isascii() and key.isprintable() and key.split() == [key] for key in keys):
        raise UsageError(f"{name}: a key is printable ASCII without spaces, and not empty")
    return tuple(keys)


def check_exposure(host: str, keys: tuple[str, ...], insecure: bool) -> None:
    """Raise UsageError for an address that others can reach when there is no key, unless `insecure`."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not (local or keys or insecure):
        raise UsageError(f"{host} can be reached by others: set a key (--api-key-file), or --insecure to serve without one")
