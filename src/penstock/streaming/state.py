"""How far a stream has come: which rows of an epoch its user has received. Decides, and does no I/O.

Rows are finished out of order, so that "the first 12,345 rows" does not tell what is done. A state therefore has a mark
below which everything is done, and the ranges that are done above it::

    position   0 1 2 3 4 5 6 7 8 9
    done       ✓ ✓ ✓ · ✓ ✓ · · ✓ ·      as a list: [3, 4, 6, 8, 9]

What is not done when a stream is stopped is delivered when it goes on, and nothing else of that epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from penstock.errors import StateRefusedError

__all__ = ["Done", "State"]

VERSION = 1
"""Of the state's form."""

NAMED = 3
"""Files of a list that a message names, at most."""

_SPOKEN = {"parts": "parts (ranks × workers)", "part": "part (of the rank and the worker)"}
"""What those things of the identity are that are no options."""


@dataclass(slots=True)
class Done:
    """The positions of an epoch that are done.

    >>> done = Done()
    >>> for position in (0, 4, 1, 5):
    ...     done.add(position)
    >>> done.low, 4 in done, 2 in done, done.as_list()
    (2, True, False, [2, 4, 6])
    """

    low: int = 0
    """All positions below this one are done, and it is not."""
    above: set[int] = field(default_factory=set)
    """Those done beyond it: they have overtaken the slowest."""

    def add(self, position: int) -> None:
        """Mark a position as done.

        Raises:
            ValueError: it is done already: a row was delivered twice, a bug in Penstock.
        """
        if position in self:
            raise ValueError(f"position {position} was delivered twice")
        self.above.add(position)
        while self.low in self.above:
            self.above.remove(self.low)
            self.low += 1

    def __contains__(self, position: int) -> bool:
        return position < self.low or position in self.above

    @property
    def count(self) -> int:
        """Positions that are done."""
        return self.low + len(self.above)

    def as_list(self) -> list[int]:
        """As JSON: the mark, then start and end of each range above it; the end does not belong to its range."""
        marks = [self.low]
        for position in sorted(self.above):
            if marks[-1] == position:
                marks[-1] += 1
            else:
                marks += [position, position + 1]
        return marks

    @classmethod
    def of(cls, marks: Any) -> Self:
        """What `as_list` has given.

        Raises:
            ValueError: it has not.
        """
        if not (isinstance(marks, list) and all(_is_count(mark) for mark in marks)):
            raise ValueError("not a list of positions")
        if len(marks) % 2 == 0:
            raise ValueError("not a mark and ranges")
        if not all(mark < following for mark, following in pairwise(marks)):
            raise ValueError("not ascending")
        ranges = zip(marks[1::2], marks[2::2], strict=True)
        return cls(marks[0], {position for start, end in ranges for position in range(start, end)})


@dataclass(slots=True)
class State:
    """How far a stream has come, and which stream it is."""

    identity: Mapping[str, Any]
    """What decides which row a position means: the source's fingerprint (None if it can be read only once), the options
    of the order, and the part. JSON types."""
    epoch: int = 0
    done: Done = field(default_factory=Done)
    """Of this epoch."""
    batches: int = 0
    """Of this epoch, received."""

    def received(self, epoch: int, positions: Iterable[int], *, batch: bool) -> None:
        """The user has got these rows (their images, or the news that they failed); with `batch`, as a batch.

        Raises:
            ValueError: of an epoch that is over, or a second time: a bug in Penstock.
        """
        if epoch != self.epoch:
            self._begin(epoch)
        for position in positions:
            self.done.add(position)
        self.batches += batch

    def finished(self, epoch: int) -> None:
        """An epoch has ended: the next thing is the start of the one after it.

        Raises:
            ValueError: it was over already: a bug in Penstock.
        """
        self._begin(epoch + 1)

    def _begin(self, epoch: int) -> None:
        if epoch <= self.epoch:
            raise ValueError(f"epoch {epoch} cannot begin: the stream is in epoch {self.epoch}")
        self.epoch, self.done, self.batches = epoch, Done(), 0

    def as_dict(self) -> dict[str, Any]:
        """The state as JSON types."""
        return {
            "version": VERSION,
            "epoch": self.epoch,
            "done": self.done.as_list(),
            "batches": self.batches,
            "identity": dict(self.identity),
        }

    @classmethod
    def of(cls, state: Any, identity: Mapping[str, Any]) -> Self:
        """What `as_dict` has given, for the stream with this identity to go on from.

        Raises:
            StateRefusedError: it is no such thing, or another stream's; the message names the difference.
        """
        there = _checked(state)
        differences = _differences(there["identity"], identity)
        if differences:
            raise StateRefusedError(
                f"the state belongs to another stream: {'; '.join(differences)}. "
                "Go on with the list and the options that it was made with, or begin without a state"
            )
        return cls(identity, there["epoch"], there["done"], there["batches"])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked(state: Any) -> dict[str, Any]:
    """The state's entries, each of its type, with `done` as a `Done`; StateRefusedError if one is not."""
    if not isinstance(state, Mapping):
        raise StateRefusedError(
            f"a stream goes on from what state_dict() has given, and not from a {type(state).__name__}"
        )
    version = state.get("version")
    if version != VERSION:
        raise StateRefusedError(
            f"the state has version {version!r}, and this Penstock knows version {VERSION}: "
            "use the Penstock that made it, or begin without a state"
        )
    for name in ("epoch", "batches"):
        if not _is_count(state.get(name)):
            raise _damaged(f"{name} is {state.get(name)!r}")
    identity = state.get("identity")
    if not (isinstance(identity, Mapping) and isinstance(identity.get("source"), Mapping | None)):
        raise _damaged("its identity does not tell which stream it belongs to")
    try:
        done = Done.of(state.get("done"))
    except ValueError as error:
        raise _damaged(f"done is {error}") from None
    return {**state, "done": done}


def _damaged(what: str) -> StateRefusedError:
    return StateRefusedError(f"the state is damaged: {what}. Take an earlier one, or begin without a state")


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a person has to know about two identities; empty if they are the same stream's."""
    found = []
    if there.get("source") != now.get("source"):
        found.append(_source_difference(there.get("source"), now.get("source")))
    found += [
        f"{_SPOKEN.get(name, name)} was {there.get(name)!r} there and is {now.get(name)!r} now"
        for name in dict.fromkeys([*now, *there])
        if name != "source" and there.get(name) != now.get(name)
    ]
    return found


def _source_difference(there: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    if there is None or now is None:
        return "one of the two lists can be read only once, so that nobody can tell whether they are the same"
    files_there, files = there.get("files"), now.get("files")
    if not (isinstance(files_there, list) and isinstance(files, list)):
        changed = [name for name in sorted({*there, *now}) if there.get(name) != now.get(name)]
        return f"the list is not the same ({', '.join(changed)})"
    if len(files_there) != len(files):
        return f"the list had {len(files_there)} files there and has {len(files)} now"
    names = [file["name"] for before, file in zip(files_there, files, strict=True) if before != file]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"the list is not the same ({', '.join(names[:NAMED])}{more})"
