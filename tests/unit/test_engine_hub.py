"""The meeting point of lanes and driver, and the lanes' end of the line to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.engines.caller import Caller, UnansweredError
from penstock.engines.hub import DRIVER_GRACE, LANE_GRACE, Hub, Reply, Word
from penstock.engines.work import Progress
from penstock.fetch.policy.shares import Need
from penstock.fetch.sharing import Sharing
from penstock.records import ShardReport


def report(shard: int, attempt: str = "a") -> ShardReport:
    return ShardReport(shard, 4, 4, 0, 0, {}, 10, (), shard * 4, shard * 4 + 3, attempt=attempt)


def test_what_lanes_say_reaches_the_driver_once() -> None:
    hub = Hub(8, now=0)
    hub.exchange(Word("lane", "lot", anew=True), 1)
    hub.exchange(Word("lane", "lot", (report(3),), turn=1), 2)
    news = hub.drain([], 3)
    assert news.reports == (("lane", report(3)),)
    assert news.spoken == ("lot",)
    later = hub.drain([], 4)
    assert (later.reports, later.spoken) == ((), ())


def test_a_second_lane_of_a_lot_hears_what_is_prepared() -> None:
    """So a task that the engine runs again goes on where the first one died."""
    hub = Hub(8, now=0)
    hub.exchange(Word("one", "lot", (report(3), report(4)), anew=True), 1)
    assert hub.exchange(Word("two", "lot", anew=True), 2).done == (3, 4)
    assert hub.exchange(Word("three", "another", anew=True), 2).done == ()


def test_lanes_of_a_lot_that_has_ended_are_told_to_stop() -> None:
    hub = Hub(8, now=0)
    hub.exchange(Word("one", "lot", needs={"a": Need(0, 8)}, anew=True), 1)
    hub.drain(["lot"], 2)
    assert hub.exchange(Word("one", "lot", (report(1),), turn=1), 3).stop
    assert hub.drain([], 4).reports == ()
    # Its slots are free at once.
    assert hub.exchange(Word("two", "next", needs={"a": Need(0, 8)}, anew=True), 5).limits == {"a": 8}


def test_stop_reaches_every_lane_and_its_shards_still_count() -> None:
    hub = Hub(8, now=0)
    hub.exchange(Word("one", "lot", anew=True), 1)
    hub.stop()
    assert hub.exchange(Word("one", "lot", (report(1),), turn=1), 2).stop
    assert hub.drain([], 3).reports == (("one", report(1)),)


def test_lanes_end_without_a_driver() -> None:
    hub = Hub(8, now=0)
    assert not hub.exchange(Word("one", "lot", anew=True), DRIVER_GRACE - 1).stop
    assert hub.exchange(Word("one", "lot", turn=1), DRIVER_GRACE + 1).stop


def test_slots_of_a_silent_lane_go_to_others_and_it_has_to_ask_anew() -> None:
    hub = Hub(2, now=0)
    need = {"a": Need(0, 2)}
    assert hub.exchange(Word("one", "lot", needs=need, anew=True), 1).limits == {"a": 2}
    late = LANE_GRACE + 3
    hub.drain([], late)
    assert hub.exchange(Word("two", "other", needs=need, anew=True), late).limits == {"a": 2}
    back = hub.exchange(Word("one", "lot", turn=1), late + 1)
    assert back.forget
    assert not back.stop
    assert "a" not in hub.exchange(Word("one", "lot", needs=need, anew=True, turn=2), late + 1).limits


def test_a_word_that_was_overtaken_changes_nothing() -> None:
    """A lane gave it up, said everything anew, and goes by that: nobody hears the answer to the old one."""
    hub = Hub(2, now=0)
    hub.exchange(Word("one", "lot", anew=True), 1)
    assert hub.exchange(Word("one", "lot", needs={"a": Need(0, 2)}, anew=True, turn=2), 2).limits == {"a": 2}
    stale = hub.exchange(Word("one", "lot", (report(7),), needs={"a": Need(0, 0)}, turn=1), 3)
    assert (stale.limits, stale.stop, stale.forget) == ({}, False, False)
    assert hub.exchange(Word("two", "other", needs={"a": Need(0, 2)}, anew=True), 4).limits == {}
    assert ("one", report(7)) in hub.drain([], 5).reports


def test_many_lanes_speak_less_often() -> None:
    hub = Hub(8, now=0)
    for lane in range(2000):
        reply = hub.exchange(Word(str(lane), str(lane), anew=True), 1)
    assert reply.interval == 5.0


class FakeLine:
    """A hub in the same process; it can be cut."""

    def __init__(self) -> None:
        self.hub = Hub(4, now=0)
        self.cut = False
        self.slow = 0
        """Words to come that will not be answered in time."""
        self.words: list[Word] = []
        self.left: list[str] = []
        self.said = threading.Condition()

    def exchange(self, word: Word) -> Reply:
        with self.said:
            self.words.append(word)
            self.said.notify_all()
            if self.cut:
                raise ConnectionError("cut")
            if self.slow:
                self.slow -= 1
                raise UnansweredError("slow")
            return self.hub.exchange(word, now=1.0)

    def leave(self, lane: str) -> None:
        self.left.append(lane)

    def wait_for(self, what: Callable[[], bool]) -> None:
        with self.said:
            assert self.said.wait_for(what, timeout=30)


class FakeLane:
    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def line() -> FakeLine:
    return FakeLine()


def test_a_report_whose_word_is_lost_is_said_again(line: FakeLine) -> None:
    with Caller(line, "lot", Sharing(4)) as caller:
        line.cut = True
        caller.shard_done(report(1))
        line.wait_for(lambda: any(word.reports for word in line.words))
        line.cut = False
        line.wait_for(lambda: bool(line.hub._reports))
    assert line.hub.drain([], 2).reports == ((line.left[0], report(1)),)
    assert caller.reports == [report(1)]


def test_without_contact_nothing_starts_and_then_all_is_said_anew(line: FakeLine) -> None:
    sharing = Sharing(4)
    with sharing.lock:
        sharing.note("a", 0, 4)
    with Caller(line, "lot", sharing):
        line.wait_for(lambda: any(word.needs for word in line.words))
        line.wait_for(lambda: line.words[-1].turn >= 2)
        assert sharing.limit("a") == 4
        line.words.clear()
        line.cut = True
        line.wait_for(lambda: len(line.words) >= 3)  # the first may have come before the cut
        assert sharing.limit("a") == 0
        line.words.clear()
        line.cut = False
        line.wait_for(lambda: sharing.limit("a") == 4)
    assert any(word.anew and "a" in word.needs for word in line.words)
    turns = [word.turn for word in line.words]
    assert turns == sorted(turns)


def test_a_hub_that_is_slow_at_first_is_asked_again(line: FakeLine) -> None:
    line.slow = 2
    with Caller(line, "lot", None) as caller:
        assert not caller.stopped
    assert line.slow == 0


def test_a_hub_that_cannot_be_reached_is_not_waited_for(line: FakeLine) -> None:
    line.cut = True
    with pytest.raises(ConnectionError), Caller(line, "lot", None):
        pass
    assert len(line.words) == 1


def test_a_lane_is_stopped_by_the_hub(line: FakeLine) -> None:
    lane = FakeLane()
    with Caller(line, "lot", None) as caller:
        caller.started(lane)
        line.hub.stop()
        assert lane.stopped.wait(30)
    assert caller.stopped


def test_a_hub_that_cannot_be_reached_at_the_start(line: FakeLine) -> None:
    line.cut = True
    with pytest.raises(ConnectionError), Caller(line, "lot", None):
        pass


def test_progress_beyond_what_was_adopted() -> None:
    """What a lane has settled, less the shards of it that are counted already."""
    lane = Progress(written=10, failed=2, bytes_downloaded=50)
    lane.reasons["http.gone"] = 2
    adopted = Progress(written=4, failed=1, bytes_downloaded=60)
    adopted.reasons["http.gone"] = 1
    beyond = lane.beyond(adopted)
    assert (beyond.written, beyond.failed, beyond.bytes_downloaded, dict(beyond.reasons)) == (6, 1, 0, {"http.gone": 1})


def test_nothing_is_imported_by_the_way(tmp_path: Path) -> None:
    """Neither engine's package is loaded before it is chosen."""
    import subprocess
    import sys

    code = (
        "import sys, penstock, penstock.engines, penstock.cli; print({'ray', 'dask', 'distributed'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert answer.stdout.strip() == "set()"
