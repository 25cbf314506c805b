"""The journal as it is stored: a file that grows, or in an object store, which cannot append, an object for each append.

::

    DIR/.penstock/journal.jsonl                on a disk
    s3://…/.penstock/journal/00000000.jsonl    in a store: the first append
    s3://…/.penstock/journal/00000001.jsonl    the second …

Each of these objects is made by a conditional put: of two runs that believe to be alone, one finds that its next object is there
already, and stops. Its first line says who made it, ``{"by": "…"}``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from penstock.errors import OutputError, OutputRefusedError
from penstock.folder.base import JOURNAL, SEGMENTS
from penstock.ledger import Ledger
from penstock.location import Location
from penstock.sink import objects

__all__ = ["CLEARED", "check_same_run", "replay_file", "replay_segments", "segment_name"]

CLEARED = {"cleared": True}

AT_A_TIME = 256
"""Objects that are read at a time: as many lie in memory, and as many requests are under way at most."""


def segment_name(number: int) -> str:
    """The object of an append, by the number of those before it.

    >>> segment_name(12)
    '.penstock/journal/00000012.jsonl'
    """
    return f"{SEGMENTS}/{number:08d}.jsonl"


def replay_file(journal: Path) -> tuple[Ledger, int]:
    """The ledger, and the bytes of the journal's whole lines. Memory stays flat, however long the journal is.

    Raises:
        OutputRefusedError: it is damaged.
    """
    size = 0

    def whole_lines(file: BinaryIO) -> Iterator[str]:
        nonlocal size
        for line in file:
            if line.endswith(b"\n"):
                size += len(line)
                yield line.decode()

    with journal.open("rb") as file, _naming_damage(journal):
        return Ledger.replay(whole_lines(file)), size


def replay_segments(location: Location) -> tuple[Ledger, int]:
    """The ledger of a store's output, or of one that was copied to a disk, and how many objects the journal has.

    Raises:
        OutputRefusedError: one of them is missing, or damaged.
        OutputError: the store does not answer.
        OSError: the disk does not.
    """
    names = _segments(location)
    with _naming_damage(location / SEGMENTS):
        expected = list(map(segment_name, range(len(names))))
        if names != expected:
            raise ValueError(f"{min(set(expected) - set(names), default=names[-1])} is missing, or others are there")
        ledger = Ledger()
        for entry in map(json.loads, _lines(location, names)):
            if "cleared" in entry:
                ledger = Ledger()
            else:
                ledger.apply(entry)
        return ledger, len(names)


def _segments(location: Location) -> list[str]:
    if isinstance(location, Path):
        return sorted(f"{SEGMENTS}/{path.name}" for path in (location / SEGMENTS).glob("*.jsonl"))
    with objects.storing(location, "read the journal of"):
        return objects.names_below(location, SEGMENTS)


def _lines(location: Location, names: list[str]) -> Iterator[str]:
    for start in range(0, len(names), AT_A_TIME):
        for content in _contents(location, names[start : start + AT_A_TIME]):
            yield from content.decode().splitlines()


def _contents(location: Location, names: list[str]) -> list[bytes]:
    if isinstance(location, Path):
        return [(location / name).read_bytes() for name in names]
    with objects.storing(location, "read the journal of"):
        return objects.read_several(names, location)


@contextlib.contextmanager
def _naming_damage(journal: Location) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise OutputRefusedError(
            f"{journal} is damaged ({error}); restore it, or start anew in another folder"
        ) from error


def check_same_run(location: Location, run_id: str) -> None:
    """Whether this machine sees the output that the driver of a run works in.

    Raises:
        OutputError: it does not.
    """
    if not isinstance(location, Path):
        with objects.storing(location, "read the journal of"):
            if objects.read(location, segment_name(0)) is None:
                raise OutputError(
                    f"{location} is not what the driver sees: here it has no journal; all nodes need the same store"
                )
        return
    shared = "--out has to lie on storage that all nodes share"
    try:
        with (location / JOURNAL).open("rb") as journal:
            there = json.loads(journal.readline())["run"]["run_id"]
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{location} is not the folder that the driver sees ({error}); {shared}") from error
    if there != run_id:
        raise OutputError(f"{location} holds another run here; {shared}")
