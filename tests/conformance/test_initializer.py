"""What a work wants done first: once in each worker of every crew, before its first row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.initializing import die, echo_if_set_up, fail, set_up, take_a_while
from faults import works
from faults.collecting import collecting
from faults.works import bytes_of, jobs_of, row_of
from penstock.crew.base import Crew
from penstock.crew.choose import CrewKind, make_crew
from penstock.errors import WorkerError
from penstock.image.work import InitializedWork
from penstock.records import Reason, Sample

ALL: tuple[CrewKind, ...] = ("inline", "threads", "processes")
PARALLEL: tuple[CrewKind, ...] = ("threads", "processes")


def crew_of(kind: CrewKind, initializer: Callable[[], None]) -> Crew:
    return make_crew(kind, InitializedWork(echo_if_set_up, initializer), 2, 60)


@pytest.mark.parametrize("kind", ALL)
def test_each_worker_is_set_up_once_before_its_first_row(kind: CrewKind, tmp_path: Path) -> None:
    """Every row finds its worker ready, and no worker was made ready twice."""
    with collecting(crew_of(kind, functools.partial(set_up, tmp_path))) as collector:
        results = collector.work_off(jobs_of(*[b""] * 50))
    assert all(isinstance(result.value, Sample) for result in results.values()), results
    assert 1 <= len(list(tmp_path.iterdir())) <= 2


def test_a_worker_that_takes_anothers_place_is_set_up_as_well(tmp_path: Path) -> None:
    """A row that kills its worker is tried again in a fresh one, which is ready for it; so are those that follow."""
    with collecting(crew_of("processes", functools.partial(set_up, tmp_path))) as collector:
        results = collector.work_off(jobs_of(b"", b"die", b"", b""))
    reasons = [getattr(result.value, "reason", None) for _, result in sorted(results.items())]
    assert reasons == [None, Reason.DECODE_CRASH, None, None]
    assert len(list(tmp_path.iterdir())) >= 3


@pytest.mark.parametrize("kind", PARALLEL)
def test_an_initializer_that_raises_breaks_the_crew(kind: CrewKind) -> None:
    """At once, told a single time, in one line that names it; and no row can be handed over any more."""
    expected = r"^the workers cannot start: the initializer, .*\.fail, raised FileNotFoundError: model\.bin \(initializing\.py:\d+\)$"
    with collecting(crew_of(kind, fail)) as collector:
        with pytest.raises(WorkerError, match=expected):
            collector.take(1)
        with pytest.raises(WorkerError, match="the initializer"):
            collector.crew.submit(row_of(0), bytes_of(b""))
        collector.crew.close()
        assert collector.events.empty()


def test_an_initializer_that_raises_inline() -> None:
    """The crew does not start."""
    crew = crew_of("inline", fail)
    with pytest.raises(WorkerError, match="the initializer"), collecting(crew):
        pass


@pytest.mark.slow
def test_an_initializer_that_kills_its_process_is_not_tried_for_ever() -> None:
    """After a few workers that never were ready the crew gives up."""
    with (
        collecting(crew_of("processes", die)) as collector,
        pytest.raises(WorkerError, match=r"cannot be started: it died as it started: .*7"),
    ):
        collector.take(1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARALLEL)
def test_no_deadline_runs_while_a_worker_is_set_up(kind: CrewKind) -> None:
    """Though the row waits for longer than one may be worked at."""
    work = InitializedWork(works.echo, take_a_while)
    with collecting(make_crew(kind, work, 1, 1.0)) as collector:
        results = collector.work_off(jobs_of(b"a", b"b"))
    assert all(isinstance(result.value, Sample) for result in results.values()), results
