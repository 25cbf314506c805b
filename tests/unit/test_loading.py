"""A finished folder of arrays reads like one array."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.config import OutputConfig
from penstock.errors import SourceError
from penstock.loading import load
from penstock.records import Kind, Outcome, Reason, Request, Row, Sample, Settled, Value
from penstock.sink.shards import ShardStore


def image(index: int) -> np.ndarray:
    """A picture of its own for each row."""
    return np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def commit(folder: Path, shard: int, indices: list[int], *, form: str = "arrays", size: int = 4) -> None:
    """A shard of these rows, of which every third fails, with its journal line."""
    store = ShardStore(folder, OutputConfig(format=form, keep_columns=("n",)), run_id="")  # type: ignore[arg-type]  # a test's
    with_journal = folder / ".penstock" / "journal.jsonl"
    spool = store.open(shard)
    for index in indices:
        row = Row(index, (Request("image", f"https://example.com/{index}"),), fields={"n": index * 10})
        part: Value = image(index)[:size] if form == "arrays" else b"jpg"
        sample = Sample({"image" if form == "arrays" else "jpg": part})
        if index % 3 == 2:
            spool.add(Settled(Outcome(row, Kind.FAILED, Reason.HTTP_GONE)))
        else:
            spool.add(Settled(Outcome(row, Kind.WRITTEN), sample))
    with with_journal.open("a") as journal:
        if not journal.tell():
            journal.write(json.dumps({"run": {"version": 1, "run_id": "", "source": None, "options": {}}}) + "\n")
        journal.write(json.dumps(asdict(spool.commit())) + "\n")
    store.forget(shard)


INDICES = [0, 1, 3, 4, 6, 7, 12, 13, 9, 10]
"""The written rows of `folder`, in the order of the shards."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards with something, one with nothing; the last one has earlier keys, as after a retry."""
    for shard, indices in enumerate([[0, 1, 2, 3, 4], [5, 8], [6, 7, 12, 13], [9, 10]]):
        commit(tmp_path, shard, indices)
    return tmp_path


@pytest.fixture
def whole() -> np.ndarray:
    """What the folder holds."""
    return np.stack([image(index) for index in INDICES])


def test_shape_keys_and_fields(folder: Path) -> None:
    """The first axis counts the written rows; keys and fields go with them."""
    images = load(folder)
    assert (images.shape, str(images.dtype), len(images)) == ((10, 4, 4, 3), "uint8", 10)
    assert list(images.keys) == [f"{index:09d}" for index in INDICES]
    assert images.fields["n"].to_pylist() == [index * 10 for index in INDICES]
    assert set(images.fields["outcome"].to_pylist()) == {"written"}
    assert "10 images" in repr(images)


@pytest.mark.parametrize(
    "index",
    [
        *(0, 4, 5, 9, -1, -10, np.int64(7)),
        *(slice(None), slice(3, 7), slice(8, 1, -3), slice(20, 30)),
        *([9, 0, 5, 5, -2], [], np.array([4, 5], np.uint8), np.arange(10) % 2 == 0),
    ],
)
def test_indexing_is_that_of_an_array(folder: Path, whole: np.ndarray, index: Any) -> None:
    """Integers, slices, arrays of positions and masks mean what they mean for numpy."""
    wanted = whole[np.array(index, np.int64) if isinstance(index, list) else index]
    found = load(folder)[index]
    np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("index", [10, -11, [0, 10], np.zeros(9, bool)])
def test_positions_beyond_the_end(folder: Path, index: Any) -> None:
    """They are an IndexError, as for any sequence."""
    with pytest.raises(IndexError):
        load(folder)[index]


@pytest.mark.parametrize("index", ["a", 1.5, [[0]], None])
def test_no_positions(folder: Path, index: Any) -> None:
    """Anything else is a TypeError."""
    with pytest.raises(TypeError):
        load(folder)[index]


def test_float_is_the_255th_part(folder: Path, whole: np.ndarray) -> None:
    """float32 is x/255 exactly, however it is asked for."""
    images = load(folder, dtype="float32")
    wanted = whole.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(images[:], wanted, strict=True)
    np.testing.assert_array_equal(images[3], wanted[3], strict=True)
    np.testing.assert_array_equal(np.stack(list(images)), wanted, strict=True)


def test_as_an_array_and_as_a_copy(folder: Path, whole: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy takes it whole; iteration and pickled copies give the same, also with one shard open at a time."""
    monkeypatch.setattr(sys.modules[load.__module__], "_OPEN_SHARDS", 1)
    images = load(folder)
    np.testing.assert_array_equal(np.asarray(images), whole, strict=True)
    np.testing.assert_array_equal(np.asarray(images, np.float64), whole.astype(np.float64), strict=True)
    np.testing.assert_array_equal(np.stack(list(images)), whole)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[:], whole)
    with pytest.raises(ValueError, match="always a copy"):
        np.array(images, copy=False)


def test_only_committed_shards_count(folder: Path) -> None:
    """A shard without a journal line is not there, whatever its files say."""
    journal = folder / ".penstock" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:-5])
    assert list(load(folder).keys) == [f"{index:09d}" for index in INDICES[:4]]


def test_nothing_written(tmp_path: Path) -> None:
    """A run in which everything failed has no images, which is no error."""
    commit(tmp_path, 0, [2, 5])
    images = load(tmp_path)
    assert (len(images), images.shape, images[:].shape, list(images), list(images.keys)) == (0, (0,), (0,), [], [])
    assert images.fields.num_rows == 0


def test_other_folders_are_named(tmp_path: Path) -> None:
    """No run, another format, two shapes, a damaged file: each is a SourceError that says which."""
    with pytest.raises(SourceError, match="not the output of a run"):
        load(tmp_path)
    commit(tmp_path / "w", 0, [0], form="webdataset")
    with pytest.raises(SourceError, match=r"00000\.tar.*--format arrays"):
        load(tmp_path / "w")
    commit(tmp_path / "s", 0, [0])
    commit(tmp_path / "s", 1, [1], size=3)
    with pytest.raises(
        SourceError, match=r"00001\.npy holds uint8 of \(1, 3, 4, 3\), expected uint8 of \(1, 4, 4, 3\)"
    ):
        load(tmp_path / "s")[:]
    (tmp_path / "s" / "00000.npy").write_bytes(b"")
    with pytest.raises(SourceError, match=r"00000\.npy cannot be read.*penstock verify"):
        load(tmp_path / "s")
    with pytest.raises(ValueError, match="dtype 'int8'"):
        load(tmp_path / "s", dtype="int8")  # type: ignore[arg-type]  # the point of it
