"""The seam between the flow and the network.

One protocol, two fetchers (`client.AsyncFetcher` on an event loop, `pool.ThreadFetcher` on threads), one behaviour: what
to do is decided by `penstock.fetch.policy`, which does no I/O; a fetcher only carries it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from penstock.errors import PenstockError, WorkerError
from penstock.fetch.budget import ByteBudget
from penstock.records import Failure, Fetched, Row

__all__ = ["Deliver", "FetchStatistics", "Fetcher", "OnBroken", "broken_by"]

Deliver = Callable[[Row, tuple[Fetched | Failure, ...]], None]
"""Takes a row with one entry for each of its requests. Called from the fetcher's own threads: quick and thread-safe."""

OnBroken = Callable[[PenstockError], None]
"""Told at most once that the fetcher cannot go on: nothing more will be delivered. Called from the fetcher's threads."""


@dataclass(frozen=True, slots=True)
class FetchStatistics:
    """What a fetcher did beside fetching, as far as it knows while it runs."""

    retries: int = 0
    """Attempts beyond the first ones of their rows."""
    given_back: int = 0
    """Attempts that failed by this machine's own fault, and were not counted."""
    trouble: str = ""
    """The ``local.*`` reason for which it is waiting now; empty if it is not."""
    trouble_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long it has waited so far, by ``local.*`` reason."""
    loop_lag: float = 0.0
    """Longest time, in seconds, for which the event loop was held up: above 1 the machine is overloaded."""

    @classmethod
    def sum(cls, parts: Iterable[FetchStatistics]) -> FetchStatistics:
        """Of fetchers side by side: they wait at the same time, so of waits and lags the longest counts."""
        parts = tuple(parts)
        seconds: Counter[str] = Counter()
        for part in parts:
            seconds |= Counter(part.trouble_seconds)
        return cls(
            retries=sum(part.retries for part in parts),
            given_back=sum(part.given_back for part in parts),
            trouble=next((part.trouble for part in parts if part.trouble), ""),
            trouble_seconds=dict(seconds),
            loop_lag=max((part.loop_lag for part in parts), default=0.0),
        )


def broken_by(error: BaseException) -> PenstockError:
    """What `OnBroken` is told of an exception that a fetcher did not foresee."""
    if isinstance(error, PenstockError):
        return error
    broken = WorkerError(f"the fetcher failed: {error!r}; please report this with your command")
    broken.__cause__ = error
    return broken


class Fetcher(Protocol):
    """Brings the bytes that rows ask for."""

    width: int
    """Requests in flight at the same time, at most."""

    def start(self, deliver: Deliver, budget: ByteBudget, on_broken: OnBroken, /) -> None:
        """Open what is needed; every submitted row goes to `deliver`. Called once."""
        ...

    def submit(self, row: Row) -> None:
        """Take one row; never blocks. The flow bounds how many are inside."""
        ...

    def statistics(self) -> FetchStatistics:
        """What was done so far. From any thread."""
        ...

    def close(self) -> None:
        """Stop at once and leave nothing behind; what was not delivered is dropped. May be called twice."""
        ...
