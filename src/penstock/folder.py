"""The output folder as a run sees it: its lock, its journal, its report.

::

    DIR/00000.tar 00000.parquet 00000_stats.json …   the shards (sink/ writes them)
    DIR/report.json                                  what happened
    DIR/.penstock/journal.jsonl                      which run this is, which shards exist (ledger.py reads it)
    DIR/.penstock/lock                               held while a run works here
    DIR/.penstock/spool/ tmp/                        work in progress (sink/)
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.errors import OutputError, OutputRefusedError, SourceError
from penstock.ledger import Ledger
from penstock.report.report import Report
from penstock.sink.disk import remove, sync

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs in one folder are then not kept apart
    fcntl = None  # type: ignore[assignment]  # the module is absent there

__all__ = ["HIDDEN", "OutputFolder", "read_ledger", "read_report", "stored_report"]

HIDDEN = ".penstock"
JOURNAL = f"{HIDDEN}/journal.jsonl"
LOCK = f"{HIDDEN}/lock"
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

    def __enter__(self) -> Self:
        with _diagnosed(f"cannot write to {self.path}"):
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
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            who = f" (process {owner})" if owner else ""
            raise OutputRefusedError(
                f"another run works in {self.path}{who}; wait for it or give another --out"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def read_ledger(self) -> Ledger:
        """What the journal says; a line that a crash cut off is removed from it."""
        journal = self.path / JOURNAL
        if not journal.exists():
            return Ledger()
        with _diagnosed(f"cannot read {journal}"):
            data = journal.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(journal, whole)
        return _replay(journal, data)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the journal and wait until the disk has it; after an error the journal is as it was before."""
        line = _json(entry, separators=(",", ":"))
        with _diagnosed(f"cannot write the journal of {self.path}"), (self.path / JOURNAL).open("ab", 0) as journal:
            before = journal.tell()
            try:
                while line:
                    line = line[journal.write(line) :]
                os.fsync(journal.fileno())
                if not before:
                    sync(self.path / HIDDEN)
            except BaseException:
                with contextlib.suppress(OSError):
                    journal.truncate(before)  # half a line, with the next one behind it, would spoil the journal
                raise

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace ``report.json`` in one step."""
        temporary = self.path / HIDDEN / REPORT
        with _diagnosed(f"cannot write {self.path / REPORT}"):
            temporary.write_bytes(_json(report, indent=2))
            temporary.replace(self.path / REPORT)

    def clear(self, ledger: Ledger) -> None:
        """Delete what an earlier run left: its shards, report, journal and work in progress; nothing else.

        The journal goes last: should this be cut short, what is left still says whose it is.
        """
        for report in ledger.shards.values():
            for file in report.files:
                self._remove(file.name)
        for name in (REPORT, SPOOL, SCRATCH, JOURNAL):
            self._remove(name)

    def _remove(self, name: str) -> None:
        with _diagnosed(f"cannot delete {self.path / name}"):
            remove(self.path / name)


@contextlib.contextmanager
def _diagnosed(what: str) -> Iterator[None]:
    """Turns an OSError inside into an OutputError that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{what}: {error.strerror or error}") from error


def _json(value: Mapping[str, Any], **layout: Any) -> bytes:
    """One line feed at its end. ASCII, since the names of files may hold bytes that are no UTF-8."""
    return json.dumps(value, **layout).encode("ascii") + b"\n"


def _replay(journal: Path, data: bytes) -> Ledger:
    try:
        return Ledger.replay(line.decode() for line in io.BytesIO(data))
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
        data = journal.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} is not the output of a run: it has no {JOURNAL} ({error.strerror})") from error
    return _replay(journal, data)


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
