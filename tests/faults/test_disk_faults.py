"""The disk fails at each operation in turn: the run ends in one line and exit code 5, and the next one goes on.

A short selection runs by default. Every operation, with every error, takes an hour or so, in this way::

    PENSTOCK_SOAK=1 pytest tests/faults/test_disk_faults.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import penstock
from faults.failing_disk import NO_FAULT, Ended, FailingDisk, Fault, failing_disk
from penstock.folder import read_ledger
from penstock.testing.server import ImageServer

SOAK = bool(os.environ.get("PENSTOCK_SOAK"))
ROWS, FAILED = 24, (3, 20)
OPTIONS = ("--allow-network", "127.0.0.0/8", "--shard-size", "8", "--connections", "8", "--json")
FORMATS = ("webdataset", "parquet", "files", "arrays")

MUST_STOP = ("write", "sync", "rename")
"""Operations that a run never does in vain: whichever fails, it must not say that all went well."""

ERRORS = {
    "open": ("EMFILE", "ENOSPC", "EIO", "EROFS"),
    "write": ("ENOSPC", "EIO", "EDQUOT"),
    "sync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "mkdir": ("ENOSPC", "EDQUOT", "EROFS"),
    "truncate": ("EIO",),
    "close": ("EDQUOT", "EIO"),
    "change": ("EROFS", "EIO", "ENOSPC"),
}
"""How each operation may fail; the first is the one that is tried by default."""

LASTING = (("write", "short", "ENOSPC"), ("write", "on", "ENOSPC"), ("change", "on", "EROFS"), ("change", "on", "EIO"))
"""What a disk that is full, or that has gone, does: everything from then on fails."""


class Runs:
    """The same small run, again and again."""

    def __init__(self, disk: FailingDisk, listing: Path, folder: Path) -> None:
        self.disk = disk
        self.listing = listing
        self.out = folder / "out"

    def run(self, fault: Fault, *options: str, file_limit: int = 0) -> Ended:
        """``penstock run`` under this fault."""
        command = ["run", str(self.listing), "--out", str(self.out), *OPTIONS]
        return self.disk.run([*command, *options], self.out, fault, file_limit=file_limit)

    def count(self, fault: Fault, *options: str) -> int:
        """How many of the fault's operations a run takes that nothing disturbs."""
        ended = self.run(fault, *options)
        assert ended.code == 0, ended.errors
        shutil.rmtree(self.out)
        return ended.operations

    def try_fault(self, fault: Fault, *options: str) -> None:
        """Under the fault the run stops in order, or comes to its end; without it, it goes on and comes to its end."""
        shutil.rmtree(self.out, ignore_errors=True)
        stopped = self.run(fault, *options)
        if stopped.operations < max(1, fault.one):  # the threads made fewer of them this time
            assert stopped.code == 0, stopped.errors
        elif stopped.code or fault.operation in MUST_STOP:
            assert_stopped_in_order(stopped, fault)
        assert_nothing_half_written(self.out)
        ended = self.run(NO_FAULT, *options) if stopped.code else stopped
        assert_whole(ended, self.out)


def assert_stopped_in_order(ended: Ended, fault: Fault) -> None:
    """Exit code 5, and one line that says why."""
    assert ended.code == 5, (fault, ended)
    assert re.fullmatch(r"penstock: cannot .*\n", ended.errors), (fault, ended.errors)
    assert ended.output == ""
    if fault.error in ("ENOSPC", "EDQUOT"):
        assert re.search(r"\([\d,]+ bytes needed", ended.errors), (fault, ended.errors)


def assert_nothing_half_written(out: Path) -> None:
    """What has a final name is whole, and what the journal names is there."""
    if (out / ".penstock/journal.jsonl").exists():
        problems = penstock.verify(out)
        assert [problem for problem in problems if "belongs to no committed shard" not in problem.what] == []
    for path in out.glob("*.parquet"):
        assert pq.read_metadata(path).num_rows == 8
    for path in out.glob("*.npy"):
        assert np.load(path).shape[1:] == (16, 16, 3)
    for path in out.glob("*.tar"):
        subprocess.run(["tar", "-tf", path], check=True, capture_output=True)
    for path in out.glob("*.json"):
        json.loads(path.read_text())


