"""The seam between the flow and whoever does the CPU work.

One protocol, three crews (inline, threads, processes), one behaviour: what is submitted is delivered exactly once,
in whatever order it is finished; no exception of the work, and (where there is a process to lose) no crash and no
endless loop in it, costs more than its own row.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from penstock.crew.wire import Place
from penstock.errors import ItemError, WorkerError
from penstock.records import Failure, Fetched, Reason, Result, Row

__all__ = ["Crew", "CrewStatistics", "Deliver", "OnBroken", "Work", "attempt", "attempt_shielded", "prepare"]

Deliver = Callable[[Row, Result], None]
"""Takes a finished row. Called from the crew's own threads, so it must be quick and thread-safe."""

OnBroken = Callable[[WorkerError], None]
"""Told at most once that the crew cannot work at all: nothing more will be delivered. Called from the crew's threads."""


class Work(Protocol):
    """What a worker does with one row: a picklable callable from bytes to a result.

    It reports a failure of the row by `ItemError`. Any other exception is a fault of the work itself and becomes
    `Reason.TRANSFORM_ERROR`. If it has a method `prepare`, each worker calls that once, before its first row; see `prepare`.
    """

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row."""
        ...


@dataclass(frozen=True, slots=True)
class CrewStatistics:
    """What a crew did, as far as it knows while it runs."""

    busy_seconds: float = 0.0
    """Time that workers spent working, summed over all of them. Near ``workers × wall``: the CPU is the bottleneck."""
    occupied_seconds: float = 0.0
    """Time that workers had a row, summed over all of them. What they did not work of it is the hand-over."""
    crashes: int = 0
    """Workers that died at work."""
    timeouts: int = 0
    """Workers that were killed for exceeding the deadline."""
    pids: tuple[int, ...] = ()
    """Processes alive now; empty for threads."""


class Crew(Protocol):
    """Workers that turn submitted rows into delivered results."""

    width: int
    """Workers that run at the same time."""

    def start(self, deliver: Deliver, on_broken: OnBroken, /) -> None:
        """Start the workers; every result goes to `deliver`. Called once."""
        ...

    def submit(self, row: Row, fetched: tuple[Fetched, ...], place: Place | None = None) -> None:
        """Hand over one row; never blocks (`inline` works it off here and now). The flow bounds how many are inside.

        With a place, and if the crew was made with a `Landing`, the worker writes the sample's arrays there, and the sample
        that is delivered says `Landed` in their stead; arrays that do not fit arrive as without a place. Whatever became of
        the row, nobody writes to its place any more once it is delivered. After `close`, which nothing is written after
        either, it does nothing.

        Raises:
            WorkerError: the crew is broken; `on_broken` was told.
        """
        ...

    def statistics(self) -> CrewStatistics:
        """What was done so far."""
        ...

    def close(self) -> None:
        """Stop at once and leave nothing behind: no thread, process, descriptor or shared memory.

        What was submitted and not delivered is dropped. May be called twice.
        """
        ...


def prepare(work: Work) -> None:
    """Have the work make itself ready in this worker, if it wants to. No row's deadline runs meanwhile.

    Raises:
        WorkerError: it cannot; no worker will be able to.
    """
    make_ready = getattr(work, "prepare", None)
    if make_ready is not None:
        make_ready()


def attempt(work: Work, row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """Run `work` so that it cannot raise: every exception becomes a failure of the row.

    The result's `seconds` are measured here if the work has not set them. KeyboardInterrupt and SystemExit pass: they
    are addressed to the process, not to the row.
    """
    started = time.perf_counter()
    try:
        result = work(row, fetched)
        if not isinstance(result, Result):
            raise TypeError(f"the work returned {type(result).__name__}, not a Result")  # noqa: TRY301 - one way out
    except ItemError as error:
        result = Result.of(error.failure(), fetched)
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises is the row's failure
        result = Result.of(_fault(error), fetched)
    return result if result.seconds else dataclasses.replace(result, seconds=time.perf_counter() - started)


def attempt_shielded(work: Work, row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """As `attempt`, and not even SystemExit passes: for threads and processes that exist only to work off rows."""
    try:
        return attempt(work, row, fetched)
    except BaseException as error:  # noqa: BLE001 - a `sys.exit()` in the user's code is the row's failure as well
        return Result.of(_fault(error), fetched)


def _fault(error: BaseException) -> Failure:
    if isinstance(error, MemoryError):
        return Failure(Reason.DECODE_MEMORY, str(error))
    return Failure(Reason.TRANSFORM_ERROR, f"{type(error).__name__}: {error}")
