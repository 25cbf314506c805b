"""The parquet beside each shard: one row for every input row, failures too."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.config import SourceConfig
from penstock.errors import ConfigError
from penstock.parts import Part
from penstock.records import Facts, Kind, Outcome, PartOutcome, Request, Settled, group_of
from penstock.sink.base import Record, ShardRows
from penstock.sink.members import npy_bytes

__all__ = ["TableLayout", "TableWriter", "requests_of"]

_COLUMNS = pa.schema(
    {
        "key": pa.string(),
        "url": pa.string(),
        "outcome": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "error_message": pa.string(),
        "http_status": pa.int32(),
        "attempts": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "original_width": pa.int32(),
        "original_height": pa.int32(),
        "sha256": pa.string(),
        "exif": pa.string(),
        "frames": pa.int32(),
        "downgraded": pa.bool_(),
    }
)
_PARTS = "parts"
_CAPTION = "caption"
_GROUP_ROWS = 1000
"""Rows in a row group: what readers shuffle by, and enough for the columns to compress."""
_GROUP_BYTES = 2**24
"""Bytes of parts that close a row group early, because a group lies in memory until it is written."""
_NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Which columns the table has, and how a settled row fills them.

    The types of the kept columns are those of `kept_schema`, as far as it goes. The others are found for each shard by
    itself: one type of number, text or truth, or lists of one; what has no such type is stored as JSON text, what is
    null throughout as text.
    """

    caption: bool = False
    """Whether a caption column was asked for."""
    keep: tuple[str, ...] = ()
    """Names of the kept columns."""
    kept_schema: pa.Schema | None = None
    """Types of kept columns, as the source knows them: of JSON types."""
    parts: bool = False
    """Whether rows are made of several parts."""

    @classmethod
    def of(cls, config: SourceConfig, kept_schema: pa.Schema | None) -> Self:
        """The layout that the options ask for."""
        return cls(config.caption_column is not None, config.kept_columns, kept_schema, config.parts is not None)

    def __post_init__(self) -> None:
        """Refuse kept columns whose names are taken."""
        names = self.columns
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"--keep-columns {','.join(twice)}: the shards' table has a column of that name in any case; "
                f"leave it out{' (a part may be made of it, too)' if self.parts else ''}, or rename it in the list"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """All names, in order."""
        further = [name for name, asked in ((_PARTS, self.parts), (_CAPTION, self.caption)) if asked]
        return (*_COLUMNS.names, *further, *self.keep)

    @property
    def own_members(self) -> tuple[str, ...]:
        """What a sample has beside its parts."""
        return ("json",) if self.parts else ("json", "txt")

    def row(self, settled: Settled) -> dict[str, Any]:
        """The row of the table; values are JSON types."""
        outcome = settled.outcome
        row = outcome.row
        facts = settled.sample.facts if settled.sample else _NO_FACTS
        meta: dict[str, Any] = {
            "key": row.key,
            "url": row.url,
            "outcome": outcome.kind.value,
            "status": status_of(outcome),
            "reason": outcome.reason.value if outcome.reason else None,
            "error_message": outcome.detail or None,
            "http_status": outcome.http_status,
            "attempts": outcome.attempts,
            "width": facts.width,
            "height": facts.height,
            "original_width": facts.original_width,
            "original_height": facts.original_height,
            "sha256": facts.sha256,
            "exif": facts.exif,
            "frames": facts.frames,
            "downgraded": outcome.downgraded,
        }
        if self.parts:
            meta[_PARTS] = _parts_entries(outcome)
        if self.caption:
            meta[_CAPTION] = row.caption
        for name in self.keep:
            meta[name] = row.fields.get(name)
        return meta

    def caption_of(self, meta: Mapping[str, Any]) -> str | None:
        """The text beside the image, given a row of the table."""
        return meta[_CAPTION] if self.caption else None

    def schema(self, rows: ShardRows) -> pa.Schema:
        """The shard's schema, in the order of `columns`."""
        schema = _COLUMNS
        for name, asked in ((_PARTS, self.parts), (_CAPTION, self.caption)):
            schema = schema.append(pa.field(name, pa.string())) if asked else schema
        known = {field.name: field.type for field in self.kept_schema or ()}
        unknown = [name for name in self.keep if name not in known]
        kinds = known | (_common_types(rows.metas(), unknown) if unknown else {})
        for name in self.keep:
            schema = schema.append(pa.field(name, pa.string() if pa.types.is_null(kinds[name]) else kinds[name]))
        return schema


