"""However a stream ends, nothing of it stays: no thread, no process, no descriptor, and soon."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from processes import children_of, command_of, tree_of

from flow.stream_fakes import HOSTS, assert_right, numbers_of, offline_stream, urls_of
from penstock.errors import PenstockError
from penstock.streaming import pump as pump_module
from penstock.streaming.feeding import Inlet, Item
from penstock.streaming.stream import Stream
from penstock.testing.server import ImageServer

SOON = 10.0
"""Seconds: the 2 that are promised, on a machine that is busy with other things."""

PATIENCE = 60.0
"""Seconds after which something counts as hung."""


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """Where the stream stands."""
    return str(request.param)


def until(condition: Callable[[], object]) -> None:
    """Wait for it, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "hung"
        time.sleep(0.002)  # polls a condition


def gone(processes: set[int]) -> bool:
    """Whether none of them is there any more, but perhaps as a zombie that nobody has waited for."""
    return not any(map(alive, processes))


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def our_processes() -> set[int]:
    """Those of streams that this process has started, with their workers."""
    return {
        pid
        for pid in tree_of(os.getpid())
        if "penstock.streaming" in (line := command_of(pid)) or "penstock.crew" in line
    }


def our_threads() -> list[str]:
    """Names of those of streams in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock")]


class Watch:
    """Begun before a stream is ended, it checks that all that belongs to it goes, and soon."""

    def __init__(self, processes: set[int] | None = None) -> None:
        self._processes = our_processes() if processes is None else processes
        self._begun = time.monotonic()

    def check(self) -> None:
        """Wait for the end of everything."""
        until(lambda: gone(self._processes) and not our_threads())
        assert time.monotonic() - self._begun < SOON


# In this process.


def test_breaking_out_of_the_loop(host: str) -> None:
    """The block ends the stream; what was handed out stays."""
    with offline_stream(urls_of(200), host, epochs=None) as stream:
        for batch in stream:
            if batch.epoch == 1:
                break
        watch = Watch()
    watch.check()
    assert_right(batch.keys, batch.images)


def test_an_exception_in_the_loop(host: str) -> None:
    """It comes through."""

    def train() -> None:
        with offline_stream(urls_of(200), host, epochs=None) as stream:
            for _ in stream:
                watches.append(Watch())
                raise ZeroDivisionError

    watches: list[Watch] = []
    with pytest.raises(ZeroDivisionError):
        train()
    watches[0].check()


def test_a_stream_that_nobody_holds(host: str) -> None:
    """Without a block: it ends with the last reference, and needs no garbage collection for it."""
    gc.disable()
    try:
        stream = offline_stream(urls_of(200), host, epochs=None)
        batch = next(stream)
        watch = Watch()
        del stream
        watch.check()
    finally:
        gc.enable()
    assert_right(batch.keys, batch.images)


def test_a_stream_in_a_cycle(host: str) -> None:
    """It ends with the garbage collection that finds it."""
    stream = offline_stream(urls_of(200), host, epochs=None)
    next(stream)
    cycle: list[object] = [stream]
    cycle.append(cycle)
    watch = Watch()
    del stream, cycle
    gc.collect()
    watch.check()


def in_a_cycle(stream: Stream) -> None:
    """So that only a garbage collection finds it."""
    stream.cycle = stream  # type: ignore[attr-defined]  # a user may do so


def test_a_garbage_collection_in_the_feeder_s_own_thread(host: str) -> None:
    """A generator may well cause one; the thread cannot wait for itself."""
    unheld, collected = threading.Event(), threading.Event()

    def rows() -> Iterator[str]:
        yield from urls_of(30)
        unheld.wait()
        gc.collect()
        collected.set()
        yield from urls_of(30)

    gc.disable()
    try:
        stream = offline_stream(rows(), host)
        next(stream)
        in_a_cycle(stream)
        watch = Watch()
        del stream
        unheld.set()
        assert collected.wait(PATIENCE)
        watch.check()
    finally:
        unheld.set()
        gc.enable()


@pytest.mark.parametrize("place", ["between rows", "between results"])
def test_a_garbage_collection_in_the_pump_s_own_thread(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It strikes wherever it likes."""
    unheld = threading.Event()
    take = Inlet.take

    def take_and_collect(inlet: Inlet) -> Item:
        if unheld.is_set() and place == "between rows":
            gc.collect()
        return take(inlet)

    def collect_and_measure(_: tuple[int, ...]) -> int:
        if unheld.is_set() and place == "between results":
            gc.collect()
        return 0

    monkeypatch.setattr(Inlet, "take", take_and_collect)
    monkeypatch.setattr(pump_module, "resident_bytes", collect_and_measure)
    monkeypatch.setattr(pump_module, "TICK", 0.0)
    gc.disable()
    try:
        stream = offline_stream(urls_of(2000), "thread", epochs=None, prefetch=1000)
        next(stream)
        in_a_cycle(stream)
        watch = Watch()
        del stream
        unheld.set()
        watch.check()
    finally:
        gc.enable()


