"""What works and the outside world can do to a crew, and what it may cost. (Section F of the catalogue of faults.)"""

from __future__ import annotations

import errno
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from faults import works
from faults.collecting import PATIENCE, collecting
from faults.works import bytes_of, jobs_of, row_of
from penstock.config import ImageConfig
from penstock.crew import child, wire, worker
from penstock.crew.base import Work
from penstock.crew.choose import gil_enabled, make_crew, processes_possible
from penstock.crew.clock import AwakeClock
from penstock.crew.processes import ProcessCrew
from penstock.crew.roster import POISON_LIMIT
from penstock.crew.threads import ThreadCrew
from penstock.errors import ConfigError, WorkerError
from penstock.image.work import ImageWork
from penstock.records import Failure, Fetched, Reason, Result, Row, Sample

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="seen through /proc")
BRIEF = 0.3
"""Seconds: a decode_timeout for works that never end."""


def crew_of(work: Work = works.obey, width: int = 2, decode_timeout: float = 60.0, **options: Any) -> ProcessCrew:
    return ProcessCrew(work, width, decode_timeout, **options)


def is_sample(result: Result) -> bool:
    return isinstance(result.value, Sample)


def outcome(result: Result) -> tuple[Reason, str]:
    assert isinstance(result.value, Failure)
    return result.value.reason, result.value.detail


# Deaths.


@pytest.mark.parametrize(
    ("deed", "reason", "detail"),
    [
        ("segfault", Reason.DECODE_CRASH, "SIGSEGV"),
        ("abort", Reason.DECODE_CRASH, "SIGABRT"),
        ("illegal", Reason.DECODE_CRASH, "SIGILL"),
        pytest.param("bus", Reason.DECODE_CRASH, "SIGBUS", marks=LINUX),
        pytest.param("recurse", Reason.DECODE_CRASH, "SIGSEGV", marks=LINUX),
        ("exit", Reason.DECODE_CRASH, "exit 0"),
        ("kill", Reason.DECODE_OOM, "SIGKILL, probably by the kernel's out-of-memory killer"),
    ],
)
def test_a_death_costs_its_row_only(deed: str, reason: Reason, detail: str) -> None:
    """The row is tried twice and blamed; the rows before, beside and behind it are done."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of("", "", deed, *[""] * 10))
        statistics = collector.crew.statistics()
    assert outcome(results[2]) == (reason, detail)
    assert results[2].size == len(deed)
    assert [index for index, result in results.items() if not is_sample(result)] == [2]
    assert statistics.crashes == 2


def test_several_poisonous_rows_are_told_apart(tmp_path: Path) -> None:
    """Each is blamed for itself, and a row that only once was there when a worker died is done."""
    commands = ["exit", "", "segfault", f"once {tmp_path / 'mark'} kill", "", "abort", ""]
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of(*commands))
    assert {n for n, result in results.items() if not is_sample(result)} == {0, 2, 5}


def test_a_row_that_was_there_by_chance_gets_its_second_attempt(tmp_path: Path) -> None:
    """One death is forgiven: the row is done by a fresh worker."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of(f"once {tmp_path / 'mark'} segfault"))
        assert collector.crew.statistics().crashes == 1
    assert is_sample(results[0])


@pytest.mark.parametrize("deed", ["loop", "sleep 1e9", "hold_gil", "regex", "stop"])
def test_what_never_ends_is_killed(deed: str) -> None:
    """A loop (in C, too), a sleep, a native call that holds the GIL, a stopped process: one row each, not tried again."""
    with collecting(crew_of(decode_timeout=BRIEF)) as collector:
        results = collector.work_off(jobs_of(deed, *[""] * 6))
        statistics = collector.crew.statistics()
    assert outcome(results[0]) == (Reason.DECODE_TIMEOUT, f"not done after {BRIEF:g} s")
    assert all(is_sample(results[index]) for index in range(1, 7))
    assert (statistics.timeouts, statistics.crashes) == (1, 0)


