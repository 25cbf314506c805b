"""What a worker does with the bytes of a written sample."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from penstock.config import ImageConfig
from penstock.crew.base import Work
from penstock.errors import ConfigError, ItemError
from penstock.image.parts_work import PartsWork, array_of
from penstock.image.resize import apply, plan
from penstock.image.user_code import Told, call, is_array, parts_of_image
from penstock.image.work import (
    NO_STEPS,
    ImageTransform,
    ImageTransformWork,
    ImageWork,
    InitializedWork,
    Steps,
    TransformWork,
    dimensions,
    is_image,
    pixels,
    resized,
)
from penstock.parts import Image, Images, Part, Text, image_config
from penstock.reading.places import Place
from penstock.reading.source import ShardSource
from penstock.records import PART, Facts, Fetched, PartOutcome, Reason, Request, Result, Row, Sample, Value, group_of
from penstock.sink.base import PartKind

__all__ = ["StoredPartsWork", "StoredWork", "stored_work"]

_NPY = np.lib.format.MAGIC_PREFIX


@dataclass(frozen=True, slots=True)
class StoredWork:
    """Hands over what was stored, each part as what it was: arrays and images as arrays, anything else as bytes.

    Bytes that a transform returned, and that are an ``.npy`` file, count as an array: not every format tells the two apart.
    A part ``image`` that is one, (H, W, 3) uint8, RGB, becomes what the options ask for: of the size that they say, or with
    ``resize="none"`` as it is. A user's function may follow, whose array, or mapping of parts, takes the place of ``image``.
    """

    config: ImageConfig
    kinds: Mapping[str, PartKind] = field(default_factory=dict)
    """Of parts that are stored as raw numbers."""
    transform_image: ImageTransform | None = None
    _told: Told = field(default_factory=set, init=False, repr=False, compare=False)

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row.

        Raises:
            ItemError: the bytes are not what they should be, or the transform raises, or returns what is no sample.
            MemoryError: as the transform raised it.
        """
        started = time.perf_counter()
        requests = {request.part: request for request in row.requests}
        parts = {one.part: self._value(requests[one.part], one) for one in fetched}
        if self.transform_image is not None:
            parts = self._transformed(self.transform_image, row, parts)
        width, height = dimensions(parts.get(PART))
        return Result.of(Sample(parts, Facts(width=width, height=height)), fetched, time.perf_counter() - started)

    def _value(self, request: Request, fetched: Fetched) -> Value:
        kind = self.kinds.get(request.part)
        is_file = (
            Place.of(str(request.url)).part != request.part
        )  # stored as a file of its own ending: `jpg`, `mask.npy`
        if kind is not None or is_file or fetched.data.startswith(_NPY):
            return _array(fetched, kind, self._options(request.part))
        return fetched.data

    def _options(self, part: str) -> ImageConfig:
        """A mask, say, is as large as the image was, but to resize it is the user's business."""
        return self.config if part == PART else _as_it_is(self.config)

    def _transformed(self, transform: ImageTransform, row: Row, parts: dict[str, Value]) -> dict[str, Value]:
        image: Any = parts.pop(PART, None)
        if not is_array(image):
            raise ItemError(Reason.TRANSFORM_ERROR, f"transform_image: no image among the parts {', '.join(parts)}")
        returned: Any = call(transform, image, row, told=self._told)
        named = parts_of_image(returned)
        return {name: value for name, value in parts.items() if name not in named} | named


@dataclass(frozen=True, slots=True)
class StoredPartsWork(PartsWork):
    """As `PartsWork`, from what a run has made of the parts: texts are text already, and images may be arrays."""

    kinds: Mapping[str, PartKind] = field(default_factory=dict)
    """Of parts that are stored as raw numbers."""
    unchanged: frozenset[str] = frozenset()
    """Parts whose images keep the size that they have."""

    def _text(self, _part: Text, fetched: Fetched, outcome: PartOutcome) -> tuple[Value, PartOutcome]:
        return fetched.data, outcome

    def _image(
        self, row: Row, part: Image | Images, fetched: Fetched, outcome: PartOutcome
    ) -> tuple[Value, PartOutcome]:
        config = image_config(part, self.config)
        name = group_of(fetched.part)
        array = _array(fetched, self.kinds.get(name), _as_it_is(config) if name in self.unchanged else config)
        if self.transform_image is not None:
            array = array_of(call(self.transform_image, array, row, told=self._told))
        width, height = dimensions(array)
        return array, dataclasses.replace(outcome, facts=Facts(width=width, height=height))


