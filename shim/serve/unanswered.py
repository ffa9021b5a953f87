"""Why a request gets no outputs of a model."""


class BatchError(Exception):
    """The batch that held a text of this request failed."""


class BrokenOutputError(Exception):
    """An output of this request is NaN or infinite."""


class ClosedError(Exception):
    """The model takes no work any more."""


class StartingError(Exception):
    """The model is started anew: its thread ended, or a batch hung."""


class FullError(Exception):
    """Too many requests wait; `retry_after` is in seconds."""

    def __init__(self, waiting: int, retry_after: int):
        super().__init__(f"{waiting} requests wait already; try again in {retry_after} s")
        self.retry_after = retry_after
