"""The seam between the flow and the network.

One protocol, two fetchers (`client.AsyncFetcher` on an event loop, `pool.ThreadFetcher` on threads), one behaviour: what
to do is decided by `penstock.fetch.policy`, which does no I/O; a fetcher only carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from penstock.fetch.budget import ByteBudget
from penstock.records import Failure, Fetched, Row

__all__ = ["Deliver", "Fetcher"]

Deliver = Callable[[Row, tuple[Fetched | Failure, ...]], None]
"""Takes a row with one entry for each of its requests. Called from the fetcher's own threads: quick and thread-safe."""


class Fetcher(Protocol):
    """Brings the bytes that rows ask for."""

    width: int
    """Requests in flight at the same time, at most."""

    def start(self, deliver: Deliver, budget: ByteBudget) -> None:
        """Open what is needed; every submitted row goes to `deliver`. Called once."""
        ...

    def submit(self, row: Row) -> None:
        """Take one row; never blocks. The flow bounds how many are inside."""
        ...

    def close(self) -> None:
        """Stop at once and leave nothing behind; what was not delivered is dropped. May be called twice."""
        ...
