"""One suite for all the places where a stream may stand: a process of its own with worker processes or threads, a thread."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import mmap
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.stream_fakes import (
    HOSTS,
    SIZE,
    assert_right,
    inverted,
    numbers_of,
    offline_stream,
    only_bytes,
    pixels_of,
    ragged,
    raising,
    several,
    turned,
    urls_of,
)
from penstock.errors import ConfigError, NoImagesError, PenstockError, SourceError, WorkerError
from penstock.image.work import Steps
from penstock.records import Reason, Request, Row
from penstock.streaming import hosts as hosts_module
from penstock.streaming.batch import Batch
from penstock.streaming.feeding import Feed
from penstock.streaming.hosts import CHUNK, CHUNK_INTERVAL, ChildHost, _RemoteFeeder
from penstock.streaming.messages import EpochFed
from penstock.streaming.order import Order
from penstock.streaming.stream import Stream, _Receiver
from penstock.testing.leaks import no_leaks

CHILDREN = ("processes", "threads")
REGION = -(-8 * SIZE * SIZE * 3 // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
"""Bytes of the memory of a batch of 8."""


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """Where the stream stands."""
    return str(request.param)


@pytest.fixture(params=["processes", "thread"])
def place(request: pytest.FixtureRequest) -> str:
    """As `host`, the two that differ the most: for what hardly depends on it."""
    return str(request.param)


@pytest.fixture(params=CHILDREN)
def child(request: pytest.FixtureRequest) -> str:
    """As `host`, without the thread."""
    return str(request.param)


def process_of(stream: Stream) -> int:
    """Id of the process that the stream has of its own."""
    assert stream._receiver is not None
    host = stream._receiver.host
    assert isinstance(host, ChildHost)
    assert host._process is not None
    return host._process.pid


def arena_size(stream: Stream) -> int:
    """Bytes of its batches' memory."""
    assert stream._receiver is not None
    return os.fstat(stream._receiver.host.descriptor).st_size


# What comes.


