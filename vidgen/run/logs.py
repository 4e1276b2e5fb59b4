"""What a run says to the person at the terminal: lines, bars, the rate."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from vidgen.text import legible


class Terminal:
    """A progress bar on a terminal; elsewhere a plain line now and then.

    Args:
      total: Number of steps.
      done: Steps done before this start.
      unit: What a step counts, for the rate: `clips`.
      per_step: Units of one step.
      quiet: Show nothing, where another process does.
    """

    def __init__(self, total: int, done: int, unit: str, per_step: int, quiet: bool = False):
        self.total, self.done, self.unit, self.per_step = total, done, unit, per_step
        self.first, self.start = done, 0.0
        self.said = time.monotonic()
        self.bar, self.text, self.quiet = None, "", quiet
        if not quiet and on_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(None),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=total, completed=done, text="compiling")
            self.bar.start()

    def rate(self) -> float:
        """Returns units per second since the first step of this start; 0 until the second."""
        steps = self.done - self.first
        return steps * self.per_step / (time.monotonic() - self.start) if steps else 0.0

    def step(self, done: int, text: str) -> None:
        """Shows that `done` steps are done; the clock starts with the first, which compiles."""
        now = time.monotonic()
        if not self.start:
            self.start, self.first = now, done
        self.done, self.text = done, text or self.text
        rate = self.rate()
        text = f"{rate:.1f} {self.unit}/s  {self.text}"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
        elif not self.quiet and ((now - self.said > 10 and rate) or done == self.total):
            self.said = now
            left = (self.total - done) * self.per_step / rate / 60 if rate else 0.0
            say(f"step {done}/{self.total}  {text}  {left:.1f} min left")

    def close(self) -> None:
        """Leaves the bar where it is."""
        if self.bar is not None:
            self.bar.stop()


@contextlib.contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """Gives a `progress(done, total, text)` that draws a bar, or says nothing off a terminal."""
    if not on_terminal():
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # Its console is stderr; what is printed to a pipe or a file must not go there.
    piped = not sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=not piped) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total, text: shown.update(
            task, completed=done, total=total, description=text
        )


def say(text: str) -> None:
    """Prints a line for the person who runs the program, where there is anywhere to print it."""
    if sys.stderr is not None:  # it is where a program has none, and print() would take stdout
        with contextlib.suppress(OSError):  # a full disk or a reader that has gone ends no run
            print(legible(text, "\n\t"), file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Tells whether what is said is shown on a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def waiting(text: str, bar: bool = True) -> Iterator[None]:
    """Says a line, and on a terminal shows the seconds that pass until the block ends.

    Args:
      text: What is waited for.
      bar: Whether there may be a clock on a terminal: only one bar can be there at a time.
    """
    if not bar or not on_terminal():
        say(text)
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as shown:
        shown.add_task(text, total=None)
        yield
