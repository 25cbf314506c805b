"""What is the same for every contender: the list, the size, and how its steady state is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from measure import SAMPLING, TICKS, process_tree

SIZE = 128
BATCH = 64
CONNECTIONS = 256
"""Requests in flight at most, for those that have a number for it; all go to one host."""

TIMEOUT = 30
"""Seconds for one request; none of the benchmark takes one."""

SHARD = 125
"""Rows of a shard: there are dozens in a run, so that a cluster's lots get smaller by steps, as those of a long run do."""

WARM_ROWS = 512
"""Done before, over another list, so that every worker has loaded what it loads late."""

FROM, TO = 0.1, 0.9
"""The steady state: from the first of these shares of all rows to the second."""

Figures = dict[str, float]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Job:
    """What a contender is asked for."""

    listing: Path
    """Parquet with the column ``url``."""
    rows: int
    """Of it."""
    warm: Path
    """Another one, of `WARM_ROWS`."""
    folder: Path
    """Where it may write."""
    cores: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a contender stood when somebody looked."""

    clock: float
    images: int
    cpu: float
    """Seconds of the process tree, since somebody first looked at it."""


class Course:
    """How a contender goes on, as it tells by itself: the same for those that write and those that hand out.

    Args:
        rows: of the list; each is to become an image.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._images = 0
        self._cpu: dict[tuple[int, str], float] = {}
        """Seconds of every process that was ever seen, by its number and when it began, as they were seen last.

        Not the sum over those that are there: Ray's daemon does not wait for the workers that it ends, so that their time
        would vanish with them, and that of lanes that come to an end would not.
        """
        self._looked = 0.0
        self._begun = self._mark()
        self._passed: dict[float, Mark] = {}
        """The first look past each share of the rows, with what was done by then."""

    def done(self, images: int) -> None:
        """So many by now."""
        self._images = images
        for share in (FROM, TO):
            if share not in self._passed and images >= share * self._rows:
                self._passed[share] = self._mark()
        if time.monotonic() - self._looked > SAMPLING:
            self._look()

    def more(self, images: int) -> None:
        """So many besides."""
        self.done(self._images + images)

    def _mark(self) -> Mark:
        self._look()
        return Mark(time.monotonic(), self._images, sum(self._cpu.values()))

    def _look(self) -> None:
        self._looked = time.monotonic()
        for pid, fields in process_tree(os.getpid()):
            self._cpu[pid, fields[19]] = sum(map(int, fields[11:13])) / TICKS

    def figures(self) -> Figures:
        """Of the call, which has ended, and of its steady state."""
        assert self._images == self._rows, f"{self._images} of {self._rows} images came"
        end, first, last = self._mark(), self._passed[FROM], self._passed[TO]
        return {
            "images": self._images,
            "call": end.clock - self._begun.clock,
            "steady_images": last.images - first.images,
            "steady_wall": last.clock - first.clock,
            "steady_cpu": last.cpu - first.cpu,
        }


Run = Callable[[], Figures]
Contest = Callable[[Job], AbstractContextManager[Run]]
"""Starts a cluster, if there is one, and warms it; what it gives does the job and tells how that went."""
