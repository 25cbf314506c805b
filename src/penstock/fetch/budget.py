"""How many bytes may lie between the network and the crew."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["ByteBudget"]


class ByteBudget:
    """A bound on compressed bytes in flight, shared by all requests of a lane; thread-safe, no I/O, no waiting of its own.

    A request reserves a guess when it is admitted, corrects it when the real size is known (Content-Length, or as bytes
    arrive), and gives everything back when the crew is done with the bytes. A correction that does not fit waits: its
    `wake` is called once there is room. If every holder waits, nobody could ever give back, so then the oldest waiter
    is let through: the bound may be passed by one body, and is never a deadlock.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._used = 0
        self._holders = 0
        self._waiters: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes reserved now."""
        return self._used

    def has_room(self, size: int) -> bool:
        """Whether a new request with this guess should be admitted."""
        return self._used + size <= self.limit or self._holders == 0

    def reserve(self, size: int) -> None:
        """Admit a new holder with this guess, room or not."""
        with self._lock:
            self._holders += 1
            self._used += size

    def grow(self, more: int, wake: Callable[[], None]) -> bool:
        """Add `more` bytes (may be negative) to a reservation: True if granted now, else `wake` is called when it is.

        `wake` may be called from any thread.
        """
        with self._lock:
            if more <= 0 or (not self._waiters and self._used + more <= self.limit):
                self._used += more
                granted = True
            else:
                self._waiters.append((more, wake))
                granted = False
            wakes = self._grant()
        for call in wakes:
            if call is wake:
                granted = True
            else:
                call()
        return granted

    def release(self, size: int) -> None:
        """End a holder: give back all that it reserved."""
        with self._lock:
            self._holders -= 1
            self._used -= size
            wakes = self._grant()
        for wake in wakes:
            wake()

    def cancel(self, wake: Callable[[], None]) -> bool:
        """Take a waiting correction back; False if it was granted in the meantime (its bytes are then reserved)."""
        with self._lock:
            for item in self._waiters:
                if item[1] is wake:
                    self._waiters.remove(item)
                    return True
            return False

    def _grant(self) -> list[Callable[[], None]]:
        """The waiters that can go on now; called with the lock held."""
        wakes = []
        while self._waiters and (self._used + self._waiters[0][0] <= self.limit or len(self._waiters) >= self._holders):
            more, wake = self._waiters.popleft()
            self._used += more
            wakes.append(wake)
        return wakes