def test_closing_twice(host: str) -> None:
    """The second time does nothing; there is no next batch, and the message tells what to do."""
    stream = offline_stream(urls_of(200), host)
    batch = next(stream)
    stream.close()
    stream.close()
    assert_right(batch.keys, batch.images)
    for again in (lambda: next(stream), lambda: iter(stream)):
        with pytest.raises(PenstockError, match=r"the stream is closed; call penstock\.stream again"):
            again()
    assert not stream.report.finished
    assert stream.report.written == 8


def test_closing_before_the_start() -> None:
    """Nothing was started; nothing is started any more."""
    stream = offline_stream(urls_of(200))
    assert not our_processes()
    stream.close()
    with pytest.raises(PenstockError, match="closed"):
        next(stream)


def test_closing_right_after_the_start(host: str) -> None:
    """Before anybody is ready."""
    stream = offline_stream(urls_of(200), host)
    iter(stream)
    watch = Watch()
    stream.close()
    watch.check()


def test_closing_while_the_next_batch_is_made(host: str) -> None:
    """Rows hang, one that has come waits for its place in the order, and a batch waits to be taken."""
    urls = urls_of(100)
    urls[30] = "hold 30"
    with offline_stream(urls, host, ordered=True) as stream:
        next(stream)
        watch = Watch()
    watch.check()


def test_the_end(host: str) -> None:
    """Everything is gone with the last batch, though nobody has closed anything; it is not gone through again."""
    stream = offline_stream(urls_of(20), host)
    assert len(numbers_of(stream)) == 20
    Watch().check()
    assert next(stream, None) is None
    with pytest.raises(PenstockError, match=r"come to its end; give epochs=N, or call penstock\.stream again"):
        iter(stream)
    assert stream.report.finished
    stream.close()


# In a process of its own.

SCRIPT = """
import gc, signal, sys, time
import penstock

def same(image, row):
    return image

def main():
    where, moment, *urls = sys.argv[1:]
    options = {"strategy": "auto" if where == "processes" else "threads", "size": 32, "batch_size": 8, "workers": 2}
    if where == "thread":
        options["transform_image"] = lambda image, row: image
    if moment == "in next":
        options["timeout"] = options["connect_timeout"] = 1000
    stream = penstock.stream(urls, epochs=None, per_host=16, allow_network=("127.0.0.0/8",), **options)
    batch = next(stream)
    print("ready", flush=True)
    if moment == "in next":
        with stream:
            for batch in stream:
                pass
    elif moment == "between":
        with stream:
            for batch in stream:
                while True:
                    time.sleep(0.01)  # one of 1000 would not see a signal that comes just before it
    return stream, batch

kept = main()
"""


@contextmanager
def program(server: ImageServer, where: str, moment: str) -> Iterator[tuple[subprocess.Popen[str], set[int]]]:
    """It has had a first batch; with all its processes."""
    urls = server.image_urls(24)
    if moment == "in next":  # the first batch comes, and no second one: the others never get a connection
        urls = [*urls[:8], *(f"{server.blackhole_url}/{index}" for index in range(8))]
    command = [sys.executable, "-c", SCRIPT, where, moment, *urls]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield process, {*tree_of(process.pid)}
    finally:
        process.kill()
        process.communicate()


def sleeps(pid: int) -> bool:
    """Whether its main thread waits for something."""
    return Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.slow
@pytest.mark.parametrize("where", HOSTS)
@pytest.mark.parametrize("moment", ["in next", "between"])
def test_ctrl_c(image_server: ImageServer, where: str, moment: str) -> None:
    """To the whole group, as a terminal sends it: the loop is left by KeyboardInterrupt, and nothing else is said."""
    with program(image_server, where, moment) as (process, tree):
        until(lambda: sleeps(process.pid) or process.poll() is not None)
        assert process.returncode is None, process.communicate()[1]
        watch = Watch(tree)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == -signal.SIGINT
        watch.check()
    assert errors.strip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", HOSTS)
def test_the_exit_of_the_interpreter(image_server: ImageServer, where: str) -> None:
    """With a stream open that nobody has closed."""
    with program(image_server, where, "at once") as (process, tree):
        watch = Watch(tree)
        errors = process.communicate(timeout=PATIENCE)[1]
        assert (process.returncode, errors) == (0, "")
        watch.check()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["processes", "threads"])
@pytest.mark.parametrize("moment", ["in next", "between"])
def test_the_death_of_the_training_process(image_server: ImageServer, where: str, moment: str) -> None:
    """Killed, it cannot end anything: its child and the child's workers notice."""
    with program(image_server, where, moment) as (process, tree):
        assert len(tree) >= (4 if where == "processes" else 2)
        watch = Watch(tree)
        process.kill()
        process.wait()
        watch.check()


@pytest.mark.slow
def test_an_orphan_s_end_does_not_depend_on_its_connection(image_server: ImageServer) -> None:
    """A process that the training process has forked may have the other end of it, too."""
    forking = SCRIPT.replace('print("ready"', "import os; os.fork() or time.sleep(1000); print('ready'")
    urls = image_server.image_urls(24)
    command = [sys.executable, "-c", forking, "processes", "between", *urls]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        children = {pid for child in children_of(process.pid) for pid in tree_of(child)}
        (forked,) = (pid for pid in children_of(process.pid) if "penstock.streaming" not in command_of(pid))
        process.kill()
        process.wait()
        until(lambda: gone(children - {forked}))
        assert alive(forked)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