def test_the_row_behind_a_hanging_one_is_not_blamed() -> None:
    """With a single worker, the row that waits in it is done by the next."""
    with collecting(crew_of(width=1, decode_timeout=BRIEF)) as collector:
        results = collector.work_off(jobs_of("loop", "", "loop", ""))
    assert [is_sample(results[index]) for index in range(4)] == [False, True, False, True]


def test_an_idle_worker_killed_from_outside_costs_nothing() -> None:
    """It is replaced; no row was in its hands."""
    with collecting(crew_of()) as collector:
        collector.work_off(jobs_of("", ""))
        for pid in collector.crew.statistics().pids:
            os.kill(pid, signal.SIGKILL)
        results = collector.work_off(jobs_of(*[""] * 8))
    assert all(is_sample(result) for result in results.values())


def test_a_busy_worker_killed_from_outside_costs_nothing(tmp_path: Path) -> None:
    """Its row is done by another one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with collecting(crew_of()) as collector:
        collector.crew.submit(row_of(0), bytes_of(f"once {tmp_path / 'mark'} announce {fifo}"))
        os.kill(int(fifo.read_text()), signal.SIGKILL)
        assert is_sample(collector.take(1)[0])
        assert collector.crew.statistics().crashes == 1


@LINUX
def test_a_work_that_kills_the_other_workers_costs_no_row() -> None:
    """Whoever was at work gets its second attempt."""
    with collecting(crew_of(width=3)) as collector:
        results = collector.work_off(jobs_of("", "", "", "kill_siblings", *["sleep 0.02"] * 12))
    assert all(is_sample(result) for result in results.values())


def test_workers_leave_ctrl_c_to_the_parent() -> None:
    """SIGINT, which a terminal sends to all of them, ends no worker."""
    with collecting(crew_of()) as collector:
        collector.work_off(jobs_of("", "", "", ""))
        before = collector.crew.statistics().pids
        for pid in before:
            os.kill(pid, signal.SIGINT)
        collector.work_off(jobs_of(*[""] * 8))
        assert collector.crew.statistics().pids == before


@pytest.mark.slow
def test_a_worker_that_closes_its_descriptors_counts_as_dead() -> None:
    """Its end of the connection is gone, so the process is of no use, though it lives."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of("close", "", "", ""))
    assert outcome(results[0]) == (Reason.DECODE_CRASH, "it closed its connection")
    assert all(is_sample(results[index]) for index in (1, 2, 3))


@pytest.mark.slow
def test_a_worker_whose_child_holds_its_socket_is_noticed_all_the_same() -> None:
    """The process's own end is looked at, not just the socket's."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of("orphan", ""))
    assert outcome(results[0]) == (Reason.DECODE_CRASH, "exit 0")
    assert is_sample(results[1])


def test_a_work_that_forks_and_returns_twice_is_delivered_once() -> None:
    """The copy of the worker ends instead of answering."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of("fork", "", "fork", "", ""))
    assert all(is_sample(result) for result in results.values())


@pytest.mark.slow
@LINUX
def test_every_bad_row_of_many_is_blamed_for_what_it_did() -> None:
    """200 rows, every eighth of them bad in one way or another, at random places: none is taken for another."""
    reasons = dict.fromkeys(["segfault", "abort", "illegal", "bus", "recurse", "exit"], Reason.DECODE_CRASH)
    reasons |= dict.fromkeys(["sleep 1e9", "hold_gil", "regex", "stop", "loop"], Reason.DECODE_TIMEOUT)
    reasons |= {"kill": Reason.DECODE_OOM, "hoard": Reason.DECODE_MEMORY, "memory_error": Reason.DECODE_MEMORY}
    reasons |= {"sys_exit": Reason.TRANSFORM_ERROR, "key_error": Reason.TRANSFORM_ERROR}
    bad = [*reasons, *[deed for deed in reasons if reasons[deed] is not Reason.DECODE_TIMEOUT][:9]]
    good = ["", "print noise", "fork", "noise 200000", "sleep 0.01"] * 35
    commands = [*bad, *good]
    random.Random(8).shuffle(commands)
    with collecting(crew_of(width=3, decode_timeout=2.0, memory=2**28)) as collector:
        results = collector.work_off(jobs_of(*commands))
    ends = {index: None if is_sample(result) else outcome(result)[0] for index, result in results.items()}
    assert ends == {index: reasons.get(command) for index, command in enumerate(commands)}
    assert len(commands) == 200


