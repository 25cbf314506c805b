"""Arrays that workers write into a batch's memory: at their row's place, nowhere else, and never late."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults import works
from faults.collecting import PATIENCE, Collector, collecting
from faults.works import bytes_of, row_of
from penstock.crew import processes
from penstock.crew.arena import Arena, Landing, Place
from penstock.crew.base import Crew, Work
from penstock.crew.child import Child
from penstock.crew.choose import CrewKind, make_crew
from penstock.crew.processes import ProcessCrew
from penstock.crew.roster import Assign
from penstock.crew.threads import ThreadCrew
from penstock.records import Failure, Landed, Reason, Result, Row, Sample

ALL: tuple[CrewKind, ...] = ("inline", "threads", "processes")
REGION = 2**16
SIZE = 5000
"""Bytes of an array, where it does not matter."""
BRIEF = 0.3
"""Seconds: a decode_timeout for works that never end."""
MARK = b"another row's"

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena()
    assert arena.allocate(REGION) == 0
    yield arena
    arena.close()


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> CrewKind:
    value: CrewKind = request.param
    return value


def crew_of(kind: CrewKind, work: Work, arena: Arena, width: int = 2, decode_timeout: float = 60) -> Crew:
    return make_crew(kind, work, width, decode_timeout, landing=Landing(arena.descriptor))


def submit(collector: Collector, index: int, place: Place | None, command: str | bytes = b"", size: int = SIZE) -> None:
    """A row for the works `sized` and those that end as it does."""
    collector.crew.submit(row_of(index, str(size)), bytes_of(command), place)


def place_of(index: int) -> Place:
    return ((index * SIZE, SIZE),)


def content(arena: Arena, place: Place) -> list[bytes]:
    return [arena.read(offset, size) for offset, size in place]


def parts_of(result: Result) -> Any:
    assert isinstance(result.value, Sample), result.value
    return result.value.parts


def has_landed(result: Result, size: int = SIZE) -> bool:
    return bool(parts_of(result) == {"image": Landed("|u1", (size,))})


# What lands.


def test_arrays_land_and_the_rest_travels(kind: CrewKind, arena: Arena) -> None:
    """Several arrays, each at its place; bytes, facts and the cost of the fetch come with the result."""
    places = {n: ((1000 * n, 60), (1000 * n + 500, 8)) for n in range(20)}
    with collecting(crew_of(kind, works.mixed, arena)) as collector:
        for n, place in places.items():
            collector.crew.submit(row_of(n), bytes_of(b"words"), place)
        results = collector.take(20)
    number = np.dtype(np.float64).str
    for n, place in places.items():
        assert list(parts_of(results[n]).items()) == [
            ("image", Landed("|u1", (4, 5, 3))),
            ("text", b"words"),
            ("number", Landed(number, (1,))),
        ]
        assert content(arena, place) == [bytes([n]) * 60, np.array([n / 2]).tobytes()]
        assert (results[n].http_status, results[n].size) == (200, 5)


@pytest.mark.parametrize("place", [None, ((0, SIZE + 1),), ((0, SIZE), (SIZE, SIZE))], ids=["none", "larger", "two"])
def test_arrays_without_a_fitting_place_arrive_themselves(kind: CrewKind, arena: Arena, place: Place | None) -> None:
    """As they do where there is no arena; and nothing is written."""
    with collecting(crew_of(kind, works.sized, arena)) as collector:
        submit(collector, 3, place)
        (result,) = collector.take(1).values()
    np.testing.assert_array_equal(parts_of(result)["image"], np.full(SIZE, 4, np.uint8))
    assert arena.read(0, REGION) == bytes(REGION)


def test_a_crew_without_an_arena_takes_no_notice_of_places(kind: CrewKind) -> None:
    """It has nowhere to write to."""
    with collecting(make_crew(kind, works.sized, 2, 60)) as collector:
        submit(collector, 0, place_of(0))
        assert parts_of(collector.take(1)[0])["image"].nbytes == SIZE


def test_a_failed_row_leaves_its_place_to_others(kind: CrewKind, arena: Arena) -> None:
    """It fails as ever."""
    with collecting(crew_of(kind, works.obey_then_fill, arena)) as collector:
        submit(collector, 0, place_of(0), "item_error")
        assert collector.take(1)[0].value == Failure(Reason.IMAGE_CORRUPT, "bad Huffman code")
        assert content(arena, place_of(0)) == [bytes(SIZE)]
        submit(collector, 1, place_of(0))
        assert has_landed(collector.take(1)[1])
    assert content(arena, place_of(0)) == [b"\2" * SIZE]


def test_every_place_holds_its_own_row(kind: CrewKind, arena: Arena) -> None:
    """Places in any order, of any size, side by side; between them nothing is touched."""
    sizes_and_gaps = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 70)), min_size=1, max_size=25)

    @settings(max_examples=30)
    @given(sizes_and_gaps.flatmap(lambda drawn: st.permutations(places_of(drawn))))
    def check(places: list[tuple[int, int]]) -> None:
        arena.write(0, memoryview(bytes(REGION)))
        for index, place in enumerate(places):
            submit(collector, index, (place,), size=place[1])
        results = collector.take(len(places))
        assert all(has_landed(results[index], size) for index, (_, size) in enumerate(places))
        assert arena.read(0, REGION) == filled(places)

    with collecting(crew_of(kind, works.sized, arena)) as collector:
        check()


def places_of(sizes_and_gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets and sizes, one behind the other, with a gap before each."""
    ends = accumulate(size + gap for size, gap in sizes_and_gaps)
    return [(end - size, size) for end, (size, _) in zip(ends, sizes_and_gaps, strict=True)]


