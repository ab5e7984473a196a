"""What a user sees while something takes its time: a live line on a terminal, plain lines else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

HEARTBEAT_SECONDS = 15.0


def duration(seconds: float) -> str:
    """Seconds as a person would say them: ``4.2 s``, ``6 min 16 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


class Step:
    """Something under way. ``note`` says how far it is."""

    def __init__(self, title: str, progress: Progress | None) -> None:
        """Show the step on ``progress``, or nowhere until it is over."""
        self.title = title
        self.started = time.monotonic()
        self._note = ""
        self._progress = progress
        self._task: TaskID | None = progress.add_task(title) if progress else None

    def __str__(self) -> str:
        """The step as one line."""
        return f"{self.title}: {self._note}" if self._note else self.title

    @property
    def elapsed(self) -> str:
        """Time since the step began."""
        return duration(time.monotonic() - self.started)

    def note(self, text: str) -> None:
        """Say how far the step is."""
        self._note = text
        if self._progress and self._task is not None:
            self._progress.update(self._task, description=str(self))

    def close(self) -> None:
        """Take the step off the screen."""
        if self._progress and self._task is not None:
            self._progress.remove_task(self._task)


class Report:
    """The steps of one command. Enter it, then open a step around each piece of work."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Write to standard error, so that a command's own output stays usable in a pipe."""
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not quiet
        self._progress: Progress | None = None
        self._open: list[Step] = []
        self._done = threading.Event()

    def __enter__(self) -> Report:
        """Start the live display, or the heartbeat that replaces it without a terminal."""
        self._done.clear()
        if self._live:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        else:
            threading.Thread(target=self._heartbeat, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Stop the display."""
        self._done.set()
        if self._progress:
            self._progress.stop()
            self._progress = None

    def line(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, markup=False)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while the block runs, and how long it took when it is done."""
        step = Step(title, self._progress)
        self._open.append(step)
        try:
            yield step
            self.line(f"✓ {title} ({step.elapsed})")
        except BaseException:
            self.line(f"✗ {title} ({step.elapsed})")
            raise
        finally:
            step.close()
            self._open.remove(step)

    def _heartbeat(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            for step in list(self._open):
                self.line(f"… {step} ({step.elapsed})")


def quiet() -> Report:
    """A report that says nothing, for tests."""
    return Report(quiet=True)
