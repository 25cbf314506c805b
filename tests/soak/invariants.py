"""What must be true of an output folder, whatever befell the runs that wrote it."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from penstock.folder import read_ledger
from penstock.verifying import Problem, verify

LEFTOVER = "belongs to no committed shard; the next run deletes it"
KEPT = {".penstock/journal.jsonl", ".penstock/lock", "report.json"}
"""What a finished run leaves besides its shards."""
SEGMENTS = ".penstock/journal/"
"""The journal, in the copy of an object store's output."""


def assert_journal_is_true(out: Path) -> None:
    """After a kill: whatever the journal names is there and whole. What it does not name may lie about."""
    if not (out / ".penstock/journal.jsonl").exists():
        return
    problems = [problem for problem in verify(out) if problem.what != LEFTOVER]
    assert problems == [], problems
    for name in (file.name for report in read_ledger(out).shards.values() for file in report.files):
        if name.endswith(".tar"):
            _tar_keys(out / name)


def assert_finished(out: Path, *, rows: int, written: int) -> None:
    """Each row is there once, the folder verifies, and nothing is left of the work."""
    assert_each_row_once(out, rows=rows, written=written)
    problems: list[Problem] = verify(out)
    assert problems == [], problems
    assert_nothing_left(out)


def assert_nothing_left(out: Path) -> None:
    """No temporary file, no spool, no probe: the shards that the journal names, and what every run keeps."""
    shards = {file.name.rstrip("/") for report in read_ledger(out).shards.values() for file in report.files}
    strangers = [name for name in files_of(out) if not _is_kept(name) and name.partition("/")[0] not in shards]
    assert strangers == [], strangers
    empty = {".penstock/tmp", ".penstock/spool", ".penstock", SEGMENTS[:-1]} | shards
    folders = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_dir()}
    assert folders <= empty, folders - empty


def assert_each_row_once(out: Path, *, rows: int, written: int) -> None:
    """Every row is in the tables once, but for retried ones; those written are in the shards, once."""
    reports = sorted(read_ledger(out).shards.values(), key=lambda report: report.shard)
    keys: Counter[str] = Counter()
    tabled: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for report in reports:
        table = pq.read_table(out / f"{report.shard:05d}.parquet", columns=["key", "outcome"]).to_pylist()
        keys.update(row["key"] for row in table if not report.retried)
        of_shard = [row["key"] for row in table if row["outcome"] == "written"]
        tabled.update(of_shard)
        stored.update(_stored_keys(out, report.shard, of_shard))
    assert keys == Counter(f"{index:09d}" for index in range(rows))
    assert stored == tabled
    assert max(tabled.values(), default=1) == 1
    assert sum(tabled.values()) == written


def _stored_keys(out: Path, shard: int, written: list[str]) -> list[str]:
    """Keys of the images of a shard, whatever its format; an array has none, so its length has to fit."""
    tar, folder, array = out / f"{shard:05d}.tar", out / f"{shard:05d}", out / f"{shard:05d}.npy"
    if tar.exists():
        return _tar_keys(tar)
    if folder.is_dir():
        return [path.stem for path in folder.iterdir() if path.suffix == ".jpg"]
    if array.exists():
        return written[: len(np.load(array, mmap_mode="r"))]
    images = pq.read_table(out / f"{shard:05d}.parquet", columns=["key", "jpg"]).to_pylist()
    return [row["key"] for row in images if row["jpg"]]


def _tar_keys(path: Path) -> list[str]:
    """Keys of the images in a tar that is read to its end."""
    with tarfile.open(path) as tar:
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None
            assert len(data.read()) == member.size
        return [name.partition(".")[0] for name in tar.getnames() if name.endswith(".jpg")]


def _is_kept(name: str) -> bool:
    return name in KEPT or name.startswith(SEGMENTS)


def files_of(out: Path) -> Iterator[str]:
    """Every file below the folder, by its path from there."""
    return (str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file())


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file that depends on the list and the options alone: all but times and accounts of runs."""
    return {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in files_of(out)
        if not _is_kept(name) and not name.endswith("_stats.json")
    }
