"""The written rows of a folder's committed shards."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from penstock.config import Format
from penstock.errors import ConfigError, ItemError, SourceError
from penstock.folder import HIDDEN, JOURNAL, SEGMENTS, read_ledger
from penstock.parts import Column, Image, Images, Part, Text, kept_columns, parse_parts, sampled
from penstock.reading.places import Place, Written, array_heads, finder_of, parts_of_table
from penstock.records import PART, Kind, Reason, Request, Row, ShardReport, group_of
from penstock.sink.base import PartKind
from penstock.sink.names import shard_name
from penstock.source.base import Columns
from penstock.source.files import ENDINGS

__all__ = ["ShardSource", "ShardSpec", "is_shards"]

_CAPTION = "caption"
_WIDTH = "width"
_ENDINGS = {"webdataset": ".tar", "parquet": ".parquet", "files": "", "arrays": ".npy"}
"""Of the file that holds a shard's samples, by format."""


def is_shards(location: Any) -> bool:
    """Whether this is the folder of a run, and no list: a local path with a journal in it, its own or one copied from a store.

    Raises:
        ConfigError: it is the output of a run in an object store.
    """
    if not isinstance(location, str | os.PathLike):
        return False
    if "://" in str(location):
        _refuse_stored_shards(str(location))
        return False
    # Not Path, which raises where a text is too long to be one.
    return os.path.isfile(os.path.join(location, JOURNAL)) or os.path.isdir(os.path.join(location, SEGMENTS))  # noqa: PTH112, PTH113, PTH118


def _refuse_stored_shards(url: str) -> None:
    """Shards are mapped and read in pieces, which takes files; and taken for a list, their tables would be fetched again."""
    if url.lower().endswith(ENDINGS) or url.startswith(("http:", "https:")):
        return
    try:
        system, path = fsspec.core.url_to_fs(url)
        is_run = not isinstance(system, LocalFileSystem) and system.exists(f"{path.rstrip('/')}/{HIDDEN}")
    except Exception:  # noqa: BLE001 - whoever opens it as a list says what is wrong
        return
    if is_run:
        raise ConfigError(
            f"{url} is the output of a run; a stream reads such from a disk: copy it here first, or read its shards with webdataset"
        )


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """A small, picklable description from which another process opens the same shards."""

    folder: str
    """Absolute."""
    keep_columns: tuple[str, ...]

    def open(self) -> ShardSource:
        """Open the source here; raises what `ShardSource` raises."""
        return ShardSource(self.folder, self.keep_columns)


