"""Rows of several parts out of lists of every kind."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SourceError
from penstock.parts import Column, Image, Images, Part, Text
from penstock.records import Reason, Request, Row
from penstock.source import open_source
from penstock.source.parts import urls_of

PARTS: dict[str, Part] = {
    "txt": Text("t", required=False),
    "jpg": Image("u"),
    "views": Images("v", at_most=2),
    "caption": Column("c", required=True),
}
ITEMS: list[dict[str, Any]] = [
    {"u": "https://a/1.jpg", "t": "https://a/1.txt", "v": ["https://a/2.jpg", "https://a/3.jpg"], "c": "one", "n": 1},
    {
        "u": "https://b/1.jpg",
        "t": None,
        "v": ["https://b/2.jpg", None, "https://b/4.jpg", "https://b/5.jpg"],
        "c": "two",
        "n": 2,
    },
    {"u": None, "t": "https://c/1.txt", "v": [], "c": "three", "n": 3},
    {"u": "https://d/1.jpg", "t": "https://d/1.txt", "v": ["https://d/2.jpg"], "c": " ", "n": 4},
]
NO_VALUE = Reason.POLICY_NO_VALUE
REQUESTS = [
    (
        Request("jpg", "https://a/1.jpg"),
        Request("views.0", "https://a/2.jpg"),
        Request("views.1", "https://a/3.jpg"),
        Request("txt", "https://a/1.txt", required=False),
    ),
    (
        Request("jpg", "https://b/1.jpg"),
        Request("views.0", "https://b/2.jpg"),
        Request("views.1", None, left_out=2),
        Request("txt", None, required=False),
    ),
    (Request("jpg", None), Request("views.0", None), Request("txt", "https://c/1.txt", required=False)),
    (
        Request("jpg", "https://d/1.jpg", NO_VALUE),
        Request("views.0", "https://d/2.jpg", NO_VALUE),
        Request("txt", "https://d/1.txt", NO_VALUE, required=False),
    ),
]


def write(folder: Path, ending: str) -> Path:
    """The items as a list of this kind."""
    path = folder / f"list.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(ITEMS), path)
    elif ending == "json":
        path.write_text(json.dumps({name: [item[name] for item in ITEMS] for name in ITEMS[0]}))
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ITEMS[0])
            writer.writeheader()
            writer.writerows({**item, "v": json.dumps(item["v"])} for item in ITEMS)
    return path


def requests_of(rows: Any) -> list[tuple[Request, ...]]:
    return [row.requests for row in rows]


@pytest.mark.parametrize("ending", ["parquet", "json", "jsonl", "csv"])
def test_every_kind_of_list(tmp_path: Path, ending: str) -> None:
    """Each gives the same requests, images first; another process that opens the list by its spec gets them, too."""
    source = open_source(write(tmp_path, ending), parts=PARTS, keep_columns=["n"])
    rows = list(source.rows())
    assert requests_of(rows) == REQUESTS
    assert [row.fields["c"] for row in rows] == ["one", "two", "three", " "]
    assert [list(row.fields) for row in rows] == [["n", "c"]] * 4
    assert source.spec is not None
    assert list(source.spec.open().rows()) == rows
    assert list(open_source(tmp_path / f"list.{ending}", parts=PARTS, keep_columns=["n"]).rows(2)) == rows[2:]


@pytest.mark.parametrize("make", [list, iter, pa.Table.from_pylist])
def test_objects(make: Any) -> None:
    """Rows from Python."""
    assert requests_of(open_source(make(ITEMS), parts=PARTS).rows()) == REQUESTS


def test_only_kept_columns_have_types(tmp_path: Path) -> None:
    """The columns of URLs are read as kept ones, but are none."""
    source = open_source(write(tmp_path, "parquet"), parts=PARTS, keep_columns=["n"])
    assert source.kept_schema == pa.schema([("n", pa.int64()), ("c", pa.string())])


def test_a_single_row_of_json_with_a_list(tmp_path: Path) -> None:
    """An object whose URLs are a list is one row of several images, or columns of several lists."""
    path = tmp_path / "list.json"
    parts = {"views": Images("v")}
    path.write_text('{"v": ["https://a/1.jpg", "https://a/2.jpg"]}')
    assert [len(row.requests) for row in open_source(path, parts=parts).rows()] == [2]
    path.write_text('{"v": [["https://a/1.jpg"], ["https://a/2.jpg"]]}')
    assert [len(row.requests) for row in open_source(path, parts=parts).rows()] == [1, 1]


def test_a_list_without_columns() -> None:
    """URLs alone will do for a single part."""
    (row,) = open_source(["https://a/1.jpg"], parts={"photo": Image("whatever")}).rows()
    assert row == Row(0, (Request("photo", "https://a/1.jpg"),))
    with pytest.raises(SourceError, match="so --parts txt 't' cannot be had"):
        open_source(["https://a/1.jpg"], parts={"jpg": Image("u"), "txt": Text("t")})


def test_a_missing_column_is_named_with_its_part(tmp_path: Path) -> None:
    """The message has the part, and the nearest column."""
    path = write(tmp_path, "csv")
    with pytest.raises(SourceError, match=r"no column 'tt' \(--parts txt\); .* did you mean 't'"):
        open_source(path, parts={"jpg": Image("u"), "txt": Text("tt")})
    with pytest.raises(SourceError, match=r"no column 'x' \(--keep-columns\)"):
        open_source(path, parts={"jpg": Image("u")}, keep_columns=["x"])


def test_the_same_column_twice() -> None:
    """One image in two sizes; its URL kept as well."""
    parts: dict[str, Part] = {"large": Image("u", size=512), "small": Image("u", size=64), "link": Column("u")}
    (row,) = open_source([{"u": "https://a/1.jpg"}], parts=parts).rows()
    assert [request.url for request in row.requests] == ["https://a/1.jpg"] * 2
    assert row.fields == {"u": "https://a/1.jpg"}


CELLS = [
    (None, []),
    ("", []),
    ("[]", []),
    ("https://a/1.jpg", ["https://a/1.jpg"]),
    (" https://a/1.jpg\n\thttps://a/2.jpg ", ["https://a/1.jpg", "https://a/2.jpg"]),
    (' ["https://a/1.jpg", null, ""]', ["https://a/1.jpg", None, None]),
    (["https://a/1.jpg ", None], ["https://a/1.jpg", None]),
    ("[broken", ["[broken"]),
    ("[" * 100_000, ["[" * 100_000]),
    (7, ["7"]),
    ({"a": 1}, ['{"a": 1}']),
    ([["x"]], ['["x"]']),
]


@pytest.mark.parametrize(("cell", "urls"), CELLS)
def test_cells_with_several_urls(cell: Any, urls: list[str | None]) -> None:
    """A list, a JSON array, or text with blanks; what is none of them is a URL that will be refused."""
    assert urls_of(cell) == urls


@given(st.text(max_size=50) | st.lists(st.none() | st.text(max_size=9) | st.integers(), max_size=5))
def test_any_cell(cell: Any) -> None:
    """Whatever stands there, nothing but URLs and gaps comes out, and never more of them than were in."""
    urls = urls_of(cell)
    assert all(url is None or url.strip() for url in urls)
    assert len(urls) <= len(cell)


def test_numpy_lists() -> None:
    """Frames hand lists over as arrays."""
    (row,) = open_source([{"v": np.array(["https://a/1.jpg", "https://a/2.jpg"])}], parts={"views": Images("v")}).rows()
    assert [request.url for request in row.requests] == ["https://a/1.jpg", "https://a/2.jpg"]