# Memory.


@LINUX
def test_a_row_that_takes_more_memory_than_allowed_fails() -> None:
    """The bound holds for each worker, by a MemoryError that costs its row only; nobody is killed."""
    with collecting(crew_of(width=1, memory=2**26)) as collector:
        results = collector.work_off(jobs_of("hoard", "", ""))
        assert collector.crew.statistics().crashes == 0
    assert outcome(results[0])[0] is Reason.DECODE_MEMORY
    assert is_sample(results[1])
    assert is_sample(results[2])


@LINUX
def test_what_earlier_rows_left_behind_is_not_held_against_a_row() -> None:
    """A worker whose memory leaks away is replaced, and the row that found none left is tried again."""
    with collecting(crew_of(width=1, memory=2**26)) as collector:
        results = collector.work_off(jobs_of(*[f"leak {2**24}"] * 12))
        assert collector.crew.statistics().crashes > 0
    assert all(is_sample(result) for result in results.values())


@LINUX
def test_a_row_too_large_for_its_worker_fails() -> None:
    """The bytes alone are more than it may have."""
    with collecting(crew_of(works.echo, width=1, memory=2**25)) as collector:
        results = collector.work_off(jobs_of(bytes(2**26), b"small"))
    assert outcome(results[0])[0] is Reason.DECODE_MEMORY
    assert is_sample(results[1])


@LINUX
def test_a_lower_limit_of_the_system_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound of ours never lifts the one that this process was started with."""
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**40, 2**40))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append((which, limit)))
    worker._bound_memory(2**50)
    assert limits == [(resource.RLIMIT_AS, (2**40, 2**40))]


# What is kept of it.


def test_poison_is_kept(tmp_path: Path) -> None:
    """The bytes of rows that a worker was lost over, with what they did; of no others."""
    folder = tmp_path / "new" / "poison"
    with collecting(crew_of(decode_timeout=BRIEF, keep_poison=folder)) as collector:
        collector.work_off(jobs_of("", "segfault", "key_error", "hold_gil", "memory_error"))
    assert {path.name: path.read_text() for path in folder.glob("*.bin")} == {
        "000000001.image.bin": "segfault",
        "000000003.image.bin": "hold_gil",
        "000000004.image.bin": "memory_error",
    }
    assert json.loads((folder / "000000001.image.json").read_text()) == {
        "url": "http://example.com/1",
        "reason": "decode.crash",
        "detail": "SIGSEGV",
    }


def test_poison_that_cannot_be_kept_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that cannot be written costs no row."""
    (tmp_path / "file").touch()
    with collecting(crew_of(keep_poison=tmp_path / "file")) as collector:
        results = collector.work_off(jobs_of("", "memory_error", "memory_error", ""))
    assert [outcome(results[index])[0] for index in (1, 2)] == [Reason.DECODE_MEMORY] * 2
    assert len([record for record in caplog.records if "--keep-poison" in record.message]) == 1


# Noise.


