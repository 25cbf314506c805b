"""The one commit rule, for all formats.

Where things lie, and how a row gets to its place::

    DIR/.penstock/spool/00000.spool        open shard: rows as they come            OpenShard.add
    DIR/.penstock/tmp/00000-x7f2q/…        the format writes all files, flushed  ┐
    DIR/00000.tar  DIR/00000.parquet  …    renamed; the folder flushed           ┘  OpenShard.commit
    DIR/.penstock/journal.jsonl            the caller appends the report: now the shard exists
                                           the spool goes                           ShardStore.forget

That is on a disk; `penstock.sink.landing` tells how shards get into an object store, whose open shards lie on this machine's disk.

A process may be killed anywhere. Before the journal line the final files, if there are any, are leftovers, which `sweep`
deletes and a commit replaces; the rows are in the spool still. After it the spool is a leftover.

On a cluster nobody knows whether a worker that has fallen silent is dead: the same shard may be made twice at the same time.
So a worker only *prepares* a shard: its spool is in a folder of its own (`work_folder`), and the files get a name that no other
attempt has. The driver, who alone writes the journal, then adopts one of the attempts
(`ShardStore.adopt`) and discards the others.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from penstock.config import OutputConfig
from penstock.errors import AccountError, ItemError
from penstock.location import Location, location_of
from penstock.parts import Text
from penstock.records import Kind, Settled, ShardReport, Value
from penstock.sink.arrays import ArraysFormat
from penstock.sink.base import Record, ShardFormat
from penstock.sink.disk import BLOCK, describe, remove, writing
from penstock.sink.files import FilesFormat
from penstock.sink.landing import Bucket, Disk, Landing
from penstock.sink.names import shard_name, shard_of
from penstock.sink.parquet import ParquetFormat
from penstock.sink.spool import Spool, kinds_of
from penstock.sink.table import TableLayout
from penstock.sink.tally import Tally
from penstock.sink.webdataset import WebDatasetFormat

__all__ = ["OpenShard", "ShardStore"]

SPOOL = ".penstock/spool"
_NO_PARTS: Mapping[str, Any] = {}


class ShardStore:
    """The shards of one output.

    Different open shards may be used by different threads; each of them by one thread at a time.

    Args:
        folder: the output folder, or a prefix of an object store.
        config: the format, and the columns beside the image.
        run_id: identifies the input and the options; spools of another id are not used.
        kept_schema: types of the kept columns, if the source knows them; see `TableLayout`.
        parts: names of the parts that samples will have, if known; see `ParquetFormat`.
        work_folder: one on this machine's disk for what is not whole yet. By default that lies in the output folder, so
            that a later run can go on with it. A store has no such place: who opens shards there has to give one.
        prepares: of a worker that is not alone with the output: leave the shards that are whole for `adopt`.
        owner: in a store: of the run, as its lock has it.

    Raises:
        ConfigError: a kept column, or with ``parquet`` a part, has the name of one of the table's own.

    Example::

        store = ShardStore(folder, config, run_id="…")
        store.sweep(committed)
        shard = store.open(0)
        for settled in outcomes:                  # in any order, those in shard.recovered left out
            shard.add(settled)
        journal.append(shard.commit(rows=10_000))
        store.forget(0)
    """

    def __init__(
        self,
        folder: str | Location,
        config: OutputConfig,
        *,
        run_id: str,
        kept_schema: pa.Schema | None = None,
        parts: tuple[str, ...] = (),
        work_folder: Path | None = None,
        prepares: bool = False,
        owner: str = "",
    ) -> None:
        self.folder = location_of(folder)
        self.prepares = prepares
        """Whether shards are left for `adopt`."""
        self.landing: Landing = (
            Disk(self.folder) if isinstance(self.folder, Path) else Bucket(self.folder, work_folder, owner)
        )
        on_disk = self.folder if isinstance(self.folder, Path) else None
        self._spools = work_folder or (on_disk and on_disk / SPOOL)
        self.layout = TableLayout.of(config, kept_schema)
        self.format = _format(config, self.layout, parts)
        self._run_id = run_id
        self._made = False

    def open(self, shard: int) -> OpenShard:
        """Begin a shard, or go on with one that a killed run left.

        Raises:
            OutputError: the spool cannot be written.
        """
        path = self._spool_path(shard)
        with writing(self.disk):
            self._make_folders()
            return OpenShard(self, shard, Spool(path, self._run_id))

    @property
    def disk(self) -> Path:
        """The folder on this machine whose disk takes what is not whole yet."""
        return self.folder if isinstance(self.folder, Path) else self.spools

    @property
    def spools(self) -> Path:
        """Where open shards lie."""
        assert self._spools is not None, "shards of an object store are opened by who has a folder to work in"
        return self._spools

    def _make_folders(self) -> None:
        """Once: if they vanish later on, somebody has deleted the run, and its journal too. That is to be an error."""
        if not self._made:
            for folder in (self.spools, self.landing.scratch_folder):
                folder.mkdir(parents=True, exist_ok=True)
            self._made = True

    def forget(self, shard: int) -> None:
        """Delete the spool of a shard, once its journal line is written."""
        with writing(self.disk):
            remove(self._spool_path(shard))

    def adopt(self, prepared: Sequence[ShardReport]) -> list[ShardReport]:
        """Give prepared shards their final names, durably. They exist once the journal has them.

        Raises:
            OutputError: the disk or the store refuses, or what was prepared is not there.
        """
        assert all(report.attempt for report in prepared), "or the folder of all attempts would be taken for one"
        self.landing.adopt(prepared)
        return [dataclasses.replace(report, attempt="") for report in prepared]

    def hurry(self) -> None:
        """Give up what is waiting for a store that does not answer. Any thread may say so."""
        self.landing.hurry()

    def discard(self, prepared: ShardReport) -> None:
        """Delete a prepared shard that nobody needs: another attempt at it was adopted."""
        assert prepared.attempt, "or the folder of all attempts would be taken for one"
        self.landing.discard(prepared.attempt)

    def sweep(self, committed: Collection[int], *, spools: bool = False, strays: bool = True) -> None:
        """Delete what a killed run left: half-written shards, spools of committed ones, final files of others.

        Files that Penstock would not write are left alone.

        Args:
            committed: the shards that are in the journal.
            spools: delete the spools of the others, too: their rows will be others now.
            strays: there may be final files that no shard to come will replace. A store is not searched without.
        """
        self._made = False
        if self._spools is not None:
            self._sweep_spools(self._spools, committed, others=spools)
        self.landing.sweep(committed, strays=strays)

    def _sweep_spools(self, folder: Path, committed: Collection[int], *, others: bool) -> None:
        with writing(self.disk):
            for path in folder.glob("*.spool"):
                if others or shard_of(path.stem) in committed:
                    remove(path)

    def _spool_path(self, shard: int) -> Path:
        return self.spools / f"{shard_name(shard)}.spool"


def _format(config: OutputConfig, layout: TableLayout, parts: tuple[str, ...]) -> ShardFormat:
    texts = tuple(name for name, part in (config.parts or {}).items() if isinstance(part, Text))
    makers: dict[str, Callable[[], ShardFormat]] = {
        "webdataset": lambda: WebDatasetFormat(layout),
        "parquet": lambda: ParquetFormat(layout, parts, texts),
        "files": lambda: FilesFormat(layout),
        "arrays": lambda: ArraysFormat(layout),
    }
    return makers[config.format]()


class OpenShard:
    """A shard that takes rows; made by `ShardStore.open`."""

    def __init__(self, store: ShardStore, shard: int, spool: Spool) -> None:
        self.shard = shard
        self._store = store
        self._spool = spool
        self._tally = Tally()
        self._started = time.time()
        if not self._fits():
            spool.clear()
        for size, meta in spool.metas():
            self._tally.add(meta, size)
        self.recovered = frozenset(spool.indices)
        """Indices of the rows that an earlier run has settled; they must not be added again."""

    def _fits(self) -> bool:
        """Whether what was recovered goes together with what the format has agreed on since."""
        try:
            for kinds in self._spool.kinds:
                self._store.format.check(kinds)
        except ItemError:
            return False
        return True

    def add(self, settled: Settled) -> None:
        """Take one settled row.

        Raises:
            ItemError: the format cannot store the sample; nothing was taken, the row is to be added as failed.
            AccountError: the row was added before, or has no sample where it should have one.
            OutputError: the spool cannot be written; the rows before this one are safe.
        """
        outcome, sample = settled.outcome, settled.sample
        index = outcome.row.index
        if (sample is not None) != (outcome.kind is Kind.WRITTEN):
            raise AccountError(f"row {index} is {outcome.kind} and {'has' if sample else 'lacks'} a sample")
        # None of a shard's samples has landed in a batch: their rows are given no place.
        parts = _NO_PARTS if sample is None else cast("Mapping[str, Value]", sample.parts)
        kinds = kinds_of(parts)
        if sample is not None:
            self._store.format.check(kinds)
        meta = self._store.layout.row(settled)
        with writing(self._store.disk, needed=max(BLOCK, sample.nbytes if sample else 0)):
            self._spool.add(index, (outcome.size, meta), parts, kinds)
        self._tally.add(meta, outcome.size)

    def commit(self, rows: int | None = None) -> ShardReport:
        """Write the shard under its final names, durably. The shard exists once the caller's journal has the report.

        A store that only prepares leaves it under a name of its own; the report says which (`ShardReport.attempt`).

        After an error nothing of the shard counts, and commit may be called again.

        Args:
            rows: how many the shard must have by now, where the caller knows.

        Raises:
            AccountError: it has another number of rows, or none.
            OutputError: the disk refused; no fsync is tried twice.
        """
        settled = len(self._spool.indices)
        if not settled or settled != (settled if rows is None else rows):
            raise AccountError(f"shard {self.shard} has {settled} settled rows of {rows or 'none'}")
        store, name = self._store, shard_name(self.shard)
        landing, prepare = store.landing, store.prepares
        with (
            writing(store.disk, needed=self._spool.size),
            landing.scratch(f"{name}-", prepare=prepare) as folder,
        ):
            paths = store.format.write(_SpooledRows(self._spool, store.layout, self._tally), folder, name)
            paths.append(folder / f"{name}_stats.json")
            self._tally.write(paths[-1], self._started, time.time())
            files = tuple(describe(path) for path in paths)
            landing.land(paths, prepare=prepare)
        self.close()
        report = self._tally.report(self.shard, self._spool.indices, files)
        return dataclasses.replace(report, attempt=folder.name) if prepare else report

    def close(self) -> None:
        """Stop here; without a commit the rows stay in the spool for the next run. May be called twice.

        Raises:
            OutputError: the disk refuses to close the spool.
        """
        with writing(self._store.disk):
            self._spool.close()


class _SpooledRows:
    """A spool as the formats see it."""

    def __init__(self, spool: Spool, layout: TableLayout, tally: Tally) -> None:
        self._spool = spool
        self._layout = layout
        self.written = tally.written
        self.part_names = tuple(sorted({kind.name for kinds in spool.kinds for kind in kinds}))

    def __len__(self) -> int:
        return len(self._spool.indices)

    def __iter__(self) -> Iterator[Record]:
        for row in self._spool.rows():
            _, meta = row.meta
            yield Record(meta["key"], meta, self._layout.caption_of(meta), row.parts)

    def metas(self) -> Iterator[Mapping[str, Any]]:
        return (meta for _, meta in self._spool.metas())
