"""One request on its way, and the row that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from penstock.fetch.policy.answers import Body
from penstock.fetch.policy.optout import ROBOTS_BYTES
from penstock.fetch.policy.urls import Target
from penstock.records import Failure, Fetched, Row

__all__ = ["Done", "Job", "Ticket"]

Done = tuple[Row, tuple[Fetched | Failure, ...]]
"""A row with one entry for each of its requests."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A row on its way."""

    row: Row
    parts: list[Fetched | Failure | None]
    missing: int
    admitted: float
    """When it came."""


@dataclass(slots=True, eq=False)
class Job:
    """One request, of a row or for a robots.txt, and what is known of it between its attempts."""

    first: Target
    """Where every attempt begins."""
    max_bytes: int
    ticket: Ticket | None
    """None if it is for no row."""
    position: int = 0
    """Among the row's requests."""
    origin: str = ""
    """Whose robots.txt it is for; empty for a row's request."""
    target: Target = None  # type: ignore[assignment]  # set at once, by __post_init__
    """Where the present attempt has come to, by redirects."""
    hops: int = 0
    """Redirects that the present attempt has followed."""
    attempts: int = 0
    started: float = 0.0
    """When the first attempt began."""
    began: float = 0.0
    """When the present hop began."""
    spent: float = 0.0
    """Seconds that the earlier hops of the present attempt took."""
    reserved: int = 0
    """Bytes that the running attempt has reserved with the budget; kept by whoever runs it."""
    head_came: float = 0.0
    """When the head of the answer came whose body is wanted; kept by whoever runs the attempt."""
    downgraded: bool = False
    """A redirect of the present attempt led from https to http."""
    is_probe: bool = False
    """It is only to find out whether there is an outage, and takes nobody's turn."""
    is_trial: bool = False
    """The present attempt is its own, but shows as well whether an outage is over."""
    outages: int = 0
    """How many outages there had been when its present attempt began."""

    def __post_init__(self) -> None:
        """It begins at the beginning."""
        self.target = self.first

    @classmethod
    def for_robots(cls, target: Target) -> Self:
        """The request for the robots.txt that is in force for a target."""
        return cls(target.robots, ROBOTS_BYTES, None, origin=target.origin)

    @classmethod
    def for_probe(cls, target: Target) -> Self:
        """A request whose answer does not matter: for robots.txt, which costs its host least."""
        return cls(target.robots, ROBOTS_BYTES, None, is_probe=True)

    def follow(self, target: Target, now: float) -> None:
        """The attempt is sent on."""
        self.hops += 1
        self.spent += now - self.began
        self.downgraded |= self.target.scheme == "https" and target.scheme == "http"
        self.target = target

    def restart(self) -> None:
        """The next attempt begins at the beginning."""
        self.target, self.hops, self.spent, self.downgraded = self.first, 0, 0.0, False

    def fetched(self, body: Body, now: float) -> Fetched:
        """Its happy end."""
        assert self.ticket is not None, "a robots.txt is no part of a row"
        return Fetched(
            self.ticket.row.requests[self.position].part,
            body.data,
            body.status,
            self.attempts,
            now - self.started,
            now - self.head_came,
            body.server_type,
            self.downgraded,
        )
