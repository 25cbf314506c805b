"""One suite for the four formats: what goes in comes out, in any order, after any crash."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from penstock.config import OutputConfig
from penstock.errors import AccountError, ItemError, OutputError
from penstock.records import Facts, Kind, Outcome, Reason, Request, Row, Sample, Settled, ShardReport, Value
from penstock.sink.disk import describe
from penstock.sink.shards import OpenShard, ShardStore

FORMATS = ("webdataset", "parquet", "files", "arrays")
KEPT = ("number", "tags", "nothing", "mixed")
TABLE = [
    *("key", "url", "outcome", "status", "reason", "error_message", "http_status", "attempts", "width", "height"),
    *("original_width", "original_height", "sha256", "exif", "frames", "downgraded", "caption", *KEPT),
]


def image(index: int) -> np.ndarray:
    """A small picture of its own for each row."""
    return np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def own_parts(sink: str, index: int) -> dict[str, Value]:
    """What Penstock's own work makes of a row."""
    if sink == "arrays":
        return {"image": image(index)}
    file = io.BytesIO()
    Image.fromarray(image(index)).save(file, "png")
    return {"png": file.getvalue()}


def row(index: int) -> Row:
    """A row with every kind of kept value, and captions in several scripts."""
    fields = {
        "number": None if index % 3 == 0 else index,
        "tags": ["größe", f"t{index}"] if index % 2 else [],
        "nothing": None,
        "mixed": {"a": [1, None]} if index % 4 == 0 else index / 4,
    }
    caption = None if index % 5 == 0 else f"猫 🐈 “{index}”\nsecond line"
    return Row(index, (Request("image", f"https://example.com/ä/{index}.jpg"),), caption, fields)


def settled(sink: str, index: int, parts: dict[str, Value] | None = None) -> Settled:
    """The end of a row: two of eleven fail, one is skipped."""
    if index % 11 == 3:
        return failed(index, Reason.HTTP_NOT_FOUND)
    if index % 11 == 5:
        return failed(index, Reason.IMAGE_CORRUPT)
    if index % 11 == 7:
        return Settled(Outcome(row(index), Kind.SKIPPED, Reason.SSRF_BLOCKED))
    return written(index, parts or own_parts(sink, index))


def failed(index: int, reason: Reason) -> Settled:
    """A row that failed."""
    return Settled(Outcome(row(index), Kind.FAILED, reason, "dé tail", http_status=404, attempts=1, size=10))


def written(index: int, parts: dict[str, Value]) -> Settled:
    """A row that was written."""
    facts = Facts(8, 8, 640, 480, f"{index:064x}", '{"Make": "ACME"}' if index % 2 else None, frames=1 + index % 3)
    outcome = Outcome(row(index), Kind.WRITTEN, http_status=200, attempts=2, size=1000, downgraded=index % 2 == 1)
    return Settled(outcome, Sample(parts, facts))


def store_at(folder: Path, sink: str, **options: Any) -> ShardStore:
    """The store that all tests use."""
    config = OutputConfig(format=sink, caption_column="text", keep_columns=KEPT)  # type: ignore[arg-type]  # FORMATS
    return ShardStore(folder, config, run_id="this run", **options)


def fill(shard: OpenShard, rows: list[Settled]) -> OpenShard:
    """Add what is not there yet."""
    for one in rows:
        if one.outcome.row.index not in shard.recovered:
            shard.add(one)
    return shard


def make(folder: Path, sink: str, rows: list[Settled], **options: Any) -> ShardReport:
    """One committed shard."""
    store = store_at(folder, sink, **options)
    report = fill(store.open(0), rows).commit(rows=len(rows))
    store.forget(0)
    return report