def test_what_a_worker_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output belongs to the parent alone."""
    with collecting(crew_of()) as collector:
        collector.work_off(jobs_of("print decoding", ""))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "decoding\n"


def test_noise_does_not_stop_a_worker(capfd: pytest.CaptureFixture[str]) -> None:
    """8 MB on standard error go where the parent's go, and are in nobody's way."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of("noise 8000000", "", ""))
    assert all(is_sample(result) for result in results.values())
    assert len(capfd.readouterr().err) > 7_000_000


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_gigabyte_of_noise_is_held_nowhere(monkeypatch: pytest.MonkeyPatch, descriptor: int) -> None:
    """It goes where the parent's standard error goes, here to nowhere: neither memory nor a pipe fills up."""
    monkeypatch.setattr(child, "_standard_error", lambda: os.open(os.devnull, os.O_WRONLY))
    with collecting(crew_of(memory=2**26)) as collector:
        results = collector.work_off(jobs_of("", f"noise 1000000000 {descriptor}", ""))
    assert all(is_sample(result) for result in results.values())


def test_nonsense_on_its_connection_is_ignored() -> None:
    """Notes of slots that do not exist, which the work writes where the worker's own go."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of("", "babble 120", "", ""))
    assert all(is_sample(result) for result in results.values())


# Values.


def test_a_result_that_cannot_be_sent_fails_its_row() -> None:
    """The worker lives on."""
    with collecting(crew_of()) as collector:
        results = collector.work_off(jobs_of("lambda", ""))
        assert collector.crew.statistics().crashes == 0
    reason, detail = outcome(results[0])
    assert reason is Reason.TRANSFORM_ERROR
    assert "result cannot be sent" in detail
    assert is_sample(results[1])


def test_a_row_that_cannot_be_sent_fails() -> None:
    """A kept field that pickle refuses costs its own row."""
    odd = Row(0, row_of(0).requests, fields={"lock": threading.Lock()})
    with collecting(crew_of()) as collector:
        results = collector.work_off({0: (odd, bytes_of("")), 1: (row_of(1), bytes_of(""))})
    reason, detail = outcome(results[0])
    assert reason is Reason.TRANSFORM_ERROR
    assert "row cannot be sent" in detail
    assert is_sample(results[1])


def test_a_work_that_cannot_be_pickled_is_refused_before_any_start() -> None:
    """The message says what and what to do."""
    with pytest.raises(ConfigError, match=r"cannot be sent.*lambda.*function of a module"):
        crew_of(lambda row, fetched: works.echo(row, fetched))  # noqa: PLW0108 - it is the lambda that is refused


# A crew that cannot work.


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("raise", "No module named 'broken_wheel'"),
        ("die", "exit 127\nlibbroken.so: cannot open shared object file"),
    ],
)
def test_a_work_that_cannot_be_loaded_breaks_the_crew(deed: str, words: str) -> None:
    """Whether by exception or by death: the flow is told, with the worker's last words, and so is the next submit."""
    with collecting(crew_of(works.BadLoad(deed))) as collector:
        event = collector.events.get(timeout=PATIENCE)
        with pytest.raises(WorkerError):
            collector.crew.submit(row_of(0), bytes_of(""))
    assert isinstance(event, WorkerError)
    assert words in str(event)
    assert collector.events.empty()


def test_a_work_that_crashes_at_every_row_breaks_the_crew() -> None:
    """One clear error that names the signal and what to do, instead of a crash a row."""
    with collecting(crew_of()) as collector:
        for row, fetched in jobs_of(*["abort"] * 50).values():
            collector.crew.submit(row, fetched)
        blamed = collector.take(POISON_LIMIT - 1)
        with pytest.raises(WorkerError, match=r"die at their first row.*SIGABRT.*PYTHONFAULTHANDLER"):
            collector.take(1)
        with pytest.raises(WorkerError):
            collector.crew.submit(row_of(50), bytes_of(""))
    assert {outcome(result) for result in blamed.values()} == {(Reason.DECODE_CRASH, "SIGABRT")}
    assert collector.events.empty()


