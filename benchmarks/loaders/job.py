"""What is the same for every loader: the list, the batch, and the decode and resize, which are Penstock's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from penstock.config import ImageConfig
from penstock.image.work import ImageWork
from penstock.records import Fetched, Request, Row, Sample

SIZE = 128
BATCH = 64
CONNECTIONS = 256
"""Requests in flight at most, for those loaders that have a number for it; all go to one host."""

TIMEOUT = 30
"""Seconds for one request; none of the benchmark takes one."""

Pixels = npt.NDArray[np.uint8]

WORK = ImageWork(ImageConfig(size=SIZE), as_array=True)
ROW = Row(0, (Request("image", None),))
"""Of every picture: the work on its bytes asks for nothing in it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a loader is asked for."""

    listing: Path
    """A URL a line."""
    corpus: Path
    """The pictures behind the URLs, as files; only the floor reads them."""
    workers: int
    """Decoders: threads or processes, as the loader has it."""

    @property
    def urls(self) -> list[str]:
        return self.listing.read_text(encoding="utf-8").split()


Loader = Callable[[Job], AbstractContextManager[Iterator[Pixels]]]
"""Opens the batches of a job, each (N, SIZE, SIZE, 3) uint8 RGB with N at most BATCH. Leaving the block stops everything."""


def decoded(data: bytes) -> Pixels:
    """(SIZE, SIZE, 3) uint8 RGB of a downloaded picture, or an `ItemError`."""
    result = WORK(ROW, (Fetched("image", data, 200, 1, 0.0),))
    assert isinstance(result.value, Sample)
    return cast("Pixels", result.value.parts["image"])
