"""The output in an object store as a run sees it: journal, lease, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import OutputError, OutputRefusedError, SourceError
from penstock.folder import OutputBucket, OutputFolder, check_same_run, open_output, read_ledger, stored_report
from penstock.folder import lease as lease_module
from penstock.folder.journal import segment_name
from penstock.folder.lease import Lease
from penstock.ledger import Manifest, finished_entry, lost_entry, run_entry, shard_entry
from penstock.records import ShardFile, ShardReport
from penstock.sink import objects

upath = pytest.importorskip("upath", reason="universal_pathlib is not installed: the development extra has it")

MANIFEST = Manifest("run 1", None, {})


@pytest.fixture
def root() -> Any:
    """An empty place in memory."""
    return upath.UPath(f"memory://{uuid.uuid4().hex}/out")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life come, and are missed, a hundred times as fast."""
    monkeypatch.setattr(lease_module, "BEAT", 0.05)
    monkeypatch.setattr(lease_module, "WATCH", 2.0)


def report(shard: int, name: str = "{:05d}.tar") -> ShardReport:
    """One of ten written rows."""
    return ShardReport(
        shard=shard,
        rows=10,
        written=10,
        failed=0,
        skipped=0,
        reasons={},
        first=shard * 10,
        last=shard * 10 + 9,
        size_downloaded=100,
        files=(ShardFile(name.format(shard), 1, "x"),),
        rows_sha256="",
    )


def leave_lock(root: Any, **owner: Any) -> None:
    """What another run has left there."""
    objects.write(
        json.dumps({"host": "elsewhere", "pid": 1, "token": "another", "count": 1} | owner).encode(),
        root,
        ".penstock/lock",
    )