def content(folder: Path) -> dict[str, bytes]:
    """Every final file with its bytes; statistics without their times."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[0-9]*") if path.is_file()}
    files = {name: data for name, data in files.items() if not name.startswith(".penstock")}
    for name in [name for name in files if name.endswith("_stats.json")]:
        statistics = json.loads(files[name])
        for time in ("start_time", "end_time", "duration"):
            del statistics[time]
        files[name] = json.dumps(statistics).encode()
    return files


def decoded(name: str, data: bytes) -> Value:
    """A member's value: arrays as arrays."""
    return np.load(io.BytesIO(data)) if name.endswith("npy") else data


def read_tar(folder: Path) -> dict[str, dict[str, Any]]:
    """Samples by key, read by tarfile."""
    samples: dict[str, dict[str, Any]] = {}
    with tarfile.open(folder / "00000.tar") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            assert (member.mtime, member.uid, member.mode) == (0, 0, 0o644)
            key, _, name = member.name.partition(".")
            samples.setdefault(key, {})[name] = decoded(name, file.read())
    return samples


def read_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Samples by key, read from the directory."""
    samples: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "00000").iterdir()):
        key, _, name = path.name.partition(".")
        samples.setdefault(key, {})[name] = decoded(name, path.read_bytes())
    return samples


def table_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the table."""
    rows: list[dict[str, Any]] = pq.ParquetFile(folder / "00000.parquet").read().to_pylist()
    return rows


def read_parquet(folder: Path) -> dict[str, dict[str, Any]]:
    """Samples by key, read from the binary columns; arrays are recognised by their first bytes."""
    return {
        line["key"]: {
            name: decoded("npy" if value.startswith(b"\x93NUMPY") else "", value)
            for name, value in line.items()
            if isinstance(value, bytes)
        }
        for line in table_of(folder)
        if line["outcome"] == "written"
    }


def read_arrays(folder: Path) -> dict[str, dict[str, Any]]:
    """Samples by key, read by numpy, mapped."""
    keys = [line["key"] for line in table_of(folder) if line["outcome"] == "written"]
    stacks = {
        path.name.removeprefix("00000.")[:-4] or "": np.load(path, mmap_mode="r") for path in folder.glob("*.npy")
    }
    assert all(len(stack) == len(keys) for stack in stacks.values())
    return {key: {name: stack[i] for name, stack in stacks.items()} for i, key in enumerate(keys)}


READERS: dict[str, Callable[[Path], dict[str, dict[str, Any]]]] = {
    "webdataset": read_tar,
    "parquet": read_parquet,
    "files": read_files,
    "arrays": read_arrays,
}
MEMBER = {"webdataset": "png", "parquet": "png", "files": "png", "arrays": ""}


@pytest.mark.parametrize("sink", FORMATS)
def test_what_is_written_is_what_is_read(tmp_path: Path, sink: str) -> None:
    """Each written row's image comes back as it went in, under its key; other rows have none."""
    rows = [settled(sink, index) for index in range(40, 90)]
    report = make(tmp_path, sink, rows)
    samples = READERS[sink](tmp_path)
    kept = {one.outcome.row.key: one.sample for one in rows if one.sample}
    assert list(samples) == list(kept)
    for key, sample in kept.items():
        np.testing.assert_equal(samples[key][MEMBER[sink]], next(iter(sample.parts.values())))
    assert (report.rows, report.written, report.failed, report.skipped) == (50, 37, 8, 5)
    assert report.reasons == {"http.not_found": 4, "image.corrupt": 4, "ssrf.blocked": 5}
    assert (report.first, report.last, report.size_downloaded) == (40, 89, 1000 * 37 + 80)
    assert {file.name.rstrip("/") for file in report.files} == {path.name for path in tmp_path.glob("[0-9]*")}
    assert all(describe(tmp_path / file.name) == file for file in report.files)
    assert not list((tmp_path / ".penstock").rglob("*.spool"))