@pytest.mark.parametrize("ordered", [False, True])
def test_every_image_is_right_though_all_batches_are_held(host: str, ordered: bool) -> None:
    """None is overwritten as long as somebody holds it, be it by a view; and not after the stream's end, either."""
    urls = urls_of(150, lost=range(3, 150, 7), torn=range(5, 150, 11))
    with offline_stream(urls, host, ordered=ordered, epochs=2) as stream:
        batches = [(batch.epoch, batch.keys, batch.images[:]) for batch in stream]
        report = stream.report
    for _, keys, images in batches:
        assert_right(keys, images)
    bad = {*range(3, 150, 7), *range(5, 150, 11)}
    good = [index for index in range(150) if index not in bad]
    for epoch in range(2):
        of_epoch = [keys for number, keys, _ in batches if number == epoch]
        assert [len(keys) for keys in of_epoch[:-1]] == [8] * (len(good) // 8)
        delivered = [int(key) for keys in of_epoch for key in keys]
        assert (delivered if ordered else sorted(delivered)) == good
    assert (report.rows, report.written, report.failed) == (300, 2 * len(good), 2 * len(bad))
    assert report.finished


def test_memory_is_used_again_when_nobody_holds_it(host: str) -> None:
    """A loop that keeps every tenth batch needs these, those under way, and no more."""
    kept = []
    with offline_stream(urls_of(800), host, prefetch=2) as stream:
        for number, batch in enumerate(stream):
            assert_right(batch.keys, batch.images)
            if number % 10 == 0:
                kept.append((batch.keys, batch.images[::2]))
            size = arena_size(stream)
            del batch
    assert len(kept) == 10
    # Of 100 batches: those that are kept; a worker's rows at 64 at most; those that wait, are in the hand, and between.
    assert size <= (10 + 64 // 8 + 1 + 2 + 4) * REGION
    for keys, images in kept:
        assert_right(keys[::2], images)


def test_an_array_may_be_changed(place: str) -> None:
    """In place, as training loops do; the next batch in the same memory is right all the same."""
    with offline_stream(urls_of(80), place) as stream:
        for batch in stream:
            assert_right(batch.keys, batch.images)
            batch.images[:] = 77


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    ordered=st.booleans(),
    drop_last=st.booleans(),
    shuffle=st.sampled_from([0, 10]),
    epochs=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=25)
def test_whatever_fails_the_account_closes_and_the_pixels_are_right(
    seed: int, count: int, batch_size: int, ordered: bool, drop_last: bool, shuffle: int, epochs: int, share: float
) -> None:
    """At any time, as the report tells it; and each row of each epoch has ended once."""
    chance = random.Random(seed)
    bad = {index for index in range(1, count) if chance.random() < share}
    torn = {index for index in bad if chance.random() < 0.5}
    options: dict[str, Any] = {"ordered": ordered, "drop_last": drop_last, "shuffle": shuffle, "epochs": epochs}
    held, ended = [], []
    with offline_stream(urls_of(count, lost=bad, torn=torn), chance=seed, batch_size=batch_size, **options) as stream:
        for batch in stream:
            if chance.random() < 0.5:
                held.append(batch)
            assert_right(batch.keys, batch.images)
            ended += [(batch.epoch, int(key)) for key in batch.keys]
            ended += [(outcome.row.epoch, outcome.row.index) for outcome in batch.outcomes]  # type: ignore[attr-defined]  # StreamRow
            report = stream.report
            assert report.rows == report.written + report.failed + report.skipped == len(ended)
        report = stream.report
    for batch in held:
        assert_right(batch.keys, batch.images)
    assert report.rows == epochs * count
    assert report.failed == epochs * len(bad)
    assert report.skipped == (epochs * ((count - len(bad)) % batch_size) if drop_last else 0)
    assert report.reasons.get("policy.drop_last", 0) == report.skipped
    assert len(set(ended)) == len(ended)


def test_order_is_that_of_the_shuffle(place: str) -> None:
    """Seeded: the same for everybody who asks for order, and another one each epoch."""

    def numbers(seed: int, chance: int, where: str) -> list[int]:
        options: dict[str, Any] = {"ordered": True, "shuffle": 50, "epochs": 2, "seed": seed}
        with offline_stream(urls_of(100), where, chance=chance, **options) as stream:
            return numbers_of(stream)

    there = numbers(1, 0, place)
    assert there == numbers(1, 5, "thread")
    assert there != numbers(2, 0, "thread")
    assert sorted(there[:100]) == sorted(there[100:]) == list(range(100))
    assert there[:100] != there[100:]


def test_a_row_that_hangs_holds_up_a_bounded_number(tmp_path: Path) -> None:
    """Where order is kept, no more rows are asked for than may wait for it."""
    log = tmp_path / "log"
    urls = urls_of(500)
    urls[20] = "hold 20"
    with offline_stream(urls, ordered=True, window=40, log=log) as stream:
        assert numbers_of([next(stream), next(stream)]) == list(range(16))
        until(lambda: log.read_text().count("\n") == 20 + 40)
    assert log.read_text().count("\n") == 20 + 40


def until(condition: Any) -> None:
    """Wait for it; the time-out of the test is the bound."""
    while not condition():
        threading.Event().wait(0.002)  # polls a condition


def test_columns_come_along(place: str) -> None:
    """Kept columns as lists, by row; captions; and None for captions that nobody asked for."""
    rows = [{"url": f"picture {index}", "text": f"no. {index}", "label": index % 3} for index in range(20)]
    with offline_stream(rows, place, caption_column="text", keep_columns=("label",)) as stream:
        for batch in stream:
            assert batch.captions == [f"no. {int(key)}" for key in batch.keys]
            assert batch.fields == {"label": [int(key) % 3 for key in batch.keys]}
    with offline_stream(urls_of(3)) as stream:
        (batch,) = stream
        assert batch.captions is None
        assert batch.fields == {}


def test_what_a_transform_returns_is_stacked(host: str) -> None:
    """Arrays of any dtype and shape; bytes are a list."""
    with offline_stream(urls_of(20), host, steps=Steps(transform=several)) as stream:
        batches = list(stream)
    assert sorted(numbers_of(batches)) == list(range(20))
    for batch in batches:
        numbers = numbers_of([batch])
        assert list(batch.parts["label"]) == numbers
        assert isinstance(batch.parts["label"], np.ndarray)
        assert batch.parts["label"].dtype == np.int32
        assert batch.images is batch.parts["wave"]
        assert batch.images.shape == (len(batch), 2, 3)
        assert (batch.images == np.array(numbers)[:, None, None] + 0.5).all()
        assert batch.parts["name"] == [b"%d" % number for number in numbers]
        assert batch.parts["head"] == [b"\x89PNG"] * len(batch)
        assert batch.parts["mask"][:, 0].tolist() == [number % 2 == 0 for number in numbers]  # type: ignore[call-overload]  # an array


def test_pixels_go_through_a_transform(host: str) -> None:
    """And come as the images."""
    with offline_stream(urls_of(20), host, steps=Steps(transform_image=inverted)) as stream:
        for batch in stream:
            assert_right(batch.keys, 255 - batch.images)


def test_rows_of_bytes_alone_have_no_images(place: str) -> None:
    """There is nothing to stack, and no memory is needed."""
    with offline_stream(urls_of(10), place, steps=Steps(transform=only_bytes)) as stream:
        for batch in stream:
            assert batch.parts == {"number": [b"%d" % number for number in numbers_of([batch])]}
            with pytest.raises(AttributeError, match="their parts are number"):
                _ = batch.images


def test_what_a_transform_raises_is_told_once(place: str) -> None:
    """Each row has its reason; the report has one traceback."""
    with offline_stream(urls_of(30), place, steps=Steps(transform_image=raising)) as stream:
        assert len(numbers_of(stream)) == 20
        report = stream.report
    assert report.reasons == {"transform.error": 10}
    (trace,) = report.tracebacks.values()
    assert "in raising" in trace
    assert "KeyError" in trace


# Sources.


def test_what_can_be_made_of_a_silent_source_comes_out(host: str) -> None:
    """A generator of 20 rows that then waits has given two batches of eight before it goes on."""
    silence = threading.Event()

    def rows() -> Iterator[str]:
        yield from urls_of(20)
        silence.wait()
        yield from urls_of(30)[20:]

    try:
        with offline_stream(rows(), host) as stream:
            first = [next(stream), next(stream)]
            assert not silence.is_set()
            silence.set()
            rest = list(stream)
    finally:
        silence.set()
    assert [len(batch) for batch in [*first, *rest]] == [8, 8, 8, 6]
    assert sorted(numbers_of([*first, *rest])) == list(range(30))


def test_what_a_generator_raises_is_named(place: str) -> None:
    """It is the loop's to know."""

    def rows() -> Iterator[str]:
        yield from urls_of(20)
        raise LookupError("no more shards")

    with offline_stream(rows(), place) as stream, pytest.raises(SourceError, match="LookupError: no more shards"):
        list(stream)


def test_a_list_that_is_damaged_further_down_is_an_error(place: str, tmp_path: Path) -> None:
    """With the file and the line."""
    lines = [f'{{"url": "{url}"}}' for url in urls_of(100)]
    lines[60] = '{"url": '
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    with (
        offline_stream(str(tmp_path / "list.jsonl"), place) as stream,
        pytest.raises(SourceError, match=r"list\.jsonl"),
    ):
        list(stream)


def test_what_can_be_read_once_is_not_gone_through_twice() -> None:
    """Nor are its rows counted."""
    for options in ({"epochs": 2}, {"epochs": None}, {"even": True}):
        with pytest.raises(ConfigError, match=r"the generator can be read only once, and .*; pass a file or a list"):
            offline_stream((url for url in urls_of(3)), **options)


def test_a_list_may_be_shorter_than_a_batch(host: str) -> None:
    """One batch an epoch, never of two."""
    with offline_stream(urls_of(3), host, epochs=20, batch_size=64) as stream:
        batches = list(stream)
    assert [batch.epoch for batch in batches] == list(range(20))
    assert all(sorted(numbers_of([batch])) == [0, 1, 2] for batch in batches)
    for batch in batches:
        assert_right(batch.keys, batch.images)


def test_without_end_it_goes_on_until_the_loop_is_left(place: str) -> None:
    """As many epochs as somebody asks for."""
    with offline_stream(urls_of(10), place, epochs=None) as stream:
        for batch in stream:
            if batch.epoch == 10:
                break
    assert not stream.report.finished


def test_a_generator_that_wants_to_exit_ends_the_stream(place: str) -> None:
    """SystemExit in its thread is an error of the list, and not silence."""

    def rows() -> Iterator[str]:
        yield from urls_of(20)
        sys.exit("enough")

    with offline_stream(rows(), place) as stream, pytest.raises(SourceError, match="SystemExit: enough"):
        list(stream)


def test_after_an_interrupt_the_loop_goes_on(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever inside `next` it comes: what was not received comes again, and nothing else."""
    whole = _Receiver.batch_of
    interrupted: list[int] = []

    def batch_of(receiver: _Receiver, *arguments: Any, **options: Any) -> Batch:
        if not interrupted:
            interrupted.append(1)
            raise KeyboardInterrupt
        interrupted.clear()
        return whole(receiver, *arguments, **options)

    monkeypatch.setattr(_Receiver, "batch_of", batch_of)
    batches: list[Batch] = []
    with offline_stream(urls_of(24), place) as stream:
        while len(batches) < 3:
            with contextlib.suppress(KeyboardInterrupt):
                batches.append(next(stream))
    assert sorted(numbers_of(batches)) == list(range(24))


def test_a_row_of_a_slow_list_does_not_wait_for_others() -> None:
    """Though the rows of a fast one travel together: each is here before the next one is read."""
    arrived = threading.Semaphore(0)
    alone: list[bool] = []

    class Slow:
        def rows(self, start: int = 0) -> Iterator[Row]:
            for index in range(start, 3):
                threading.Event().wait(2 * CHUNK_INTERVAL)
                yield Row(index, (Request("image", "picture 0"),))
                alone.append(arrived.acquire(timeout=5))

    ours, theirs = Pipe()
    feeder = _RemoteFeeder(ours, Feed(Order(0, 0), epochs=1), Slow(), chunk=CHUNK)
    feeder.start()
    with contextlib.closing(feeder), theirs:
        for index in range(3):
            (row,) = theirs.recv()
            assert row.index == index
            arrived.release()
        assert isinstance(theirs.recv()[-1], EpochFed)
    assert alone == [True] * 3


# What is wrong with the rows.


@pytest.mark.parametrize("options", [{}, {"epochs": None}, {"epochs": None, "even": True, "ordered": True}])
def test_without_a_single_image_the_stream_ends(host: str, options: dict[str, Any]) -> None:
    """With the table of reasons, and not with an endless loop."""
    with (
        offline_stream(urls_of(20, lost=range(20)), host, **options) as stream,
        pytest.raises(NoImagesError, match=r"none of the .* rows gave an image:\n +\d+  http\.not_found: 404"),
    ):
        next(stream)
    if "even" not in options:
        assert stream.report.reasons == {"http.not_found": 20}


def test_a_part_that_fails_as_a_whole_does_not_go_round_for_ever() -> None:
    """Though other parts have images."""
    urls = urls_of(40, lost=range(0, 40, 2))
    with offline_stream(urls, split=(0, 2), even=True) as stream, pytest.raises(NoImagesError):
        next(stream)
    with offline_stream(urls, split=(1, 2), even=True) as stream:
        assert sorted(set(numbers_of(stream))) == list(range(1, 40, 2))


@pytest.mark.parametrize(("transform", "shapes"), [(ragged, [(3, 5), (3, 4)]), (turned, [(4, 3), (3, 4)])])
def test_arrays_that_do_not_fit_are_named(place: str, transform: Any, shapes: list[tuple[int, int]]) -> None:
    """The row that differs from those before it, and both shapes; also if they have the same number of bytes."""
    with (
        offline_stream(urls_of(20), place, ordered=True, steps=Steps(transform=transform)) as stream,
        pytest.raises(ConfigError) as caught,
    ):
        list(stream)
    message = str(caught.value)
    assert f"row 5 (picture 5) gave 'array' as float32 {shapes[0]}" in message
    assert f"row 0 has 'array' as float32 {shapes[1]}" in message


def test_rows_that_fell_out_are_told_with_the_next_batch(place: str) -> None:
    """Each once, with its reason; those behind the last batch of an epoch with the first one of the next."""
    with offline_stream(
        urls_of(39, lost=(3, 37, 38), torn=(20,)), place, epochs=2, ordered=True, batch_size=7
    ) as stream:
        told = [(outcome.row.index, outcome.reason) for batch in stream for outcome in batch.outcomes]
    lost, torn = Reason.HTTP_NOT_FOUND, Reason.IMAGE_TRUNCATED
    assert told[:6] == [(3, lost), (20, torn), (37, lost), (38, lost), (3, lost), (20, torn)]
    assert told[6:] in ([], [(37, lost)], [(37, lost), (38, lost)])  # behind the last batch of all


# No memory.


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """This process, and those that it starts, can make no file longer than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("slabs", [0, 2])
def test_without_shared_memory_the_pixels_are_right_all_the_same(
    host: str, slabs: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the first batch on or from the third one; a line in the log tells of it."""
    size = 64 * SIZE * SIZE * 3  # more than the values that travel between processes
    urls = urls_of(400, lost=range(0, 400, 9))
    with (
        caplog.at_level(logging.WARNING, "penstock"),
        files_of_at_most(slabs * size + size // 2),
        offline_stream(urls, host, batch_size=64) as stream,
    ):
        batches = list(stream)
    for batch in batches:
        assert_right(batch.keys, batch.images)
    assert len(numbers_of(batches)) == 400 - len(range(0, 400, 9))
    lines = [*caplog.messages, *capfd.readouterr().err.splitlines()]  # a child's go to standard error
    assert len([line for line in lines if "no shared memory for a batch" in line]) == 1


# Deaths.


def test_a_stream_whose_process_is_killed_goes_on(child: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each row comes once."""
    with offline_stream(urls_of(100, lost=(7, 50)), child, epochs=2) as stream:
        batches = []
        for batch in stream:
            batches.append(batch)
            if len(batches) in (3, 20):
                os.kill(process_of(stream), signal.SIGKILL)
        report = stream.report
    for epoch in range(2):
        of_epoch = [batch for batch in batches if batch.epoch == epoch]
        assert sorted(numbers_of(of_epoch)) == [index for index in range(100) if index not in (7, 50)]
    for batch in batches:
        assert_right(batch.keys, batch.images)
    assert (report.rows, report.written, report.failed) == (200, 196, 4)
    assert len([line for line in caplog.messages if "SIGKILL" in line and "another one goes on" in line]) == 2


def test_three_deaths_are_an_error() -> None:
    """It says how it died."""
    with offline_stream(urls_of(10), "threads", epochs=None) as stream:
        with pytest.raises(WorkerError, match="the stream's process has died: SIGKILL"):
            kill_again_and_again(stream)
        with pytest.raises(PenstockError, match="closed"):
            next(stream)


def kill_again_and_again(stream: Stream) -> None:
    for _ in stream:
        os.kill(process_of(stream), signal.SIGKILL)


def test_a_list_that_cannot_be_read_again_dies_with_its_process() -> None:
    """The message names it."""
    with offline_stream((url for url in urls_of(100)), "threads") as stream:
        next(stream)
        os.kill(process_of(stream), signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"SIGKILL.*; the generator can be read only once"):
            list(stream)


# What the system refuses.


def refuse(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, error: Exception, turn: int) -> None:
    """Have a function raise, at its call with that number, counted from 1."""
    real, calls = getattr(where, name), itertools.count(1)

    def refusing(*arguments: Any, **options: Any) -> Any:
        if next(calls) == turn:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, refusing)


FULL = OSError(errno.EMFILE, "Too many open files")
CROWDED = RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("host", "where", "name", "error", "turn"),
    [
        ("thread", os, "dup", FULL, 1),
        ("thread", threading.Thread, "start", CROWDED, 1),
        ("thread", hosts_module, "Pump", FULL, 1),
        ("threads", hosts_module, "Arena", FULL, 1),
        ("threads", socket, "socketpair", FULL, 1),
        ("threads", socket, "socketpair", FULL, 2),
        ("threads", subprocess, "Popen", FULL, 1),
        ("threads", threading.Thread, "start", CROWDED, 1),
    ],
)
def test_what_the_system_refuses_is_named_and_nothing_is_left(
    host: str, where: Any, name: str, error: Exception, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of descriptors, threads and processes; the stream is as before, and can be begun later on."""
    with offline_stream(urls_of(20), host) as stream:
        with monkeypatch.context() as context, no_leaks():
            refuse(context, where, name, error, turn)
            with pytest.raises(WorkerError, match=rf"^the stream's .* cannot be started: .*{error.args[-1]}$"):
                next(stream)
        assert len(numbers_of(stream)) == 20


def test_without_a_thread_for_the_list_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pump, which runs already, ends."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "penstock-feeder":
            raise CROWDED
        real(thread)

    with offline_stream(urls_of(20), "thread") as stream, monkeypatch.context() as context, no_leaks():
        context.setattr(threading.Thread, "start", start)
        with pytest.raises(WorkerError, match=r"^the stream's thread penstock-feeder cannot be started: can't start"):
            next(stream)


# Where it stands.


def test_a_forked_child_leaves_the_stream_alone(host: str) -> None:
    """Its copy of the stream and of the batches ends with it, even if it closes them."""
    with offline_stream(urls_of(100), host) as stream:
        batch = next(stream)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                del batch
                stream.close()
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(numbers_of([batch, *stream])) == 100


def test_pixels_do_not_depend_on_the_place() -> None:
    """The images are those of a stream with another size, too."""
    with offline_stream(urls_of(10), size=24, batch_size=10) as stream:
        (batch,) = stream
    assert_right(batch.keys, batch.images, size=24)
    assert pixels_of(0, 24).shape == (24, 24, 3)
