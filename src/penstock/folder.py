"""The output folder as a run sees it: its lock, its journal, its report.

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
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from penstock.errors import OutputRefusedError, SourceError
from penstock.ledger import Ledger
from penstock.records import ShardReport
from penstock.report.report import Report
from penstock.sink.disk import BLOCK, locked, remove, sync, writing

__all__ = ["HIDDEN", "OutputFolder", "read_ledger", "read_report", "stored_report"]

HIDDEN = ".penstock"
JOURNAL = f"{HIDDEN}/journal.jsonl"
LOCK = f"{HIDDEN}/lock"
DUPLICATES = f"{HIDDEN}/duplicates.npy"
STAGED = f"{HIDDEN}/list.parquet"
"""The list, for workers on other machines."""
SPOOL = f"{HIDDEN}/spool"
SCRATCH = f"{HIDDEN}/tmp"  # noqa: S108 - below our own folder
REPORT = "report.json"


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
        foreign = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(HIDDEN))
        if foreign:
            more = "" if len(foreign) <= 3 else f" and {len(foreign) - 3} more"
            raise OutputRefusedError(
                f"{self.path} holds files that are not Penstock's ({', '.join(foreign[:3])}{more}); give an empty folder"
            )

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
            ledger, self._journal_size = _replay(journal)
            if self._journal_size < journal.stat().st_size:
                os.truncate(journal, self._journal_size)
        return ledger

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add lines to the journal and wait until the disk has them; after an error the journal is as it was before.

        Raises:
            OutputError: among others, when somebody has deleted the journal since it was read.
        """
        lines = b"".join(_json(entry, separators=(",", ":")) for entry in entries)
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

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace ``report.json`` in one step."""
        temporary, data = self.path / HIDDEN / REPORT, _json(report, indent=2)
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


def _json(value: Mapping[str, Any], **layout: Any) -> bytes:
    """One line feed at its end. ASCII, since the names of files may hold bytes that are no UTF-8."""
    return json.dumps(value, **layout).encode("ascii") + b"\n"


def _replay(journal: Path) -> tuple[Ledger, int]:
    """The ledger, and the bytes of the journal's whole lines. Memory stays flat, however long the journal is."""
    size = 0

    def whole_lines(file: BinaryIO) -> Iterator[str]:
        nonlocal size
        for line in file:
            if line.endswith(b"\n"):
                size += len(line)
                yield line.decode()

    try:
        with journal.open("rb") as file:
            return Ledger.replay(whole_lines(file)), size
    except (ValueError, KeyError, TypeError) as error:
        raise OutputRefusedError(
            f"{journal} is damaged ({error}); restore it, or start anew in another folder"
        ) from error


def read_ledger(path: Path) -> Ledger:
    """The ledger of a folder that some run has written, without touching it.

    Raises:
        SourceError: there is no such run.
        OutputRefusedError: its journal is damaged.
    """
    journal = path / JOURNAL
    try:
        return _replay(journal)[0]
    except OSError as error:
        raise SourceError(f"{path} is not the output of a run: it has no {JOURNAL} ({error.strerror})") from error


def read_report(path: Path) -> Report | None:
    """``report.json`` as it is; None if it is missing or damaged."""
    try:
        return Report.from_dict(json.loads((path / REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def stored_report(path: Path) -> Report:
    """The report of a folder: ``report.json``, or what the journal tells of a run that has not come to its end.

    Raises:
        SourceError: no run has written there.
    """
    ledger = read_ledger(path)
    stored = read_report(path) or Report(verdict="unknown: the run was cut off")
    account = ledger.account
    finished = ledger.finished_rows is not None
    waiting = 0 if finished else stored.rows_waiting
    return dataclasses.replace(
        stored.with_account(account),
        folder=str(path),
        finished=finished,
        rows_before=min(stored.rows_before, account.rows + waiting),
        rows_waiting=waiting,
        shards=len(ledger.shards),
    )
