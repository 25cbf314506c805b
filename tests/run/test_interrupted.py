"""Runs that get signals at chosen moments; at random ones: `tests/soak/kill_matrix.py`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from invariants import assert_finished
from kill_matrix import Running
from PIL import Image
from processes import command_of, tree_of

from penstock.testing.server import ImageServer

Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a run over ``urls.txt`` into ``out``; what is left of it at the end of the test is killed."""
    started: list[Running] = []

    def start(*options: str) -> Running:
        common = ["--allow-network", "127.0.0.0/8", "--size", "32", "--per-host", "32", "--json"]
        run = [sys.executable, "-m", "penstock", "run", str(tmp_path / "urls.txt"), "--out", str(tmp_path / "out")]
        started.append(Running([*run, *common, *options], tmp_path))
        return started[-1]

    yield start
    for running in started:
        running.end()


def write_list(folder: Path, urls: list[str]) -> None:
    (folder / "urls.txt").write_text("\n".join(urls) + "\n")


def until(running: Running, condition: Callable[[], object]) -> None:
    """Wait for it, or for the end of the run."""
    while running.process.poll() is None and not condition():
        time.sleep(0.001)  # polls a condition


@pytest.mark.slow
@pytest.mark.parametrize("form", ["webdataset", "files"])
def test_ctrl_c_in_the_last_commit(start: Start, tmp_path: Path, image_server: ImageServer, form: str) -> None:
    """Struck while its last shard is written, a run ends in order; what it leaves is finished by the same command."""
    write_list(tmp_path, image_server.image_urls(200))
    options = ("--shard-size", "100", "--format", form)
    running = start(*options)
    until(running, lambda: list((tmp_path / "out/.penstock").glob("tmp/00001-*")))
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.wait().code in (0, 130)
    assert start(*options).wait().code == 0
    assert_finished(tmp_path / "out", rows=200, written=200)


@pytest.mark.slow
def test_sigterm_to_a_lane_alone(start: Start, tmp_path: Path, image_server: ImageServer) -> None:
    """It is the parent that is asked to stop: a lane goes on."""
    write_list(tmp_path, image_server.image_urls(200))
    running = start("--lanes", "2", "--workers", "2", "--shard-size", "20")
    lanes: list[int] = []

    def settling() -> bool:
        lanes[:] = [
            pid for pid in tree_of(running.process.pid) if "from penstock.engines.lane import" in command_of(pid)
        ]
        return len(lanes) == 2 and (tmp_path / "out/.penstock/spool").exists()

    until(running, settling)
    os.kill(lanes[0], signal.SIGTERM)
    assert running.wait().code == 0
    assert_finished(tmp_path / "out", rows=200, written=200)


@pytest.mark.slow
def test_second_ctrl_c_does_not_wait(start: Start, tmp_path: Path) -> None:
    """The first lets what was downloaded be decoded, the second does not; the rows that were done are kept."""
    (tmp_path / "pictures").mkdir()
    Image.new("L", (6000, 6000)).save(tmp_path / "pictures/large.png")  # some tenths of a second to decode
    with ImageServer(corpus=tmp_path / "pictures") as server:
        write_list(tmp_path, server.image_urls(100))
        options = ("--workers", "1", "--exact", "--shard-size", "50")
        running = start(*options)
        until(running, lambda: sum(path.stat().st_size for path in (tmp_path / "out/.penstock").glob("spool/*")) > 500)
        os.killpg(running.process.pid, signal.SIGINT)
        with pytest.raises(TimeoutError):
            _wait_shortly(running)
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait().code == 130


def _wait_shortly(running: Running) -> None:
    """Much less than the first Ctrl-C would take, and enough for its handler."""
    until_then = time.monotonic() + 0.5
    until(running, lambda: time.monotonic() > until_then)
    if running.process.poll() is None:
        raise TimeoutError


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["asyncio", "threads", "processes"])
def test_stopped_for_longer_than_the_time_out(start: Start, tmp_path: Path, strategy: str) -> None:
    """A run that stands still (Ctrl-Z, a frozen container) has no time-outs for it: no row fails."""
    with ImageServer(count=5, mean_bytes=4_000, latency=0.5) as server:
        write_list(tmp_path, server.image_urls(100))
        running = start("--timeout", "2", "--retries", "0", "--connections", "8", "--strategy", strategy)
        until(running, lambda: server.statistics().requests >= 20)
        os.killpg(running.process.pid, signal.SIGSTOP)
        time.sleep(3)  # the standstill itself
        os.killpg(running.process.pid, signal.SIGCONT)
        ended = running.wait()
        assert ended.code == 0
        assert json.loads(ended.output)["reasons"] == {}
