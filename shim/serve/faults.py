"""What is refused and why: one class, turned into an answer of the client's dialect by `refusals`."""

from enum import Enum


class Kind(Enum):
    """Why a request is refused: what the figures count it as, and HTTP's status."""

    USAGE = "usage", 400  # a UsageError
    INVALID = "invalid", 400  # the body is not what the route takes
    KEY = "key", 401
    NO_ADMIN_KEY = "no_admin_key", 403
    NO_MODEL = "no_model", 404
    RELOAD = "reload", 409
    HOST = "host", 400
    TIMEOUT = "timeout", 408
    BODY = "limit", 413
    URL = "limit", 414
    HEAD = "limit", 431
    LIMIT = "limit", 422
    TOO_LONG = "too_long", 422
    OVERLOADED = "overloaded", 429
    NOT_FINITE = "not_finite", 500
    BATCH = "batch", 500
    INTERNAL = "internal", 500
    STOPPING = "stopping", 503
    CROWDED = "connections", 503
    UNREADY = "unready", 503
    NOT_LOADED = "not_loaded", 503  # a model on demand, whose artifact is wrong or too large
    HTTP = "http", 500  # the framework's own, such as a route that is not there: it brings its status

    def __init__(self, label: str, status: int):
        self.label, self.status = label, status


class Refusal(Exception):
    """An answer that is no success.

    param: the field of the request that it is about; `texts` are what a dialect may call otherwise. empty: whether that is a
    list without entries. status: HTTP's, in place of the kind's.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        param: str | None = None,
        empty: bool = False,
        headers: dict[str, str] | None = None,
        status: int | None = None,
    ):
        super().__init__(message)
        self.kind, self.param, self.empty = kind, param, empty
        self.message = message.encode("utf-8", "backslashreplace").decode()  # it may quote a lone surrogate
        self.status, self.headers = status or kind.status, headers or {}
