"""Every form of a list gives the same rows; what cannot be read is refused at once, with its file and line."""

import csv
import datetime as dt
import decimal
import enum
import gzip
import io
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import MissingExtraError, SourceError
from penstock.source import Source, open_source
from penstock.source.files import ListFile

Record = dict[str, Any]


def record(number: int, caption: str | None = None) -> Record:
    return {"url": f"https://example.com/{number}.jpg", "caption": caption or f"number {number}", "n": number}


RECORDS = [record(number) for number in range(25)]


def to_txt(records: list[Record]) -> bytes:
    return "".join(f"{row['url'] or ''}\n" for row in records).encode()


def to_table(delimiter: str) -> Callable[[list[Record]], bytes]:
    def convert(records: list[Record]) -> bytes:
        out = io.StringIO()
        writer = csv.DictWriter(out, ["url", "caption", "n"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue().encode()

    return convert


def to_json(records: list[Record]) -> bytes:
    return json.dumps(records).encode()


def to_json_lines(records: list[Record]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records).encode()


def to_json_columns(records: list[Record]) -> bytes:
    return json.dumps({name: [row[name] for row in records] for name in ("url", "caption", "n")}, indent=1).encode()


def to_parquet(records: list[Record]) -> bytes:
    out = io.BytesIO()
    schema = pa.schema([("url", pa.string()), ("caption", pa.string()), ("n", pa.int64())])
    pq.write_table(pa.Table.from_pylist(records, schema), out, row_group_size=7)
    return out.getvalue()


FORMATS: dict[str, Callable[[list[Record]], bytes]] = {
    "txt": to_txt,
    "csv": to_table(","),
    "tsv": to_table("\t"),
    "json": to_json,
    "jsonl": to_json_lines,
    "ndjson": to_json_lines,
    "columns.json": to_json_columns,
    "parquet": to_parquet,
}
PACKED = [*FORMATS, *(f"{name}.gz" for name in FORMATS if name != "parquet")]


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def write_list(folder: Path, ending: str, records: list[Record], stem: str = "list") -> Path:
    return write(folder, f"{stem}.{ending}", FORMATS[ending.removesuffix(".gz")](records))


def urls(source: Source, *arguments: int | None) -> list[str | None]:
    return [row.url for row in source.rows(*arguments)]  # type: ignore[arg-type]  # start is never None here


def refusal(source: Any, **options: Any) -> str:
    """What the SourceError says, whether it comes from opening or from reading."""
    with pytest.raises(SourceError) as caught:
        list(open_source(source, **options).rows())
    return str(caught.value)


# ---- the same rows from every form


@pytest.mark.parametrize("ending", PACKED)
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    """Each format, packed or not, gives URL, position, caption and kept columns."""
    plain = ending.startswith("txt")
    options: dict[str, Any] = {} if plain else {"caption_column": "caption", "keep_columns": ["n"]}
    rows = list(open_source(write_list(tmp_path, ending, RECORDS), **options).rows())
    assert [row.url for row in rows] == [row["url"] for row in RECORDS]
    assert [row.index for row in rows] == list(range(25))
    assert [row.requests[0].part for row in rows] == ["image"] * 25
    if not plain:
        text = ending.startswith(("csv", "tsv"))
        assert [row.caption for row in rows] == [row["caption"] for row in RECORDS]
        assert [row.fields for row in rows] == [{"n": str(i) if text else i} for i in range(25)]


@st.composite
def lists(draw: st.DrawFn) -> list[Record]:
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
    rows = [record(i, draw(text)) for i in range(draw(st.integers(1, 30)))]
    for row in rows[:-1]:  # the last one keeps its URL: a txt list cannot show that it ends without one
        row["url"] = draw(st.sampled_from([row["url"], None]))
    return rows


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv.gz", "json", "jsonl.gz", "columns.json", "parquet"])
@settings(max_examples=20, deadline=None)
@given(records=lists(), start=st.integers(0, 35), length=st.integers(0, 35) | st.none())
def test_a_slice_is_the_slice_of_the_whole(ending: str, records: list[Record], start: int, length: int | None) -> None:
    """rows(start, stop) is list(rows())[start:stop], and the whole is what was written, over two files."""
    stop = None if length is None else start + length
    with tempfile.TemporaryDirectory() as folder:
        for stem, part in {"a": records[: len(records) // 2], "b": records[len(records) // 2 :]}.items():
            write_list(Path(folder), ending, part, stem)
        source = open_source(folder, caption_column=None if ending == "txt" else "caption")
        whole = list(source.rows())
        if ending != "txt":  # there, blank lines at the end of the first file are no rows
            assert [(row.url, row.caption) for row in whole] == [(row["url"], row["caption"]) for row in records]
        assert list(source.rows(start, stop)) == whole[start:stop]


@pytest.mark.parametrize(
    "source",
    [
        [row["url"] for row in RECORDS],
        RECORDS,
        (row for row in RECORDS),
        {name: [row[name] for row in RECORDS] for name in ("url", "n")},
        pa.Table.from_pylist(RECORDS),
        pa.Table.from_pylist(RECORDS).to_reader(max_chunksize=4),
        pa.RecordBatch.from_pylist(RECORDS),
        pa.array([row["url"] for row in RECORDS]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_python_values_give_rows(source: Any) -> None:
    """Strings, mappings, generators, columns and Arrow tables are lists too, and can be read from the middle."""
    assert urls(open_source(source), 3, 20) == [row["url"] for row in RECORDS[3:20]]


def test_slices_in_a_row_are_one_pass() -> None:
    """Shard after shard costs one reading of the list, gaps included; only going back begins anew."""

    class Counted:
        passes = 0

        def __iter__(self) -> Iterator[Record]:
            self.passes += 1
            return iter(RECORDS)

    items = Counted()
    source = open_source(items)
    opened = items.passes
    slices = [urls(source, start, stop) for start, stop in [(0, 10), (10, 12), (15, 15), (15, 20), (22, 40)]]
    assert slices == [[row["url"] for row in RECORDS[a:b]] for a, b in [(0, 10), (10, 12), (0, 0), (15, 20), (22, 25)]]
    assert items.passes == opened + 1
    assert urls(source, 3, 4) == [RECORDS[3]["url"]]
    assert items.passes == opened + 2


def test_an_abandoned_slice_leaves_no_place() -> None:
    """Rows that were read ahead and dropped are read again."""
    source = open_source(RECORDS)
    rows = source.rows(0, 10)
    next(rows)
    del rows
    assert urls(source, 1, 3) == [row["url"] for row in RECORDS[1:3]]


def test_a_pipe_can_be_read_slice_by_slice() -> None:
    """What can be read once serves shards in their order."""
    source = open_source(iter(RECORDS))
    assert [url for start in range(0, 30, 10) for url in urls(source, start, start + 10)] == [
        row["url"] for row in RECORDS
    ]


def test_whatever_exports_an_arrow_stream_is_a_table() -> None:
    """The Arrow C stream protocol is enough: polars and pandas need no code of their own."""

    class Frame:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.Table.from_pylist(RECORDS).__arrow_c_stream__(requested_schema)

    source = open_source(Frame(), keep_columns=["n"])
    assert [row.fields["n"] for row in source.rows(20)] == [20, 21, 22, 23, 24]
    assert urls(source) == urls(source)


def test_a_single_column_is_a_list_of_urls() -> None:
    """What exports one column, as a Series does, is read as the iterable that it is."""

    class Series(list[str]):
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.chunked_array([list(self)]).__arrow_c_stream__(requested_schema)

    assert urls(open_source(Series(["u", "v"]))) == ["u", "v"]


def test_a_folder_counts_rows_over_all_files(tmp_path: Path) -> None:
    """Lists of mixed formats are read in the order of their names; other and hidden files are not."""
    write_list(tmp_path, "parquet", RECORDS[:5], "a")
    write_list(tmp_path, "csv.gz", RECORDS[5:12], "b")
    write_list(tmp_path, "jsonl", RECORDS[12:], "c")
    write(tmp_path, ".hidden.txt", b"https://example.com/hidden\n")
    write(tmp_path, "README.md", b"no list")
    (tmp_path / "folder.txt").mkdir()
    source = open_source(tmp_path)
    assert [(row.index, row.url) for row in source.rows(3)] == [(i, RECORDS[i]["url"]) for i in range(3, 25)]
    assert source.count is None
    assert source.description == f"3 files of {tmp_path}"


def test_a_glob_picks_files(tmp_path: Path) -> None:
    """A pattern stands for the files that match; a file whose name merely looks like one is itself."""
    write_list(tmp_path, "txt", RECORDS[:2], "part-1")
    write_list(tmp_path, "txt", RECORDS[2:4], "part-2")
    write_list(tmp_path, "txt", RECORDS[4:6], "other[1]")
    assert len(urls(open_source(str(tmp_path / "part-*.txt")))) == 4
    assert len(urls(open_source(str(tmp_path / "other[1].txt")))) == 2
    assert refusal(str(tmp_path / "none-*.txt")) == f"{tmp_path}/none-*.txt: no file matches"


@pytest.mark.parametrize("ending", ["txt", "jsonl.gz", "parquet"])
def test_remote_files_are_read_through_fsspec(ending: str) -> None:
    """A file, a folder and a glob of another file system work as local ones do."""
    store = fsspec.filesystem("memory")
    data = FORMATS[ending.removesuffix(".gz")](RECORDS)
    store.pipe(f"/{ending}/a.{ending}", gzip.compress(data) if ending.endswith(".gz") else data)
    for location in (f"memory://{ending}/a.{ending}", f"memory://{ending}", f"memory://{ending}/*"):
        source = open_source(location)
        assert len(urls(source)) == 25
        assert source.fingerprint == {"files": [source.fingerprint["files"][0] | {"name": f"a.{ending}"}]}  # type: ignore[index]
    assert refusal("memory://nowhere/a.txt").startswith("memory:///nowhere/a.txt: no such file, or its server")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"https://example.com/0\n\nhttps://example.com/2\n", 3),
        (to_json_lines(RECORDS), 25),
        (b"\xef\xbb\xbf" + to_json(RECORDS), 25),
    ],
    ids=["txt", "jsonl", "json"],
)
def test_standard_input_is_sniffed(content: bytes, expected: int) -> None:
    """JSON is known by its first character, anything else is one URL a line."""
    program = "from penstock.source import open_source as o; s = o('-'); print(len(list(s.rows())), s.rereadable)"
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True)
    assert done.stdout.decode().split() == [str(expected), "False"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "latin-1"])
def test_standard_input_in_other_encodings(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """JSON is known by its first character, whatever that looks like as bytes."""
    for text in ('["https://example.com/é"]', "https://example.com/é\n"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode(encoding))))
        assert urls(open_source("-", encoding=encoding)) == ["https://example.com/é"]


def test_standard_input_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come out before the writer of the pipe is done."""

    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().readline()

    pipe = Pipe(b"https://example.com/0\nhttps://example.com/1\nhttps://example.com/2\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(pipe))
    rows = open_source("-").rows()
    assert next(rows).url == "https://example.com/0"
    assert pipe.read() != b""


# ---- what a source knows about itself


def test_what_a_file_source_knows(tmp_path: Path) -> None:
    """Count, schema and a spec that opens the same list from elsewhere, whatever the working directory."""
    path = write_list(tmp_path, "parquet", RECORDS)
    source = open_source(str(path), keep_columns=["n", "caption"])
    assert source.count == 25
    assert source.rereadable
    assert source.kept_schema == pa.schema([("n", pa.int64()), ("caption", pa.string())])
    copy = pickle.loads(pickle.dumps(source.spec)).open()
    assert list(copy.rows(4, 9)) == list(source.rows(4, 9))


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec means the same file in a process with another working directory."""
    write_list(tmp_path, "txt", RECORDS)
    monkeypatch.chdir(tmp_path)
    spec = open_source("list.txt").spec
    assert spec is not None
    assert spec.location == str(tmp_path / "list.txt")


def test_kept_schemas(tmp_path: Path) -> None:
    """Text for csv, unknown for JSON, empty where nothing is kept, and one schema for files that agree."""
    text = write_list(tmp_path, "csv", RECORDS)
    lines = write_list(tmp_path, "jsonl", RECORDS)
    assert open_source(text, keep_columns=["n"]).kept_schema == pa.schema([("n", pa.string())])
    assert open_source(lines, keep_columns=["n"]).kept_schema is None
    assert open_source(lines).kept_schema == pa.schema([])
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, kind in {"a": pa.int32(), "b": pa.int64()}.items():
        pq.write_table(pa.table({"url": ["u"], "n": pa.array([1], kind)}), folder / f"{name}.parquet")
    assert open_source(folder, keep_columns=["n"]).kept_schema == pa.schema([("n", pa.int64())])


@pytest.mark.parametrize(
    "make", [iter, lambda rows: pa.Table.from_pylist(rows).to_reader()], ids=["iterator", "reader"]
)
def test_what_can_be_read_once_says_so(make: Callable[[list[Record]], Any]) -> None:
    """A one-shot source has no fingerprint and no count, and refuses a second pass rather than give nothing."""
    source = open_source(make(RECORDS))
    assert (source.rereadable, source.fingerprint, source.count, source.spec) == (False, None, None, None)
    assert len(urls(source)) == 25
    with pytest.raises(SourceError, match="can be read only once"):
        urls(source)


@pytest.mark.parametrize("ending", ["txt", "parquet"])
def test_a_fingerprint_changes_with_the_file(tmp_path: Path, ending: str) -> None:
    """Other content, even of the same size, gives another fingerprint; the same file gives the same."""
    path = write_list(tmp_path, ending, RECORDS)
    before = open_source(path).fingerprint
    assert before == open_source(path).fingerprint
    assert json.loads(json.dumps(before)) == before
    write_list(tmp_path, ending, [*RECORDS[:-1], record(99)])
    assert open_source(path).fingerprint != before


def test_a_fingerprint_covers_lists() -> None:
    """Two lists have one fingerprint if and only if they have the same rows."""
    marks = [open_source(rows).fingerprint for rows in (RECORDS, list(RECORDS), RECORDS[:-1])]
    assert marks[0] == marks[1] != marks[2]


# ---- values


def test_urls_are_cleaned() -> None:
    """Blank, null and NaN are no URL; white space goes; what is no text is left for the URL rules to refuse."""
    values = [" https://example.com/a \n", "", "  ", None, float("nan"), 7, b"https://example.com/b"]
    expected = ["https://example.com/a", None, None, None, None, "7", "https://example.com/b"]
    assert urls(open_source([{"url": value} for value in values])) == expected
    assert urls(open_source(values)) == expected


def test_kept_values_are_json_types() -> None:
    """Whatever Arrow type a kept column has, its values are JSON, and of the type that the schema tells."""
    when = dt.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - a naive timestamp is what is tested
    table = pa.table(
        {
            "url": ["u", "v"],
            "real": [1.5, float("nan")],
            "flag": [True, None],
            "tags": [["a"], []],
            "box": [{"x": 1, "y": None}, None],
            "when": pa.array([when, None], pa.timestamp("ns")),
            "price": [decimal.Decimal("1.50"), None],
            "raw": [b"text", b"\xff"],
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "dates": [[when.date()], None],
        }
    )
    kept = [name for name in table.column_names if name != "url"]
    source = open_source(table, keep_columns=kept)
    first, second = (row.fields for row in source.rows())
    assert first == {
        "real": 1.5,
        "flag": True,
        "tags": ["a"],
        "box": {"x": 1, "y": None},
        "when": "2026-01-02 03:04:05.000000000",
        "price": "1.50",
        "raw": "text",
        "word": "a",
        "dates": '["2026-01-02"]',
    }
    assert second == dict.fromkeys(kept) | {"tags": [], "raw": "ff", "word": "b"}
    assert source.kept_schema is not None
    back = pa.Table.from_pylist([dict(first), dict(second)], source.kept_schema)
    assert back.to_pylist() == [first, second]


class Size(enum.IntEnum):
    LARGE = 3


class Label(enum.StrEnum):
    CAT = "cat"


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Size.LARGE, 3), (Label.CAT, "cat"), (Name("Tom"), "Tom"), (np.float64(1.5), 1.5), (np.str_("a"), "a")],
)
def test_kept_values_need_no_class_of_the_users(value: Any, plain: Any) -> None:
    """Not even nested ones: another process, which has no such class, can load them."""
    source = open_source([{"url": "u", "value": value, "values": {value: [value]}}], keep_columns=["value", "values"])
    (row,) = source.rows()
    assert row.fields["value"] == plain
    ((key, (inner,)),) = row.fields["values"].items()
    assert {type(row.fields["value"]), type(inner)} == {type(plain)}
    assert type(key) is str


