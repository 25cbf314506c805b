"""`torch.utils.data.DataLoader` over a list of URLs: as it is usually written, and with threads inside ``__getitems__``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import urllib3
from torch.utils.data import DataLoader

from loaders.job import BATCH, TIMEOUT, Job, Pixels, decoded
from penstock.errors import ItemError

THREADS = BATCH
"""In each worker of the threaded one: all pictures of a batch at once."""


class Pictures:
    """A map-style dataset, a picture at a time; a row that fails is None. A worker keeps its connections alive."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    def __len__(self) -> int:
        return len(self.urls)

    def __getitem__(self, index: int) -> Pixels | None:
        try:
            answer = self.connections.request("GET", self.urls[index])
            return decoded(answer.data) if answer.status == 200 else None
        except (urllib3.exceptions.HTTPError, ItemError):
            return None

    @functools.cached_property
    def connections(self) -> urllib3.PoolManager:
        """Made in the worker that uses it, not in the parent that forks."""
        return urllib3.PoolManager(maxsize=THREADS, timeout=TIMEOUT, retries=2)


class PicturesByThreads(Pictures):
    """A batch at a time, its pictures by as many threads."""

    def __getitems__(self, indices: list[int]) -> list[Pixels | None]:
        return list(self.threads.map(self.__getitem__, indices))

    @functools.cached_property
    def threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS)


def stacked(pictures: Sequence[Pixels | None]) -> torch.Tensor:
    """A batch without the rows that failed; a tensor goes to the parent through shared memory."""
    return torch.from_numpy(np.stack([picture for picture in pictures if picture is not None]))


@contextmanager
def naive(job: Job) -> Iterator[Iterator[Pixels]]:
    """A worker fetches and decodes its batch picture by picture."""
    yield batches(Pictures(job.urls), job.workers)


@contextmanager
def threaded(job: Job) -> Iterator[Iterator[Pixels]]:
    """A worker fetches the pictures of its batch all at once."""
    yield batches(PicturesByThreads(job.urls), job.workers)


def batches(pictures: Pictures, workers: int) -> Iterator[Pixels]:
    dataset: Any = pictures  # DataLoader asks for its methods only, whatever its annotation says
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=stacked)
    return (batch.numpy() for batch in loader)
