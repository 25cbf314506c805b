"""The output as a run sees it, and what it tells others.

::

    location_of(out) ──▶ Path ──▶ OutputFolder   a folder: locked, with a journal that grows       disk.py
                    └──▶ UPath ─▶ OutputBucket   an object store: leased, a journal of objects     bucket.py, lease.py
"""

from __future__ import annotations

from pathlib import Path

from penstock.folder.base import HIDDEN, JOURNAL, SEGMENTS, STAGED, Output
from penstock.folder.bucket import OutputBucket
from penstock.folder.disk import OutputFolder
from penstock.folder.journal import check_same_run
from penstock.folder.reading import read_ledger, read_report, stored_report
from penstock.location import Location

__all__ = [
    "HIDDEN",
    "JOURNAL",
    "SEGMENTS",
    "STAGED",
    "Output",
    "OutputBucket",
    "OutputFolder",
    "check_same_run",
    "open_output",
    "read_ledger",
    "read_report",
    "stored_report",
]


def open_output(location: Location) -> Output:
    """What a run works with there; to be entered."""
    return OutputFolder(location) if isinstance(location, Path) else OutputBucket(location)