@functools.lru_cache(maxsize=1024)
def _as_it_is(config: ImageConfig) -> ImageConfig:
    return dataclasses.replace(config, resize="none")


def _array(fetched: Fetched, kind: PartKind | None, config: ImageConfig) -> npt.NDArray[Any]:
    """What was stored as raw numbers of this kind, as an ``.npy`` file, or as an image; images as the options want them.

    Raises:
        ItemError: it is none of these.
    """
    if kind is None and not fetched.data.startswith(_NPY):
        return pixels(resized(fetched, config)[0])
    try:
        array = _loaded(fetched.data) if kind is None else _raw(fetched.data, kind)
    except ValueError as error:
        raise ItemError(Reason.STORAGE_ERROR, f"part {fetched.part}: {error}") from error
    return _fitted(array, config) if is_image(array) else array


def _loaded(data: bytes) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return array


def _raw(data: bytes, kind: PartKind) -> npt.NDArray[Any]:
    dtype, shape = np.dtype(kind.dtype), kind.shape or ()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes are no array of {dtype} {shape}")
    return np.frombuffer(data, dtype).reshape(shape).copy()  # a user's function may write into it


def _fitted(image: npt.NDArray[Any], config: ImageConfig) -> npt.NDArray[Any]:
    height, width = image.shape[:2]
    geometry = plan(width, height, config.size, config.resize)
    if geometry == plan(width, height, config.size, "none"):
        return image
    return pixels(apply(Pillow.fromarray(image), geometry, exact=config.exact))


def stored_work(source: ShardSource, config: ImageConfig, steps: Steps = NO_STEPS, *, resize: bool = True) -> Work:
    """What turns the stored samples of a source into arrays, texts as UTF-8, and other bytes.

    Args:
        source: the shards.
        config: the options; at the size that the run had, nothing is resized.
        steps: the user's own functions behind that.
        resize: false where nobody has asked for a size: images that a function of the user's had shaped stay as they are.

    Raises:
        ConfigError: there is nothing stored that a function could get.
        SourceError: the shards are arrays that cannot be read.
    """
    work = _work(source, config, steps, resize=resize)
    return work if steps.initializer is None else InitializedWork(work, steps.initializer)


def _work(source: ShardSource, config: ImageConfig, steps: Steps, *, resize: bool) -> Work:
    has_files = source.is_plain and source.format != "arrays"
    if steps.transform is not None:
        if not has_files:
            what = "are arrays" if source.is_plain or source.format == "arrays" else "have no single file for each row"
            raise ConfigError(
                f"transform gets the bytes of a file, and {source.description} {what}; use transform_image"
            )
        return TransformWork(steps.transform)
    if source.parts is not None:
        return _parts_work(source, source.parts, config, steps, resize=resize)
    if has_files and steps.transform_image is not None:
        return ImageTransformWork(config, steps.transform_image, as_array=True)
    if has_files:
        return ImageWork(config, as_array=True)
    _check_has_image(source, steps)
    config = config if resize or source.is_plain else _as_it_is(config)
    return StoredWork(config, source.array_kinds(), steps.transform_image)


def _parts_work(
    source: ShardSource, parts: Mapping[str, Part], config: ImageConfig, steps: Steps, *, resize: bool
) -> StoredPartsWork:
    images = {name: part for name, part in parts.items() if isinstance(part, Image | Images)}
    own = {name for name, part in images.items() if part.size is not None or part.resize is not None}
    unchanged = frozenset((own if resize else images) if source.is_shaped_by_user else ())
    return StoredPartsWork(parts, config, True, steps.transform_image, kinds=source.array_kinds(), unchanged=unchanged)


def _check_has_image(source: ShardSource, steps: Steps) -> None:
    """Whether `transform_image` has something to work on; the first row stands for all."""
    if steps.transform_image is None:
        return
    names = [request.part for row in source.rows(0, 1) for request in row.requests]
    if PART not in names:
        raise ConfigError(
            f"transform_image gets the part {PART!r}, and the rows of {source.description} have {', '.join(names)}"
        )