def test_no_memory_for_a_worker_breaks_the_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing memfd_create ends the run with a message, not with a hang."""

    def fail() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(child, "anonymous_file", fail)
    with collecting(crew_of()) as collector, pytest.raises(WorkerError, match=r"cannot be started.*allocate memory"):
        collector.take(1)


def test_no_memory_for_an_image_breaks_the_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither submit nor the flow that waits for results is left hanging."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with collecting(crew_of()) as collector:
        collector.work_off(jobs_of("", ""))
        monkeypatch.setattr(wire, "write_at", fail)
        with pytest.raises(WorkerError, match="--memory"):
            collector.crew.submit(row_of(0), bytes_of("x"))
        assert isinstance(collector.events.get(timeout=PATIENCE), WorkerError)


# Surroundings.


@LINUX
def test_a_worker_is_set_up_as_one_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native pools of one thread, first in line for the OOM killer, no core dumps, nothing for its children to inherit."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with collecting(crew_of()) as collector:
        result = collector.work_off(jobs_of("surroundings"))[0]
    assert isinstance(result.value, Sample)
    image = result.value.parts["image"]
    assert isinstance(image, bytes)
    surroundings: dict[str, Any] = eval(image)  # the work's own repr
    assert surroundings == {"descriptors": 4, "threads": "1", "oom": 500, "core": 0, "heavy": []}


SCRIPT = """
import os, sys, threading
from penstock.crew.choose import make_crew
from penstock.records import *

def transform(row, fetched):
    return Result.of(Sample({"image": fetched[0].data.upper()}), fetched)

print("top", __name__, file=sys.stderr)
done = threading.Event()
results = []
def deliver(row, result):
    results.append(result.value)
    done.set()
crew = make_crew("processes", transform, 1, 60.0)
crew.start(deliver, lambda error: (print(error), done.set()))
crew.submit(Row(0, (Request("image", "u"),)), (Fetched("image", b"abc", 200, 1, 0.1),))
done.wait(60)
print(results[0].parts["image"], type(crew).__name__)
"""


def run_script(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


@pytest.mark.parametrize("close", ["crew.close()", ""])
def test_a_script_needs_no_guard(tmp_path: Path, close: str) -> None:
    """A transform in an unguarded script works; a crew that is never closed does not keep the script from ending."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + close)
    ended = run_script(script)
    assert ended.stdout == "b'ABC' ProcessCrew\n"
    assert ended.stderr == "top __main__\n"
    assert ended.returncode == 0


def test_a_module_that_is_run_as_a_script_needs_no_guard(tmp_path: Path) -> None:
    """The same for ``python -m package.module``."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(SCRIPT + "crew.close()")
    ended = run_script("-m", "package.module", cwd=tmp_path)
    assert (ended.stdout, ended.stderr) == ("b'ABC' ProcessCrew\n", "top __main__\n")


def test_a_transform_from_a_prompt_is_done_by_threads() -> None:
    """Workers cannot load what no file holds; the log says what to do."""
    ended = run_script("-c", SCRIPT + "crew.close()")
    assert ended.stdout == "b'ABC' ThreadCrew\n"
    assert "put it into a module" in ended.stderr


def test_a_daemonic_parent_gets_threads(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It may have no children; the log says so once."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]  # as Process(daemon=True) sets it
    with caplog.at_level(logging.WARNING, "penstock"):
        crews = [make_crew("processes", works.echo, 3, 60.0) for _ in range(2)]
    assert not processes_possible()
    assert [(type(crew), crew.width) for crew in crews] == [(ThreadCrew, 3), (ThreadCrew, 3)]
    assert len([record for record in caplog.records if "daemonic" in record.message]) == 1


def test_the_gil_is_where_the_interpreter_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreters that cannot tell have one."""
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    assert gil_enabled()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not gil_enabled()


