"""What the driver of a run on a cluster costs, at a billion rows: memory, journal, shards a second, resume.

    python benchmarks/bench_scale.py
    python benchmarks/bench_scale.py --shards 10000 --rows 100

Everything is real but the workers: the list (a parquet file with a billion rows), the run, the driver, the hub, the ledger,
the journal with its flushes. Workers are replaced by one object that reports shards which nobody has made, so their
adoption is left out and timed apart, on real files. Figures go to docs/internals/scale.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.config import RunConfig
from penstock.engines.driver import NOTHING_DONE, Cluster, Ending
from penstock.engines.hub import Hub, News, Word
from penstock.engines.task import Finished, Task, pickled_task
from penstock.engines.work import Progress, Summary
from penstock.folder import JOURNAL
from penstock.ledger import shard_entry, shard_from_json
from penstock.records import ShardFile, ShardReport
from penstock.runner import Run
from penstock.sink.shards import ShardStore

LANES = 1_000
"""Tasks at work at a time."""

A_ROUND = 250
"""Shards that they report between two looks of the driver."""

REASONS = ("http.not_found", "http.forbidden", "dns.not_found", "connect.timeout", "image.truncated")


class FakeCluster:
    """A cluster whose workers take no time. The reports are as large as true ones."""

    def __init__(self, per_host: int, rows: int) -> None:
        self._hub = Hub(per_host, time.monotonic())
        self._rows = rows
        self._running: dict[str, Task] = {}
        self._stopped = False
        self._random = random.Random(0)
        self.first_task: float | None = None
        self.tasks = self.task_bytes = 0
        self.faking = 0.0
        """Seconds of the process that went into being the workers."""

    def slots(self) -> int:
        return LANES

    def submit(self, task: Task) -> None:
        self.first_task = self.first_task or time.perf_counter()
        self.tasks += 1
        self.task_bytes = max(self.task_bytes, len(pickled_task(task, pickle.dumps)))
        self._running[task.lot] = task

    def ended(self, timeout: float) -> list[tuple[str, Ending]]:  # noqa: ARG002 - nothing to wait for
        began = time.process_time()
        done: list[tuple[str, Ending]] = []
        said = 0
        for lot, task in list(self._running.items()):
            if said >= A_ROUND:
                break
            new = () if self._stopped else tuple(map(self.report, range(task.first, task.stop)))
            said += len(new)
            progress = Progress(written=len(new) * self._rows)
            self._hub.exchange(Word(lot, lot, new, progress, NOTHING_DONE, {}, anew=True), time.monotonic())
            self._hub.left(lot)
            summary = Summary(Progress(), NOTHING_DONE, 0, complete=not self._stopped)
            done.append((lot, Finished(summary, new)))
            del self._running[lot]
        self.faking += time.process_time() - began
        return done

    def drain(self, ended: Collection[str]) -> News:
        return self._hub.drain(ended, time.monotonic())

    def stop(self) -> None:
        self._stopped = True
        self._hub.stop()

    def close(self) -> None:
        pass

    def report(self, shard: int) -> ShardReport:
        """As large as a true one."""
        failed = {reason: self._random.randrange(1, self._rows // 20) for reason in REASONS}
        files = tuple(
            ShardFile(f"{shard:05d}{suffix}", self._random.randrange(10**6, 10**8), self._random.randbytes(32).hex())
            for suffix in (".tar", ".parquet", "_stats.json")
        )
        lost = sum(failed.values())
        first = shard * self._rows
        return ShardReport(
            shard=shard,
            rows=self._rows,
            written=self._rows - lost,
            failed=lost,
            skipped=0,
            reasons=failed,
            size_downloaded=self._random.randrange(10**7, 10**9),
            files=files,
            first=first,
            last=first + self._rows - 1,
            rows_sha256=self._random.randbytes(32).hex(),
            attempt=f"{shard:05d}-{shard:08x}",
        )


class FakeChoice:
    """As `penstock.engines.Ray` is."""

    name: ClassVar[str] = "ray"

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.cluster: FakeCluster | None = None

    def check(self, config: RunConfig) -> None:
        pass

    def connect(self, config: RunConfig) -> Cluster:
        self.cluster = FakeCluster(config.per_host, self.rows)
        return self.cluster


def write_list(path: Path, rows: int) -> None:
    """One URL, a billion times: a few megabytes, with as many rows as it says."""
    group = min(rows, 10_000_000)
    urls = pa.DictionaryArray.from_arrays(_zeros(group), ["http://a/"])
    with pq.ParquetWriter(path, pa.schema([("url", urls.type)]), compression="zstd") as writer:
        for start in range(0, rows, group):
            table = pa.table([urls.slice(0, min(group, rows - start))], names=["url"])
            writer.write_table(table, row_group_size=group)


def _zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count, np.int8))


def drive(folder: Path, shards: int, rows: int, *, until: float) -> None:
    """Run until that part of the shards is there; prints what it took."""
    choice = FakeChoice(rows)

    def look(progress: Progress, statistics: Any) -> None:
        if until < 1 and progress.settled >= until * shards * rows:
            run.stop()

    began, busy = time.perf_counter(), time.process_time()
    run = Run(folder / "list.parquet", folder / "out", config=RunConfig(shard_size=rows), cluster=choice)
    with (
        mock.patch.object(ShardStore, "adopt", lambda _, many: [dataclasses.replace(one, attempt="") for one in many]),
        mock.patch.object(ShardStore, "discard"),
    ):
        report = run.execute(look)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    fake = choice.cluster
    made = (report.rows - report.rows_before) // rows
    print(f"{report.shards:>10,} shards, {report.rows:,} rows in {seconds:.1f} s, of which")
    if fake is not None and fake.first_task is not None:
        print(
            f"  {fake.first_task - began:.1f} s to the first task, then {fake.tasks:,} tasks of {fake.task_bytes} bytes at most"
        )
        print(
            f"  {made / (seconds - (fake.first_task - began) - fake.faking):,.0f} shard reports a second; {fake.faking:.1f} s were the workers'"
        )
    journal = (folder / "out" / JOURNAL).stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  {cpu:.1f} s of CPU; peak {peak:,.0f} MB; journal {journal / 1e6:,.0f} MB, {journal // max(1, report.shards)} bytes a shard"
    )


def adopt(folder: Path, count: int) -> None:
    """Give real files their final names, in groups as the driver does."""
    out = folder / "adopted"
    store = ShardStore(out, RunConfig(), run_id="x", kept_schema=None, parts=("jpg",))
    prepared = []
    for shard in range(count):
        attempt = f"{shard:05d}-{shard:08x}"
        (store.landing.scratch_folder / attempt).mkdir(parents=True)
        names = [f"{shard:05d}{suffix}" for suffix in (".tar", ".parquet", "_stats.json")]
        for name in names:
            (store.landing.scratch_folder / attempt / name).write_bytes(b"x")
        files = tuple(ShardFile(name, 1, "") for name in names)
        prepared.append(ShardReport(shard, 1, 1, 0, 0, {}, 1, files, shard, shard, attempt=attempt))
    os.sync()
    began = time.perf_counter()
    for start in range(0, count, A_ROUND):
        store.adopt(prepared[start : start + A_ROUND])
    print(f"{count:>10,} shards of three files adopted, {count / (time.perf_counter() - began):,.0f} a second")


def weigh(count: int) -> None:
    """What a report takes as an object, as it comes out of the journal."""
    cluster = FakeCluster(per_host=8, rows=1_000)
    lines = [json.dumps(shard_entry(cluster.report(shard))) for shard in range(count)]
    tracemalloc.start()
    reports = [shard_from_json(json.loads(line)) for line in lines]
    print(f"{len(reports):>10,} reports as objects, {tracemalloc.get_traced_memory()[0] // count:,} bytes each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=1_000, help="of a shard")
    parser.add_argument("--step", choices=["half", "rest", "again", "adopt"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "adopt":
        adopt(given.folder, min(given.shards, 5_000))
        weigh(min(given.shards, 10_000))
    elif given.step:
        drive(given.folder, given.shards, given.rows, until=0.5 if given.step == "half" else 1)
    else:
        with tempfile.TemporaryDirectory(prefix="penstock-scale-") as folder:
            write_list(Path(folder) / "list.parquet", given.shards * given.rows)
            for step, what in (
                ("half", "begun, stopped at half"),
                ("rest", "resumed"),
                ("again", "nothing to do"),
                ("adopt", "parts of it"),
            ):
                print(f"{what}:", flush=True)
                arguments = [
                    "--step",
                    step,
                    "--folder",
                    folder,
                    "--shards",
                    str(given.shards),
                    "--rows",
                    str(given.rows),
                ]
                subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    main()
