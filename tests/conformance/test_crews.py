"""One behaviour for all crews: inline, threads, processes. (That nothing is left behind is checked for every test.)"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from faults import works
from faults.collecting import Collector, collecting
from faults.works import bytes_of, jobs_of, row_of
from penstock.crew.base import Crew, Work
from penstock.crew.choose import CrewKind, make_crew
from penstock.records import Failure, Fetched, Reason, Request, Result, Row, Sample

ALL: tuple[CrewKind, ...] = ("inline", "threads", "processes")
PARALLEL: tuple[CrewKind, ...] = ("threads", "processes")


def crew_of(kind: CrewKind, work: Work, width: int = 2) -> Crew:
    return make_crew(kind, work, width, decode_timeout=60)


def parts_of(result: Result) -> Any:
    assert isinstance(result.value, Sample), result.value
    return result.value.parts


def failure_of(result: Result) -> Failure:
    assert isinstance(result.value, Failure)
    return result.value


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> CrewKind:
    value: CrewKind = request.param
    return value


@pytest.fixture
def obedient(kind: CrewKind) -> Any:
    with collecting(crew_of(kind, works.obey)) as collector:
        yield collector


def test_every_row_is_delivered_exactly_once(kind: CrewKind) -> None:
    """Whatever is submitted comes back once, with its own bytes."""
    with collecting(crew_of(kind, works.echo)) as collector:
        results = collector.work_off(jobs_of(*(bytes([n]) * n for n in range(100))))
    assert [parts_of(results[n])["image"] for n in range(100)] == [bytes([n]) * n for n in range(100)]


def test_a_result_carries_the_cost_of_the_fetch_and_the_facts(kind: CrewKind) -> None:
    """Status, attempts, size and seconds of the download come through, and so do the facts."""
    with collecting(crew_of(kind, works.echo)) as collector:
        result = collector.work_off(jobs_of(b"12345"))[0]
    assert (result.http_status, result.attempts, result.size, result.fetch_seconds) == (200, 2, 5, 0.25)
    assert isinstance(result.value, Sample)
    assert result.value.facts.width == 0
    assert result.seconds > 0


def test_a_row_of_several_parts_keeps_them_apart(kind: CrewKind) -> None:
    """Each part arrives under its name with its own bytes."""
    row = Row(0, (Request("image", "u"), Request("text", "v")))
    fetched = (Fetched("image", b"pixels", 200, 1, 0.1), Fetched("text", b"", 200, 1, 0.1))
    with collecting(crew_of(kind, works.echo)) as collector:
        assert parts_of(collector.work_off({0: (row, fetched)})[0]) == {"image": b"pixels", "text": b""}


@pytest.mark.parametrize(
    ("command", "reason", "detail"),
    [
        ("key_error", Reason.TRANSFORM_ERROR, "KeyError: 'missing'"),
        ("item_error", Reason.IMAGE_CORRUPT, "bad Huffman code"),
        ("memory_error", Reason.DECODE_MEMORY, "cannot allocate 8 GiB"),
    ],
)
def test_an_exception_costs_its_row_only(obedient: Collector, command: str, reason: Reason, detail: str) -> None:
    """The row fails with the reason of its exception and keeps what its fetch cost; its neighbours do not notice."""
    results = obedient.work_off(jobs_of("", command, ""))
    assert failure_of(results[1]) == Failure(reason, detail)
    assert results[1].http_status == 200
    assert parts_of(results[0]) == parts_of(results[2]) == {"image": b""}


def test_a_work_that_returns_no_result_fails_its_row(kind: CrewKind) -> None:
    """None instead of a Result is a fault of the work."""
    with collecting(crew_of(kind, works.returns_nothing)) as collector:
        failure = failure_of(collector.work_off(jobs_of(b""))[0])
    assert failure.reason is Reason.TRANSFORM_ERROR
    assert "NoneType" in failure.detail


@pytest.mark.parametrize("parallel", PARALLEL)
def test_sys_exit_in_the_work_costs_its_row_only(parallel: CrewKind) -> None:
    """A worker does not end because the user's code says so."""
    with collecting(crew_of(parallel, works.obey)) as collector:
        results = collector.work_off(jobs_of("sys_exit", "sys_exit", "sys_exit", ""))
    assert failure_of(results[0]) == Failure(Reason.TRANSFORM_ERROR, "SystemExit: 3")
    assert parts_of(results[3]) == {"image": b""}


