"""One suite for the three engines: wherever the lanes run, the folder and the account are the same."""

from __future__ import annotations

import contextlib
import csv
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from invariants import assert_finished, digests

import penstock
from clusters import dask_cluster, ray_cluster
from penstock.config import RunConfig
from penstock.engines import Dask, Ray
from penstock.engines.work import Progress
from penstock.errors import ConfigError, WorkerError
from penstock.flow import LaneStatistics
from penstock.records import Row
from penstock.runner import Run
from penstock.testing.server import ImageServer
from stores import Store, download, s3_store

OPTIONS: dict[str, Any] = {
    "size": 32,
    "shard_size": 8,
    "workers": 1,
    "per_host": 64,
    "allow_network": ("127.0.0.0/8",),
    "timeout": 20,
}
ROWS, WRITTEN = 60, 57

SHARED = pytest.mark.leaks_ok("the module's cluster opens and closes connections and threads as it likes")
ENGINES = [
    pytest.param("local"),
    pytest.param("lanes"),
    pytest.param("ray", marks=[SHARED, pytest.mark.slow]),
    pytest.param("dask", marks=[SHARED, pytest.mark.slow]),
]
CLUSTERS = ENGINES[2:]

Execute = Callable[..., penstock.Report]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """An object store, which clusters that are started later find by their environment."""
    with s3_store() as store:
        yield store


@pytest.fixture(scope="module")
def connected(store: Store) -> Iterator[Callable[[str], dict[str, Any]]]:
    """What an engine is called in `penstock.run`; its cluster is started once and ends with the module."""
    with contextlib.ExitStack() as stack:
        known: dict[str, dict[str, Any]] = {"local": {}, "lanes": {"lanes": 2, "workers": 2}}

        def connect(name: str) -> dict[str, Any]:
            if name not in known:
                if name == "ray":
                    stack.enter_context(ray_cluster())
                    known[name] = {"engine": Ray()}
                else:
                    known[name] = {"engine": Dask(stack.enter_context(dask_cluster()))}
            return known[name]

        yield connect


