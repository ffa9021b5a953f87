"""Where what can be fetched or computed again is kept."""

import os
from pathlib import Path


def folder() -> Path:
    """`$SEALPORT_CACHE`, or `sealport` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealport"
    return Path(os.environ.get("SEALPORT_CACHE") or default)
