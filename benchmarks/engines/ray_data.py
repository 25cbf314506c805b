"""Ray Data over a list of URLs: with its own `download`, and with threads that fetch, as it was done before."""

from __future__ import annotations

import functools
import io
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import urllib3
from PIL import Image
from ray.data.expressions import download

from engines.job import BATCH, SIZE, TIMEOUT, WARM_ROWS, Course, Figures, Job, Pixels, Run

BLOCK = 128
"""Rows of a block. By default it is what 128 MB hold: a thousand pictures that come all at once, a core each."""

THREADS = BATCH
"""That fetch, in each worker."""

Columns = dict[str, Any]


@contextmanager
def cluster(job: Job) -> Iterator[None]:
    """One of this machine's cores, for as long as the block lasts; it calls nobody."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=job.cores, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def downloading(job: Job) -> Iterator[Run]:
    """Its `download` expression, and a function that decodes."""
    with cluster(job):
        consume(downloaded(job.warm), WARM_ROWS)
        yield lambda: consume(downloaded(job.listing), job.rows)


@contextmanager
def threads(job: Job) -> Iterator[Run]:
    """A function that fetches and decodes a batch in threads."""
    with cluster(job):
        consume(fetched(job.warm), WARM_ROWS)
        yield lambda: consume(fetched(job.listing), job.rows)


def downloaded(listing: Path) -> ray.data.Dataset:
    return blocks(listing).with_column("data", download("url")).map_batches(decoded_batch, batch_size=BATCH)


def fetched(listing: Path) -> ray.data.Dataset:
    return blocks(listing).map_batches(fetched_batch, batch_size=BLOCK)


def blocks(listing: Path) -> ray.data.Dataset:
    return ray.data.read_parquet(str(listing)).repartition(target_num_rows_per_block=BLOCK)


def consume(dataset: ray.data.Dataset, rows: int) -> Figures:
    """Take the batches, as a training does."""
    course = Course(rows)
    for batch in dataset.iter_batches(batch_size=BATCH):
        assert batch["image"].shape[1:] == (SIZE, SIZE, 3)
        course.more(len(batch["image"]))
    return course.figures()


def decoded_batch(batch: Columns) -> Columns:
    return {"image": np.stack([decoded(data) for data in batch["data"]])}


def fetched_batch(batch: Columns) -> Columns:
    return {"image": np.stack(list(pool().map(fetch, batch["url"])))}


def fetch(url: str) -> Pixels:
    return decoded(connections().request("GET", url).data)


@functools.cache
def pool() -> ThreadPoolExecutor:
    """Of a worker process, which keeps it from task to task."""
    return ThreadPoolExecutor(THREADS)


@functools.cache
def connections() -> urllib3.PoolManager:
    """The same."""
    return urllib3.PoolManager(maxsize=THREADS, timeout=TIMEOUT, retries=2)


def decoded(data: bytes) -> Pixels:
    """(SIZE, SIZE, 3) uint8 RGB; a JPEG is decoded at the smallest scale that suffices."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (SIZE, SIZE))
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE)))
