"""Tar headers and JSON members, compared with the standard library's."""

from __future__ import annotations

import json
import tarfile

import pytest

from penstock.sink.base import Record
from penstock.sink.members import members
from penstock.sink.names import shard_name, shard_of
from penstock.sink.webdataset import tar_header


@pytest.mark.parametrize("name", ["000000000.jpg", "000000001.mask.npy", "9" * 96 + ".jpg"])
@pytest.mark.parametrize("size", [0, 1, 511, 10_000, 8**11 - 1, 8**11, 2**45])
def test_tar_header_is_what_tarfile_reads(name: str, size: int) -> None:
    """The hand-made header means the same as tarfile's, up to sizes past ustar's limit."""
    header = tar_header(name, size)
    read = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    assert len(header) == 512
    assert (read.name, read.size, read.mode, read.mtime, read.uid, read.gid, read.type) == (
        *(name, size, 0o644, 0, 0, 0, tarfile.REGTYPE),
    )


@pytest.mark.parametrize("size", [0, 4711, 8**11 - 1])
def test_tar_header_is_the_one_tarfile_writes(size: int) -> None:
    """Where ustar suffices, not one byte differs."""
    info = tarfile.TarInfo("000000000.jpg")
    info.size = size
    assert tar_header("000000000.jpg", size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_json_member_is_json() -> None:
    """Floats that JSON does not know are null, also inside lists and objects."""
    meta = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": float("-inf")}, "e": "é"}
    made = dict(members(Record("000000000", meta, None, {})))

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    assert json.loads(made["000000000.json"], parse_constant=refuse) == json.loads(
        '{"a": null, "b": [1.5, null], "c": {"d": null}, "e": "é"}'
    )


@pytest.mark.parametrize("shard", [0, 7, 99_999, 100_000, 1_234_567])
@pytest.mark.parametrize("ending", ["", ".tar", ".parquet", ".npy", ".mask.npy", "_stats.json"])
def test_names_of_shards(shard: int, ending: str) -> None:
    """A shard's files are known by their names."""
    assert shard_of(shard_name(shard) + ending) == shard


@pytest.mark.parametrize(
    "name", ["7.tar", "000007.tar", "00007.txt", "00007_stats", "x00007.tar", "00007.tar.gz", ".penstock"]
)
def test_names_of_others(name: str) -> None:
    """Names that Penstock would not write belong to nobody."""
    assert shard_of(name) is None
