"""SPDL's pipeline with aiohttp, in the three forms that its guide to execution models names: MT, MTP and MP.

The stages are the guide's: download by picture, aggregate, decode by batch. To decode by picture and to stack afterwards gives
the first batch sooner, and all of them a quarter slower: each picture goes through the event loop twice more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import aiohttp
import numpy as np
from spdl.pipeline import PipelineBuilder, SharedMemorySegmentPool, run_pipeline_in_subprocess
from spdl.pipeline.defs import MAIN_PROCESS, ProcessPoolExecutorConfig

from loaders.job import BATCH, CONNECTIONS, SIZE, TIMEOUT, Job, Pixels, decoded
from penstock.errors import ItemError

SINK = 4
"""Batches that may wait for the consumer."""

SEGMENTS = 2 * SINK
"""Batches in shared memory: those that wait, those on their way, and the one in the consumer's hands."""

SEGMENT_BYTES = BATCH * SIZE * SIZE * 3 + 2**16
"""A batch, and room for what the pool adds to it."""


class Download:
    """The bytes of a URL, over one session. What fails raises: SPDL drops the row, with a line in its log."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> bytes:
        if self.session is None:  # a session belongs to the loop that it is made in
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self.connections),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                raise_for_status=True,
            )
        async with self.session.get(url) as answer:
            return await answer.read()


def decoded_batch(files: list[bytes]) -> Pixels:
    """The pictures of a batch, each into its place, without those that cannot be decoded."""
    pixels = np.empty((len(files), SIZE, SIZE, 3), np.uint8)
    count = 0
    for data in files:
        try:
            pixels[count] = decoded(data)
        except ItemError:
            continue
        count += 1
    return pixels[:count]


def stages(job: Job) -> Any:
    """A builder. One loop downloads, and as many threads decode as there are to be decoders."""
    builder: Any = PipelineBuilder()  # what it has for types does not go through its chain of calls
    return (
        builder.add_source(job.urls)
        .pipe(Download(CONNECTIONS), concurrency=CONNECTIONS)
        .aggregate(BATCH)
        .pipe(decoded_batch, concurrency=job.workers, executor=ThreadPoolExecutor(job.workers))
        .add_sink(SINK)
    )


@contextmanager
def threads(job: Job) -> Iterator[Iterator[Pixels]]:
    """MT: all of it in the process that trains."""
    pipeline = stages(job).build(num_threads=job.workers, use_thread_output_queue=True)
    with pipeline.auto_stop():
        yield iter(pipeline)


@contextmanager
def subprocess(job: Job) -> Iterator[Iterator[Pixels]]:
    """MTP: the same in a subprocess; only batches come back, through shared memory."""
    source = in_subprocess(stages(job), job.workers)
    yield iter(source)


@contextmanager
def processes(job: Job) -> Iterator[Iterator[Pixels]]:
    """MP: each worker process downloads and decodes its own batches; a process between hands out the URLs."""
    each = CONNECTIONS // job.workers
    builder: Any = PipelineBuilder()
    builder = (
        builder.add_source(job.urls)
        .to(ProcessPoolExecutorConfig(max_workers=job.workers), buffer_size=8)
        .pipe(Download(each), concurrency=each)
        .aggregate(BATCH)
        .pipe(decoded_batch)
        .to(MAIN_PROCESS)
        .add_sink(SINK)
    )
    source = in_subprocess(builder, job.workers)
    yield iter(source)


def in_subprocess(builder: Any, threads: int) -> Iterable[Pixels]:
    """To be kept as long as its iterator: its end stops the processes."""
    arena = SharedMemorySegmentPool(SEGMENT_BYTES, SEGMENTS)
    source: Iterable[Pixels] = run_pipeline_in_subprocess(
        builder.get_config(), num_threads=threads, use_thread_output_queue=True, buffer_size=SINK, arena=arena
    )
    return source