@pytest.mark.parametrize("sink", ["webdataset", "files"])
def test_members_beside_the_image(tmp_path: Path, sink: str) -> None:
    """The caption is the .txt, where there is one; the row of the table is the .json."""
    make(tmp_path, sink, [settled(sink, index) for index in range(20)])
    samples = READERS[sink](tmp_path)
    for line in table_of(tmp_path):
        if line["outcome"] == "written":
            sample = samples[line["key"]]
            assert (sample["txt"].decode() if "txt" in sample else None) == line["caption"]
            about = json.loads(sample["json"])
            mixed = about.pop("mixed")
            assert mixed == json.loads(line.pop("mixed"))
            assert about == line


@pytest.mark.parametrize("sink", FORMATS)
def test_table_has_every_row(tmp_path: Path, sink: str) -> None:
    """The table has the promised columns, and a row for every input row with its outcome and kept values."""
    make(tmp_path, sink, [settled(sink, index) for index in range(20)])
    schema = pq.read_schema(tmp_path / "00000.parquet")
    assert schema.names[: len(TABLE)] == TABLE
    assert [str(schema.field(name).type) for name in ("http_status", "frames", "downgraded")] == ["int32"] * 2 + [
        "bool"
    ]
    lines = table_of(tmp_path)
    assert [line["key"] for line in lines] == [f"{index:09d}" for index in range(20)]
    missing, corrupt, blocked, good = lines[3], lines[5], lines[7], lines[9]
    assert [missing[name] for name in TABLE[2:8]] == [
        *("failed", "failed_to_download", "http.not_found", "dé tail", 404, 1)
    ]
    assert (corrupt["outcome"], corrupt["status"], corrupt["reason"]) == ("failed", "failed_to_resize", "image.corrupt")
    assert (blocked["outcome"], blocked["status"], blocked["error_message"]) == ("skipped", "failed_to_download", None)
    assert (good["outcome"], good["status"], good["reason"], good["attempts"]) == ("written", "success", None, 2)
    assert (good["width"], good["original_width"], good["sha256"], good["exif"]) == (
        8,
        640,
        f"{9:064x}",
        '{"Make": "ACME"}',
    )
    assert [(line["frames"], line["downgraded"]) for line in (good, lines[10], corrupt)] == [
        *((1, True), (2, False), (None, False))
    ]
    assert good["caption"] == "猫 🐈 “9”\nsecond line"
    assert [good[name] for name in KEPT] == [None, ["größe", "t9"], None, "2.25"]
    assert (lines[4]["number"], json.loads(lines[4]["mixed"])) == (4, {"a": [1, None]})


@pytest.mark.parametrize("sink", FORMATS)
def test_order_of_arrival_changes_nothing(tmp_path: Path, sink: str) -> None:
    """The bytes of a shard are a function of its rows, however they arrive."""
    rows = [settled(sink, index) for index in range(60)]
    make(tmp_path / "a", sink, rows)
    random.Random(1).shuffle(rows)
    make(tmp_path / "b", sink, rows)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("sink", FORMATS)
def test_nothing_written(tmp_path: Path, sink: str) -> None:
    """A shard of failures alone is a shard: its table has the rows, and the columns it has elsewhere."""
    make(tmp_path, sink, [failed(index, Reason.DNS_NXDOMAIN) for index in range(3)], parts=("png",))
    assert READERS[sink](tmp_path) == {} or sink == "arrays"
    assert [line["reason"] for line in table_of(tmp_path)] == ["dns.nxdomain"] * 3
    assert not list(tmp_path.glob("*.npy"))
    assert ("png" in pq.read_schema(tmp_path / "00000.parquet").names) == (sink == "parquet")


