"""Versions of the installed packages."""

import functools
import importlib.metadata


@functools.cache
def version(name: str) -> str:
    """Of one of them, read once: its file has hundreds of lines. Raises PackageNotFoundError."""
    return importlib.metadata.version(name)
