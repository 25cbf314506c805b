"""Runs that are killed with SIGKILL at moments of their work, and started again; at random ones: `tests/soak`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from invariants import assert_finished
from processes import children_of

from penstock.testing.server import ImageServer

OPTIONS = ["--allow-network", "127.0.0.0/8", "--size", "32", "--per-host", "32", "--shard-size", "40", "--workers", "2"]


@pytest.fixture
def listing(image_server: ImageServer, tmp_path: Path) -> Path:
    """Two hundred URLs, every tenth of which fails."""
    urls = [f"{url}&t={tmp_path.name}" for url in image_server.image_urls(200)]
    urls[::10] = [f"{image_server.url}/status/404?i={i}" for i in range(20)]
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls) + "\n")
    return path


def start(listing: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "penstock", "run", str(listing), "--out", str(out), *OPTIONS, *more, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def settled_rows(out: Path) -> int:
    """A rough count of what the run has done so far: bytes of its spools and shards."""
    spools = out / ".penstock/spool"
    return sum(path.stat().st_size for path in spools.iterdir()) if spools.is_dir() else 0


def kill_after(process: subprocess.Popen[str], out: Path, size: int) -> None:
    """SIGKILL the parent once its spools have grown by `size` bytes (or it has ended)."""
    least = settled_rows(out) + size
    while process.poll() is None and settled_rows(out) < least:
        time.sleep(0.001)  # polls a condition
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "lanes"), [("asyncio", 1), ("processes", 1), ("threads", 1), ("asyncio", 2)])
def test_killed_runs_go_on_until_each_row_is_there_once(
    listing: Path, tmp_path: Path, image_server: ImageServer, strategy: str, lanes: int
) -> None:
    """SIGKILL at several moments; the same command again ends with every row exactly once and no orphan."""
    out = tmp_path / "out"
    moments = random.Random(strategy + str(lanes))
    for _ in range(3):
        kill_after(
            start(listing, out, "--strategy", strategy, "--lanes", str(lanes)), out, moments.randrange(500, 40_000)
        )
    process = start(listing, out, "--strategy", strategy, "--lanes", str(lanes))
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    report = json.loads(output)
    assert (report["rows"], report["written"], report["failed"]) == (200, 180, 20)
    assert_finished(out, rows=200, written=180)


def test_settled_rows_are_not_fetched_again(listing: Path, tmp_path: Path, image_server: ImageServer) -> None:
    """After a kill only rows that had not been settled are fetched: the spool keeps the others."""
    out = tmp_path / "out"
    kill_after(start(listing, out), out, 60_000)
    before = image_server.statistics().requests
    output, _ = start(listing, out).communicate(timeout=90)
    report = json.loads(output)
    assert report["rows_before"] > 0
    assert image_server.statistics().requests - before == 200 - report["rows_before"]
    assert_finished(out, rows=200, written=180)


@pytest.mark.slow
def test_killed_lane_and_killed_worker_cost_nothing(listing: Path, tmp_path: Path) -> None:
    """SIGKILL of one child in the middle: the run goes on, with every row once."""
    out = tmp_path / "out"
    process = start(listing, out, "--lanes", "2")
    killed: set[int] = set()
    while process.poll() is None and len(killed) < 2:
        fresh = [pid for pid in children_of(process.pid) if pid not in killed]
        if fresh and settled_rows(out) > 0:
            os.kill(fresh[0], signal.SIGKILL)
            killed.add(fresh[0])
        time.sleep(0.001)  # polls a condition
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert json.loads(output)["written"] == 180
    assert killed
    assert_finished(out, rows=200, written=180)
