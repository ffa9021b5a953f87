"""Progress on stderr: a bar for each stage on a terminal, a line per stage and quarter elsewhere."""

import sys
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

LABELS = {
    "quantize": "quantizing",
    "sensitivity": "what each costs",
    "convert": "writing",
    "reference": "the original",
    "verify": "the artifact",
    "send": "files sent",
}


class Running(SpinnerColumn):
    """It turns beside what runs, so that something moves however long one step takes."""

    def render(self, task: Task) -> RenderableType:
        return super().render(task) if task.started else " "


class StageProgress:
    """Called as `progress(stage, done, total)`; used as a context manager, so that the terminal is left as it was.

    With nothing done a stage is announced: its bar is shown, and counted among the stages, before it begins.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.bars: Progress | None = None
        self.first: TaskID | None = None  # the bar before there is a stage
        self.tasks: dict[str, TaskID] = {}
        self.done: dict[str, int] = {}
        self.times: dict[str, int] = {}  # that a stage began: each attempt writes and measures anew

    def __enter__(self) -> "StageProgress":
        if not self.quiet and sys.stderr.isatty():
            time = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
            columns = (Running("line"), TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), time)
            self.bars = Progress(*columns, console=Console(stderr=True))
            self.first = self.bars.add_task("reading", total=None)
            self.bars.start()
            self.bars.refresh()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bars is not None:
            if self.first is not None:
                self.bars.remove_task(self.first)
            self.bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        before = self.done.get(stage, 0)
        again = done < before or stage not in self.times
        self.done[stage] = done
        if done:
            self.times[stage] = self.times.get(stage, 0) + again
        if self.bars is not None:
            self._show(self.bars, stage, done, total, again)
        elif not self.quiet and 4 * done // total > (0 if again else 4 * before // total):
            print(f"{self._label(stage)} {100 * done // total}%", file=sys.stderr, flush=True)

    def _show(self, bars: Progress, stage: str, done: int, total: int, again: bool) -> None:
        if self.first is not None:
            bars.remove_task(self.first)
            self.first = None
        if stage not in self.tasks:
            self.tasks[stage] = bars.add_task(self._label(stage), start=False)
        task = self.tasks[stage]
        if done and again:
            bars.reset(task)
        bars.update(task, completed=done, total=total)
        for number, (name, each) in enumerate(self.tasks.items(), 1):
            bars.update(each, description=f"{number}/{len(self.tasks)} {self._label(name)}")

    def _label(self, stage: str) -> str:
        times = self.times.get(stage, 0)
        return LABELS.get(stage, stage) + (f" ({times})" if times > 1 else "")