def assert_whole(ended: Ended, out: Path) -> None:
    """The run is done: each row once, every file whole, nothing beside them."""
    assert ended.code == 0, ended.errors
    report = json.loads(ended.output)
    assert (report["rows"], report["written"], report["failed"]) == (ROWS, ROWS - len(FAILED), len(FAILED)), (
        ended.output
    )
    assert json.loads((out / "report.json").read_text())["rows"] == ROWS
    keys = Counter(key for path in out.glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist())
    assert keys == Counter(f"{index:09d}" for index in range(ROWS))
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            tar.getnames()
    assert penstock.verify(out) == []
    assert read_ledger(out).finished_rows == ROWS
    assert leftovers(out) == []


def leftovers(out: Path) -> list[str]:
    """What is neither a shard's nor the run's."""
    ours = re.compile(r"\d{5}(_stats\.json|\.tar|\.parquet|\.npy)?|report\.json|\.penstock")
    hidden = re.compile(r"journal\.jsonl|lock|spool|tmp")
    beside = [path.name for path in out.iterdir() if not ours.fullmatch(path.name)]
    inside = [path.name for path in (out / ".penstock").iterdir() if not hidden.fullmatch(path.name)]
    return [
        *beside,
        *inside,
        *(path.name for name in ("spool", "tmp") for path in (out / ".penstock" / name).glob("*")),
    ]


def chosen(count: int, by_default: int) -> list[int]:
    """All from 1 to `count`, or so many of them, evenly, with both ends."""
    if SOAK or count <= by_default:
        return list(range(1, count + 1))
    return sorted({1 + round(step * (count - 1) / (by_default - 1)) for step in range(by_default)})


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingDisk]:
    """The process that runs the commands."""
    with failing_disk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture
def runs(disk: FailingDisk, image_server: ImageServer, tmp_path: Path) -> Runs:
    """Twenty-four rows, two of which fail, in three shards."""
    urls = image_server.image_urls(ROWS)
    for index in FAILED:
        urls[index] = f"{image_server.url}/status/404?i={index}"
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(urls) + "\n")
    return Runs(disk, listing, tmp_path)


THREADS = ("--strategy", "threads", "--workers", "1")
ONE_PROCESS = (*THREADS, "--size", "16")


@pytest.mark.slow
@pytest.mark.timeout(0 if SOAK else 300)
@pytest.mark.parametrize("operation", ERRORS)
def test_any_operation_may_fail_once(runs: Runs, operation: str) -> None:
    """The n-th operation fails, for every n: the run stops in order, and the next one goes on to the same end."""
    count = runs.count(Fault(operation, "EIO"), *ONE_PROCESS)
    assert count >= 3
    for error in ERRORS[operation] if SOAK else ERRORS[operation][:1]:
        for one in chosen(count, 16):
            runs.try_fault(Fault(operation, error, "once", one), *ONE_PROCESS)


@pytest.mark.slow
@pytest.mark.timeout(0 if SOAK else 300)
@pytest.mark.parametrize(("operation", "mode", "error"), LASTING)
def test_disk_that_stays_bad(runs: Runs, operation: str, mode: str, error: str) -> None:
    """From the n-th operation on everything fails, cleaning up included: the next run has to do it."""
    count = runs.count(Fault(operation, error), *ONE_PROCESS)
    for one in chosen(count, 8):
        runs.try_fault(Fault(operation, error, mode, one), *ONE_PROCESS)


@pytest.mark.slow
@pytest.mark.timeout(0 if SOAK else 300)
@pytest.mark.parametrize("format", FORMATS[1:])
def test_other_formats(runs: Runs, format: str) -> None:  # noqa: A002 - the option's name
    """Whatever the shards look like, the commit rule is the same."""
    options = (*ONE_PROCESS, "--format", format)
    for operation in ("open", "write", "sync", "rename"):
        count = runs.count(Fault(operation, "EIO"), *options)
        for one in chosen(count, 4):
            runs.try_fault(Fault(operation, ERRORS[operation][0], "once", one), *options)


@pytest.mark.slow
@pytest.mark.timeout(0 if SOAK else 300)
@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename"])
def test_several_lanes(runs: Runs, operation: str) -> None:
    """The disk refuses a lane's process, or the parent's journal: one line and exit code 5 all the same."""
    options = ("--strategy", "asyncio", "--workers", "2", "--lanes", "2", "--size", "16")
    count = runs.count(Fault(operation, "EIO"), *options)
    for one in chosen(count, 4) if SOAK else chosen(count, 4)[1:-1]:  # the ends are the parent's: probe and report
        runs.try_fault(Fault(operation, ERRORS[operation][0], "once", one), *options)


