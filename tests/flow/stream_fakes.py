"""Streams without a network: the URL of a row says what becomes of it, and a test says where the stream stands."""

from __future__ import annotations

import dataclasses
import functools
import io
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import penstock
from flow.fakes import Shuffler
from penstock.config import ImageConfig
from penstock.fetch.base import FetchStatistics
from penstock.fetch.budget import ByteBudget
from penstock.image.work import NO_STEPS, ImageWork, Steps
from penstock.records import Failure, Fetched, Reason, Row, Sample
from penstock.streaming.batch import Batch
from penstock.streaming.planning import Plan, make_plan
from penstock.streaming.pump import Job
from penstock.streaming.state import State
from penstock.streaming.stream import Stream

HOSTS = ("processes", "threads", "thread")
"""The pump in a child process with worker processes or threads, and the pump in a thread of this process."""

SIZE = 16


@functools.cache
def picture(index: int) -> bytes:
    """A PNG with pixels of its own."""
    file = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@functools.cache
def pixels_of(index: int, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """What becomes of that picture, by the same work without a stream around it."""
    work = ImageWork(ImageConfig(size=size), as_array=True)
    sample = work(Row(index, ()), (Fetched("image", picture(index), 200, 1, 0.0),)).value
    assert isinstance(sample, Sample)
    array = sample.parts["image"]
    assert isinstance(array, np.ndarray)
    return array


def assert_right(keys: Iterable[str], images: npt.NDArray[Any], size: int = SIZE) -> None:
    """Each image is the one of its key."""
    for key, image in zip(keys, images, strict=True):
        assert np.array_equal(image, pixels_of(int(key), size)), key


def urls_of(count: int, *, lost: Iterable[int] = (), torn: Iterable[int] = ()) -> list[str]:
    """So many rows, of which some cannot be fetched and some not be decoded."""
    lost, torn = set(lost), set(torn)
    deeds = ("lost" if index in lost else "torn" if index in torn else "picture" for index in range(count))
    return [f"{deed} {index}" for index, deed in enumerate(deeds)]


class PictureFetcher:
    """``picture 7`` comes, ``torn 7`` comes damaged, ``lost 7`` does not, ``hold 7`` neither comes nor fails.

    In random order. With a log, the number of each row that is asked for is written there.
    """

    width = 16

    def __init__(self, seed: int, log: Path | None = None) -> None:
        self._seed = seed
        self._log = log

    def start(self, deliver: Callable[..., None], budget: ByteBudget, _on_broken: Callable[..., None], /) -> None:
        self._deliver, self._budget = deliver, budget
        self._shuffler: Shuffler[Row] = Shuffler(self._seed, self._finish)

    def submit(self, row: Row) -> None:
        deed, _, number = str(row.url).partition(" ")
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{number}\n")
        self._shuffler.put(row, hold=deed == "hold")

    def _finish(self, row: Row) -> None:
        deed, _, number = str(row.url).partition(" ")
        data = picture(int(number))
        if deed == "lost":
            self._budget.reserve(0)
            self._deliver(row, (Failure(Reason.HTTP_NOT_FOUND, "404", 404, 1),))
            return
        data = data[: len(data) // 2] if deed == "torn" else data
        self._budget.reserve(len(data))
        self._deliver(row, (Fetched("image", data, 200, 1, 0.01),))

    def statistics(self) -> FetchStatistics:
        return FetchStatistics()

    def close(self) -> None:
        self._shuffler.close()


@dataclass(frozen=True)
class OfflinePlan(Plan):
    """A plan whose bytes come out of a `PictureFetcher`."""

    chance: int = 0
    log: Path | None = None
    window: int | None = None

    def _job(self, state: State) -> Job:
        job = super()._job(state)
        window = job.window if self.window is None else self.window
        return dataclasses.replace(job, fetcher=partial(PictureFetcher, self.chance, self.log), window=window)


def offline_stream(
    source: Any,
    host: str = "thread",
    *,
    steps: Steps = NO_STEPS,
    split: tuple[int, int] = (0, 1),
    even: bool = False,
    chance: int = 0,
    log: Path | None = None,
    window: int | None = None,
    **options: Any,
) -> Stream:
    """As `penstock.stream`, small and without a network.

    Args:
        source: as there; for URLs see `PictureFetcher`.
        host: where it stands, one of `HOSTS`.
        steps: the user's functions.
        split: as there.
        even: as there.
        chance: seed of the order in which rows come.
        log: file that gets the number of each row that is asked for.
        window: rows that may wait where order is kept; None for as many as there would be.
        **options: as there.
    """
    strategy = "asyncio" if host == "processes" else "threads"
    options = {"size": SIZE, "batch_size": 8, "workers": 1, "strategy": strategy, **options}
    plan = make_plan(source, steps, split=split, even=even, config=None, options=options)
    fields = {spec.name: getattr(plan, spec.name) for spec in dataclasses.fields(plan)}
    fields["in_thread"] = host == "thread"
    return Stream(OfflinePlan(**fields, chance=chance, log=log, window=window))


def numbers_of(batches: Iterable[Batch]) -> list[int]:
    """The rows of the batches, in order."""
    return [int(key) for batch in batches for key in batch.keys]


# Transforms; in a module that worker processes can import.


def ragged(data: bytes, row: Row) -> dict[str, Any]:
    """Row 5 is larger than the others."""
    return {"array": np.zeros((3, 5 if row.index == 5 else 4), np.float32)}


def turned(data: bytes, row: Row) -> dict[str, Any]:
    """Row 5 has as many bytes as the others, and another shape."""
    return {"array": np.zeros((4, 3) if row.index == 5 else (3, 4), np.float32)}


def several(data: bytes, row: Row) -> dict[str, Any]:
    """Arrays of two dtypes, a number, and bytes between them."""
    return {
        "name": str(row.index).encode(),
        "wave": np.full((2, 3), row.index + 0.5, np.float64),
        "label": np.array(row.index, np.int32),
        "head": data[:4],
        "mask": np.array([row.index % 2 == 0]),
    }


def only_bytes(data: bytes, row: Row) -> dict[str, bytes]:
    """Nothing that could be stacked."""
    return {"number": str(row.index).encode()}


def inverted(image: npt.NDArray[np.uint8], row: Row) -> npt.NDArray[np.uint8]:
    """The negative."""
    return 255 - image


def raising(image: npt.NDArray[np.uint8], row: Row) -> npt.NDArray[np.uint8]:
    """Every third row is a bug."""
    if row.index % 3 == 0:
        raise KeyError(f"row {row.index}")
    return image


def send_keys(urls: list[str], connection: Connection) -> None:
    """For a process of its own: stream these URLs, and tell what came and by what."""
    with penstock.stream(urls, size=SIZE, batch_size=8, workers=1, allow_network=("127.0.0.0/8",)) as stream:
        numbers = numbers_of(stream)
        threads = sum(thread.name.startswith("penstock") for thread in threading.enumerate())
    connection.send((numbers, threads, stream.report.crew))
