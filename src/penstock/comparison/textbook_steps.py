"""What a worker of the textbook's schemes does with one row; all that its processes import.

    Row ──load──▶ Loaded ──preprocess──▶ array (or what the transform returns)

Both steps return what they made and when they were at it, since nobody outside can tell a worker that computes from one
that waits.
"""

from __future__ import annotations

import contextlib
import os
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.error import HTTPError

import numpy as np
import numpy.typing as npt
from PIL import Image

from penstock.crew.lifetime import die_with_parent
from penstock.crew.script import Script, run_script
from penstock.errors import PenstockError
from penstock.fetch.policy.answers import HEADERS
from penstock.fetch.policy.urls import check_url
from penstock.records import Row

if TYPE_CHECKING:  # it brings half of Penstock along, which no textbook has to load
    from penstock.image.work import Transform

__all__ = ["Loaded", "RowError", "Span", "Timed", "enter_worker", "load", "preprocess"]

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds that a server may be silent; Penstock's default for a whole attempt."""

Span = tuple[float, float]
"""Start and stop, by `time.perf_counter`, which all processes of a machine share."""


class RowError(PenstockError):
    """One row that ended a scheme; the message has its URL and what was wrong.

    It stands for any exception, since not all of them can be pickled: an HTTPError holds its connection.
    """


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """What a step made, and when."""

    value: T
    computing: Span
    """Inside decode, preprocess or the transform."""
    downloading: Span | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row on its way from the first step to the second."""

    row: Row
    pixels: npt.NDArray[np.uint8] | bytes
    """``(H, W, 3)``, RGB; the bytes as they came where a transform decodes."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return len(self.pixels) if isinstance(self.pixels, bytes) else self.pixels.nbytes


def load(row: Row, *, proxy: str | None, decoded: bool) -> Timed[Loaded]:
    """Download, and decode if so asked.

    Raises:
        RowError: the answer does not come, or it is no image.
    """
    with _blamed_on(row):
        started = time.perf_counter()
        data = _download(row.url, proxy)
        arrived = time.perf_counter()
        pixels = np.asarray(Image.open(BytesIO(data)).convert("RGB")) if decoded else data
        return Timed(Loaded(row, pixels), (arrived, time.perf_counter()), (started, arrived))


def preprocess(loaded: Loaded, *, size: int, transform: Transform | None) -> Timed[Any]:
    """Resize and normalise to ``(size, size, 3)`` float32 in [0, 1]; or what the transform makes of it.

    Raises:
        RowError: the transform raises.
    """
    with _blamed_on(loaded.row):
        started = time.perf_counter()
        if isinstance(loaded.pixels, bytes):
            assert transform is not None
            result: Any = transform(loaded.pixels, loaded.row)
        else:
            small = Image.fromarray(loaded.pixels).resize((size, size))
            result = np.asarray(small, dtype=np.float32) / 255
        return Timed(result, (started, time.perf_counter()))


@contextlib.contextmanager
def _blamed_on(row: Row) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise RowError(f"{row.url}: {type(error).__name__}: {error}") from error


def _download(url: str | None, proxy: str | None) -> bytes:
    request = urllib.request.Request(check_url(url).url, headers=HEADERS)  # noqa: S310 - it lets http and https pass only
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(_proxies(proxy)))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            data: bytes = answer.read()
    except HTTPError as error:
        error.close()
        raise
    return data


def _proxies(proxy: str | None) -> dict[str, str]:
    """None means none, not the one of the environment: as everywhere in Penstock."""
    return {"http": proxy, "https": proxy} if proxy else {}


def enter_worker(parent: int, script: Script | None) -> None:
    """What a process of the pool does first: bind its life to its parent's, and define what the user's script defines."""
    if not die_with_parent(parent):
        os._exit(1)
    if script is not None:
        run_script(script)