def filled(places: list[tuple[int, int]]) -> bytes:
    """What the arena should hold."""
    expected = bytearray(REGION)
    for index, (offset, size) in enumerate(places):
        expected[offset : offset + size] = bytes([index + 1]) * size
    return bytes(expected)


# Processes that die, or should.


def test_a_retried_row_lands_at_its_place(arena: Arena, tmp_path: Path) -> None:
    """Its first worker was killed; the row that waited behind it lands at its own."""
    with collecting(crew_of("processes", works.obey_then_fill, arena, width=1)) as collector:
        submit(collector, 0, place_of(0), f"once {tmp_path / 'mark'} kill")
        submit(collector, 1, place_of(1))
        assert all(map(has_landed, collector.take(2).values()))
        assert collector.crew.statistics().crashes == 1
    assert content(arena, (*place_of(0), *place_of(1))) == [b"\1" * SIZE, b"\2" * SIZE]


@pytest.mark.parametrize(
    ("deed", "decode_timeout", "reason"),
    [
        ("loop", BRIEF, Reason.DECODE_TIMEOUT),
        ("segfault", 60, Reason.DECODE_CRASH),
        pytest.param("close", 60, Reason.DECODE_CRASH, marks=pytest.mark.slow),
    ],
)
def test_a_row_s_workers_are_dead_before_it_is_delivered(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, deed: str, decode_timeout: float, reason: Reason
) -> None:
    """Whoever hears that it has failed may give its place away: also if the worker only seemed to have ended."""
    started: list[Child] = []
    delivered: list[tuple[Any, bool]] = []
    done = threading.Event()

    class Recorded(Child):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    def deliver(_: Row, result: Result) -> None:
        delivered.append((result.value, all(child.process.returncode is not None for child in started)))
        done.set()

    monkeypatch.setattr(processes, "Child", Recorded)
    crew = crew_of("processes", works.obey_then_fill, arena, 1, decode_timeout)
    try:
        crew.start(deliver, lambda _: done.set())
        crew.submit(row_of(0), bytes_of(deed), place_of(0))
        assert done.wait(PATIENCE)
    finally:
        crew.close()
    ((failure, all_dead),) = delivered
    assert failure.reason is reason
    assert all_dead


def test_a_row_that_waited_behind_a_late_one_has_one_worker_at_a_time(arena: Arena) -> None:
    """It is given to another worker at once, and by then the first one, which might have begun it, is dead."""

    class Watched(ProcessCrew):
        holders: list[tuple[int, Child, bool]] = []  # noqa: RUF012 - made anew with the class

        def _assign(self, assign: Assign) -> None:
            before = [child.process.returncode is None for row, child, _ in self.holders if row == assign.job.row.index]
            self.holders.append((assign.job.row.index, self._children[assign.worker], any(before)))
            super()._assign(assign)

    with collecting(Watched(works.obey_then_fill, 2, BRIEF, landing=Landing(arena.descriptor))) as collector:
        submit(collector, 0, place_of(0), "loop")  # before any worker is ready: the first one takes both
        submit(collector, 1, place_of(1))
        results = collector.take(2)
    assert isinstance(results[0].value, Failure)
    assert has_landed(results[1])
    assert [(row, contested) for row, _, contested in Watched.holders] == [(0, False), (1, False), (1, False)]


