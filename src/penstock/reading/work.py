"""What a worker does with the bytes of a written sample."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from penstock.config import ImageConfig
from penstock.crew.base import Work
from penstock.errors import ItemError
from penstock.image.resize import apply, plan
from penstock.image.user_code import Told, call, is_array, parts_of
from penstock.image.work import ImageTransform, ImageTransformWork, ImageWork
from penstock.reading.source import ShardSource
from penstock.records import PART, Facts, Fetched, Reason, Result, Row, Sample

__all__ = ["ArrayWork", "stored_work"]


@dataclass(frozen=True, slots=True)
class ArrayWork:
    """Turns raw pixels, as ``--format arrays`` stores them, into the image that the options ask for.

    The sample is ``{"image": (H, W, 3) uint8}``, RGB, or what the user's transform makes of that. Pixels that have their
    size already come as they are stored.
    """

    shape: tuple[int, int, int]
    """Of the stored image: height, width, 3."""
    config: ImageConfig
    transform: ImageTransform | None = None
    _told: Told = field(default_factory=set, init=False, repr=False, compare=False)

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row.

        Raises:
            ItemError: the bytes are not as many as the shape says, or the transform raises, or returns what is no sample.
            MemoryError: as the transform raised it.
        """
        started = time.perf_counter()
        data = next(part.data for part in fetched if part.part == PART)
        if len(data) != math.prod(self.shape):
            raise ItemError(Reason.IMAGE_CORRUPT, f"{len(data)} bytes are no array of {self.shape}")
        returned: Any = self._pixels(data)
        if self.transform is not None:
            returned = call(self.transform, returned, row, told=self._told)
        parts = parts_of({PART: returned} if is_array(returned) else returned)
        facts = Facts(original_width=self.shape[1], original_height=self.shape[0])
        return Result.of(Sample(parts, facts), fetched, time.perf_counter() - started)

    def _pixels(self, data: bytes) -> npt.NDArray[np.uint8]:
        height, width, _ = self.shape
        stored = Image.frombuffer("RGB", (width, height), data, "raw", "RGB", 0, 1)
        geometry = plan(width, height, self.config.size, self.config.resize)
        return np.array(apply(stored, geometry, exact=self.config.exact))


def stored_work(source: ShardSource, config: ImageConfig, transform: ImageTransform | None = None) -> Work:
    """What turns the stored images of a source into arrays of the size that the options say.

    Args:
        source: the shards.
        config: the options; at the size that the run had, nothing is resized.
        transform: the user's own step behind that.

    Raises:
        SourceError: the shards are arrays that are no images.
    """
    if source.format == "arrays":
        return ArrayWork(source.image_shape(), config, transform)
    if transform is not None:
        return ImageTransformWork(config, transform, as_array=True)
    return ImageWork(config, as_array=True)
