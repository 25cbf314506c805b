"""How many bytes may lie between the network and the crew."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["ByteBudget"]

Wake = Callable[[], None]


class ByteBudget:
    """A bound on compressed bytes in flight, shared by all requests of a lane; thread-safe, no I/O, no waiting of its own.

    An attempt reserves a guess when it is admitted, corrects it when the real size is known (Content-Length, or as bytes
    arrive), and gives it back if it fails. What a row has reserved when it is delivered is the size of its bytes; the
    flow releases that when the crew is done with them::

        admit ─▶ grow … ─▶ keep ──▶ reserve(0), once a row ─▶ deliver ─▶ release
                      └──▶ drop  (the attempt failed)

    A correction that does not fit waits: its `wake` is called once there is room. *Movers* are those who will give bytes
    back or ask for more without being waited for: attempts that do not wait, and delivered rows. If nobody moves, nobody
    could ever give back, so then the oldest waiter is let through, for all the rest of its body: the bound may be passed
    by one body, and is never a deadlock.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._used = 0
        self._movers = 0
        self._waiters: deque[tuple[int, Wake]] = deque()
        self._favoured: Wake | None = None
        """The waiter that was let through last."""
        self._door: tuple[int, Wake] | None = None
        """Who wants to be told when an attempt can be admitted, and with how many bytes."""

    @property
    def used(self) -> int:
        """Bytes reserved now."""
        return self._used

    def admit(self, size: int, wake: Wake) -> bool:
        """Let an attempt begin with this guess reserved; if there is no room now, `wake` is called when there is.

        Only the last `wake` is remembered: a lane has one fetcher.
        """
        with self._lock:
            if not self._has_room(size):
                self._door = (size, wake)
                return False
            self._door = None
            self._used += size
            self._movers += 1
            return True

    def grow(self, more: int, wake: Wake) -> bool:
        """Add `more` bytes (may be negative) to a reservation: True if granted now, else `wake` is called when it is.

        `wake` may be called from any thread, and stands for the attempt: it must be the same one for all of its calls.
        """
        with self._lock:
            fits = not self._waiters and self._used + more <= self.limit
            if more <= 0 or fits or wake == self._favoured:
                self._used += more
                wakes = self._grant() if more < 0 else []
                granted = True
            else:
                self._movers -= 1
                self._waiters.append((more, wake))
                wakes = self._grant()
                granted = wake in wakes
        for call in wakes:
            if call != wake:
                call()
        return granted

    def cancel(self, wake: Wake) -> bool:
        """Take a waiting correction back; False if it was granted in the meantime (its bytes are then reserved)."""
        with self._lock:
            for item in self._waiters:
                if item[1] == wake:
                    self._waiters.remove(item)
                    self._movers += 1
                    return True
            return False

    def keep(self, correction: int = 0) -> None:
        """An attempt ended well: its bytes, corrected, stay reserved until its row is released."""
        self._change(movers=-1, size=correction)

    def drop(self, size: int) -> None:
        """An attempt ended with nothing: give back all that it reserved."""
        self._change(movers=-1, size=-size)

    def reserve(self, size: int) -> None:
        """A row is about to be delivered: the flow answers for its bytes. `size` is what no attempt has reserved of them."""
        self._change(movers=1, size=size)

    def release(self, size: int) -> None:
        """A delivered row is done with: give back the bytes of its parts. Once for each delivered row, whatever its size."""
        self._change(movers=-1, size=-size)

    def _change(self, *, movers: int, size: int) -> None:
        with self._lock:
            self._movers += movers
            self._used += size
            wakes = self._grant() if movers < 0 else []
        for wake in wakes:
            wake()

    def _has_room(self, size: int) -> bool:
        return self._movers == 0 or (not self._waiters and self._used + size <= self.limit)

    def _grant(self) -> list[Wake]:
        """Who can go on now; called with the lock held."""
        wakes = []
        while self._waiters and (self._used + self._waiters[0][0] <= self.limit or self._movers == 0):
            more, wake = self._waiters.popleft()
            if self._used + more > self.limit:
                self._favoured = wake
            self._used += more
            self._movers += 1
            wakes.append(wake)
        if self._door is not None and self._has_room(self._door[0]):
            wakes.append(self._door[1])
            self._door = None
        return wakes