def _parts_entries(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """What became of each request of a row; what is not known, or is no matter, is left out."""
    requests = outcome.row.requests
    known = outcome.parts
    if len(requests) == 1 and not known:  # it ended as its row did
        known = {requests[0].part: PartOutcome(outcome.reason, outcome.detail, outcome.http_status, outcome.attempts)}
    return {request.part: _entry(request, known.get(request.part)) for request in requests}


def _entry(request: Request, outcome: PartOutcome | None) -> dict[str, Any]:
    values: dict[str, Any] = {"url": request.url, "left_out": request.left_out or None}
    if outcome is not None:
        values |= {
            "reason": outcome.reason.value if outcome.reason else None,
            "error_message": outcome.detail or None,
            "http_status": outcome.http_status,
            "attempts": outcome.attempts or None,
            "size": outcome.size or None,
            **_facts_of(outcome.facts),
            "encoding": outcome.encoding,
            "encoding_from": outcome.encoding_from,
        }
    return {name: value for name, value in values.items() if value is not None}


def _facts_of(facts: Facts) -> dict[str, Any]:
    return {spec.name: getattr(facts, spec.name) for spec in dataclasses.fields(facts)}


def requests_of(text: str, parts: Mapping[str, Part]) -> tuple[Request, ...]:
    """The requests of a row, from what the column ``parts`` of its table has: JSON."""
    return tuple(
        Request(
            name,
            entry.get("url"),
            required=parts[group_of(name)].required,
            left_out=entry.get("left_out", 0),
        )
        for name, entry in json.loads(text).items()
    )


def status_of(outcome: Outcome) -> str:
    """The outcome in the three words that readers of img2dataset's shards know."""
    if outcome.kind is Kind.WRITTEN:
        return "success"
    return "failed_to_resize" if outcome.reason is not None and outcome.reason.downloaded else "failed_to_download"


def _common_types(metas: Iterator[Mapping[str, Any]], names: Sequence[str]) -> dict[str, pa.DataType]:
    """One type for each column that holds all its values."""
    found: dict[str, pa.DataType] = dict.fromkeys(names, pa.null())
    for batch in _batches(metas):
        for name in names:
            found[name] = _unified(found[name], [meta[name] for meta in batch])
    return {name: _simple(kind) for name, kind in found.items()}


def _unified(kind: pa.DataType, values: list[Any]) -> pa.DataType:
    """The type that holds what `kind` does and the values, too."""
    try:
        schemas = [pa.schema({"": kind}), pa.schema({"": pa.array(values).type})]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):  # nothing holds both, or no integer is that large
        return pa.string()


def _simple(kind: pa.DataType) -> pa.DataType:
    """The type itself, or text where it is an object: the fields of objects differ from one shard to the next."""
    if pa.types.is_list(kind):
        return pa.list_(_simple(kind.value_type))
    return pa.string() if pa.types.is_struct(kind) or pa.types.is_null(kind) else kind


def _batches(metas: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch = []
    for meta in metas:
        batch.append(meta)
        if len(batch) == _GROUP_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


class TableWriter:
    """Writes a shard's table, streaming: what waits in memory is one row group.

    The file is a function of the rows alone: no time, no path, no random number goes into it.

    Args:
        path: the file to make.
        schema: of the table.
        part_names: parts to store as further binary columns: bytes as they are, arrays as the content of an ``.npy``
            file, null where a row has no such part.
        texts: those of them that are UTF-8, and become columns of text.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, part_names: Sequence[str] = (), texts: Collection[str] = ()
    ) -> None:
        kinds = {name: pa.string() if name in texts else pa.binary() for name in part_names}
        self._schema = pa.schema([*schema, *kinds.items()])
        self._part_names = part_names
        self._texts = texts
        self._columns: list[list[Any]] = [[] for _ in self._schema]
        self._bytes = 0
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            # images are compressed already, and neither a dictionary nor extremes of them are of any use
            compression=dict.fromkeys(_leaves(schema), "zstd") | dict.fromkeys(part_names, "none"),
            use_dictionary=_leaves(schema),
            write_statistics=_leaves(schema),
        )

    def add(self, record: Record) -> None:
        """Append one row."""
        values = list(record.meta.values())
        for name in self._part_names:
            part = record.parts.get(name)
            data = npy_bytes(part) if isinstance(part, np.ndarray) else part
            self._bytes += len(data or b"")
            values.append(data.decode() if data is not None and name in self._texts else data)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        if len(self._columns[0]) == _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        arrays = [_array(column, field.type) for column, field in zip(self._columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._columns = [[] for _ in self._schema]
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if self._columns[0]:
                self._flush()
            self._writer.close()
        else:
            with contextlib.suppress(OSError):  # the first error is the one to see
                self._writer.close()


def _leaves(fields: Iterable[pa.Field], path: str = "") -> list[str]:
    """The columns as parquet names them: the values of lists and the fields of objects are columns of their own."""
    return [leaf for field in fields for leaf in _leaves_of(field.type, path + field.name)]


def _leaves_of(kind: pa.DataType, path: str) -> list[str]:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _leaves_of(kind.value_type, f"{path}.list.element")
    return _leaves(kind, f"{path}.") if types.is_struct(kind) else [path]


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array([_filled(value, kind) for value in values] if _needs_filling(kind) else values, kind)


def _needs_filling(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_string(kind) or types.is_floating(kind))


def _filled(value: Any, kind: pa.DataType) -> Any:
    """The value as pyarrow takes it for that type: JSON text where text is due, floats (not large integers) for floats."""
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [_filled(item, kind.value_type) for item in value]
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_string(kind) and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value
