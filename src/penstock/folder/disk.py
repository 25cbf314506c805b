"""The output folder on a disk as a run sees it: its lock, its journal, its report.

::

    DIR/00000.tar 00000.parquet 00000_stats.json …   the shards (sink/ writes them)
    DIR/report.json                                  what happened
    DIR/.penstock/journal.jsonl                      which run this is, which shards exist (ledger.py reads it)
    DIR/.penstock/lock                               held while a run works here
    DIR/.penstock/duplicates.npy                     rows that --dedup leaves out
    DIR/.penstock/spool/ tmp/                        work in progress (sink/)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from penstock.errors import OutputRefusedError
from penstock.folder.base import DUPLICATES, HIDDEN, JOURNAL, REPORT, SEGMENTS, STAGED, json_line, refusal_of_foreign
from penstock.folder.journal import replay_file
from penstock.ledger import Ledger
from penstock.records import ShardReport
from penstock.sink.disk import BLOCK, check_writable, locked, remove, sync, writing
from penstock.sink.landing import LOCK, SCRATCH
from penstock.sink.shards import SPOOL

__all__ = ["OutputFolder"]


class OutputFolder:
    """A folder that one run owns while it works: locked, with a journal to append to.

    >>> with OutputFolder(Path("out")) as folder:  # doctest: +SKIP
    ...     ledger = folder.read_ledger()
    ...     folder.append(entry)

    Raises:
        OutputRefusedError: on entering, when another run works there or the folder holds something else.
        OutputError: when the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = ""
        self.work_folder: Path | None = None
        """Work in progress has its place inside the folder."""
        self._lock: int | None = None
        self._journal_size: int | None = None
        """Bytes of the journal's whole lines; None before they are read, or the first one is written."""

    def __enter__(self) -> Self:
        with writing(self.path):
            self._refuse_foreign()
            (self.path / HIDDEN).mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take_lock(self._lock)
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):  # it is free all the same
                os.close(lock)

    def _refuse_foreign(self) -> None:
        """Only a journal says that the files beside it may be ours: it gets its first line before the first of them."""
        if not self.path.exists() or (self.path / JOURNAL).exists():
            return
        if not self.path.is_dir():
            raise OutputRefusedError(f"{self.path} is a file; --out takes a folder")
        if (self.path / SEGMENTS).is_dir():
            raise OutputRefusedError(
                f"{self.path} is a copy of an object store's output, to be read; runs go on in the store itself"
            )
        foreign = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(HIDDEN))
        if foreign:
            raise refusal_of_foreign(self.path, foreign)

    def _take_lock(self, descriptor: int) -> None:
        free = locked(descriptor)
        if free is None:  # without locks two runs in one folder are not kept apart
            return
        if not free:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            who = f" (process {owner})" if owner else ""
            raise OutputRefusedError(f"another run works in {self.path}{who}; wait for it or give another --out")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def read_ledger(self) -> Ledger:
        """What the journal says; a line that a crash cut off is removed from it."""
        journal = self.path / JOURNAL
        if not journal.exists():
            return Ledger()
        with writing(self.path, what="read the journal of"):
            ledger, self._journal_size = replay_file(journal)
            if self._journal_size < journal.stat().st_size:
                os.truncate(journal, self._journal_size)
        return ledger

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add lines to the journal and wait until the disk has them; after an error the journal is as it was before.

        Raises:
            OutputError: among others, when somebody has deleted the journal since it was read.
        """
        lines = b"".join(json_line(entry) for entry in entries)
        with writing(self.path, max(BLOCK, len(lines)), "write the journal of"), self._open_journal() as journal:
            before = journal.tell()
            try:
                while lines:
                    lines = lines[journal.write(lines) :]
                os.fsync(journal.fileno())
                if not before:
                    sync(self.path / HIDDEN)
                self._journal_size = journal.tell()
            except BaseException:
                with contextlib.suppress(OSError):
                    journal.truncate(before)  # half a line, with the next one behind it, would spoil the journal
                raise

    def _open_journal(self) -> FileIO:
        """The journal at its end; only its first line may make it.

        Raises:
            OSError: it is gone, or what an append that failed has left behind the last line cannot be cut off.
        """
        flags = os.O_WRONLY | os.O_APPEND | (0 if self._journal_size else os.O_CREAT)
        journal = FileIO(os.open(self.path / JOURNAL, flags, 0o644), "ab")
        try:
            if self._journal_size is not None and journal.seek(0, os.SEEK_END) > self._journal_size:
                journal.truncate(self._journal_size)
                journal.seek(0, os.SEEK_END)
        except BaseException:
            journal.close()
            raise
        return journal

    def check_writable(self) -> None:
        """Try all that a commit will want later."""
        check_writable(self.path)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace ``report.json`` in one step."""
        temporary, data = self.path / HIDDEN / REPORT, json_line(report, indent=2)
        with writing(self.path, max(BLOCK, len(data)), f"write {REPORT} into"):
            temporary.write_bytes(data)
            temporary.replace(self.path / REPORT)

    def duplicates(self, find: Callable[[], npt.NDArray[np.int64]]) -> Path:
        """The file with the positions of the rows that are duplicates: made by `find`, or by an earlier run of this list."""
        path = self.path / DUPLICATES
        if not path.exists():
            positions = find()
            temporary = path.with_suffix(".new")
            with writing(self.path, BLOCK + positions.nbytes, f"write {DUPLICATES} into"):
                with temporary.open("wb") as file:
                    np.save(file, positions, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
        return path

    def take_back(self, lost: Iterable[ShardReport]) -> None:
        """Delete the files of shards that exist no more, and the report, which counts them."""
        for report in lost:
            for file in report.files:
                self._remove(file.name)
        self._remove(REPORT)

    def clear(self, ledger: Ledger) -> None:
        """Delete what an earlier run left: its shards, report, journal and work in progress; nothing else.

        The journal's first line goes last: should this be cut short, what is left still says whose it is, and that no
        shard exists.
        """
        with writing(self.path, what="cut the journal of"):
            journal = self.path / JOURNAL
            with journal.open("rb") as file:
                first = file.readline()
            os.truncate(journal, len(first) if first.endswith(b"\n") else 0)
        self.take_back(ledger.shards.values())
        for name in (SPOOL, SCRATCH, DUPLICATES, STAGED, JOURNAL):
            self._remove(name)
        self._journal_size = None

    def _remove(self, name: str) -> None:
        with writing(self.path, what=f"delete {name} in"):
            remove(self.path / name)