@FORKS
def test_a_fork_of_a_worker_does_not_land(arena: Arena, tmp_path: Path) -> None:
    """The work forks, and its child returns when the place is another row's."""
    go, gone = tmp_path / "go", tmp_path / "gone"
    os.mkfifo(go)
    os.mkfifo(gone)
    with collecting(crew_of("processes", works.obey_then_fill, arena, width=1)) as collector:
        submit(collector, 0, place_of(0), f"fork_late {go} {gone}")
        with gone.open() as child:
            assert has_landed(collector.take(1)[0])
            arena.write(0, memoryview(MARK))
            go.write_bytes(b"!")
            assert child.read() == ""
    assert arena.read(0, len(MARK)) == MARK


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="seen through /proc")
def test_the_arena_is_not_passed_on_to_a_worker_s_children(arena: Arena) -> None:
    """As many descriptors as any child has: three, and that of the folder it lists."""
    with collecting(crew_of("processes", works.obey, arena)) as collector:
        collector.crew.submit(row_of(0), bytes_of("surroundings"), place_of(0))
        assert b"'descriptors': 4," in parts_of(collector.take(1)[0])["image"]


# Threads that are late.


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Works that wait for the gate are let go at the end, whatever happened."""
    works.gate.clear()
    yield works.gate
    works.gate.set()
    for thread in workers():
        thread.join(PATIENCE)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "penstock-worker"]


def test_a_late_thread_does_not_land(arena: Arena, gate: threading.Event) -> None:
    """When it returns in the end, its place is another row's."""
    with collecting(crew_of("threads", works.wait_then_fill, arena, 1, BRIEF)) as collector:
        submit(collector, 0, place_of(0), "hang")
        late = workers()
        assert isinstance(collector.take(1)[0].value, Failure)
        submit(collector, 1, place_of(0))
        assert has_landed(collector.take(1)[1])
        gate.set()
        for thread in late:
            thread.join(PATIENCE)
        assert collector.events.empty()
    assert content(arena, place_of(0)) == [b"\2" * SIZE]


def test_a_thread_left_behind_by_close_does_not_land(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arena may be closed by then, and its descriptor be another file's."""
    monkeypatch.setattr("penstock.crew.threads.CLOSING_PATIENCE", 0.0)
    entered, go = threading.Event(), threading.Event()

    def held_up(row: Row, fetched: Any) -> Result:
        entered.set()
        assert go.wait(PATIENCE)
        return works.sized(row, fetched)

    with collecting(crew_of("threads", held_up, arena, 1)) as collector:
        submit(collector, 0, place_of(0))
        assert entered.wait(PATIENCE)
        left = workers()
    go.set()
    for thread in left:
        thread.join(PATIENCE)
    assert content(arena, place_of(0)) == [bytes(SIZE)]


class HeldLanding(Landing):
    """Begins to land, and goes on when it is told."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def land(self, result: Result, place: Place) -> Result:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        return super().land(result, place)


def test_a_thread_that_lands_is_not_late_any_more(arena: Arena) -> None:
    """The deadline is for the work. Nobody else gets the place while it is written to."""
    landing = HeldLanding(arena.descriptor)
    crew = ThreadCrew(works.sized, 1, 60.0, landing=landing)
    with collecting(crew) as collector:
        submit(collector, 0, place_of(0))
        assert landing.begun.wait(PATIENCE)
        crew._clock._stopped -= 1000.0  # it is a thousand seconds later now
        assert crew._abandon_late(60.0) == []
        landing.go_on.set()
        assert has_landed(collector.take(1)[0])
        assert collector.events.empty()


def test_close_waits_for_what_is_landing(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes: afterwards nobody writes any more."""
    monkeypatch.setattr("penstock.crew.threads.CLOSING_PATIENCE", 0.0)
    landing, closed = HeldLanding(arena.descriptor), threading.Event()
    crew = ThreadCrew(works.sized, 1, landing=landing)
    collector = Collector(crew)
    submit(collector, 0, place_of(0))
    assert landing.begun.wait(PATIENCE)
    (worker,) = workers()

    def close() -> None:
        crew.close()
        closed.set()

    closing = threading.Thread(target=close)
    closing.start()
    assert crew._closing.wait(PATIENCE)
    assert not closed.wait(0.2)  # with nothing to wait for, close takes no time
    landing.go_on.set()
    closing.join(PATIENCE)
    assert content(arena, place_of(0)) == [b"\1" * SIZE]
    worker.join(PATIENCE)
