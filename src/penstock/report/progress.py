"""The bar that moves while a run works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Update", "progress_bar", "step_line"]

Steps = Callable[[str, int, int], None]
"""Takes what comes now, how many steps are done, and how many there will be."""

Update = Callable[[int, int, int, str, int | None], None]
"""Takes rows done, rows among them that failed, bytes downloaded, what is being waited for (empty: nothing), and, on a
cluster, how many workers are at work."""


@contextlib.contextmanager
def progress_bar(console: Console, total: int | None) -> Iterator[Update]:
    """Show a bar on `console` (nothing, where it is no terminal) and give the function that moves it.

    Args:
        console: where to draw.
        total: rows of the list; None if nobody knows, then the bar only pulses.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(
            "{task.fields[failed]} failed, {task.fields[speed]:.0f} rows/s, {task.fields[megabytes]:.1f} MB/s"
            "{task.fields[workers]}"
        ),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("rows", total=total, failed=0, speed=0.0, megabytes=0.0, workers="")

        def update(done: int, failed: int, size: int, waiting: str, lanes: int | None) -> None:
            seconds = bar.tasks[0].elapsed or 1e-9
            speed, megabytes = done / seconds, size / 1e6 / seconds
            what = f"waiting: {waiting}" if waiting else "rows"
            workers = "" if lanes is None else f", {lanes} {'worker' if lanes == 1 else 'workers'}"
            bar.update(
                task,
                description=what,
                completed=done,
                failed=failed,
                speed=speed,
                megabytes=megabytes,
                workers=workers,
            )

        yield update


@contextlib.contextmanager
def step_line(console: Console) -> Iterator[Steps]:
    """Show which of a known number of steps is at work, and give the function that says so."""
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        refresh_per_second=1,  # each costs a millisecond of the cores that are measured
    )
    with bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield tell
