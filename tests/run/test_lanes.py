"""Runs with several lane processes: what only they can get wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import command_of, tree_of

import penstock
from penstock.crew.interpreter import start_partner
from penstock.engines.base import Plan
from penstock.engines.hub import Word
from penstock.engines.lanes import _Dealer, _Lane
from penstock.engines.work import Progress, Watch
from penstock.errors import WorkerError
from penstock.fetch.policy.shares import Need
from penstock.records import Row
from penstock.source import open_source
from penstock.testing.server import ImageServer

RunFunction = Callable[..., penstock.Report]


class CannotBeLoaded:
    """A transform that can be sent and not be opened again."""

    def __call__(self, data: bytes, row: Row) -> dict[str, bytes]:
        return {"data": data}

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_list_in_memory_needs_no_lanes(run: RunFunction, urls: list[str]) -> None:
    """What no other process can open goes through one lane, whatever was asked for."""
    report = run(urls, lanes=2, workers=2)
    assert (report.written, report.lanes, report.workers) == (38, 1, 2)


class Listener:
    """In place of a connection: keeps what a lane is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.said: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def recv(self) -> Any:
        """What it was given to say; then the lane is dead."""
        if not self.said:
            raise EOFError
        return self.said.pop(0)

    def close(self) -> None:
        """Nothing is open."""


class Process:
    """In place of one that has ended."""

    def wait(self) -> int:
        return -9


def fake_lane(number: int) -> _Lane:
    """A lane that says what it is given to say."""
    return _Lane(number, Process(), Listener())  # type: ignore[arg-type]  # stands in for both


@contextlib.contextmanager
def dealing(source: Any, *, per_host: int) -> Iterator[tuple[Any, Any, Any]]:
    """A parent without processes, and two of its lanes."""
    job = SimpleNamespace(config=penstock.RunConfig(per_host=per_host))
    dealer: Any = _Dealer(job, Plan(source, 4, {}), Watch())  # type: ignore[arg-type]  # no more of it is asked for
    lanes = [fake_lane(number) for number in range(2)]
    dealer._lanes = list(lanes)
    with contextlib.closing(dealer._waker), contextlib.closing(dealer._wake):
        yield dealer, *lanes


def test_short_list_goes_round(tmp_path: Path) -> None:
    """A lane that is up first does not swallow all the shards of a list that would fit into its lookahead."""
    listing = tmp_path / "urls.txt"
    listing.write_text("http://example.org/\n" * 40)
    source = open_source(listing, url_column="url", caption_column=None, keep_columns=())
    with dealing(source, per_host=8) as (dealer, first, second):
        for _ in range(10):
            first.asks = True
            dealer._deal()
        assert [lot.shard for lot in first.lots] == [0, 1]
        second.asks = True
        dealer._deal()
        assert [lot.shard for lot in second.lots] == [2]
        assert [lot.shard for lot in first.lots] == [0, 1, 3]


def limits_for(dealer: Any, lane: Any, word: Word) -> dict[str, int]:
    """What a lane that says this is told."""
    lane.connection.said.append(word)
    dealer._listen(lane)
    return dict(lane.connection.sent[-1].limits)


def test_slots_of_a_dead_lane_are_free_at_once(
    urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks next has them, and so has the lane that takes the dead one's place."""
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(urls))
    monkeypatch.setattr(_Dealer, "_start", lambda dealer, number: dealer._lanes.append(fake_lane(number)))
    need = {"a": Need(0, 1)}
    with dealing(open_source(listing), per_host=1) as (dealer, first, second):
        assert limits_for(dealer, first, Word("", "", needs=need, anew=True)) == {"a": 1}
        assert limits_for(dealer, second, Word("", "", needs=need, anew=True)) == {}
        dealer._listen(first)
        assert limits_for(dealer, second, Word("", "")) == {"a": 1}
        assert [lane.number for lane in dealer._lanes] == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "per_host", "lanes"), [("asyncio", 1, 2), ("threads", 3, 2), ("asyncio", 8, 3)], ids=str
)
def test_limit_at_a_host_holds_for_all_lanes(
    run: RunFunction, tmp_path: Path, strategy: str, per_host: int, lanes: int
) -> None:
    """By the server's own count it is never exceeded, and it is used, though it cannot be divided by the lanes."""
    options = {"strategy": strategy, "lanes": lanes, "workers": lanes}
    with ImageServer(count=4, mean_bytes=2_000, latency=0.02) as server:
        (tmp_path / "urls.txt").write_text("\n".join(server.image_urls(120)))
        report = run(tmp_path / "urls.txt", per_host=per_host, shard_size=5, **options)
        statistics = server.statistics()
    assert (report.written, report.lanes) == (120, lanes)
    assert statistics.peak_requests == per_host


