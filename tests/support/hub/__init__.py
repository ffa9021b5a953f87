"""A hub over loopback, for the unmodified `huggingface_hub` client: a real server, whose state is a folder.

    with Hub(folder) as hub:
        commit = hub.put("nobody/tiny", checkpoint)
        subprocess.run(command, env=hub.environment(home, token=WRITE))

It speaks what the client asks of the real one to publish and to load models: repositories, commits, pull requests, branches,
tags, LFS, collections, the check of a card. It has no Xet, and `environment` switches the client's off: version 2.4 of the
client uploads by it without asking the hub, wherever the package `hf_xet` is installed.
"""

import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from support.hub import discussions, lfs, repositories, social, transfer  # noqa: F401  # each adds its routes
from support.hub.answers import Account
from support.hub.faults import Fault, Request
from support.hub.server import Listener
from support.hub.store import Store

__all__ = ["READ", "STRANGER", "WRITE", "Account", "Fault", "Hub", "Request", "environment"]
WRITE, READ, STRANGER = "hf_write_of_somebody", "hf_read_of_somebody", "hf_write_of_a_stranger"


class Hub:
    """The running hub. A test reads `log`, appends to `faults`, and may change `tokens`, `page` and `part` before it asks."""

    def __init__(self, folder: Path):
        self.store = Store(folder)
        self.tokens = {
            WRITE: Account("somebody", "write", ("nobody", "acme")),
            READ: Account("somebody", "read", ("nobody", "acme")),
            STRANGER: Account("stranger"),
        }
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.errors: list[BaseException | None] = []  # of the hub itself
        self.page = 1000  # entries of a listing that come at once
        self.part = 5_000_000_000  # bytes; a larger file is sent in parts of this size
        self.secret = secrets.token_bytes(16)  # signs the storage's addresses
        self.lock = threading.Lock()
        self.servers = [Listener(self, "hub"), Listener(self, "storage")]
        self.url, self.storage_url = (server.url for server in self.servers)

    def __enter__(self) -> "Hub":
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        for fault in self.faults:
            fault.release.set()
        for server in self.servers:
            server.stop()
        if self.errors and kind is None:
            raise AssertionError("the hub itself failed") from self.errors[0]

    def put(self, repo_id: str, files: Path | Mapping[str, Path | bytes], private: bool = False) -> str:
        """Give a repository exactly the files of a folder, or these, as one commit on main; its sha. Any path is taken."""
        return self.store.put(repo_id, files, private)

    def environment(self, home: Path, token: str = "", **more: str) -> dict[str, str]:
        """What a process needs to take this hub for the real one; its caches and its token file are under `home`."""
        return environment(home, HF_ENDPOINT=self.url, **({"HF_TOKEN": token} if token else {}), **more)

    def fault(self, request: Request) -> Fault | None:
        """The first fault that the request matches; it is spent once more."""
        with self.lock:
            found = next((fault for fault in self.faults if fault.matches(request)), None)
            if found:
                found.times -= 1
            return found

    def requests(self, method: str, text: str) -> list[Request]:
        """Those of `method` whose path or query has `text` in it."""
        return [entry for entry in self.log if entry.method == method and text in entry.target]


def environment(home: Path, **more: str) -> dict[str, str]:
    """A process's environment without this machine's settings for the hub; `home` takes what the client keeps."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_", "HUGGING_FACE_"))}
    off = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return kept | off | {"HF_HOME": str(home / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | more
