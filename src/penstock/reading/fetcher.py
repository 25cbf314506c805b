"""The fetcher of written shards: reads the bytes of each part at its place.

    submit ─▶ queue ──▶ thread: read ─▶ wait for room in the budget ─▶ deliver

One thread is enough: from the page cache a row costs it some 15 µs, less than the crew needs for any image on dozens of
cores, and rows come in the order of the files, or nearly, so that the system reads ahead.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from collections import OrderedDict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.fetch.base import Deliver, FetchStatistics, OnBroken, broken_by
from penstock.fetch.budget import ByteBudget
from penstock.reading.places import Place, parts_of_table, unreadable
from penstock.records import Failure, Fetched, Reason, Request, Row

__all__ = ["ShardFetcher"]

_WIDTH = 64
"""The flow looks for what was delivered every few milliseconds, and lets in a small multiple of this each time: enough
for ten thousand rows a second and more."""

_OPEN_FILES = 64
"""Files open at the same time; a process may have about a thousand."""

_GROUPS = 16
"""Row groups of parquet shards kept in memory, of some 16 MB at most each: as many as a shuffle of a few thousand rows
has in use."""


class ShardFetcher:
    """A `penstock.fetch.base.Fetcher` for the rows of a `penstock.reading.ShardSource`.

    A file that is missing fails its rows with ``storage.not_found``, a damaged one with ``storage.error``; nothing is tried
    again.

    Args:
        folder: that of the source.
        texts: its `penstock.reading.ShardSource.texts`.
    """

    width = _WIDTH

    def __init__(self, folder: str | os.PathLike[str], texts: tuple[str, ...] = ()) -> None:
        self._files = _Files(Path(folder), texts)
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._closing = False
        self._room = threading.Event()
        """There may be room in the budget, or the end has come."""
        self._thread: threading.Thread | None = None

    def start(self, deliver: Deliver, budget: ByteBudget, on_broken: OnBroken, /) -> None:
        """Start the thread."""
        self._deliver = deliver
        self._budget = budget
        self._on_broken = on_broken
        self._thread = threading.Thread(target=self._guarded, name="penstock-shards", daemon=True)
        self._thread.start()

    def submit(self, row: Row) -> None:
        """Take one row; never blocks."""
        self._rows.put(row)

    def statistics(self) -> FetchStatistics:
        """There is nothing beside the reading."""
        return FetchStatistics()

    def close(self) -> None:
        """Stop after the read under way, and close the files. May be called twice."""
        self._closing = True
        self._rows.put(None)
        self._room.set()
        if self._thread is not None:
            self._thread.join()
        self._files.close()

    def _guarded(self) -> None:
        """Serve; a failure that nobody foresaw is told: the flow must not wait for its rows."""
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._on_broken(broken_by(error))

    def _serve(self) -> None:
        while (row := self._rows.get()) is not None and not self._closing:
            parts = tuple(map(self._fetch, row.requests))
            # What is admitted stands for the row until the flow releases it. Its bytes are here already, so that the
            # bound may be passed by those of one row, as everywhere.
            if self._wait_for_room(sum(len(part.data) for part in parts if isinstance(part, Fetched))):
                self._deliver(row, parts)

    def _wait_for_room(self, size: int) -> bool:
        """Reserve bytes when there is room for them; False at the end."""
        while True:
            self._room.clear()
            if self._closing:  # looked at after the clearing, or the wake-up of `close` could be lost
                return False
            if self._budget.admit(size, self._room.set):
                return True
            self._room.wait()

    def _fetch(self, request: Request) -> Fetched | Failure:
        if request.refused is not None:  # the source has found nothing there
            return Failure(request.refused, _explained(str(request.url).removeprefix("shard:"), request.refused))
        started = time.perf_counter()
        place = Place.of(str(request.url))
        try:
            data = self._files.read(place)
        except (OSError, LookupError, pa.ArrowException) as error:
            reason = unreadable(error)
            detail = _explained(place.file, reason, error)
            return Failure(reason, detail, attempts=1, seconds=time.perf_counter() - started)
        return Fetched(request.part, data, None, 1, time.perf_counter() - started)


def _explained(file: str, reason: Reason, error: Exception | None = None) -> str:
    missing = reason is Reason.STORAGE_NOT_FOUND
    what = "is missing, or lacks this row" if missing else "is damaged, or cannot be read"
    return f"{file} {what}: `penstock verify` tells more" + (f" ({error})" if error else "")


class _Files:
    """The files of a folder, kept open as long as they are in use."""

    def __init__(self, folder: Path, texts: tuple[str, ...]) -> None:
        self._folder = folder
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._group = functools.lru_cache(_GROUPS)(functools.partial(_read_group, folder, texts))

    def read(self, place: Place) -> bytes:
        """The bytes at a place.

        Raises:
            OSError: the file cannot be read, or ends before them.
            LookupError: the table has no such row or column.
            ArrowException: the table is damaged.
        """
        if place.file.endswith(".parquet") and "/" not in place.file:  # else it is a part that has that name
            value = self._group(place.file, place.at)[place.part][place.extent].as_py()
            if value is None:
                raise LookupError(f"no {place.part} in row {place.extent} of row group {place.at}")
            return value.encode() if isinstance(value, str) else bytes(value)
        data = os.pread(self._descriptor(place.file), place.extent, place.at)
        if len(data) < place.extent:
            raise OSError("it ends too early")
        return data

    def close(self) -> None:
        """Close what is open."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
        self._group.cache_clear()

    def _descriptor(self, file: str) -> int:
        if file in self._descriptors:
            self._descriptors.move_to_end(file)
            return self._descriptors[file]
        descriptor = os.open(self._folder / file, os.O_RDONLY)
        if len(self._descriptors) >= _OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[file] = descriptor
        return descriptor


def _read_group(folder: Path, texts: tuple[str, ...], file: str, group: int) -> pa.Table:
    """The parts of a row group."""
    with pq.ParquetFile(folder / file) as table:
        return table.read_row_group(group, columns=parts_of_table(table, texts), use_threads=False)
