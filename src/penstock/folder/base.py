"""What a run asks of its output, wherever it lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from penstock.errors import OutputRefusedError
from penstock.ledger import Ledger
from penstock.location import Location
from penstock.records import ShardReport

__all__ = ["DUPLICATES", "HIDDEN", "JOURNAL", "REPORT", "SEGMENTS", "STAGED", "Output"]

HIDDEN = ".penstock"
JOURNAL = f"{HIDDEN}/journal.jsonl"
SEGMENTS = f"{HIDDEN}/journal"
"""The journal in an object store, which cannot append: an object for each append."""
DUPLICATES = f"{HIDDEN}/duplicates.npy"
STAGED = f"{HIDDEN}/list.parquet"
"""The list, for workers on other machines."""
REPORT = "report.json"


class Output(AbstractContextManager["Output"], Protocol):
    """An output that one run owns while it is entered: locked, with a journal to append to.

    Raises:
        OutputRefusedError: on entering, when another run works there or it holds something else.
        OutputError: from all methods, when it cannot be made, written or read.
    """

    owner: str
    """What the lock of an object store says of this run; empty where the system keeps the lock."""
    work_folder: Path | None
    """While it is entered: a folder on this machine's disk, for what is not whole yet; None if it has a place of its own."""

    def read_ledger(self) -> Ledger:
        """What the journal says."""
        ...

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add lines to the journal, durably: all of them, or none."""
        ...

    def check_writable(self) -> None:
        """Try all that a commit will want later."""
        ...

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace ``report.json`` in one step."""
        ...

    def duplicates(self, find: Callable[[], npt.NDArray[np.int64]]) -> Path:
        """A file on this machine with the positions of the rows that are duplicates: made by `find`, or by an earlier run."""
        ...

    def take_back(self, lost: Iterable[ShardReport]) -> None:
        """Delete the files of shards that exist no more, and the report, which counts them."""
        ...

    def clear(self, ledger: Ledger) -> None:
        """Delete what an earlier run left, so that none of its shards exists any more; nothing else."""
        ...


def refusal_of_foreign(location: Location, names: Sequence[str]) -> OutputRefusedError:
    """For an output that holds other files (by name), and no journal of ours."""
    more = "" if len(names) <= 3 else f" and {len(names) - 3} more"
    return OutputRefusedError(
        f"{location} holds files that are not Penstock's ({', '.join(names[:3])}{more}); give an empty folder"
    )


def json_line(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """One line feed at its end. ASCII, since the names of files may hold bytes that are no UTF-8."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, indent=indent, separators=separators).encode("ascii") + b"\n"
