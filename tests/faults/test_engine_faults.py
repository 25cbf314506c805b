"""What befalls clusters: dead workers, tasks that run twice, drivers that are killed. Each row is there once all the same."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from invariants import assert_finished, digests
from processes import command_of, pids

import penstock
from clusters import dask_cluster, ray_cluster
from penstock.engines import Dask, Ray
from penstock.engines.driver import Ending
from penstock.engines.hub import News
from penstock.engines.messages import Lost
from penstock.engines.task import Task
from penstock.engines.work import Progress
from penstock.location import location_of
from penstock.records import Row
from penstock.sink import objects
from penstock.testing.server import ImageServer
from stores import Store, download, s3_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.leaks_ok("a cluster whose processes are killed closes its connections when it likes"),
]

OPTIONS: dict[str, Any] = {
    "size": 32,
    "shard_size": 10,
    "workers": 1,
    "per_host": 64,
    "allow_network": ("127.0.0.0/8",),
    "timeout": 20,
}
ROWS = 120


@pytest.fixture
def table(image_server: ImageServer, tmp_path: Path) -> Path:
    """Rows of which each shard has one that takes a while, so that there is a middle to be killed in."""
    urls = [f"{url}&{tmp_path.name}" for url in image_server.image_urls(ROWS)]
    urls[5::10] = [f"{image_server.url}/slow/0.5/{image_server.pictures[0]}?{tmp_path.name}{i}" for i in range(12)]
    path = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"url": urls}), path, row_group_size=10)
    return path


@pytest.fixture
def expected(table: Path, tmp_path: Path) -> dict[str, str]:
    """What a run on one machine makes of it."""
    penstock.run(table, tmp_path / "plain", **OPTIONS)
    return digests(tmp_path / "plain")


def assert_as_expected(out: Path, expected: dict[str, str]) -> None:
    assert_finished(out, rows=ROWS, written=ROWS)
    assert digests(out) == expected


@dataclass(frozen=True)
class Output:
    """Where a run puts its shards."""

    where: str
    copies: Path

    @property
    def tars(self) -> int:
        """Shards that have their names."""
        if "://" in self.where:
            root = location_of(self.where)
            assert not isinstance(root, Path)
            return sum(name.endswith(".tar") for name, _ in objects.listed(root))
        return len(list(Path(self.where).glob("*.tar")))

    def assert_as_expected(self, expected: dict[str, str], *, orphans: bool = False) -> None:
        """What is there is what a run on one machine makes.

        Lanes that are at work when the driver ends, or is killed, may still put something below ``.penstock/tmp``; nobody
        adopts it, and a next run sweeps it.
        """
        copy = Path(self.where)
        if "://" in self.where:
            copy = download(self.where, self.copies)
        if orphans:
            shutil.rmtree(copy / ".penstock/tmp", ignore_errors=True)
        assert_as_expected(copy, expected)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """An object store, which clusters that are started later find by their environment."""
    with s3_store() as store:
        yield store


@pytest.fixture(params=["folder", "store"])
def out(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Output:
    """A folder that all workers see, and a store."""
    return Output(store.prefix() if request.param == "store" else str(tmp_path / "out"), tmp_path / "copy")


def once_at_work(kill: Callable[[], None]) -> Callable[[Progress, Any], None]:
    """A callback that calls `kill` a single time: when some lane has begun and is not done."""
    killed: list[bool] = []

    def look(progress: Progress, statistics: Any) -> None:
        if not killed and progress.lanes and progress.settled:
            killed.append(True)
            kill()

    return look


def ray_workers() -> list[int]:
    """Processes in which a lane runs."""
    return [pid for pid in pids() if command_of(pid).startswith("ray::penstock-")]


def test_killed_dask_worker(table: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    """SIGKILL of a worker in the middle of a shard: the nanny starts another, and the shard is made again."""
    with dask_cluster() as client:
        workers = list(client.run(os.getpid).values())
        look = once_at_work(lambda: os.kill(workers[0], signal.SIGKILL))
        report = penstock.run(table, tmp_path / "out", **OPTIONS, engine=Dask(client), on_progress=look)
    assert report.written == ROWS
    assert_as_expected(tmp_path / "out", expected)


def test_killed_ray_worker(table: Path, out: Output, expected: dict[str, str]) -> None:
    """SIGKILL of all lanes in the middle of a shard: what they had not prepared is made again."""

    def kill() -> None:
        for pid in ray_workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    with ray_cluster():
        report = penstock.run(table, out.where, **OPTIONS, engine=Ray(), on_progress=once_at_work(kill))
    assert report.written == ROWS
    out.assert_as_expected(expected)


class Greedy:
    """A transform that takes more memory than its worker may have, the first time that it comes to a row."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self, data: bytes, row: Row) -> dict[str, bytes]:
        if row.index == 33:
            with contextlib.suppress(FileExistsError):
                self.marker.touch(exist_ok=False)
                hoard = []
                while True:
                    hoard.append(bytearray(os.urandom(1) * 20_000_000))
                    time.sleep(0.05)  # the nanny looks a few times a second
        return {"jpg": data}


