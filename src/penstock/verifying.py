"""Whether a folder still holds what its journal says."""

from __future__ import annotations

import errno
import itertools
import operator
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.folder import read_ledger
from penstock.location import Location, location_of, reading
from penstock.records import Kind, ShardFile, ShardReport
from penstock.sink import objects
from penstock.sink.disk import describe, writing
from penstock.sink.names import shard_name, shards_in

__all__ = ["Problem", "shard_problems", "verify"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    file: str
    """Relative to the folder."""
    what: str


def verify(folder: str | Location, *, quick: bool = False) -> list[Problem]:
    """What is wrong with the output of a run; an empty list if nothing is.

    Every file of every committed shard must be there with its size and SHA-256, must open, and must hold as many rows
    as the journal says; no row may have been written twice; no shard's file may be there without its journal line
    (unless a run works in the folder now). One shard after the other, in little memory.

    Args:
        folder: the run's output: a folder, or the URL of an object store.
        quick: compare sizes and counts only, and leave the SHA-256 out, which takes most of the time (and in a store
            reads everything).

    Raises:
        SourceError: the folder is not the output of a run.
    """
    location = location_of(folder)
    shards = read_ledger(location).shards
    with reading(location):
        return list(_problems(location, shards, quick=quick))


def shard_problems(folder: Location, report: ShardReport) -> list[Problem]:
    """Which files of a committed shard are missing or not the ones that were committed, by size and SHA-256.

    Raises:
        OutputError: a file cannot be read for a reason that says nothing about its content (permissions, descriptors).
    """
    what = "check the shards of"
    with writing(folder, what=what) if isinstance(folder, Path) else objects.storing(folder, what):
        differences = [(file.name, _difference(folder / file.name, file, quick=False)) for file in report.files]
    return [Problem(name, what) for name, what in differences if what]


def _problems(folder: Location, shards: Mapping[int, ShardReport], *, quick: bool) -> Iterator[Problem]:
    seen = _Rows()
    for report in map(shards.__getitem__, sorted(shards)):  # one by one, for the ledger keeps them packed
        damaged = [problem for file in report.files if (problem := _file_problem(folder, file, quick=quick))]
        yield from damaged
        if not damaged:
            yield from _content_problems(folder, report, seen)
    yield from _leftovers(folder, shards)


def _file_problem(folder: Location, file: ShardFile, *, quick: bool) -> Problem | None:
    try:
        what = _difference(folder / file.name, file, quick=quick)
    except OSError as error:
        what = f"cannot be read: {error}"
    return Problem(file.name, what) if what else None


def _difference(path: Location, file: ShardFile, *, quick: bool) -> str | None:
    """In what a file is not the one that was committed.

    Raises:
        OSError: it cannot be read, and that may be no fault of the file.
    """
    try:
        size = _size(path)
        if size != file.size:
            return f"has {size:,} bytes, expected {file.size:,}"
        if not quick and describe(path) != file:
            return "has other content: its SHA-256 is not the one in the journal"
    except FileNotFoundError:
        # A store has no directories, so that one without members is not there.
        return None if file.name.endswith("/") and not file.size else "is missing"
    except OSError as error:
        if error.errno != errno.EIO or not isinstance(path, Path):  # of a store's client it may mean anything
            raise
        return f"cannot be read: {error}"  # the disk has lost it
    return None


def _size(path: Location) -> int:
    return sum(member.stat().st_size for member in path.iterdir()) if path.is_dir() else path.stat().st_size


def _content_problems(folder: Location, report: ShardReport, seen: _Rows) -> Iterator[Problem]:
    """Problems of a shard whose files are, by size at least, what they should be."""
    table = f"{shard_name(report.shard)}.parquet"
    try:
        outcomes, written = _read_table(folder / table)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        yield Problem(table, f"cannot be read: {error}")
        return
    expected = {
        Kind.WRITTEN.value: report.written,
        Kind.FAILED.value: report.failed,
        Kind.SKIPPED.value: report.skipped,
    }
    if outcomes != {kind: count for kind, count in expected.items() if count}:
        yield Problem(table, f"has other rows than the journal says: {outcomes}, expected {expected}")
    again = seen.add(written)
    if again.size:
        yield Problem(table, f"{again.size} keys were written before, the first is {again[0]:09d}")
    for file in report.files:
        try:
            yield from (Problem(file.name, what) for what in _sample_problems(folder / file.name, written))
        except (OSError, ValueError, EOFError, tarfile.TarError) as error:
            yield Problem(file.name, f"cannot be read: {error}")


def _read_table(path: Location) -> tuple[dict[str, int], npt.NDArray[np.int64]]:
    """How often each outcome occurs, and the indices of the written rows."""
    with path.open("rb") as file:
        table = pq.read_table(file, columns=["key", "outcome"])
    counts = {item["values"]: item["counts"] for item in table["outcome"].value_counts().to_pylist()}
    written = table.filter(pc.equal(table["outcome"], Kind.WRITTEN.value))["key"]
    return counts, written.cast(pa.int64()).to_numpy()


def _sample_problems(path: Location, written: npt.NDArray[np.int64]) -> Iterator[str]:
    """What is wrong with the samples in a file, given the rows that were written."""
    if path.suffix == ".npy":
        rows = _array_rows(path)
        if rows != len(written):
            yield f"holds {rows} arrays, expected {len(written)}"
    elif path.suffix == ".tar":
        yield from _key_problem(_tar_names(path), written)
    elif path.is_dir():
        yield from _key_problem((member.name for member in path.iterdir()), written)


def _array_rows(path: Location) -> int:
    """By the head of the file: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read_head(file)
    return int(shape[0])


def _tar_names(path: Location) -> Iterator[str]:
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            yield member.name
            archive.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it; tarfile would remember them all


def _key_problem(names: Iterable[str], written: npt.NDArray[np.int64]) -> Iterator[str]:
    keys = {int(name.partition(".")[0]) for name in names}
    different = keys.symmetric_difference(written.tolist())
    if different:
        yield f"holds other samples than the table says: {len(different)} differ, the first is {min(different):09d}"


def _leftovers(folder: Location, shards: Mapping[int, ShardReport]) -> Iterator[Problem]:
    deleted_by = "the next run" if isinstance(folder, Path) else "a run with --verify"
    for number, named in itertools.groupby(shards_in(folder), key=operator.itemgetter(1)):
        known = {file.name.rstrip("/") for file in shards[number].files} if number in shards else set()
        for name in (name for name, _ in named if name not in known):
            yield Problem(name, f"belongs to no committed shard; {deleted_by} deletes it")


class _Rows:
    """A set of row indices, one bit each."""

    def __init__(self) -> None:
        self._bits = np.zeros(0, np.uint8)

    def add(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Add rows; returns those that were there before, or occur twice."""
        if not indices.size:
            return indices
        self._grow(int(indices.max()) // 8 + 1)
        unique, counts = np.unique(indices, return_counts=True)
        bytes_, bits = unique >> 3, np.left_shift(1, unique & 7).astype(np.uint8)
        again: npt.NDArray[np.int64] = unique[(counts > 1) | ((self._bits[bytes_] & bits) != 0)]
        np.bitwise_or.at(self._bits, bytes_, bits)
        return again

    def _grow(self, size: int) -> None:
        if size > len(self._bits):
            self._bits = np.concatenate(
                [self._bits, np.zeros(max(size, 2 * len(self._bits)) - len(self._bits), np.uint8)]
            )
