"""Whether the work releases the GIL."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from penstock.comparison import probe
from penstock.comparison.probe import Job, probe_gil
from penstock.comparison.results import GilProbe
from penstock.comparison.workloads import WORKLOADS
from penstock.config import available_cores
from penstock.crew.base import Work
from penstock.crew.choose import gil_enabled
from penstock.errors import ItemError
from penstock.image.work import TransformWork
from penstock.records import Fetched, Reason, Request, Result, Row, Sample

TWO_CORES = pytest.mark.skipif(available_cores() < 2, reason="one core: there is nothing to compare")


def job(data: bytes = b"some bytes") -> Job:
    return Row(0, (Request("image", "http://example.com/"),)), (Fetched("image", data, 200, 1, 0.1),)


def work_of(name: str) -> TransformWork:
    transform = WORKLOADS[name].transform
    assert transform is not None
    return TransformWork(transform)


def echo(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """The bytes as they came; those that say so are failures, or the end of the thread if it does not take care."""
    if fetched[0].data == b"fail":
        raise ItemError(Reason.CONTENT_NOT_IMAGE)
    if fetched[0].data == b"exit":
        raise SystemExit
    return Result.of(Sample({"bin": fetched[0].data}), fetched)


def pause(lock: contextlib.AbstractContextManager[object]) -> Work:
    """A work whose pace does not depend on the machine: each image waits a while inside the lock."""

    def work(row: Row, fetched: tuple[Fetched, ...]) -> Result:
        with lock:
            time.sleep(0.005)
        return echo(row, fetched)

    return work


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """One short round on a machine of four cores, for works that need none of them; the reference is one of these."""
    monkeypatch.setattr(probe, "ROUNDS", 1)
    monkeypatch.setattr(probe, "STRETCH", 0.1)
    monkeypatch.setattr(probe, "available_cores", lambda: 4)
    monkeypatch.setattr(probe, "derive_key", pause(contextlib.nullcontext()))


@TWO_CORES
@pytest.mark.slow
def test_python_holds_the_gil() -> None:
    """Two threads of Python code are no quicker than one, unless the interpreter has no GIL."""
    found = probe_gil(work_of("python"), [job()])
    assert found is not None
    assert found.released is not gil_enabled(), f"{found}"


@TWO_CORES
@pytest.mark.slow
def test_native_code_releases_the_gil() -> None:
    """Two threads inside a C function that releases it are about twice as quick."""
    found = probe_gil(work_of("native"), [job()])
    assert found is not None
    assert found.released, f"{found}"


@pytest.mark.usefixtures("hasty")
def test_threads_that_take_turns_are_as_quick_as_one() -> None:
    """A lock around the work has the effect of the GIL."""
    found = probe_gil(pause(threading.Lock()), [job()])
    assert found is not None
    assert not found.released, f"{found}"


@pytest.mark.usefixtures("hasty")
def test_threads_side_by_side_are_quicker_by_their_number() -> None:
    """The same work without the lock; it is two threads, however many cores there are."""
    found = probe_gil(pause(contextlib.nullcontext()), [job()])
    assert found is not None
    assert found.threads == 2
    assert found.released, f"{found}"


@pytest.mark.usefixtures("hasty")
def test_nothing_is_found_where_two_threads_share_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """If not even native code gains by the second thread, the work cannot be blamed."""
    monkeypatch.setattr(probe, "derive_key", pause(threading.Lock()))
    assert probe_gil(pause(contextlib.nullcontext()), [job()]) is None


@pytest.mark.parametrize(
    ("speedup", "reference", "released"),
    [(1.3, 1.35, True), (1.05, 1.35, False), (1.95, 1.98, True), (1.2, 1.98, False)],
    ids=["hyper-threads", "hyper-threads, held", "cores", "cores, held"],
)
def test_released_is_what_gains_about_as_much_as_native_code(speedup: float, reference: float, released: bool) -> None:
    """What two threads can gain on this machine decides, not their number."""
    assert GilProbe(threads=2, one=100.0, all=100.0 * speedup, reference=reference).released is released


@pytest.mark.usefixtures("hasty")
def test_work_that_is_slower_than_a_stretch_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is that of whole images, not of the stretch in which none was finished."""
    monkeypatch.setattr(probe, "STRETCH", 1e-6)
    found = probe_gil(pause(contextlib.nullcontext()), [job()])
    assert found is not None
    assert 0 < found.one <= 200
    assert found.all > found.one


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("jobs", [[], [job(b"fail"), job(b"exit")]], ids=["none", "failures"])
def test_nothing_is_found_without_a_sample_that_works(jobs: list[Job]) -> None:
    """What fails says nothing of the work."""
    assert probe_gil(echo, jobs) is None


@pytest.mark.usefixtures("hasty")
def test_samples_that_fail_are_dropped() -> None:
    """They are tried once, and never again."""
    tried = []

    def work(row: Row, fetched: tuple[Fetched, ...]) -> Result:
        tried.append(fetched[0].data)
        return echo(row, fetched)

    assert probe_gil(work, [job(b"fail"), job(b"fine"), job(b"exit")]) is not None
    assert tried.count(b"fail") == tried.count(b"exit") == 1
    assert tried.count(b"fine") > 4


@pytest.mark.usefixtures("hasty")
def test_one_core_is_nothing_to_compare_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is not even called."""
    monkeypatch.setattr(probe, "available_cores", lambda: 1)
    tried = []

    def work(row: Row, fetched: tuple[Fetched, ...]) -> Result:
        tried.append(row)
        return echo(row, fetched)

    assert probe_gil(work, [job()]) is None
    assert not tried