def test_blank_lines_of_a_text_list() -> None:
    """Between URLs a blank line is a row without a URL, so that positions stay true; at the end it is none."""
    fsspec.filesystem("memory").pipe("/blank.txt", b"\n\nhttps://example.com/2\r\n \nhttps://example.com/4\n\n \n\n")
    source = open_source("memory://blank.txt")
    expected = [None, None, "https://example.com/2", None, "https://example.com/4"]
    assert urls(source) == expected
    assert urls(source, 3) == expected[3:]


def test_csv_quotes_newlines_and_short_rows(tmp_path: Path) -> None:
    """Quoted cells may hold delimiters, quotes and newlines; a short row lacks its last cells; blank lines are no rows."""
    text = '\ufeffcaption,url,n\r\n"a ""b"", c\nd",u1,1\r\n\r\nonly caption\r\n,u3\r\n'
    path = write(tmp_path, "list.csv", text.encode())
    rows = list(open_source(path, caption_column="caption", keep_columns=["n"]).rows())
    assert [(row.url, row.caption, row.fields["n"]) for row in rows] == [
        ("u1", 'a "b", c\nd', "1"),
        (None, "only caption", None),
        ("u3", "", None),
    ]


def test_json_values_may_cross_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come out whole wherever the file is cut into chunks, numbers and multi-byte characters included."""
    records = [{"url": f"https://example.com/ü{i}", "n": 12345 * i} for i in range(5)]
    expected = [(row["url"], row["n"]) for row in records]
    for size in range(1, 40):
        monkeypatch.setattr("penstock.source.files.CHUNK", size)
        for name, content in {
            "array.json": json.dumps(records, ensure_ascii=False, indent=1),
            "lines.jsonl": "\n".join(json.dumps(row) for row in records),
            "columns.json": json.dumps({"url": {"0": "ü", "1": "b"}, "n": {"0": 1, "1": 22}}),
        }.items():
            rows = open_source(write(tmp_path, name, content.encode()), keep_columns=["n"]).rows()
            wanted = [("ü", 1), ("b", 22)] if name == "columns.json" else expected
            assert [(row.url, row.fields["n"]) for row in rows] == wanted
    monkeypatch.setattr("penstock.source.files.CHUNK", 2)
    assert urls(open_source(write(tmp_path, "numbers.json", b"[12345, 678]"))) == ["12345", "678"]


def test_a_later_mapping_may_lack_a_key() -> None:
    """It is a row without a URL, not an error."""
    assert urls(open_source([{"url": "u"}, {"link": "v"}])) == ["u", None]


# ---- refusals


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.txt", b"", ": no rows"),
        ("list.txt", b"\n \n", ": no rows"),
        ("list.csv", b"", ": no rows"),
        ("list.csv", b"url\n", ": no rows"),
        ("list.json", b"[]", ": no rows"),
        ("list.txt", b"a\nb\xe9\n", ", line 2: byte 0xe9 is not UTF-8; save the list as UTF-8, or name its"),
        ("list.csv", b"url\na\nb\0c\n", ", line 3: a NUL character; this is no text, or not UTF-8"),
        ("list.txt", b"a\n" + b"b" * 2_000_000, ", line 2: longer than 1048576 characters"),
        (
            "list.csv",
            b'url,n\na,1\nb,"2\nc,3\n',
            ", line 3: a quote that opens here is never closed, or the cell is longer than 1048576 characters",
        ),
        (
            "list.csv",
            b'url,n\na,1\nb,"2\n' + b"c,3\n" * 500_000,
            ", line 3: a quote that opens here is never closed, or the cell is longer than 1048576 characters",
        ),
        ("list.csv", b'url,n\na,"1"2\n', """, line 2: ',' expected after '"'"""),
        ("list.csv", b"url,n\na,1,2\n", ", line 2: 3 cells under a header of 2; quote a cell that holds ','"),
        ("list.jsonl", b'{"url": "a"}\n{"url" "b"}\n', ", line 2: not valid JSON: Expecting ':' delimiter"),
        ("list.jsonl", b'"a"\n[1]\n', ", row 1: expected a URL or a mapping, not a list"),
        ("list.json", b'["a"\n,"b",\n', ", line 3: not valid JSON: Expecting value"),
        ("list.json", b'["a"] "b"', ", line 1: not valid JSON: something follows the end of the array"),
        ("list.json", b'["a"', ", line 1: not valid JSON: expected ']'"),
        ("list.json", b'["a","' + b"b" * 3_000_000, ", line 1: not valid JSON: Unterminated string starting at"),
        ("list.json", b"[" * 100_000, ", line 1: not valid JSON: "),
        ("list.json", b'{"url": ["a"], "n": []}', ": the columns differ in length: {'url': 1, 'n': 0}"),
        ("list.lst", b"a\n", ": unknown ending; lists end in .txt, .csv, .tsv, .json"),
        ("list.parquet", b"PAR1 and then nothing", ": cannot be read, or is damaged: "),
    ],
)
def test_damaged_lists_are_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    """The message has the file, the line where there are lines, and what is wrong."""
    path = write(tmp_path, name, content)
    assert refusal(path).startswith(f"{path}{expected}")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "gb18030", "cp1252"])
@pytest.mark.parametrize("ending", ["txt", "csv", "tsv.gz", "json", "jsonl"])
def test_lists_in_other_encodings(tmp_path: Path, ending: str, encoding: str) -> None:
    """The same rows as in UTF-8, in this process and in those that open the list by its spec."""
    records = [record(number, "é" * number) | {"url": f"https://example.com/é{number}.jpg"} for number in range(3)]
    text = FORMATS[ending.removesuffix(".gz")](records).decode()
    path = write(tmp_path, f"list.{ending}", text.encode(encoding))
    source = open_source(path, caption_column=None if ending == "txt" else "caption", encoding=encoding)
    assert source.spec is not None
    for opened in (source, pickle.loads(pickle.dumps(source.spec)).open()):
        assert urls(opened) == [row["url"] for row in records]
    if source.spec.caption_column is not None:
        assert [row.caption for row in source.rows()] == [row["caption"] or "number 0" for row in records]


def test_damage_behind_the_first_rows_is_named(tmp_path: Path) -> None:
    """A parquet file with a broken page and a cut gz open well, and fail with their names when they are read."""
    content = bytearray(to_parquet(RECORDS * 40))
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    parquet = write(tmp_path, "list.parquet", bytes(content))
    assert refusal(parquet).startswith(f"{parquet}: cannot be read, or is damaged: ")
    packed = gzip.compress("".join(f"{i * i * 7919}\n" for i in range(99_999)).encode())
    cut = tmp_path / "list.txt.gz"
    cut.write_bytes(packed[: len(packed) // 2])
    source = open_source(cut)
    with pytest.raises(SourceError, match="Compressed file ended"):
        urls(source)


def test_one_damaged_file_of_a_folder_is_found_at_once(tmp_path: Path) -> None:
    """Opening looks at every file, not only at the first."""
    write_list(tmp_path, "csv", RECORDS, "a")
    write(tmp_path, "b.csv", b"link\nu\n")
    with pytest.raises(SourceError, match=r"b\.csv: no column 'url'"):
        open_source(tmp_path)


@pytest.mark.parametrize("ending", ["csv", "json", "columns.json", "jsonl", "parquet"])
def test_a_missing_column_is_named_with_its_neighbours(tmp_path: Path, ending: str) -> None:
    """The message has the option, the columns that exist and the nearest of them."""
    path = write_list(tmp_path, ending, RECORDS)
    there = "there are 'url', 'caption', 'n'"
    if ending != "columns.json":  # without its URL column an object of columns is taken for a single row
        assert refusal(path, url_column="URL") == (
            f"{path}: no column 'URL' (--url-column); {there}; did you mean 'url'?"
        )
    assert refusal(path, caption_column="captions") == (
        f"{path}: no column 'captions' (--caption-column); {there}; did you mean 'caption'?"
    )
    assert refusal(path, keep_columns=["zzz"]) == f"{path}: no column 'zzz' (--keep-columns); {there}"


def test_lists_without_columns_have_nothing_to_keep(tmp_path: Path) -> None:
    """A column wanted of a plain list is an error, not a silent null."""
    path = write_list(tmp_path, "txt", RECORDS)
    assert refusal(path, caption_column="caption") == (
        f"{path}: a plain text list has no columns, so --caption-column 'caption' cannot be had from it"
    )
    assert refusal(["u"], keep_columns=["n"]) == (
        "the list: a list of str items has no columns, so --keep-columns 'n' cannot be had from it"
    )


def test_python_values_that_are_no_lists() -> None:
    """Empty ones, nested ones, mappings without the URL, and things that are no iterable."""
    assert refusal([]) == "the list: no rows"
    assert refusal(iter([])) == "the list_iterator: no rows"
    assert (
        refusal(5) == "an object of type int is no list: expected a path, an iterable of URLs or mappings, or a table"
    )
    assert refusal([["u"]]) == "the list, row 0: expected a URL or a mapping, not a list"
    assert refusal([{"link": "u"}]) == "the list: no column 'url' (--url-column); there are 'link'"
    assert refusal(pa.table({"URL": ["u"]})).endswith("there are 'URL'; did you mean 'URL'?")
    twice = pa.table([["u"], ["v"]], names=["url", "url"])
    assert refusal(twice).endswith("more than one column is called 'url' (--url-column); rename one of them")


def test_missing_places(tmp_path: Path) -> None:
    """A missing file, a folder without lists, a store that needs a package, and no such protocol."""
    assert refusal(tmp_path / "none.txt") == f"{tmp_path}/none.txt: no such file"
    assert refusal(tmp_path).startswith(f"{tmp_path}: no lists in this folder; lists end in .txt, ")
    assert refusal("nonsense://user:secret@x/a.txt?key=1").startswith("nonsense://x/a.txt: Protocol not known")
    with pytest.raises(MissingExtraError, match="pip install gcsfs"):
        open_source("gs://bucket/list.parquet")


def test_messages_keep_secrets() -> None:
    """Passwords and signatures of a URL are in no message, not even in one that a library wrote."""
    file = ListFile(fsspec.filesystem("memory"), "/list.txt")
    with pytest.raises(SourceError) as caught, file.naming():
        raise ValueError("403, url='https://user:secret@example.com/list.txt?signature=secret'")
    assert str(caught.value) == (
        "memory:///list.txt: cannot be read, or is damaged: 403, url='https://example.com/list.txt'"
    )


# ---- memory


@pytest.mark.slow
def test_a_million_rows_in_one_row_group_are_streamed(tmp_path: Path) -> None:
    """Reading 10⁶ rows that compress badly grows the process by less than 100 MB."""
    make = """
import hashlib, sys, pyarrow as pa, pyarrow.parquet as pq
urls = [f"https://example.com/{hashlib.md5(str(i).encode()).hexdigest()}.jpg" for i in range(10**6)]
pq.write_table(pa.table({"url": urls, "caption": urls}), sys.argv[1], row_group_size=10**6)
"""
    read = """
import resource, sys
from penstock.source import open_source
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 2**20)
before = peak()
rows = sum(1 for _ in open_source(sys.argv[1], caption_column="caption").rows())
print(rows, peak() - before)
"""
    path = str(tmp_path / "million.parquet")
    for program in (make, read):
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == 1_000_000
    assert grown < 100