def test_files_may_not_grow(runs: Runs) -> None:
    """A limit on the size of files (ulimit -f) is named; without it the run goes on."""
    stopped = runs.run(NO_FAULT, *ONE_PROCESS, file_limit=2_000)
    assert_stopped_in_order(stopped, Fault("write", "EFBIG"))
    assert "ulimit -f" in stopped.errors
    assert_nothing_half_written(runs.out)
    assert_whole(runs.run(NO_FAULT, *ONE_PROCESS), runs.out)


@pytest.fixture
def remount(runs: Runs, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A small file system for the run's folder, and the function that mounts it in another way."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "penstock", str(mounted)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount file systems")
    runs.out = mounted / "out"

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", mounted], check=True)

    yield remount
    subprocess.run(["umount", mounted], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_file_system_without_room(runs: Runs, remount: Callable[[str], None], format: str) -> None:  # noqa: A002
    """A disk that is really full stops the run, again and again; once there is room it goes on."""
    options = (*THREADS, "--format", format, "--size", "128", "--encode", "png")
    for _ in range(2):
        assert_stopped_in_order(runs.run(NO_FAULT, *options), Fault("write", "ENOSPC"))
    remount("size=64m")
    ended = runs.run(NO_FAULT, *options)
    assert ended.code == 0, ended.errors
    assert json.loads(ended.output)["rows_before"] > 0
    assert penstock.verify(runs.out) == []
    assert leftovers(runs.out) == []


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True])
def test_read_only_file_system(runs: Runs, remount: Callable[[str], None], begun: bool) -> None:
    """Refused before anything is fetched; the run goes on when the file system takes writes again."""
    if begun:
        assert runs.run(Fault("sync", "EIO", "once", 12), *ONE_PROCESS).code == 5
    remount("ro")
    stopped = runs.run(NO_FAULT, *ONE_PROCESS)
    assert_stopped_in_order(stopped, Fault("open", "EROFS"))
    assert "choose another folder" in stopped.errors
    remount("rw")
    assert_whole(runs.run(NO_FAULT, *ONE_PROCESS), runs.out)


Meddle = Callable[[Path], None]


def run_and_meddle(runs: Runs, meddle: Meddle) -> penstock.Report:
    """The run in this process; `meddle` is called with its folder when the first image is there."""
    calls: list[object] = []

    def on_progress(*_: object) -> None:
        if not calls:
            meddle(runs.out)
        calls.append(None)

    return penstock.run(
        runs.listing,
        runs.out,
        allow_network=("127.0.0.0/8",),
        size=16,
        shard_size=8,
        strategy="threads",
        workers=1,
        on_progress=on_progress,
    )


def delete(path: Path) -> None:
    shutil.rmtree(path)


def test_folder_that_is_deleted_under_the_run(runs: Runs) -> None:
    """The run stops and does not build half a folder anew; the next one starts from nothing."""
    with pytest.raises(penstock.OutputError, match="something has taken it away"):
        run_and_meddle(runs, delete)
    assert not runs.out.exists()
    assert_whole(runs.run(NO_FAULT, *ONE_PROCESS), runs.out)


def test_journal_that_is_deleted_under_the_run(runs: Runs) -> None:
    """No journal without a first line is begun; what lies there afterwards is nobody's."""
    with pytest.raises(penstock.OutputError, match="cannot write the journal"):
        run_and_meddle(runs, lambda out: (out / ".penstock/journal.jsonl").unlink())
    assert not (runs.out / ".penstock/journal.jsonl").exists()
    refused = runs.run(NO_FAULT, *ONE_PROCESS)
    assert refused.code == 4
    assert re.search(r"0000\d\.", refused.errors)


def test_report_that_cannot_be_written(runs: Runs) -> None:
    """The shards are committed all the same; the next run writes the report and fetches nothing."""
    with pytest.raises(penstock.OutputError, match=r"report\.json"):
        run_and_meddle(runs, lambda out: (out / "report.json/x").mkdir(parents=True))
    assert read_ledger(runs.out).finished_rows == ROWS
    shutil.rmtree(runs.out / "report.json")
    ended = runs.run(NO_FAULT, *ONE_PROCESS)
    assert json.loads(ended.output)["rows_settled"] == 0
    assert_whole(ended, runs.out)