@pytest.mark.parametrize("sink", FORMATS)
def test_parts_of_a_transform(tmp_path: Path, sink: str) -> None:
    """Several parts, arrays of any plain dtype and layout, come back equal."""
    parts: dict[str, Value] = {
        "image": np.asfortranarray(np.arange(12, dtype=">f4").reshape(3, 4)),
        "mask": np.eye(3, dtype=bool),
        "label": np.array(7),
        "when": np.array(["2024-02-29"], "M8[D]"),
        "none": np.zeros((0, 2), np.int16),
    }
    if sink != "arrays":
        parts["thumb.jpg"] = b"\xff\xd8"
    make(tmp_path, sink, [written(index, parts) for index in range(3)])
    sample = READERS[sink](tmp_path)["000000001"]
    names = {"webdataset": ("npy", ".npy"), "files": ("npy", ".npy"), "arrays": ("", ""), "parquet": ("image", "")}
    first, suffix = names[sink]
    for name, value in parts.items():
        stored = first if name == "image" else name + (suffix if isinstance(value, np.ndarray) else "")
        np.testing.assert_array_equal(sample[stored], value)
        if isinstance(value, np.ndarray):
            assert (sample[stored].dtype, sample[stored].shape) == (value.dtype, value.shape)


@pytest.mark.parametrize("sink", FORMATS)
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "no parts"),
        ({"../up": b""}, "a name is made of"),
        ({"a..b": b""}, "a name is made of"),
        ({"x" * 61: b""}, "a name is made of"),
        ({"json": b""}, "stored as .json"),
        ({"A": b"", "a": b""}, "stored as .a"),
        ({"image": np.zeros(1), "npy": b""}, "stored as .npy"),
        ({"image": np.array([{}])}, r"array of \|O"),
        ({"image": np.zeros(2, [("x", "u1")])}, r"array of \|V1"),
    ],
)
def test_unusable_sample_fails_its_row_alone(tmp_path: Path, sink: str, parts: dict[str, Value], message: str) -> None:
    """A sample that cannot be stored is refused when it comes; the shard goes on as if nothing was."""
    shard = store_at(tmp_path, sink).open(0)
    with pytest.raises(ItemError, match=message) as caught:
        shard.add(written(0, parts))
    assert caught.value.reason is Reason.TRANSFORM_ERROR
    shard.add(failed(0, caught.value.reason))
    assert shard.commit(rows=1).reasons == {"transform.error": 1}


@pytest.mark.parametrize("sink", FORMATS)
def test_account_is_watched(tmp_path: Path, sink: str) -> None:
    """A row settled twice, a sample where none belongs, and a shard that is not whole are errors."""
    shard = store_at(tmp_path, sink).open(0)
    shard.add(settled(sink, 0))
    with pytest.raises(AccountError, match="row 0 was settled twice"):
        shard.add(failed(0, Reason.DNS_NXDOMAIN))
    with pytest.raises(AccountError, match="row 1 is written and lacks a sample"):
        shard.add(dataclasses.replace(settled(sink, 1), sample=None))
    with pytest.raises(AccountError, match="1 settled rows of 2"):
        shard.commit(rows=2)
    assert shard.commit(rows=1).rows == 1


@pytest.mark.parametrize("sink", FORMATS)
def test_resume_from_a_spool_torn_anywhere(tmp_path: Path, sink: str) -> None:
    """Wherever a crash cuts the spool, whole rows are kept, and the shard is the same in the end."""
    rows = [settled(sink, index) for index in range(9)]
    make(tmp_path / "whole", sink, rows)
    folder = tmp_path / "torn"
    fill(store_at(folder, sink).open(0), rows).close()
    spool = folder / ".penstock/spool/00000.spool"
    data = spool.read_bytes()
    kept = set()
    for cut in range(0, len(data) + 1, 211):
        spool.write_bytes(data[:cut])
        shard = store_at(folder, sink).open(0)
        assert shard.recovered == frozenset(range(len(shard.recovered)))
        kept.add(len(shard.recovered))
        fill(shard, rows[::-1]).commit(rows=9)
        assert content(folder) == content(tmp_path / "whole")
    assert kept >= set(range(9))