def test_memory_kill_by_the_nanny(table: Path, tmp_path: Path) -> None:
    """A worker that grows beyond its limit is killed by its nanny, and its shard is made again elsewhere."""
    import dask
    import distributed

    marker = tmp_path / "marker"
    plain = penstock.run(table, tmp_path / "plain", **OPTIONS, strategy="threads", transform=_plain_transform)
    with (
        dask.config.set({"distributed.worker.memory.spill": False, "distributed.worker.memory.pause": False}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="600MB",
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        by_value(),
    ):
        report = penstock.run(table, tmp_path / "out", **OPTIONS, engine=Dask(client), transform=Greedy(marker))
    assert marker.exists()
    assert report.written == plain.written == ROWS
    assert_as_expected(tmp_path / "out", digests(tmp_path / "plain"))


def _plain_transform(data: bytes, row: Row) -> dict[str, bytes]:
    return {"jpg": data}


@contextlib.contextmanager
def by_value() -> Iterator[None]:
    """This module's functions travel as a script's do: no worker could import them."""
    import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


class TwiceCluster:
    """A cluster that runs every task twice at the same time, and never says that the second one has ended.

    As a network does that splits: the scheduler gives the task to another worker, and the first one is not dead.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.copies: dict[str, str] = {}

    def slots(self) -> int:
        slots: int = self.inner.slots()
        return slots

    def submit(self, task: Task) -> None:
        import dataclasses

        copy = f"{task.lot}-copy"
        self.copies[copy] = task.lot
        self.inner.submit(task)
        self.inner.submit(dataclasses.replace(task, lot=copy))

    def ended(self, timeout: float) -> list[tuple[str, Ending]]:
        return [(self.copies.get(lot, lot), end) for lot, end in self.inner.ended(timeout)]

    def drain(self, ended: Collection[str]) -> News:
        news: News = self.inner.drain([*ended, *(copy for copy, lot in self.copies.items() if lot in ended)])
        return news

    def stop(self) -> None:
        self.inner.stop()

    def close(self) -> None:
        self.inner.close()


class Twice:
    """The choice of it."""

    name = "dask"

    def __init__(self, choice: Dask) -> None:
        self.choice = choice

    def check(self, config: penstock.RunConfig) -> None:
        self.choice.check(config)

    def connect(self, config: penstock.RunConfig) -> TwiceCluster:
        return TwiceCluster(self.choice.connect(config))


def test_task_that_runs_twice_at_the_same_time(table: Path, out: Output, expected: dict[str, str]) -> None:
    """One of the two attempts at each shard is adopted, the other one discarded."""
    with dask_cluster() as client:
        report = penstock.run(table, out.where, **OPTIONS, engine=Twice(Dask(client)))
    assert report.written == ROWS
    out.assert_as_expected(expected, orphans=True)


class LosingCluster(TwiceCluster):
    """A cluster that says of each first task that its worker was lost, though it works on."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.lied: list[str] = []
        self.told: list[tuple[str, Ending]] = []

    def submit(self, task: Task) -> None:
        self.inner.submit(task)
        if len(self.lied) < 3:
            self.lied.append(task.lot)
            self.told.append((task.lot, Lost("it has fallen silent")))

    def ended(self, timeout: float) -> list[tuple[str, Ending]]:
        told, self.told = self.told, []
        return [*told, *((lot, end) for lot, end in self.inner.ended(timeout) if lot not in self.lied)]


class Losing(Twice):
    """The choice of it."""

    def connect(self, config: penstock.RunConfig) -> TwiceCluster:
        return LosingCluster(self.choice.connect(config))


def test_worker_that_was_given_up_and_lives(table: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    """What it still makes does no harm: its shards are adopted or discarded, never both."""
    with dask_cluster() as client:
        report = penstock.run(table, tmp_path / "out", **OPTIONS, engine=Losing(Dask(client)))
    assert report.written == ROWS
    assert_as_expected(tmp_path / "out", expected)


@contextlib.contextmanager
def address_of(engine: str) -> Iterator[str]:
    """A cluster that outlives its drivers."""
    if engine == "dask":
        with dask_cluster() as client:
            yield client.scheduler.address
    else:
        with ray_cluster() as ray:
            yield ray.get_runtime_context().gcs_address


@pytest.mark.parametrize(
    ("engine", "out"), [("ray", "folder"), ("dask", "folder"), ("dask", "store")], indirect=["out"]
)
def test_killed_driver(engine: str, table: Path, out: Output, expected: dict[str, str]) -> None:
    """SIGKILL of the driver, again and again: the same command goes on, whatever the orphaned lanes still do."""
    options = ["--allow-network", "127.0.0.0/8", "--size", "32", "--per-host", "64", "--shard-size", "10"]
    with address_of(engine) as address:
        command = [sys.executable, "-m", "penstock", "run", str(table), "--out", out.where, *options]
        command += ["--engine", engine, "--address", address, "--quiet"]
        for least in (1, 4):
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            while process.poll() is None and out.tars < least:
                time.sleep(0.01)  # polls a condition
            process.kill()
            process.communicate()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    out.assert_as_expected(expected, orphans=True)
