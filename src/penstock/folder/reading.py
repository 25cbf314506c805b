"""What an output tells whoever has no part in the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from penstock.errors import SourceError
from penstock.folder.base import JOURNAL, REPORT, SEGMENTS
from penstock.folder.journal import replay_file, replay_segments
from penstock.ledger import Ledger
from penstock.location import Location, location_of
from penstock.report.report import Report
from penstock.sink import objects

__all__ = ["read_ledger", "read_report", "stored_report"]


def read_ledger(folder: str | Location) -> Ledger:
    """The ledger of an output that some run has written, without touching it.

    Raises:
        SourceError: there is no such run.
        OutputRefusedError: its journal is damaged.
    """
    location = location_of(folder)
    if isinstance(location, Path) and not (location / SEGMENTS).is_dir():
        try:
            return replay_file(location / JOURNAL)[0]
        except OSError as error:
            raise SourceError(
                f"{location} is not the output of a run: it has no {JOURNAL} ({error.strerror})"
            ) from error
    ledger, segments = replay_segments(location)
    if not segments:
        raise SourceError(f"{location} is not the output of a run: there is nothing below {SEGMENTS}/")
    return ledger


def read_report(folder: str | Location) -> Report | None:
    """``report.json`` as it is; None if it is missing or damaged."""
    try:
        return Report.from_dict(json.loads(_read(location_of(folder), REPORT)))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _read(location: Location, name: str) -> bytes:
    if isinstance(location, Path):
        return (location / name).read_bytes()
    with objects.storing(location, "read"):
        return objects.read(location, name) or b""


def stored_report(folder: str | Location) -> Report:
    """The report of a folder: ``report.json``, or what the journal tells of a run that has not come to its end.

    Raises:
        SourceError: no run has written there.
    """
    ledger = read_ledger(folder)
    stored = read_report(folder) or Report(verdict="unknown: the run was cut off")
    account = ledger.account
    finished = ledger.finished_rows is not None
    waiting = 0 if finished else stored.rows_waiting
    return dataclasses.replace(
        stored.with_account(account),
        folder=str(folder),
        finished=finished,
        rows_before=min(stored.rows_before, account.rows + waiting),
        rows_waiting=waiting,
        shards=len(ledger.shards),
    )
