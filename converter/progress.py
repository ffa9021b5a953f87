"""Progress on stderr: a bar on a terminal, a line per stage and quarter elsewhere."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LABELS = {
    "quantize": "quantizing tensors",
    "sensitivity": "what each costs",
    "convert": "writing tensors",
    "reference": "original, texts",
    "verify": "artifact, texts",
    "send": "files sent",
}


class StageProgress:
    """Called as `progress(stage, done, total)`; used as a context manager, so that the terminal is left as it was."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.bars: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.done: dict[str, int] = {}

    def __enter__(self) -> "StageProgress":
        if not self.quiet and sys.stderr.isatty():
            columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bars = Progress(*columns, console=Console(stderr=True))
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        label, before = LABELS.get(stage, stage), self.done.get(stage, 0)
        again, self.done[stage] = done < before, done
        if self.bars is not None:
            if stage not in self.tasks:
                self.tasks[stage] = self.bars.add_task(label, total=total)
            elif again:
                self.bars.reset(self.tasks[stage], total=total)
            self.bars.update(self.tasks[stage], completed=done)
        elif not self.quiet and 4 * done // total > (0 if again else 4 * before // total):
            print(f"{label} {done}/{total}", file=sys.stderr, flush=True)