PARENT = """
import sys, threading
from faults import works
from penstock.crew.processes import ProcessCrew

crew = ProcessCrew(works.obey, 6, 600.0)
ready = threading.Semaphore(0)
crew.start(lambda row, result: ready.release(), print)
for n in range(12):
    crew.submit(works.row_of(n), works.bytes_of("sleep 0.1"))
for n in range(12):
    ready.acquire()
for n, deed in enumerate(["loop", "hold_gil", "regex", "stop", "sleep 1e9"]):
    crew.submit(works.row_of(n), works.bytes_of(deed))
print(*crew.statistics().pids, flush=True)
threading.Event().wait()
"""


@LINUX
def test_no_worker_outlives_a_killed_parent() -> None:
    """SIGKILL of the parent: the idle, the busy, those that hold the GIL and the stopped ones are gone at once."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        watched = [os.pidfd_open(pid) for pid in pids]
        parent.kill()
        left = set(watched)
        while left:
            ended = select.select(left, [], [], PATIENCE)[0]
            assert ended, "workers live on"
            left -= set(ended)
    assert len(pids) == 6
    for descriptor in watched:
        os.close(descriptor)


# Threads.


@pytest.fixture
def open_gate() -> Iterator[threading.Event]:
    """Works that wait for the gate are let go at the end, whatever happened."""
    works.gate.clear()
    yield works.gate
    works.gate.set()
    for thread in threading.enumerate():
        if thread.name == "penstock-worker":
            thread.join(PATIENCE)


def test_a_late_thread_is_replaced_and_its_result_dropped(open_gate: threading.Event) -> None:
    """Its row fails, the rows behind it are done, and what it returns in the end is delivered to nobody."""
    with collecting(ThreadCrew(works.wait_for_gate, 1, BRIEF)) as collector:
        results = collector.work_off(jobs_of("hang", "", "hang", ""))
        late = [thread for thread in threading.enumerate() if thread.name == "penstock-worker"]
        open_gate.set()
        for thread in late[:2]:
            thread.join(PATIENCE)
        assert collector.events.empty()
        assert collector.crew.statistics().timeouts == 2
    assert [is_sample(results[index]) for index in range(4)] == [False, True, False, True]
    assert outcome(results[0])[0] is Reason.DECODE_TIMEOUT


def test_close_does_not_wait_for_abandoned_threads(open_gate: threading.Event) -> None:
    """The one that hangs is left behind; it ends when its work does."""
    with collecting(ThreadCrew(works.wait_for_gate, 2, BRIEF)) as collector:
        assert outcome(collector.work_off(jobs_of("hang"))[0])[0] is Reason.DECODE_TIMEOUT
    hanging = [thread for thread in threading.enumerate() if thread.name == "penstock-worker"]
    assert len(hanging) == 1
    assert not open_gate.is_set()


# The clock.


def test_time_spent_stopped_does_not_count() -> None:
    """A wait that overran by far means that the process was stopped, and its workers with it."""
    clock = AwakeClock()
    before = clock()
    clock.waited(1000.0, planned=0.5)
    assert clock() < before - 900


def test_an_ordinary_delay_counts() -> None:
    """A machine that is merely busy does not stop the clock."""
    clock = AwakeClock()
    before = clock()
    clock.waited(0.9, planned=0.5)
    assert clock() >= before


def test_penstock_s_own_work_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff has a line for each damaged file, on standard error: a worker keeps it from the user's terminal."""
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(picture, "TIFF", compression="tiff_lzw")
    damaged = bytearray(picture.getvalue())
    damaged[200:1200] = bytes(1000)
    fetched = (Fetched("image", bytes(damaged), 200, 1, 0.0),)
    with collecting(ProcessCrew(ImageWork(ImageConfig(), as_array=False), 1, 60.0)) as collector:
        (result,) = collector.work_off({0: (row_of(0), fetched)}).values()
    assert isinstance(result.value, Failure)
    assert result.value.reason is Reason.IMAGE_CORRUPT
    assert capfd.readouterr() == ("", "")