@pytest.mark.parametrize("sink", FORMATS)
def test_commit_is_all_or_nothing(tmp_path: Path, sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename or fsync fails: an OutputError, no final file, no rubbish; and the next commit works."""
    rows = [settled(sink, index) for index in range(9)]
    make(tmp_path / "whole", sink, rows)
    folder = tmp_path / "out"
    shard = fill(store_at(folder, sink).open(0), rows)
    for position in range(_durable_calls(tmp_path / "counted", sink, monkeypatch)):
        with monkeypatch.context() as patch:
            _watch_durable_calls(patch, fail_at=position)
            with pytest.raises(OutputError, match="run again"):
                shard.commit()
        assert content(folder) == {}
        assert list((folder / ".penstock/tmp").iterdir()) == []
    shard.commit()
    assert content(folder) == content(tmp_path / "whole")


def _durable_calls(folder: Path, sink: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many calls make one commit durable."""
    with monkeypatch.context() as patch:
        calls = _watch_durable_calls(patch)
        make(folder, sink, [settled(sink, 0)])
    assert len(calls) >= 5
    return len(calls)


def _watch_durable_calls(patch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[str]:
    """Record the calls that make a commit durable, and let the one at this position fail."""
    calls: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == fail_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace"):
        patch.setattr(os, name, watched(name, getattr(os, name)))
    return calls


@pytest.mark.parametrize("sink", FORMATS)
def test_leftovers_are_replaced(tmp_path: Path, sink: str) -> None:
    """A killed run's files under the final names give way to the shard's."""
    rows = [settled(sink, index) for index in range(9)]
    make(tmp_path, sink, rows)
    before = content(tmp_path)
    for path in tmp_path.glob("[0-9]*"):
        (path / "old" if path.is_dir() else path).write_text("leftover")
    make(tmp_path, sink, rows)
    assert content(tmp_path) == before


@pytest.mark.parametrize("sink", FORMATS)
def test_sweep(tmp_path: Path, sink: str) -> None:
    """At the start, what no journal line covers is deleted; committed shards, open spools and foreign files stay."""
    store = store_at(tmp_path, sink)
    for number in (0, 1):
        fill(store.open(number), [settled(sink, index) for index in range(9)]).commit()
    shard = store.open(2)
    shard.add(settled(sink, 0))
    shard.close()
    foreign = ["notes.txt", "00001.txt", "1.tar", "000001.tar", "report.json"]
    for name in foreign:
        (tmp_path / name).touch()
    (store.landing.scratch_folder / "00001-x").mkdir(parents=True)
    committed = {path.name for path in tmp_path.glob("00000*")}
    store.sweep({0})
    assert {path.name for path in tmp_path.iterdir()} == committed | {*foreign, ".penstock"}
    assert {path.name for path in (tmp_path / ".penstock").rglob("*.*")} == {"00001.spool", "00002.spool"}
    store.sweep({0}, spools=True)
    assert not list((tmp_path / ".penstock").rglob("*.spool"))


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("sink", FORMATS)
def test_write_error_in_commit(tmp_path: Path, sink: str) -> None:
    """A file that cannot grow ends the commit with an OutputError; with room, the same shard commits."""
    rows = [settled(sink, index) for index in range(30)]
    shard = fill(store_at(tmp_path, sink).open(0), rows)
    with file_size_limit(100), pytest.raises(OutputError, match="ulimit -f"):
        shard.commit()
    assert content(tmp_path) == {}
    assert list((tmp_path / ".penstock/tmp").iterdir()) == []
    shard.commit()
    assert len(READERS[sink](tmp_path)) == 21


@pytest.mark.parametrize("sink", FORMATS)
def test_disk_full_in_add(tmp_path: Path, sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for which there is no room is not taken, not even a part of it, and the message says how much there is."""
    shard = store_at(tmp_path, sink).open(0)
    shard.add(settled(sink, 0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda descriptor, pieces: os.write(descriptor, pieces[0][:7]))
        real_write = os.write

        def full(descriptor: int, data: bytes) -> int:
            if len(data) > 7:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real_write(descriptor, data)

        patch.setattr(os, "write", full)
        with pytest.raises(OutputError, match=r"No space left on device \([\d,]+ bytes needed, [\d,]+ free\)"):
            shard.add(settled(sink, 1))
    shard.close()
    again = store_at(tmp_path, sink).open(0)
    assert again.recovered == {0}
    again.add(settled(sink, 1))
    assert again.commit().rows == 2


def test_kept_schema_holds_for_every_shard(tmp_path: Path) -> None:
    """Types that the source knows are used, even where a shard has nothing but nulls."""
    item = pa.struct({"a": pa.float32(), "b": pa.list_(pa.int8())})
    types = {"number": pa.int16(), "tags": pa.list_(pa.large_string()), "nothing": pa.null(), "mixed": item}
    schema = pa.schema(types)
    values: list[dict[str, Any]] = [{}, {"number": 5, "tags": ["x"], "mixed": {"a": 1, "b": [1]}}]
    for name, fields in zip("ab", values, strict=True):
        one = dataclasses.replace(
            failed(0, Reason.DNS_NXDOMAIN).outcome, row=dataclasses.replace(row(0), fields=fields)
        )
        make(tmp_path / name, "files", [Settled(one)], kept_schema=schema)
    tables = [pq.read_table(tmp_path / name / "00000.parquet") for name in "ab"]
    assert tables[0].schema == tables[1].schema
    assert tables[1].schema.field("number").type == pa.int16()
    assert [tables[1][name][0].as_py() for name in KEPT] == [5, ["x"], None, {"a": 1.0, "b": [1]}]


def test_arrays_of_two_shapes(tmp_path: Path) -> None:
    """With the format arrays, a sample that differs from the first fails, and the message shows both."""
    store = store_at(tmp_path, "arrays")
    shard = store.open(0)
    shard.add(written(5, {"image": np.zeros((2, 3), np.uint8)}))
    other = store.open(1)
    with pytest.raises(ItemError, match=r"image \(3, 2\) \|u1, but the rows before it have image \(2, 3\) \|u1"):
        other.add(written(6, {"image": np.zeros((3, 2), np.uint8)}))
    with pytest.raises(ItemError, match="is bytes"):
        other.add(written(6, {"image": b""}))
    shard.close()
    other.close()


def test_spool_of_other_shape_is_not_used(tmp_path: Path) -> None:
    """Rows of a killed run that do not go with what this run has agreed on are done again."""
    first = store_at(tmp_path, "arrays").open(0)
    first.add(written(0, {"image": np.zeros((2, 3), np.uint8)}))
    first.close()
    store = store_at(tmp_path, "arrays")
    other = store.open(1)
    other.add(written(9, {"image": np.zeros((4, 4), np.uint8)}))
    again = store.open(0)
    assert again.recovered == frozenset()
    other.close()
    again.close()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the package leaves closing to the collector
def test_webdataset_reads_it(tmp_path: Path) -> None:
    """The webdataset package sees every sample, with image, caption and fields decoded."""
    webdataset = pytest.importorskip("webdataset")
    make(tmp_path, "webdataset", [settled("webdataset", index) for index in range(30)])
    dataset = webdataset.WebDataset(str(tmp_path / "00000.tar"), shardshuffle=False, empty_check=False).decode("rgb8")
    seen = {sample["__key__"]: sample for sample in dataset}
    assert len(seen) == 21
    for key, sample in seen.items():
        np.testing.assert_array_equal(sample["png"], image(int(key)))
        assert sample["json"]["number"] == row(int(key)).fields["number"]
        assert sample.get("txt") == row(int(key)).caption


@pytest.mark.slow
@pytest.mark.leaks_ok("datasets keeps its caches open")
@pytest.mark.parametrize(("builder", "pattern"), [("webdataset", "*.tar"), ("parquet", "*.parquet")])
@pytest.mark.filterwarnings("ignore")  # of the package's own
def test_hugging_face_reads_it(tmp_path: Path, builder: str, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets.load_dataset` makes a dataset of it, offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "out"
    rows = [settled(builder, index) for index in range(30)]
    # its webdataset reader wants the same members and types in all samples
    make(folder, builder, [one for one in rows if one.sample and row_is_plain(one.outcome.row)])
    files = [str(path) for path in folder.glob(pattern)]
    dataset = datasets.load_dataset(builder, data_files=files, cache_dir=str(tmp_path / "cache"), split="train")
    for line in dataset:
        key = line["__key__"] if builder == "webdataset" else line["key"]
        picture = line["png"] if builder == "webdataset" else Image.open(io.BytesIO(line["png"]))
        np.testing.assert_array_equal(np.array(picture), image(int(key)))
        assert (line["txt"] if builder == "webdataset" else line["caption"]) == row(int(key)).caption


def row_is_plain(one: Row) -> bool:
    """Whether the row has a caption, and a number where others have an object."""
    return one.caption is not None and isinstance(one.fields["mixed"], float)


MEMORY_PROGRAM = """
import resource, sys
import numpy as np, pyarrow.parquet
from penstock.config import OutputConfig
from penstock.records import Kind, Outcome, Request, Row, Sample, Settled
from penstock.sink.shards import ShardStore

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

folder, format = sys.argv[1:]
random = np.random.default_rng(0)
shard = ShardStore(folder, OutputConfig(format=format), run_id="").open(0)
before = peak()
for index in range(10_000):
    data = random.integers(0, 256, (82, 82, 3), dtype=np.uint8)
    parts = {"image": data} if format == "arrays" else {"jpg": data.tobytes()}
    row = Row(index, (Request("image", "https://example.com/"),))
    shard.add(Settled(Outcome(row, Kind.WRITTEN), Sample(parts)))
shard.commit(rows=10_000)
print((peak() - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sink", FORMATS)
def test_memory_stays_flat(tmp_path: Path, sink: str) -> None:
    """A shard of 200 MB is made in far less memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path), sink], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 150


def prepare(folder: Path, spools: Path, sink: str, rows: list[Settled]) -> ShardReport:
    """What one of several attempts at a shard leaves."""
    store = store_at(folder, sink, work_folder=spools, prepares=True)
    return fill(store.open(0), rows).commit(rows=len(rows))


@pytest.mark.parametrize("sink", FORMATS)
def test_prepared_shard_is_adopted_once(tmp_path: Path, sink: str) -> None:
    """Two attempts at one shard at the same time: neither shows before the adoption, and then only the one that was."""
    rows = [settled(sink, index) for index in range(12)]
    plain = make(tmp_path / "plain", sink, rows)
    folder = tmp_path / "out"
    first, second = (prepare(folder, tmp_path / name, sink, rows) for name in ("one", "two"))
    assert first.attempt != second.attempt
    assert [path.name for path in folder.iterdir()] == [".penstock"]
    store = store_at(folder, sink)
    [adopted] = store.adopt([second])
    store.discard(first)
    assert adopted.attempt == ""
    assert {file.name for file in adopted.files} == {file.name for file in plain.files}
    same = [file for file in adopted.files if not file.name.endswith("_stats.json")]  # which holds times
    assert same == [file for file in plain.files if not file.name.endswith("_stats.json")]
    assert all(describe(folder / file.name.rstrip("/")) == file for file in adopted.files)
    assert not list(store.landing.scratch_folder.iterdir())


def test_adoption_is_all_or_nothing(tmp_path: Path) -> None:
    """If one of several shards cannot be adopted, none is: the message says what is not there."""
    store = store_at(tmp_path / "out", "webdataset", work_folder=tmp_path / "spools", prepares=True)
    reports = []
    for number in range(2):
        rows = [settled("webdataset", number * 4 + index) for index in range(4)]
        reports.append(fill(store.open(number), rows).commit())
    store.discard(reports[1])
    with pytest.raises(OutputError, match=r"cannot give shards their names in .*No such file"):
        store.adopt(reports)
    assert not list((tmp_path / "out").glob("0*"))