@pytest.fixture
def engine(request: pytest.FixtureRequest, connected: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The options by which the engine of the test is chosen."""
    return connected(request.param)


@pytest.fixture
def urls(image_server: ImageServer) -> list[str]:
    """Sixty URLs, three of which fail."""
    urls = [f"{url}&engines" for url in image_server.image_urls(ROWS)]
    urls[7] = f"{image_server.url}/status/404?i=7"
    urls[20] = f"{image_server.url}/truncated/{image_server.pictures[0]}"
    urls[33] = "no://url"
    return urls


@pytest.fixture
def table(urls: list[str], tmp_path: Path) -> Path:
    """The same as a parquet file, with a kept column, in small row groups."""
    path = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"url": urls, "label": [f"label {i}" for i in range(ROWS)]}), path, row_group_size=7)
    return path


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("form", ["webdataset", "files"])
def test_shards_are_those_of_a_local_run(engine: dict[str, Any], form: str, table: Path, tmp_path: Path) -> None:
    """Byte for byte, but for times; and so is the account."""
    options = {**OPTIONS, "format": form, "keep_columns": ("label",)}
    plain = penstock.run(table, tmp_path / "plain", **options)
    report = penstock.run(table, tmp_path / "out", **{**options, **engine})
    assert_finished(tmp_path / "out", rows=ROWS, written=WRITTEN)
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")
    assert (report.rows, report.written, report.reasons) == (plain.rows, plain.written, plain.reasons)
    assert report.bytes_downloaded == plain.bytes_downloaded
    assert report.finished


@pytest.mark.parametrize("engine", ENGINES[1:], indirect=True)  # the local one: tests/run/test_store.py
@pytest.mark.slow
@pytest.mark.leaks_ok("the store's client keeps its thread and its connections")
def test_object_store(engine: dict[str, Any], urls: list[str], store: Store, tmp_path: Path) -> None:
    """What is put into a store is what lies in a folder, wherever the lanes are; a list that only the driver sees goes along."""
    options = {**OPTIONS, "format": "webdataset", "shard_size": 12}
    penstock.run(urls, tmp_path / "plain", **options)
    out = store.prefix()
    report = penstock.run(urls, out, **{**options, **engine})
    copy = download(out, tmp_path / "copy")
    assert_finished(copy, rows=ROWS, written=WRITTEN)
    assert digests(copy) == digests(tmp_path / "plain")
    assert report.finished
    assert penstock.run(urls, out, **{**options, **engine}).verdict.startswith("nothing to do")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_lists_that_only_the_driver_sees(engine: dict[str, Any], urls: list[str], tmp_path: Path) -> None:
    """An iterable with captions, kept values and duplicates reaches the workers as it is."""
    rows = [
        {"url": url, "text": f"größe \ud800 {i}" if i % 3 else None, "tags": ["a", i, None], "score": i / 3}
        for i, url in enumerate([*urls[:30], *urls[:10]])
    ]
    options = {**OPTIONS, "caption_column": "text", "keep_columns": ("tags", "score"), "dedup": True}
    penstock.run(rows, tmp_path / "plain", **options)
    report = penstock.run(rows, tmp_path / "out", **{**options, **engine})
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")
    assert report.reasons["policy.duplicate"] == 10
    assert not (tmp_path / "out/.penstock/list.parquet").exists()


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_run_goes_on_where_it_was_stopped(engine: dict[str, Any], table: Path, tmp_path: Path) -> None:
    """A run that is stopped keeps its shards, and the same call later makes the others only."""
    chosen = engine.get("engine")
    options = {name: value for name, value in engine.items() if name != "engine"}
    config = RunConfig(**{**OPTIONS, **options}, engine="local" if chosen is None else chosen.name)
    first = Run(table, tmp_path / "out", config=config, cluster=chosen)
    committed: list[int] = []

    def stop_soon(progress: Progress, statistics: LaneStatistics) -> None:
        committed.append(progress.settled)
        first.stop()

    report = first.execute(stop_soon)
    later = penstock.run(table, tmp_path / "out", **{**OPTIONS, **engine})
    assert committed
    assert_finished(tmp_path / "out", rows=ROWS, written=WRITTEN)
    assert later.rows_before >= report.rows
    penstock.run(table, tmp_path / "plain", **OPTIONS)
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_failed_rows_are_retried(engine: dict[str, Any], image_server: ImageServer, tmp_path: Path) -> None:
    """``--retry-failed`` fetches what may have passed, into new shards, wherever it runs."""
    name = tmp_path.name
    urls = [f"{image_server.url}/flaky/1/{image_server.pictures[0]}?id={name}{i}" for i in range(20)]
    options = {**OPTIONS, "retries": 0, **engine}
    before = penstock.run(urls, tmp_path / "out", **options)
    after = penstock.run(urls, tmp_path / "out", **options, retry_failed=True)
    assert (before.written, before.reasons) == (0, {"http.server_error": 20})
    assert (after.rows, after.written, after.shards) == (20, 20, 6)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES[1:], indirect=True)
def test_limit_at_a_host_holds_for_all_lanes(engine: dict[str, Any], tmp_path: Path) -> None:
    """However many lanes there are, a host sees no more than ``--per-host`` requests at a time."""
    with ImageServer(count=4, mean_bytes=2_000, latency=0.02) as server:
        (tmp_path / "urls.txt").write_text("".join(f"{url}&polite\n" for url in server.image_urls(80)))
        options = {**OPTIONS, "per_host": 2, **engine}
        report = penstock.run(tmp_path / "urls.txt", tmp_path / "out", **options)
        statistics = server.statistics()
    assert report.written == 80
    assert report.lanes > 1
    assert statistics.peak_requests == 2


@pytest.mark.parametrize("engine", CLUSTERS, indirect=True)
def test_progress_comes_while_it_runs(engine: dict[str, Any], image_server: ImageServer, tmp_path: Path) -> None:
    """The driver hears of rows before their shard is whole, and of how many workers are at work."""
    urls = image_server.image_urls(24)
    urls[::8] = [f"{image_server.url}/slow/2/{image_server.pictures[0]}?p={i}" for i in range(3)]
    heard: list[Progress] = []
    report = penstock.run(
        urls, tmp_path / "out", **OPTIONS, **engine, on_progress=lambda progress, _: heard.append(progress)
    )
    assert report.written == 24
    assert any(0 < progress.settled < 24 for progress in heard)
    assert max(progress.lanes or 0 for progress in heard) == report.lanes > 1
    assert heard[-1].settled == 24


@pytest.mark.parametrize("engine", CLUSTERS, indirect=True)
def test_functions_of_a_notebook(engine: dict[str, Any], urls: list[str], tmp_path: Path) -> None:
    """A transform that no module has travels by value; what it raises is told once, with its traceback."""
    limit = 5

    def transform(data: bytes, row: Row) -> dict[str, bytes]:
        if row.index < limit:
            raise LookupError("too early")
        return {"bin": data[:4]}

    transform.__module__ = "__main__"
    report = penstock.run(urls[:16], tmp_path / "out", **OPTIONS, **engine, transform=transform)
    assert report.reasons == {"transform.error": 5, "http.not_found": 1}
    assert "too early" in "".join(report.tracebacks.values())


@pytest.mark.parametrize("engine", CLUSTERS, indirect=True)
def test_transform_that_cannot_travel(engine: dict[str, Any], urls: list[str], tmp_path: Path) -> None:
    """What holds a lock cannot, and that is said before any worker is asked."""
    held = threading.Lock()

    def transform(data: bytes, row: Row) -> dict[str, bytes]:
        with held:
            return {"bin": data}

    transform.__module__ = "__main__"
    with pytest.raises(ConfigError, match=r"the transform cannot be sent to the workers: .*lock"):
        penstock.run(urls, tmp_path / "out", **OPTIONS, **engine, transform=transform)


@pytest.mark.parametrize("engine", CLUSTERS, indirect=True)
def test_list_that_can_be_read_once(engine: dict[str, Any], urls: list[str], tmp_path: Path) -> None:
    """It is refused, with the way out."""
    with pytest.raises(ConfigError, match="can be read only once; write the list to a file"):
        penstock.run(iter(urls), tmp_path / "out", **OPTIONS, **engine)


@SHARED
@pytest.mark.slow
def test_nodes_without_the_package(connected: Callable[[str], dict[str, Any]], urls: list[str], tmp_path: Path) -> None:
    """The message says which machine and which interpreter, and what to install."""
    engine = connected("dask")
    client = engine["engine"].cluster

    def hide() -> None:
        sys.modules["penstock"] = None  # type: ignore[assignment]  # as if it were not installed

    def show() -> None:
        del sys.modules["penstock"]

    client.run(hide)
    try:
        with pytest.raises(WorkerError, match=rf"\({sys.executable}\) has no penstock; install penstock=="):
            penstock.run(urls, tmp_path / "out", **OPTIONS, **engine)
    finally:
        client.run(show)


def test_csv_is_read_once_by_the_driver(tmp_path: Path) -> None:
    """Only lists that can be entered in the middle are opened by the workers themselves."""
    with (tmp_path / "urls.csv").open("w") as file:
        csv.writer(file).writerows([["url"], ["http://example.com/a"]])
    from penstock.source import open_source

    pq.write_table(pa.table({"url": ["http://example.com/a"]}), tmp_path / "urls.parquet")
    assert open_source(tmp_path / "urls.parquet").seekable
    assert not open_source(tmp_path / "urls.csv").seekable
    assert not open_source(["http://example.com/a"]).seekable