def test_inline_lets_sys_exit_pass() -> None:
    """There it is the caller's own thread, and the exit is meant for the process."""
    with collecting(crew_of("inline", works.obey)) as collector, pytest.raises(SystemExit):
        collector.crew.submit(row_of(0), bytes_of("sys_exit"))


def test_large_values_go_both_ways_at_once(kind: CrewKind) -> None:
    """20 MB in and 20 MB out, several at a time: nobody waits for the other for ever."""
    payload = np.random.default_rng(5).bytes(20_000_000)
    with collecting(crew_of(kind, works.echo)) as collector:
        results = collector.work_off(jobs_of(*[payload] * 6))
    assert all(parts_of(result)["image"] == payload for result in results.values())


def test_a_large_row_comes_through(kind: CrewKind) -> None:
    """Nothing that travels has a limit of size: here a caption of 3 MB."""
    with collecting(crew_of(kind, works.echo)) as collector:
        results = collector.work_off({0: (row_of(0, "x" * 3_000_000), bytes_of(b"y"))})
    assert parts_of(results[0]) == {"image": b"y"}


@pytest.fixture(scope="module", params=ALL)
def gallery(request: pytest.FixtureRequest) -> Any:
    """The arrays of `works.ARRAYS`, each after a journey through a crew."""
    names = list(works.ARRAYS)
    with collecting(crew_of(request.param, works.arrays)) as collector:
        results = collector.work_off({n: (row_of(n, name), bytes_of(b"")) for n, name in enumerate(names)})
    return {names[index]: parts_of(result)["array"] for index, result in results.items()}


@pytest.mark.parametrize("name", works.ARRAYS)
def test_arrays_arrive_as_they_were(gallery: dict[str, Any], name: str) -> None:
    """Any dtype and shape: same values, same type, and writable as a fresh array is."""
    expected = works.ARRAYS[name]()
    assert gallery[name].dtype == expected.dtype
    np.testing.assert_array_equal(gallery[name], expected, strict=True)
    assert gallery[name].flags.writeable


def test_results_own_their_memory(kind: CrewKind) -> None:
    """What was delivered stays as it is while the worker goes on to other rows."""
    with collecting(crew_of(kind, works.filled, width=1)) as collector:
        results = collector.work_off(jobs_of(*[b""] * 10))
    assert all((parts_of(results[n])["array"] == n).all() for n in range(10))


def test_close_drops_what_is_inside(kind: CrewKind) -> None:
    """Nothing is delivered after close, whatever was under way."""
    collector = Collector(crew_of(kind, works.doze))
    for row, fetched in jobs_of(*[b""] * 40).values():
        collector.crew.submit(row, fetched)
    collector.crew.close()
    delivered = collector.events.qsize()
    collector.crew.submit(row_of(40), bytes_of(b""))
    assert collector.events.qsize() == delivered
    assert (delivered == 40) == (kind == "inline")


def test_close_may_come_at_any_time(kind: CrewKind) -> None:
    """Before start, right after it, and twice."""
    crew_of(kind, works.echo).close()
    with collecting(crew_of(kind, works.echo)) as collector:
        collector.crew.close()
        collector.crew.close()
    assert collector.events.empty()


def test_statistics_tell_how_busy_the_workers_were(kind: CrewKind) -> None:
    """Busy time is the sum over the rows, and lies within the time they were held; nothing crashed; processes have pids."""
    started = time.monotonic()
    with collecting(crew_of(kind, works.doze)) as collector:
        collector.work_off(jobs_of(*[b""] * 4))
        statistics = collector.crew.statistics()
    assert statistics.busy_seconds >= 4 * 0.02
    held = collector.crew.width * (time.monotonic() - started)
    assert statistics.busy_seconds <= statistics.occupied_seconds <= held
    assert (statistics.crashes, statistics.timeouts) == (0, 0)
    assert len(statistics.pids) == (2 if kind == "processes" else 0)
    assert collector.crew.width == (1 if kind == "inline" else 2)
