"""What a worker does with one row: Penstock's own image work, or a user's transform.

Both classes are picklable callables of the shape that `penstock.crew.base.Work` asks for.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
import sys
import time
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard, cast

from penstock.config import ImageConfig
from penstock.errors import ConfigError, ItemError
from penstock.image.decode import Decoded, decode
from penstock.image.encode import encode
from penstock.image.resize import apply, plan
from penstock.records import Facts, Fetched, Reason, Result, Row, Sample, Value

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ImageWork", "Transform", "TransformWork", "check_picklable"]

Transform = Callable[[bytes, Row], Mapping[str, Any]]
"""A user's own step: the downloaded bytes and the row, to parts by name, each bytes or an array."""

_PART_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class ImageWork:
    """Decode, resize and encode (or hand over as an array) the first part of a row.

    The sample is ``{"jpg": bytes}`` (or png, webp), or with `as_array` ``{"image": (H, W, 3) uint8}``, RGB.
    """

    config: ImageConfig
    as_array: bool
    silent: ClassVar[bool] = True
    """In a worker process it prints nothing: libtiff has a line for each damaged file."""

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:  # noqa: ARG002 - the protocol has a row
        """The result for one row.

        Raises:
            ItemError: if the bytes are no image that can be used.
        """
        started = time.perf_counter()
        config, data = self.config, fetched[0].data
        decoded = _decoded(fetched[0], config)
        geometry = plan(decoded.width, decoded.height, config.size, config.resize).reduced(decoded.scale)
        image = apply(decoded.image, geometry, exact=config.exact, transpose=decoded.transpose)
        facts = Facts(
            width=image.width,
            height=image.height,
            original_width=decoded.width,
            original_height=decoded.height,
            sha256=hashlib.sha256(data).hexdigest(),
            exif=decoded.exif,
            frames=decoded.frames,
        )
        parts: dict[str, Value]
        if self.as_array:
            import numpy as np  # noqa: PLC0415 - as in records: only arrays need it

            parts = {"image": np.array(image)}
        else:
            parts = {config.encode: encode(image, config.encode, config.quality)}
        return Result.of(Sample(parts, facts), fetched, time.perf_counter() - started)


def _decoded(fetched: Fetched, config: ImageConfig) -> Decoded:
    """The image; where the bytes are none, the error tells what the server had called them."""
    try:
        return decode(fetched.data, config)
    except ItemError as error:
        if error.reason is Reason.CONTENT_NOT_IMAGE and fetched.server_type:
            raise ItemError(error.reason, f"{error.detail} (the server said {fetched.server_type})") from error
        raise


@dataclass(frozen=True, slots=True)
class TransformWork:
    """A user's transform of the first part of a row."""

    transform: Transform

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row.

        Raises:
            ItemError: `Reason.TRANSFORM_ERROR` if the transform raises, or returns something that is no sample.
            MemoryError: as the transform raised it.
        """
        started = time.perf_counter()
        data = fetched[0].data
        try:
            returned = self.transform(data, row)
        except (ItemError, MemoryError):
            raise
        except Exception as error:
            raise ItemError(Reason.TRANSFORM_ERROR, _described(error)) from error
        sample = Sample(_checked(returned), Facts(sha256=hashlib.sha256(data).hexdigest()))
        return Result.of(sample, fetched, time.perf_counter() - started)


def _described(error: Exception) -> str:
    """Type, message and place of an exception, the place being where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}:{frame.lineno})"  # noqa: PTH119 - a name such as <stdin> is no path


def _checked(returned: Any) -> dict[str, Value]:
    """The parts that a transform returned, or an ItemError that names what it returned instead."""
    if not isinstance(returned, Mapping) or not returned:
        what = "an empty mapping" if isinstance(returned, Mapping) else _shown(returned)
        raise ItemError(Reason.TRANSFORM_ERROR, f"expected a mapping from names to bytes or arrays, not {what}")
    return {_part_name(name): _part(name, value) for name, value in returned.items()}


def _part_name(name: Any) -> str:
    if isinstance(name, str) and _PART_NAME.fullmatch(name):
        return name
    raise ItemError(Reason.TRANSFORM_ERROR, f"part name {name!r}: expected letters, digits and underscores")


def _part(name: str, value: Any) -> Value:
    if isinstance(value, bytes) or (_is_array(value) and not value.dtype.hasobject):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise ItemError(Reason.TRANSFORM_ERROR, f"part {name!r}: expected bytes or an array, not {_shown(value)}")


def _is_array(value: Any) -> TypeGuard[npt.NDArray[Any]]:
    numpy = sys.modules.get("numpy")  # who has an array has imported it
    return numpy is not None and isinstance(value, numpy.ndarray)


def _shown(value: Any) -> str:
    if value is None:
        return "None"
    return "an array of objects" if _is_array(value) else f"a {type(value).__qualname__}"


def check_picklable(function: Callable[..., Any], otherwise: str = ", or use --strategy threads") -> None:
    """Find out before any worker process starts whether `function` can be sent to it.

    Args:
        function: the transform.
        otherwise: what the message says of another way.

    Raises:
        ConfigError: it cannot; the message names what stands in the way, and what to do.
    """
    error = _pickling_error(function)
    if error is None:
        return
    culprit, advice = _culprit(function)
    raise ConfigError(f"{culprit} cannot be sent to worker processes ({error}); {advice}{otherwise}")


def _pickling_error(thing: Any) -> str | None:
    try:
        pickle.dumps(thing)
    except Exception as error:  # noqa: BLE001 - a __reduce__ or __getstate__ may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _culprit(function: Callable[..., Any]) -> tuple[str, str]:
    """The innermost thing that cannot be pickled, as text, and what to do about it."""
    name, thing = "transform", cast("Any", function)
    seen = {id(thing)}
    while unfit := [pair for pair in _inside(thing) if id(pair[1]) not in seen and _pickling_error(pair[1])]:
        name, thing = name + unfit[0][0], unfit[0][1]
        seen.add(id(thing))
    label = (thing if isinstance(thing, (type, types.FunctionType)) else type(thing)).__qualname__
    if "<lambda>" in label:
        return f"{name}, a lambda,", "write it as a function at the top level of a module"
    if "<locals>" in label:
        return f"{name}, the local {label},", "move it to the top level of a module"
    return f"{name}, a {label},", "make it where it is used, inside the function"


def _inside(thing: Any) -> list[tuple[str, Any]]:
    """What is pickled along with a thing, by the suffix that leads there."""
    if isinstance(thing, functools.partial):
        arguments = [(f".args[{index}]", value) for index, value in enumerate(thing.args)]
        return [(".func", thing.func), *arguments, *((f".{key}", value) for key, value in thing.keywords.items())]
    if isinstance(thing, types.MethodType):
        return [(".__self__", thing.__self__)]
    if isinstance(thing, types.FunctionType):  # goes by its name alone
        return []
    return [(f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items()]