def test_journal_is_read_back(root: Any, tmp_path: Path) -> None:
    """Each append is an object; who reads them, here or from a copy on a disk, knows what was written."""
    with OutputBucket(root) as bucket:
        assert bucket.read_ledger().manifest is None
        bucket.append(run_entry(MANIFEST))
        bucket.append(shard_entry(report(0)), shard_entry(report(1)))
        bucket.append(lost_entry(0), finished_entry(20))
    assert objects.names_below(root, ".penstock") == [segment_name(number) for number in range(3)]
    for name in objects.names_below(root, ".penstock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(objects.read(root, name) or b"")
    for ledger in (read_ledger(str(root)), read_ledger(tmp_path), OutputBucket(root).read_ledger()):
        assert ledger.manifest == MANIFEST
        assert list(ledger.shards) == [1]
        assert ledger.account.rows == 10
    assert stored_report(str(root)).rows == 10
    check_same_run(root, "run 1")


def test_no_run_there(root: Any) -> None:
    """A place without a journal is no output; a worker that finds none sees another store."""
    with pytest.raises(SourceError, match="is not the output of a run"):
        read_ledger(str(root))
    with pytest.raises(OutputError, match="is not what the driver sees"):
        check_same_run(root, "run 1")


@pytest.mark.parametrize("damage", ["gap", "text", "stranger"])
def test_damaged_journal(root: Any, damage: str) -> None:
    """An object that is missing, or is none of ours, is told by its name and never passed over."""
    with OutputBucket(root) as bucket:
        for entry in (run_entry(MANIFEST), shard_entry(report(0)), shard_entry(report(1))):
            bucket.append(entry)
    if damage == "gap":
        objects.remove([segment_name(1)], root)
    elif damage == "text":
        objects.write(b"{half", root, segment_name(1))
    else:
        objects.write(b"{}", root, ".penstock/journal/zzz")
    with pytest.raises(OutputRefusedError, match=r"\.penstock/journal is damaged"):
        read_ledger(str(root))


def test_of_two_runs_one_writes(root: Any) -> None:
    """Two that believe to be alone: the second one to write the same object is told, and nothing of it is in the journal."""
    first, second = OutputBucket(root), OutputBucket(root)
    with first:
        first.append(run_entry(MANIFEST))
        objects.remove([".penstock/lock"], root)  # as if nothing had been heard of it
        with second:
            second.read_ledger()
            second.append(shard_entry(report(0)))
            with pytest.raises(OutputRefusedError, match="another run has gone on"):
                first.append(shard_entry(report(1)))
            second.append(shard_entry(report(2)))
    assert list(read_ledger(str(root)).shards) == [0, 2]


def test_cleared(root: Any) -> None:
    """After ``--overwrite`` nothing exists of what was there, and a new run begins in the same journal."""
    with OutputBucket(root) as bucket:
        bucket.append(run_entry(MANIFEST))
        bucket.append(shard_entry(report(0)))
        bucket.write_report({"rows": 10})
        bucket.duplicates(lambda: np.arange(3))
        bucket.clear(bucket.read_ledger())
        assert bucket.read_ledger().manifest is None
        bucket.append(run_entry(Manifest("run 2", None, {})))
    ledger = read_ledger(str(root))
    assert ledger.manifest is not None
    assert (ledger.manifest.run_id, len(ledger.shards)) == ("run 2", 0)
    assert objects.read(root, "report.json") is None
    assert objects.read(root, ".penstock/duplicates.npy") is None


def test_shards_are_taken_back(root: Any) -> None:
    """Files and directories of lost shards go, and the report, which counted them."""
    with OutputBucket(root) as bucket:
        for name in ("00000.tar", "00001/000000010.jpg", "00002.tar", "report.json"):
            objects.write(b"x", root, name)
        bucket.take_back([report(0), report(1, "{:05d}/")])
    assert objects.names_below(root, "") == ["00002.tar"]


def test_duplicates_are_found_once(root: Any) -> None:
    """The positions are kept in the store, for later runs on any machine; each has a file of them while it works."""
    for find in (lambda: np.array([3, 5]), lambda: pytest.fail("they are known")):
        with OutputBucket(root) as bucket:
            bucket.append(run_entry(MANIFEST)) if bucket.read_ledger().manifest is None else None
            path = bucket.duplicates(find)
            assert np.load(path).tolist() == [3, 5]
        assert not path.exists()


def test_foreign_objects_are_refused(root: Any) -> None:
    """A place that holds something else is left alone."""
    objects.write(b"x", root, "thesis.pdf")
    with (
        pytest.raises(OutputRefusedError, match=r"holds files that are not Penstock's \(thesis.pdf\)"),
        OutputBucket(root),
    ):
        pass
    assert objects.names_below(root, "") == ["thesis.pdf"]


def test_probe_leaves_nothing(root: Any) -> None:
    """Whether one may write, copy and delete there is tried before anything is fetched."""
    with OutputBucket(root) as bucket:
        bucket.check_writable()
    assert objects.names_below(root, "") == []


def test_kinds_of_output(root: Any, tmp_path: Path) -> None:
    """A path is a folder, a URL a bucket."""
    assert isinstance(open_output(tmp_path), OutputFolder)
    assert isinstance(open_output(root), OutputBucket)


@pytest.mark.usefixtures("quick")
def test_living_run_is_left_alone(root: Any) -> None:
    """While one gives signs of life, another is refused, with who it is."""
    with Lease(root, "one"):
        with (
            pytest.raises(OutputRefusedError, match=r"another run works in .* \(process \d+ on .*\)"),
            Lease(root, "two"),
        ):
            pass
        assert b'"one"' in (objects.read(root, ".penstock/lock") or b"")
    assert objects.read(root, ".penstock/lock") is None


@pytest.mark.usefixtures("quick")
def test_silent_run_is_taken_over(root: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A lock whose count does not rise is of a dead run, wherever that was."""
    leave_lock(root)
    with Lease(root, "two") as lease:
        assert lease.held
    assert "process 1 on elsewhere has begun to work" in caplog.text


def test_dead_process_of_this_machine_is_not_waited_for(root: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whether a process of this machine lives is known at once."""
    code = "import os; print(os.getpid())"
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    with Lease(root, "one"):
        lock = json.loads(objects.read(root, ".penstock/lock") or b"")
    leave_lock(root, **lock | {"pid": pid})
    with Lease(root, "two") as lease:
        assert lease.held
    assert not caplog.records


@pytest.mark.usefixtures("quick")
def test_run_that_was_taken_over_notices(root: Any) -> None:
    """Its next sign of life finds another's lock: it gives no more, writes nothing, and leaves the lock where it is."""
    with OutputBucket(root) as bucket:
        leave_lock(root)
        bucket._lease._thread.join()
        with pytest.raises(OutputRefusedError, match="another run has gone on"):
            bucket.append(run_entry(MANIFEST))
    assert b"another" in (objects.read(root, ".penstock/lock") or b"")


def test_damaged_lock_is_watched(root: Any, quick: None) -> None:
    """What is no lock of ours says nothing of its owner; it is silent, and goes."""
    objects.write(b"[1]", root, ".penstock/lock")
    with Lease(root, "two") as lease:
        assert lease.held
