"""The table's columns: their names, types and values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.records import Kind, Outcome, Reason, Request, Row, Settled
from penstock.sink import table
from penstock.sink.base import Record
from penstock.sink.table import TableLayout, TableWriter, status_of

LAYOUT = TableLayout(keep=("kept",))
ROW = Row(0, (Request("image", "https://example.com/"),))


class Rows:
    """A shard of skipped rows with these kept values."""

    def __init__(self, values: list[Any]) -> None:
        settled = [
            Settled(Outcome(Row(i, ROW.requests, fields={"kept": value}), Kind.SKIPPED))
            for i, value in enumerate(values)
        ]
        self._metas = [LAYOUT.row(one) for one in settled]
        self.written = 0
        self.part_names = ()

    def __len__(self) -> int:
        return len(self._metas)

    def __iter__(self) -> Iterator[Record]:
        return (Record(meta["key"], meta, None, {}) for meta in self._metas)

    def metas(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._metas)


def kept(path: Path, values: list[Any]) -> pa.ChunkedArray:
    """The kept column after writing and reading."""
    rows = Rows(values)
    with TableWriter(path, LAYOUT.schema(rows)) as writer:
        for record in rows:
            writer.add(record)
    return pq.read_table(path)["kept"]


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([1, None, 2], "int64", [1, None, 2]),
        ([True, None], "bool", [True, None]),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([2**60 + 1, 0.5], "string", [str(2**60 + 1), "0.5"]),
        ([2**63, 1], "string", [str(2**63), "1"]),
        ([None, None], "string", [None, None]),
        (["a", 1], "string", ["a", "1"]),
        ([True, 1], "string", ["true", "1"]),
        ([{"a": 1}, {"b": "é"}], "string", ['{"a": 1}', '{"b": "é"}']),
        ([[1, None], [], None], "list<element: int64>", [[1, None], [], None]),
        ([[1], [0.5]], "list<element: double>", [[1.0], [0.5]]),
        ([[{"a": 1}], [None]], "list<element: string>", [['{"a": 1}'], [None]]),
        ([[1], ["a"]], "string", ["[1]", '["a"]']),
        ([[], None], "list<element: string>", [[], None]),
    ],
)
@pytest.mark.parametrize("group", [1, 1000])
def test_kept_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, values: list[Any], kind: str, read: list[Any]
) -> None:
    """A column has one simple type if its values have one, else text, however the rows are grouped."""
    monkeypatch.setattr(table, "_GROUP_ROWS", group)
    column = kept(tmp_path / "t.parquet", values)
    if group == 1 and kind == "string" and values == [2**60 + 1, 0.5]:
        kind, read = "double", [float(2**60), 0.5]  # seen apart, an integer and a float are two numbers
    assert (str(column.type), column.to_pylist()) == (kind, read)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(values=st.lists(JSON_VALUES, min_size=1, max_size=6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_kept_values_can_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[Any]) -> None:
    """No JSON value can break a shard, and nulls stay nulls."""
    monkeypatch.setattr(table, "_GROUP_ROWS", 2)
    column = kept(tmp_path / "t.parquet", values)
    assert [value is None for value in column.to_pylist()] == [value is None for value in values]
    if pa.types.is_string(column.type) and not any(isinstance(value, str) for value in values):
        texts = [value for value in column.to_pylist() if value is not None]
        wanted = [value for value in values if value is not None]
        assert all(_same(json.loads(text), value) for text, value in zip(texts, wanted, strict=True))


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) or repr(left) == repr(right) or (isinstance(left, float) and math.isnan(left))


@pytest.mark.parametrize("keep", [("width",), ("caption",), ("a", "a")])
def test_taken_names_are_refused(keep: tuple[str, ...]) -> None:
    """A kept column that would be a second one of its name is an error at the start."""
    with pytest.raises(ConfigError, match=f"--keep-columns {keep[0]}"):
        TableLayout(caption=True, keep=keep)


def test_every_reason_has_a_status() -> None:
    """What failed once its bytes were there is failed_to_resize; all else, what was skipped too, failed_to_download."""
    for reason in Reason:
        expected = "failed_to_resize" if reason.downloaded else "failed_to_download"
        assert status_of(Outcome(ROW, reason.kind, reason)) == expected
    assert {reason.phase for reason in Reason if reason.downloaded} >= {"content", "image", "decode"}
    assert not any(reason.downloaded for reason in Reason if reason.kind is Kind.SKIPPED)
    assert status_of(Outcome(ROW, Kind.WRITTEN)) == "success"


def test_large_parts_close_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups are bounded in bytes as well as in rows."""
    monkeypatch.setattr(table, "_GROUP_BYTES", 100)
    rows = Rows([None] * 6)
    with TableWriter(tmp_path / "t.parquet", LAYOUT.schema(rows), ("jpg",)) as writer:
        for record in rows:
            writer.add(Record(record.key, record.meta, None, {"jpg": bytes(50)}))
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 2]
    file.close()
