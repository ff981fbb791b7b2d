"""What the pipeline tells a person while it works."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar(Protocol):
    """One progress bar."""

    def advance(self, images: int = 1, note: str = "") -> None:
        """``images`` more are done; ``note`` stands at the end of the bar."""

    def skip(self, images: int) -> None:
        """An earlier run has done ``images``; they do not count as this one's speed."""


class Reporter(Protocol):
    """Receives messages and progress; the pipeline itself never prints."""

    def say(self, text: str) -> None:
        """One line."""

    def warn(self, text: str) -> None:
        """One line that deserves attention."""

    def track(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """A bar over ``total`` images of which ``done`` need no more work."""


class _SilentBar:
    def advance(self, images: int = 1, note: str = "") -> None:
        pass

    def skip(self, images: int) -> None:
        pass


class Silent:
    """Says nothing; what Python callers get unless they ask for more."""

    def say(self, text: str) -> None:
        """Not shown."""

    def warn(self, text: str) -> None:
        """Not shown."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        """No bar."""
        yield _SilentBar()


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task, self.new = progress, task, 0

    def advance(self, images: int = 1, note: str = "") -> None:
        self.new += images
        elapsed = self.progress.tasks[self.task].elapsed or 0.0
        speed = f"{self.new / elapsed:.1f} images/s" if elapsed > 0 else ""
        self.progress.update(self.task, advance=images, speed=speed, note=note)

    def skip(self, images: int) -> None:
        self.progress.update(self.task, advance=images)


class Terminal:
    """Bars with images per second and time left, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False, emoji=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print one line in yellow."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar while it lasts, one line with the speed when it is over."""
        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(label, total=total, completed=done, speed="", note="")
            yield _RichBar(progress, task)
