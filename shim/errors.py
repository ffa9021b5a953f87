"""One exception class per exit code of the command line; raised where the fact is known, printed only by console.py."""


class SealportError(Exception):
    """Base of every error that has one line to show to a user."""

    exit_code = 1


class UsageError(SealportError, ValueError):
    """Wrong usage, recipe or input: what was asked for cannot be meant.

    param: the argument that it is about, where one is named to clients. empty: whether that is a list without entries.
    """

    exit_code = 2

    def __init__(self, message: str, param: str | None = None, empty: bool = False):
        super().__init__(message)
        self.param, self.empty = param, empty


class TooLongError(UsageError):
    """A text is longer than it may be, and cannot be cut."""


class SourceError(SealportError):
    """A checkpoint, the hub or the disk could not be read or written."""

    exit_code = 3


class IntegrityError(SealportError):
    """An artifact is incomplete, was changed, or is not sealed as it must be."""

    exit_code = 4


class NotFiniteError(SealportError):
    """A model's output holds NaN or infinity."""
