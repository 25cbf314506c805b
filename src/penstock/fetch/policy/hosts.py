"""Which request starts next: a global width, a limit for each host, and pauses that cost no slot.

    add ──▶ host's queue ──▶ round of ready hosts ──take──▶ active ──finished──▶
      └─(pause)─▶ heap ─▲         ▲
                        └─ held host, when its time has come

Decides and does no I/O; time is a number that the caller passes in. Not thread-safe.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

__all__ = ["Note", "Schedule", "Slot"]

T = TypeVar("T")


class Note(Protocol):
    """Told how it stands with a host."""

    def __call__(self, host: str, active: int, queued: int) -> None:
        """So many requests are under way, and so many wait for nothing but their turn."""
        ...


@dataclass(slots=True)
class Slot(Generic[T]):
    """One host."""

    active: int = 0
    queue: deque[T] = field(default_factory=deque)
    not_before: float = 0.0
    """Nothing starts here earlier than this."""
    queued: bool = False
    """Whether it stands in the round."""


class Schedule(Generic[T]):
    """Requests of many hosts, taken in turn: one slow or limited host never holds up the others.

    Every operation costs O(1), or O(log n) where a pause is involved; a host of which nothing is known takes no room.

    Args:
        width: requests that may be active at the same time; may be changed at any time.
        limit: how many of them may be one host's.
        note: told of every change at a host, under `lock`.
        lock: held while a request is taken, if somebody else changes the limits meanwhile.
    """

    def __init__(
        self,
        width: int,
        limit: Callable[[str], int],
        *,
        note: Note | None = None,
        lock: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self.width = width
        self._limit = limit
        self._note = note
        self._lock = lock or contextlib.nullcontext()
        self._slots: dict[str, Slot[T]] = {}
        self._round: deque[str] = deque()
        self._pauses: list[tuple[float, int, str, T | None]] = []
        self._serial = itertools.count()
        self.active = 0
        """Requests taken and not finished."""
        self.waiting = 0
        """Requests added and not taken, those that pause among them."""

    def __len__(self) -> int:
        """Hosts with something active, queued or held."""
        return len(self._slots)

    def add(self, request: T, host: str, now: float, *, pause: float = 0.0) -> None:
        """Queue a request, at the end of its host's queue, when the pause is over."""
        self.waiting += 1
        if pause > 0:
            heapq.heappush(self._pauses, (now + pause, next(self._serial), host, request))
        else:
            self._queue(request, host, now)

    def _queue(self, request: T, host: str, now: float) -> None:
        slot = self._slots.get(host)
        if slot is None:
            slot = self._slots[host] = Slot()
        slot.queue.append(request)
        self._settle(host, slot, now)

    def ready(self, now: float) -> bool:
        """Whether `take` would give something."""
        while self._pauses and self._pauses[0][0] <= now:
            _, _, host, request = heapq.heappop(self._pauses)
            if request is not None:
                self._queue(request, host, now)
            elif host in self._slots:
                self._settle(host, self._slots[host], now)
        while self._round and not self._may_start(self._round[0]):
            self._slots[self._round.popleft()].queued = False
        return bool(self._round) and self.active < self.width

    def _may_start(self, host: str) -> bool:
        return self._slots[host].active < self._limit(host)

    def look(self, host: str, now: float) -> None:
        """The host's limit has changed."""
        if host in self._slots:
            self._settle(host, self._slots[host], now)

    @property
    def offers(self) -> bool:
        """Whether some host is in turn, whatever the width."""
        return bool(self._round)

    def take(self, now: float) -> T | None:
        """The request to start now, if there is one."""
        self.ready(now)
        with self._lock:
            return self._take(now)

    def _take(self, now: float) -> T | None:
        if self.active >= self.width or not self._round or not self._may_start(self._round[0]):
            return None
        host = self._round.popleft()
        slot = self._slots[host]
        slot.queued = False
        request = slot.queue.popleft()
        slot.active += 1
        self.active += 1
        self.waiting -= 1
        self._requeue(host, slot, now)
        return request

    def finished(self, host: str, now: float) -> None:
        """A request that was taken is over, well or not."""
        slot = self._slots[host]
        slot.active -= 1
        self.active -= 1
        self._settle(host, slot, now)

    def hold(self, host: str, now: float, pause: float) -> None:
        """Start nothing at this host for so many seconds."""
        if pause <= self.held(host, now):
            return
        slot = self._slots.setdefault(host, Slot())
        slot.not_before = now + pause
        with self._lock:
            self._tell(host, slot, now)
        if slot.queued:
            self._round.remove(host)  # O(ready hosts), and as rare as rate limits are
            slot.queued = False
        heapq.heappush(self._pauses, (slot.not_before, next(self._serial), host, None))

    def held(self, host: str, now: float) -> float:
        """Seconds for which the host is still held."""
        slot = self._slots.get(host)
        return max(0.0, slot.not_before - now) if slot else 0.0

    def wake_at(self) -> float | None:
        """When `ready` may become true by the passing of time alone; None if it will not."""
        return self._pauses[0][0] if self._pauses else None

    def _settle(self, host: str, slot: Slot[T], now: float) -> None:
        with self._lock:
            self._requeue(host, slot, now)

    def _requeue(self, host: str, slot: Slot[T], now: float) -> None:
        """Put a host into the round if it belongs there; forget it if nothing is left of it. Under the lock."""
        self._tell(host, slot, now)
        if slot.not_before > now:
            return
        if slot.queue:
            if not slot.queued and slot.active < self._limit(host):
                slot.queued = True
                self._round.append(host)
        elif not slot.active:
            del self._slots[host]

    def _tell(self, host: str, slot: Slot[T], now: float) -> None:
        """Under the lock."""
        if self._note is not None:
            self._note(host, slot.active, len(slot.queue) if slot.not_before <= now else 0)