@pytest.mark.slow
def test_killed_lanes_give_their_slots_back(run: RunFunction, tmp_path: Path) -> None:
    """Both lanes are killed, one of them with the only slot in its hands, and others get through with the list."""
    killed: list[int] = []

    def kill_lanes(progress: Progress, _: Any) -> None:
        if progress.settled and not killed:
            killed.extend(pid for pid in tree_of(os.getpid()) if "penstock.engines.lane" in command_of(pid))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with ImageServer(count=4, mean_bytes=2_000, latency=0.02) as server:
        (tmp_path / "urls.txt").write_text("\n".join(server.image_urls(60)))
        report = run(tmp_path / "urls.txt", per_host=1, shard_size=5, lanes=2, workers=2, on_progress=kill_lanes)
    assert len(killed) == 2
    assert report.written == 60


def test_transform_that_cannot_be_loaded(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A lane that cannot load the transform says so at once, in one line."""
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(urls) + "\n")
    with pytest.raises(WorkerError, match=r"cannot load the transform: ValueError: .*no number.*--lanes 1"):
        run(listing, lanes=2, workers=2, transform=CannotBeLoaded())


@pytest.fixture
def lane() -> Iterator[_Lane]:
    """A lane process that is just starting."""
    process, connection = start_partner("penstock.engines.lane", "a lane process")
    with process, connection:
        yield _Lane(0, process, connection)
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_group_are_the_parents(lane: _Lane, number: signal.Signals) -> None:
    """Ctrl-C and a supervisor's SIGTERM reach the lanes, too, from their first moment on, and do not end them."""
    lane.process.send_signal(number)
    lane.connection.send(None)  # no Start: the lane stops at its assertion, later than any signal
    assert lane.process.wait(60) == 1


def test_system_that_refuses_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that cannot be started is a WorkerError, and leaves no socket."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(WorkerError, match="cannot be started"):
        start_partner("penstock.engines.lane", "a lane process")


def test_rows_of_a_dead_lane_are_counted_once(lane: _Lane) -> None:
    """Its rows that another lane takes over from the spools are not rows of an earlier run."""
    lane.progress = Progress(written=50, recovered=10, resident_bytes=9)
    lane.committed_rows = 40
    heir = Progress(recovered=20, written=5)
    together = lane.left_progress.plus(heir)
    assert (together.settled, together.recovered, together.resident_bytes) == (55, 10, 0)


@pytest.mark.slow
def test_ctrl_c_while_lanes_start(image_server: ImageServer, tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal; in their first second it still means: stop in order."""
    urls = [f"{image_server.url}/slow/60/{image_server.pictures[0]}?lanes={i}" for i in range(20)]
    (tmp_path / "urls.txt").write_text("\n".join(urls) + "\n")
    options = ["--lanes", "3", "--workers", "3", "--allow-network", "127.0.0.0/8", "--shard-size", "4", "--quiet"]
    command = [sys.executable, "-m", "penstock", "run", "urls.txt", "--out", "out", *options]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while process.poll() is None and not (tmp_path / "out/.penstock/journal.jsonl").exists():
            os.sched_yield()
        while (
            process.poll() is None and not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ):
            os.sched_yield()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert errors == ""
    assert process.returncode == 130