class ShardSource:
    """What a run has written, as a source: the face of `penstock.source.Source`. Not for several threads at a time.

    Shards come by number, and in a shard the written rows by key: the order of `penstock.load`. Positions, `count` and
    the arguments of `rows` count written rows; a row's index and key are those that it had in the run's own list.

    A row asks for each part of its sample that is there, under the name that the part had in the run: ``image`` in a plain
    one, those of ``parts=`` (``views.0``, ``views.1`` … of a list), or those that a transform gave. ``image`` comes first,
    then the others by name. Without a required one of ``parts=`` the row fails.

    Args:
        folder: the run's output; it may still be at work.
        keep_columns: columns of the shards' tables that go into `Row.fields`; by default those that the run kept.

    Raises:
        SourceError: no run has written there, not a single row was written, a table cannot be read or lacks a column.
        OutputRefusedError: the journal is damaged.
    """

    rereadable = True
    """`rows` may go back."""

    def __init__(self, folder: str | os.PathLike[str], keep_columns: Iterable[str] = ()) -> None:
        self.folder = Path(folder).absolute()
        ledger = read_ledger(self.folder)
        self._shards = [report for report in ledger.reports if report.written]
        if ledger.manifest is None or not self._shards:
            raise SourceError(f"{self.folder} holds no committed shard with a written row")
        self._run_id = ledger.manifest.run_id
        self.options = ledger.manifest.options
        """Options of the run that wrote them, as JSON types: ``size``, ``format`` …"""
        asked = tuple(keep_columns)
        self.spec = ShardSpec(str(self.folder), asked)
        self.description = f"the shards in {self.folder}"
        self.keep_columns = asked or tuple(self.options["keep_columns"])
        """Columns that a user wants in `Row.fields`; those of which `parts` are made are there as well."""
        self._check_columns(asked)

    def _check_columns(self, asked: tuple[str, ...]) -> None:
        with self._table(self._shards[0]) as table:
            parts = parts_of_table(table, self.texts)
            columns = [name for name in table.schema_arrow.names if name not in parts]
        Columns("key", keep=asked).require(str(self._table_path(self._shards[0])), columns)

    @property
    def format(self) -> Format:
        """The run's ``--format``."""
        return cast("Format", self.options["format"])

    @property
    def is_plain(self) -> bool:
        """Whether each sample is one image of Penstock's own making."""
        return not self.is_shaped_by_user and self.parts is None

    @property
    def is_shaped_by_user(self) -> bool:
        """Whether a function of the user's has decided what the arrays and images look like."""
        return bool(self.options.get("transform") or self.options.get("transform_image"))

    @cached_property
    def parts(self) -> dict[str, Part] | None:
        """Of a run with ``parts=``, what these are when they are read back.

        A column is a text where it was stored as one, and a column of the table where not. Images of which each had a size
        of its own do not fit into a batch: theirs is left to the options.
        """
        if not self.options.get("parts"):
            return None
        parts = parse_parts(self.options["parts"])
        stored = sampled(parts, self.format)
        return {name: _read_back(part, is_stored=name in stored) for name, part in parts.items()}

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Parts that are columns of text in the shards' tables."""
        if self.parts is None or self.format != "parquet":
            return ()
        return tuple(name for name, part in self.parts.items() if isinstance(part, Text))

    @cached_property
    def count(self) -> int:
        """Written rows; known without reading."""
        return sum(report.written for report in self._shards)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What changes when the shards do, as JSON types; not when the folder is moved."""
        digest = hashlib.sha256()
        for report in self._shards:
            samples = [file for file in report.files if not file.name.endswith("_stats.json")]  # these hold times
            digest.update(repr((report.shard, [(file.name, file.sha256) for file in samples])).encode())
        return {"run_id": self._run_id, "rows": self.count, "sha256": digest.hexdigest()}

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """The written rows from position `start` up to, and without, `stop`; shards before it are not looked at.

        A row whose bytes cannot be found comes all the same, with the reason as its request's `refused`.

        Raises:
            SourceError: the table of a shard is missing or damaged.
        """
        return islice(self._rows(start), None if stop is None else max(0, stop - start))

    def _rows(self, start: int) -> Iterator[Row]:
        for report in self._shards:
            if start < report.written:
                yield from self._shard_rows(report, start)
            start = max(0, start - report.written)

    def _shard_rows(self, report: ShardReport, start: int) -> Iterator[Row]:
        with self._table(report) as table:
            find = finder_of(self.format, self.folder, report, table, self.texts)
            url = f"shard:{shard_name(report.shard)}{_ENDINGS[self.format]}"
            for written in islice(self._written(report, table), start, None):
                try:
                    found = tuple(self._requests(written, find(written)))
                    requests = found + tuple(self._missing(found, url))
                except ItemError as error:
                    requests = (Request(PART, url, error.reason),)
                fields = {name: written.values[name] for name in self._fields}
                yield Row(written.index, requests, written.values[_CAPTION] if self._has_caption else None, fields)

    def _requests(self, written: Written, places: list[Place]) -> Iterator[Request]:
        """For each part that is there.

        Raises:
            ItemError: none is.
        """
        named = [(name, place) for place in places if (name := self._name_of(place.part, written)) is not None]
        if not named:
            raise ItemError(Reason.STORAGE_NOT_FOUND)
        for name, place in sorted(named, key=lambda pair: (pair[0] != PART, pair[1].rank)):
            part = self.parts[group_of(name)] if self.parts is not None else None
            yield Request(name, place.url, required=part is None or part.required)

    def _missing(self, found: tuple[Request, ...], url: str) -> Iterator[Request]:
        """For each required part that is not there, though the row was written with it."""
        there = {request.group for request in found}
        for name, part in (self.parts or {}).items():
            if part.required and name not in there and not isinstance(part, Column):
                yield Request(name, url, Reason.STORAGE_NOT_FOUND)

    def _name_of(self, member: str, written: Written) -> str | None:
        """The name that a part had in the run; None for what is no part."""
        if member in self._besides:
            return None
        if self.is_plain:
            return PART
        name = _without_npy(member) if self.format in ("webdataset", "files") else member
        if self.parts is None:  # the width tells that the part `image` was one, and was stored as a file
            return PART if member == self._encoded and written.values[_WIDTH] is not None else name
        group, _, rest = name.partition(".")
        if group not in self.parts:
            return None
        return f"{group}.{rest.partition('.')[0]}" if isinstance(self.parts[group], Images) else group

    @cached_property
    def _encoded(self) -> str | None:
        """Where `transform_image` has decided what a sample is made of: as what an image among its parts was stored."""
        of_transform = self.options.get("transform_image") and self.parts is None and self.format != "arrays"
        return str(self.options["encode"]) if of_transform else None

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        return kept_columns(self.keep_columns, self.parts or {})

    @cached_property
    def _has_caption(self) -> bool:
        return self.options["caption_column"] is not None

    @cached_property
    def _besides(self) -> frozenset[str]:
        """Members that say what the table says, too."""
        return frozenset({"json", "txt"} if self._has_caption else {"json"})

    def _written(self, report: ShardReport, table: pq.ParquetFile) -> Iterator[Written]:
        """The written rows of a shard's table, one row group at a time."""
        caption = [_CAPTION] if self._has_caption else []
        width = [_WIDTH] if self._encoded else []
        columns = list(dict.fromkeys(["key", "outcome", *caption, *width, *self._fields]))
        position = itertools.count()
        for group in range(table.num_row_groups):
            with self._readable(report):
                rows = table.read_row_group(group, columns=columns, use_threads=False).to_pylist()
            for row, values in enumerate(rows):
                if values["outcome"] == Kind.WRITTEN.value:
                    yield Written(int(values["key"]), next(position), group, row, values)

    def _table(self, report: ShardReport) -> pq.ParquetFile:
        """The open table of a shard; the caller closes it."""
        with self._readable(report):
            return pq.ParquetFile(self._table_path(report))

    def _table_path(self, report: ShardReport) -> Path:
        return self.folder / f"{shard_name(report.shard)}.parquet"

    @contextlib.contextmanager
    def _readable(self, report: ShardReport) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"{self._table_path(report)} cannot be read: {error}; `penstock verify` tells what is damaged"
            ) from error

    def array_kinds(self) -> dict[str, PartKind]:
        """What a row's numbers are, by part, where the format is ``arrays``; else nothing.

        Raises:
            SourceError: the first shard, which stands for all, cannot be read.
        """
        if self.format != "arrays":
            return {}
        first = self._shards[0]
        try:
            heads = array_heads(self.folder, first)
        except (OSError, ValueError) as error:
            raise SourceError(
                f"the arrays of shard {shard_name(first.shard)} in {self.folder} cannot be read: {error}; "
                "`penstock verify` tells what is damaged"
            ) from error
        return {name: PartKind(name, head.dtype.str, head.shape[1:]) for name, (_, head) in heads.items()}


def _without_npy(member: str) -> str:
    """What `penstock.sink.members.extension` has made of a part's name, turned back."""
    return PART if member == "npy" else member.removesuffix(".npy")


def _read_back(part: Part, *, is_stored: bool) -> Part:
    if isinstance(part, Column) and is_stored:
        return Text(part.column, required=part.required)
    if isinstance(part, Images) or (isinstance(part, Image) and part.required):
        return dataclasses.replace(part, resize=None) if part.resize in ("fit", "none") else part
    return part
