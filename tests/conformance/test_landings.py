"""One suite for the places where shards go: what is true of a disk is true of an object store."""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.test_sinks import FORMATS, content, fill, make, settled, store_at
from penstock.errors import OutputError
from penstock.records import ShardReport
from penstock.sink import objects
from penstock.sink.disk import describe
from penstock.sink.shards import ShardStore
from stores import download

upath = pytest.importorskip("upath", reason="universal_pathlib is not installed: the development extra has it")

ROWS = 12


class Place:
    """Where shards go, with what the tests want to know of it."""

    def __init__(self, location: Any, tmp_path: Path) -> None:
        self.location = location
        self._tmp_path = tmp_path

    def store(self, sink: str, worker: str = "", *, prepares: bool = False) -> ShardStore:
        """As a lane has it, or one of a cluster's workers."""
        work_folder = None
        if worker or not isinstance(self.location, Path):
            work_folder = self._tmp_path / f"work-{worker}"
        return store_at(self.location, sink, work_folder=work_folder, prepares=prepares)

    def copy(self) -> Path:
        """What is there now, on a disk."""
        if isinstance(self.location, Path):
            return self.location
        return download(str(self.location), self._tmp_path / f"copy-{uuid.uuid4().hex}")

    def files(self) -> set[str]:
        """Everything that is there."""
        folder = self.copy()
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    def write(self, name: str, data: bytes = b"leftover") -> None:
        """Something that is not made by the store."""
        if not isinstance(self.location, Path):
            objects.write(data, self.location, name)
            return
        (self.location / name).parent.mkdir(parents=True, exist_ok=True)
        (self.location / name).write_bytes(data)


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place."""
    if request.param == "disk":
        return Place(tmp_path / "out", tmp_path)
    return Place(upath.UPath(f"memory://{uuid.uuid4().hex}/out"), tmp_path)


def rows_of(sink: str, shard: int = 0) -> list[Any]:
    return [settled(sink, shard * ROWS + index) for index in range(ROWS)]


def commit(store: ShardStore, sink: str, shard: int = 0) -> ShardReport:
    """What becomes of a shard's rows; its spool is forgotten."""
    report = fill(store.open(shard), rows_of(sink, shard)).commit(rows=ROWS)
    store.forget(shard)
    return report


@pytest.mark.parametrize("sink", FORMATS)
def test_shards_are_the_same_everywhere(place: Place, sink: str, tmp_path: Path) -> None:
    """Byte for byte but for times, and as the report says; nothing else is there."""
    make(tmp_path / "plain", sink, rows_of(sink))
    report = commit(place.store(sink), sink)
    folder = place.copy()
    assert content(folder) == content(tmp_path / "plain")
    assert all(describe(folder / file.name) == file for file in report.files)
    assert all(describe(place.location / file.name.rstrip("/")) == file for file in report.files)
    assert report.attempt == ""
    assert {name.partition("/")[0] for name in place.files()} == {file.name.rstrip("/") for file in report.files}


@pytest.mark.parametrize("sink", FORMATS)
def test_prepared_shard_is_adopted_once(place: Place, sink: str, tmp_path: Path) -> None:
    """Of two attempts at a shard neither shows before one is adopted, and then that one; leftovers give way to it."""
    make(tmp_path / "plain", sink, rows_of(sink))
    first, second = (commit(place.store(sink, name, prepares=True), sink) for name in ("one", "two"))
    assert first.attempt != second.attempt
    assert all(name.startswith(".penstock/tmp/") for name in place.files())
    place.write("00000/000000099.jpg" if sink == "files" else "00000.parquet")
    driver = store_at(place.location, sink)
    [adopted] = driver.adopt([second])
    driver.discard(first)
    folder = place.copy()
    assert adopted.attempt == ""
    assert all(describe(folder / file.name) == file for file in adopted.files)
    assert content(folder) == content(tmp_path / "plain")
    assert not [name for name in place.files() if name.startswith(".penstock")]


def test_leftover_gives_way(place: Place) -> None:
    """A directory of a killed run may have had members that the shard does not have."""
    place.write("00000/000000099.jpg")
    commit(place.store("files"), "files")
    assert "00000/000000099.jpg" not in place.files()


def test_adoption_of_what_is_not_there(place: Place) -> None:
    """The message says so, and the journal, which the caller writes, never hears of the shard."""
    reports = [commit(place.store("webdataset", "worker", prepares=True), "webdataset", shard) for shard in (0, 1)]
    driver = store_at(place.location, "webdataset")
    driver.discard(reports[1])
    with pytest.raises(OutputError, match="cannot give shards their names in"):
        driver.adopt(reports)


@pytest.mark.parametrize("sink", FORMATS)
def test_sweep(place: Place, sink: str) -> None:
    """What no journal line covers is deleted, where it may be; committed shards and foreign files stay."""
    store = place.store(sink)
    commit(store, sink)
    commit(store, sink, 1)
    commit(place.store(sink, "worker", prepares=True), sink, 2)
    place.write("notes.txt")
    place.write("00007/mine.txt")
    store.sweep({0}, strays=True)
    left = {name.partition("/")[0].partition(".")[0].partition("_")[0] for name in place.files()}
    assert left == {"00000", "notes", "00007"}


def test_store_is_not_searched_without_need(place: Place) -> None:
    """At the start of a run that goes on, what was prepared goes; what has a final name will be replaced."""
    store = place.store("webdataset")
    commit(store, "webdataset")
    commit(place.store("webdataset", "worker", prepares=True), "webdataset", 1)
    store.sweep(set(), strays=False)
    stays = not isinstance(place.location, Path)  # to look at a disk costs nothing
    assert ("00000.tar" in place.files()) == stays
    assert not [name for name in place.files() if name.startswith(".penstock/tmp")]


@pytest.mark.parametrize("sink", FORMATS)
def test_store_that_refuses(sink: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever upload fails for good: an OutputError, the rows are still in the spool, and the next commit works."""
    place = Place(upath.UPath(f"memory://{uuid.uuid4().hex}/out"), tmp_path)
    make(tmp_path / "plain", sink, rows_of(sink))
    shard = fill(place.store(sink).open(0), rows_of(sink))
    system = place.location.fs
    uploads = _failing_uploads(system, monkeypatch)
    while True:
        uploads.append([])
        with contextlib.suppress(OutputError):
            shard.commit(rows=ROWS)
            break
    assert len(uploads) >= 3
    assert content(place.copy()) == content(tmp_path / "plain")


def _failing_uploads(system: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let the n-th upload of the n-th try fail; what was asked for in each try."""
    tries: list[list[str]] = []
    put: Callable[..., None] = system.put

    def failing(sources: list[str], targets: list[str]) -> None:
        for source, target in zip(sources, targets, strict=True):
            tries[-1].append(target)
            if len(tries[-1]) == len(tries):
                raise PermissionError(io.UnsupportedOperation())
            put([source], [target])

    monkeypatch.setattr(system, "put", failing)
    return tries
