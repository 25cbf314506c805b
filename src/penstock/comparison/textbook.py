"""The three schemes as textbooks print them, on `concurrent.futures`, so that Penstock can be compared with them.

    threads      pool of threads: download and decode everything ──▶ list ──▶ the same pool: preprocess everything
    processes    as above with a pool of processes: each image is pickled to the parent, and back to a worker
    hybrid       threads download and decode ──▶ Queue(100) ──▶ main thread ──pickled──▶ processes preprocess

Downloads are by `urllib.request`, as in the example of `concurrent.futures`' documentation. What each worker does is in
`penstock.comparison.textbook_steps`, and how it is measured in `penstock.comparison.textbook_meter`.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import queue
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

from penstock.comparison.results import Trial
from penstock.comparison.textbook_meter import Meter
from penstock.comparison.textbook_steps import Loaded, Timed, enter_worker, load, preprocess
from penstock.config import available_cores
from penstock.crew.script import script_of
from penstock.image.work import Transform
from penstock.records import Row

__all__ = ["TextbookTask", "run_textbook"]

QUEUE = 100
"""Images between the threads and the main thread: the textbook's figure."""

MOST_THREADS = 32
"""Of a `ThreadPoolExecutor` that is not told how many. `_filled_by_threads` relies on its being less than `QUEUE`."""


@dataclass(frozen=True, slots=True)
class TextbookTask:
    """What to measure. Picklable."""

    scheme: Literal["threads", "processes", "hybrid"]
    rows: tuple[Row, ...]
    """At least one, and all such as can be fetched: as in a textbook, the first exception ends it all."""
    size: int
    """Of the side of the results, in pixels."""
    workers: int
    """Processes."""
    transform: Transform | None
    """Takes the place of decode and resize."""
    proxy: str | None

    @property
    def threads(self) -> int:
        """What a `ThreadPoolExecutor` takes by itself."""
        return min(MOST_THREADS, available_cores() + 4)

    @property
    def load(self) -> Callable[[Row], Timed[Loaded]]:
        """The first step: download and decode."""
        return functools.partial(load, proxy=self.proxy, decoded=self.transform is None)

    @property
    def preprocess(self) -> Callable[[Loaded], Timed[Any]]:
        """The second step."""
        return functools.partial(preprocess, size=self.size, transform=self.transform)


def run_textbook(task: TextbookTask) -> Trial:
    """One run of a scheme over all the rows, measured.

    The trial's workers are the pool that preprocesses; in `hybrid`, whose threads decode, that is not where all the work is
    done. Its `busy` and `shares` are counted from the start of the first preprocessing; what comes before is a download,
    and in the timeline only the time until the first worker began anything is the start.

    Raises:
        MemoryError: the decoded images, all of which the textbook keeps, take more than half of what is free.
        RowError: a download, Pillow or the transform raises.

    *Cancellation*: whatever is raised, the pools are shut down before it leaves; downloads under way are waited for.
    """
    match task.scheme:
        case "threads":
            with Meter(len(task.rows), task.threads) as meter:
                _run_threads(task, meter)
            return meter.trial(fetch="threads", crew="threads")
        case "processes":
            with Meter(len(task.rows), task.workers) as meter:
                _run_processes(task, meter)
            return meter.trial(fetch="processes", crew="processes")
        case "hybrid":
            with Meter(len(task.rows), task.workers) as meter:
                _run_hybrid(task, meter)
            return meter.trial(fetch="threads", crew="processes")


def _run_threads(task: TextbookTask, meter: Meter) -> None:
    """Threads download and decode everything, then preprocess everything."""
    with _shut_down(ThreadPoolExecutor(task.threads)) as pool:
        _in_two_stages(pool, task, meter)


def _run_processes(task: TextbookTask, meter: Meter) -> None:
    """Processes download and decode everything, then preprocess everything."""
    with _process_pool(task) as pool:
        _in_two_stages(pool, task, meter)


def _in_two_stages(pool: Executor, task: TextbookTask, meter: Meter) -> None:
    submitted = time.perf_counter()
    images = []
    for future in as_completed([pool.submit(task.load, row) for row in task.rows]):
        meter.loaded(submitted, future.result())
        images.append(future.result().value)
    submitted = time.perf_counter()
    for result in pool.map(task.preprocess, images):
        meter.finished(submitted, result)


def _run_hybrid(task: TextbookTask, meter: Meter) -> None:
    """Threads download and decode, processes preprocess, and the main thread carries from one to the other.

    In the textbook this never ends: the main thread waits for the threads before it reads the queue, and they wait for
    room in it. Here it reads while they fill it, and takes results as they come.
    """
    waiting: deque[tuple[float, Loaded, Future[Timed[Any]]]] = deque()

    def take_result() -> None:
        submitted, image, future = waiting.popleft()
        meter.finished(submitted, future.result())
        meter.kept.remove(image)

    with _process_pool(task) as processes, _filled_by_threads(task, meter) as images:
        for image in images:
            waiting.append((time.perf_counter(), image, processes.submit(task.preprocess, image)))
            while waiting and waiting[0][-1].done():
                take_result()
        while waiting:
            take_result()


@contextlib.contextmanager
def _filled_by_threads(task: TextbookTask, meter: Meter) -> Iterator[Iterable[Loaded]]:
    """Images in the order of their arrival, through a bounded queue that threads fill."""
    pool = ThreadPoolExecutor(task.threads)
    images: queue.Queue[Loaded | Exception] = queue.Queue(QUEUE)

    def fill(row: Row) -> None:
        try:
            image = task.load(row).value
            meter.kept.add(image)
            images.put(image)
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            images.put(error)

    try:
        for row in task.rows:
            pool.submit(fill, row)
        yield (_or_raise(images.get()) for _ in task.rows)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while not images.empty():  # now there is room for all that the threads still hold
            images.get()
        pool.shutdown()


def _or_raise(image: Loaded | Exception) -> Loaded:
    if isinstance(image, Exception):
        raise image
    return image


@contextlib.contextmanager
def _shut_down(pool: Executor) -> Iterator[Executor]:
    """The pool, which drops what it has not begun if the block raises, and has ended when the block has."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _process_pool(task: TextbookTask) -> Iterator[Executor]:
    """Processes that know where the transform comes from, and do not outlive this one."""
    script = script_of(pickle.dumps(task.transform))
    pool = ProcessPoolExecutor(
        task.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=enter_worker,
        initargs=(os.getpid(), script),
    )
    with _script_hidden(), _shut_down(pool):
        yield pool


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep multiprocessing from running the user's script in its workers: it would begin the comparison again there.

    `enter_worker` runs it instead, as far as the transform needs it.
    """
    main = sys.modules["__main__"]
    stand_in = types.ModuleType("__main__")
    stand_in.__dict__.update(main.__dict__, __file__=None, __spec__=None)
    sys.modules["__main__"] = stand_in
    try:
        yield
    finally:
        sys.modules["__main__"] = main
