"""What is refused and why: one class, turned into an answer of the client's dialect by `app`."""


class Refusal(Exception):
    """An answer that is no success. kind: what it is counted as; param, code: as OpenAI's clients know them."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = headers or {}
