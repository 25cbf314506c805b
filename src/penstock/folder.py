"""The output folder as a run sees it: its lock, its journal, its report.

::

    DIR/00000.tar 00000.parquet 00000_stats.json …   the shards (sink/ writes them)
    DIR/report.json                                  what happened
    DIR/.penstock/journal.jsonl                      which run this is, which shards exist (ledger.py reads it)
    DIR/.penstock/lock                               held while a run works here
    DIR/.penstock/spool/ tmp/                        work in progress (sink/)
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.errors import OutputError, OutputRefusedError, SourceError
from penstock.ledger import Ledger
from penstock.report.report import Report

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs in one folder are then not kept apart
    fcntl = None  # type: ignore[assignment]  # the module is absent there

__all__ = ["HIDDEN", "OutputFolder", "read_ledger", "stored_report"]

HIDDEN = ".penstock"
JOURNAL = f"{HIDDEN}/journal.jsonl"
LOCK = f"{HIDDEN}/lock"
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
        self._refuse_foreign()
        try:
            (self.path / HIDDEN).mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error.strerror}") from error
        self._take_lock(self._lock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refuse_foreign(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise OutputRefusedError(f"{self.path} is a file; --out takes a folder")
        if (self.path / HIDDEN).is_dir():
            return
        foreign = sorted(entry.name for entry in self.path.iterdir())
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
            os.close(descriptor)
            self._lock = None
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
        text = journal.read_text(encoding="utf-8")
        whole = text.rfind("\n") + 1
        if whole < len(text):
            os.truncate(journal, len(text[:whole].encode()))
        return _replay(journal, text[:whole])

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the journal and wait until the disk has it."""
        try:
            with (self.path / JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise OutputError(f"cannot write the journal of {self.path}: {error.strerror}") from error

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace ``report.json`` in one step."""
        temporary = self.path / HIDDEN / REPORT
        try:
            temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(self.path / REPORT)
        except OSError as error:
            raise OutputError(f"cannot write {self.path / REPORT}: {error.strerror}") from error

    def clear(self, ledger: Ledger) -> None:
        """Delete what an earlier run left: its shards, report, journal and work in progress; nothing else.

        The journal goes last: should this be cut short, what is left still says whose it is.
        """
        for report in ledger.shards.values():
            for file in report.files:
                _remove(self.path / file.name)
        _remove(self.path / REPORT)
        for name in ("spool", "tmp"):
            _remove(self.path / HIDDEN / name)
        _remove(self.path / JOURNAL)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot delete {path}: {error.strerror}") from error


def _replay(journal: Path, text: str) -> Ledger:
    try:
        return Ledger.replay(io.StringIO(text, newline="\n"))
    except (ValueError, KeyError, TypeError) as error:
        raise OutputRefusedError(
            f"{journal} is damaged ({error}); restore it, or start anew in another folder"
        ) from error


def read_ledger(path: Path) -> Ledger:
    """The ledger of a folder that some run has written, without touching it.

    Raises:
        SourceError: there is no such run.
    """
    journal = path / JOURNAL
    if not journal.is_file():
        raise SourceError(f"{path} is not the output of a run: it has no {JOURNAL}")
    return _replay(journal, journal.read_text(encoding="utf-8"))


def stored_report(path: Path) -> Report:
    """The report of a folder: ``report.json``, or what the journal tells of a run that has not come to its end.

    Raises:
        SourceError: no run has written there.
    """
    ledger = read_ledger(path)
    try:
        stored = Report.from_dict(json.loads((path / REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        stored = Report(verdict="unknown: the run was cut off")
    account = ledger.account
    return dataclasses.replace(
        stored.with_account(account),
        folder=str(path),
        finished=ledger.finished_rows is not None,
        rows_before=min(stored.rows_before, account.rows),
        shards=len(ledger.shards),
    )
