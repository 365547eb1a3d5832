"""Progress of long work, on stderr.

On a terminal a live bar with the time left; anywhere else one plain line every few seconds, so
that a log stays readable. stdout is never touched: it belongs to results.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self, TextIO, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as LiveProgress
from rich.table import Column

Item = TypeVar("Item")
Field = float | int | str


class Stream(Protocol):
    """What is asked of the place lines go to."""

    def write(self, text: str, /) -> int:
        """Take some text."""
        ...

    def flush(self) -> None:
        """Send on what was taken."""
        ...

    def isatty(self) -> bool:
        """Whether a person is looking."""
        ...


class ProgressTask:
    """One piece of work being counted; made by `Progress.task`."""

    def __init__(self, owner: "Progress", label: str, total: int | None, done: int) -> None:
        self.label = label
        self.total = total
        self.done = done
        self.fields: dict[str, Field] = {}
        self.live_id: TaskID | None = None
        self._owner = owner
        self._start_done = done
        self._started = self.last_line = owner.clock()

    def advance(self, n: int = 1, **fields: Field) -> None:
        """Count `n` more; `fields` (loss, tokens_per_second) replace those shown so far."""
        self.done += n
        self.fields.update(fields)
        self._owner.show(self)

    @property
    def shown_fields(self) -> str:
        """The fields as `name=value`, separated by spaces."""
        return " ".join(f"{name}={_number(value)}" for name, value in self.fields.items())

    def line(self) -> str:
        """The plain-text line for a log."""
        elapsed = self._owner.clock() - self._started
        parts = [self.label, f"{self.done}" if self.total is None else f"{self.done}/{self.total}"]
        rate = (self.done - self._start_done) / elapsed if elapsed > 0 else 0.0
        if self.total:
            parts.append(f"{100 * self.done / self.total:.0f}%")
            if rate > 0:
                parts.append(f"left {_duration((self.total - self.done) / rate)}")
        return " ".join([*parts, self.shown_fields]).rstrip()


class Progress:
    """Shows the progress of any number of tasks; use as a context manager.

    Args:
        stream: Where to write; stderr by default.
        interval_seconds: How often a line is written when the stream is not a terminal.
        silent: Show nothing at all (tests, library use).
        clock: Seconds, monotonic; a parameter so that tests need not wait.
    """

    def __init__(
        self,
        *,
        stream: Stream | None = None,
        interval_seconds: float = 10.0,
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._stream: Stream = stream or sys.stderr
        self._interval_seconds = interval_seconds
        self._silent = silent
        self._live: LiveProgress | None = None

    def __enter__(self) -> Self:
        if not self._silent and self._stream.isatty():
            self._live = LiveProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                # On a narrow line the bar gives way, not the numbers.
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=cast(TextIO, self._stream)),
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def task(self, label: str, total: int | None = None, *, done: int = 0) -> ProgressTask:
        """Start counting a piece of work; `done` is what an earlier run already finished."""
        task = ProgressTask(self, label, total, done)
        if self._live is not None:
            task.live_id = self._live.add_task(label, total=total, completed=done, note="")
        return task

    def track(
        self, iterable: Iterable[Item], *, total: int | None = None, label: str
    ) -> Iterator[Item]:
        """Yield from `iterable`, counting each item once the caller is done with it."""
        task = self.task(label, total)
        for item in iterable:
            yield item
            task.advance()

    def show(self, task: ProgressTask) -> None:
        """Bring what is shown of `task` up to date."""
        if self._live is not None and task.live_id is not None:
            self._live.update(task.live_id, completed=task.done, note=task.shown_fields)
        elif not self._silent and self.clock() - task.last_line >= self._interval_seconds:
            task.last_line = self.clock()
            print(task.line(), file=self._stream, flush=True)


def _number(value: Field) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
