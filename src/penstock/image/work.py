"""What a worker does with one row: Penstock's own image work, a user's transform, or both.

The classes are picklable callables of the shape that `penstock.crew.base.Work` asks for.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pickle
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeGuard, cast

from PIL import Image

from penstock.config import ImageConfig
from penstock.errors import ConfigError, ItemError, WorkerError
from penstock.image.decode import Decoded, decode
from penstock.image.encode import encode
from penstock.image.resize import apply, plan
from penstock.image.user_code import Told, call, described, is_array, parts_of, parts_of_image, shown
from penstock.records import PART, Facts, Fetched, Reason, Result, Row, Sample, Value

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "NO_STEPS",
    "ImageTransform",
    "ImageTransformWork",
    "ImageWork",
    "InitializedWork",
    "Initializer",
    "Steps",
    "Transform",
    "TransformWork",
    "check_picklable",
    "dimensions",
    "is_image",
    "pixels",
    "resized",
]

Transform = Callable[[bytes, Row], Mapping[str, Any]]
"""A user's own step: the downloaded bytes and the row, to parts by name, each bytes or an array."""

ImageTransform: TypeAlias = "Callable[[npt.NDArray[Any], Row], npt.NDArray[Any] | Mapping[str, Any]]"
"""A user's own step behind decode and resize: ``(H, W, 3)`` uint8 RGB, writable, and the row, to an array (the part
``image``) or to parts by name, each bytes or an array."""

Initializer = Callable[[], object]
"""What a user wants done once in each worker, before its first row."""

_OTHERWISE = ", or use --strategy threads"


@dataclass(frozen=True, slots=True)
class Steps:
    """The user's own functions of a run or a stream.

    Raises:
        ConfigError: one is no function, or two exclude each other.
    """

    transform: Transform | None = None
    """In place of decode, resize and encode."""
    transform_image: ImageTransform | None = None
    """Behind decode and resize."""
    initializer: Initializer | None = None
    """Once in each worker, before its first row."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, function in self._given():
            if not callable(function):
                raise ConfigError(f"{name}: expected a function, not {shown(function)}")
        if self.transform is not None and self.transform_image is not None:
            raise ConfigError("transform gets the bytes and transform_image the decoded image; give one of the two")

    @property
    def decide_parts(self) -> bool:
        """Whether only a function of the user knows what a sample is made of."""
        return self.transform is not None or self.transform_image is not None

    def names(self) -> dict[str, str | None]:
        """Module and name of each function, by the argument that it was given as; None for those that were not given."""
        given = {name: _name_of(function) for name, function in self._given()}
        return {spec.name: given.get(spec.name) for spec in dataclasses.fields(self)}

    def check_picklable(self, otherwise: str = _OTHERWISE) -> None:
        """See `check_picklable`."""
        for name, function in self._given():
            check_picklable(function, otherwise, name)

    def _given(self) -> list[tuple[str, Any]]:
        functions = [(spec.name, getattr(self, spec.name)) for spec in dataclasses.fields(self)]
        return [(name, function) for name, function in functions if function is not None]


NO_STEPS = Steps()
"""Nothing but Penstock's own work."""


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"


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
        image, facts = resized(fetched[0], self.config)
        parts: dict[str, Value]
        if self.as_array:
            parts = {PART: pixels(image)}
        else:
            parts = {self.config.encode: encode(image, self.config.encode, self.config.quality)}
        return Result.of(Sample(parts, facts), fetched, time.perf_counter() - started)


def resized(fetched: Fetched, config: ImageConfig) -> tuple[Image.Image, Facts]:
    """The image as the options want it, and what was learnt of it."""
    decoded = _decoded(fetched, config)
    geometry = plan(decoded.width, decoded.height, config.size, config.resize).reduced(decoded.scale)
    image = apply(decoded.image, geometry, exact=config.exact, transpose=decoded.transpose)
    facts = Facts(
        width=image.width,
        height=image.height,
        original_width=decoded.width,
        original_height=decoded.height,
        sha256=hashlib.sha256(fetched.data).hexdigest(),
        exif=decoded.exif,
        frames=decoded.frames,
    )
    return image, facts


def _decoded(fetched: Fetched, config: ImageConfig) -> Decoded:
    """The image; where the bytes are none, the error tells what the server had called them."""
    try:
        return decode(fetched.data, config)
    except ItemError as error:
        if error.reason is Reason.CONTENT_NOT_IMAGE and fetched.server_type:
            raise ItemError(error.reason, f"{error.detail} (the server said {fetched.server_type})") from error
        raise


def pixels(image: Image.Image) -> npt.NDArray[Any]:
    """``(H, W, 3)`` uint8, in memory of its own."""
    import numpy as np  # noqa: PLC0415 - as in records: only arrays need it

    return np.array(image)


@dataclass(frozen=True, slots=True)
class ImageTransformWork:
    """Decode and resize the first part of a row, then a user's transform of the pixels.

    An array that it returns becomes the part ``image``. Unless `as_array`, an ``image`` of dtype uint8 and shape (H, W, 3)
    is encoded as the options say, as it would be without a transform.
    """

    config: ImageConfig
    transform: ImageTransform
    as_array: bool
    _told: Told = field(default_factory=set, init=False, repr=False, compare=False)

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row.

        Raises:
            ItemError: the bytes are no image that can be used, or the transform raises, or it returns something that is
                no sample.
            MemoryError: as the transform raised it.
        """
        started = time.perf_counter()
        image, facts = resized(fetched[0], self.config)
        parts = parts_of_image(call(self.transform, pixels(image), row, told=self._told))
        width, height = dimensions(parts.get(PART))
        facts = dataclasses.replace(facts, width=width, height=height)
        if not self.as_array:
            parts = self._encoded(parts)
        return Result.of(Sample(parts, facts), fetched, time.perf_counter() - started)

    def _encoded(self, parts: dict[str, Value]) -> dict[str, Value]:
        """The parts with the image, if there is one, as the bytes of a file."""
        array, kind = parts.get(PART), self.config.encode
        if not is_image(array):
            return parts
        if kind in parts:
            detail = f"the part {PART!r} is stored as {kind}, and there is a part {kind!r}"
            raise ItemError(Reason.TRANSFORM_ERROR, detail)
        data = encode(Image.fromarray(array), kind, self.config.quality)
        return {kind: data} | {name: value for name, value in parts.items() if name != PART}


def is_image(value: Any) -> TypeGuard[npt.NDArray[Any]]:
    """Whether a value is an image that can be encoded: (H, W, 3) uint8."""
    return is_array(value) and value.dtype == "uint8" and value.shape[2:] == (3,) and value.size > 0


def dimensions(value: Any) -> tuple[int, int] | tuple[None, None]:
    """Width and height of a result, where it is an image."""
    return (value.shape[1], value.shape[0]) if is_image(value) else (None, None)


@dataclass(frozen=True, slots=True)
class TransformWork:
    """A user's transform of the first part of a row."""

    transform: Transform
    _told: Told = field(default_factory=set, init=False, repr=False, compare=False)

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row.

        Raises:
            ItemError: `Reason.TRANSFORM_ERROR` if the transform raises, or returns something that is no sample.
            MemoryError: as the transform raised it.
        """
        started = time.perf_counter()
        data = fetched[0].data
        parts = parts_of(call(self.transform, data, row, told=self._told))
        sample = Sample(parts, Facts(sha256=hashlib.sha256(data).hexdigest()))
        return Result.of(sample, fetched, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class InitializedWork:
    """Work that wants something done first, once in each worker."""

    work: Callable[[Row, tuple[Fetched, ...]], Result]
    initializer: Initializer

    @property
    def silent(self) -> bool:
        """As the work is."""
        return getattr(self.work, "silent", False)

    def prepare(self) -> None:
        """Call the initializer; see `penstock.crew.base.prepare`.

        Raises:
            WorkerError: it raises; the message says what, and where.
        """
        try:
            self.initializer()
        except (Exception, SystemExit) as error:
            culprit = f"the initializer, {_name_of(self.initializer)},"
            raise WorkerError(f"the workers cannot start: {culprit} raised {described(error)}") from error

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result of the work for one row."""
        return self.work(row, fetched)


def check_picklable(function: Callable[..., Any], otherwise: str = _OTHERWISE, name: str = "transform") -> None:
    """Find out before any worker process starts whether `function` can be sent to it.

    Args:
        function: a function of the user.
        otherwise: what the message says of another way.
        name: the argument that it was given as.

    Raises:
        ConfigError: it cannot; the message names what stands in the way, and what to do.
    """
    error = _pickling_error(function)
    if error is None:
        return
    culprit, advice = _culprit(function, name)
    raise ConfigError(f"{culprit} cannot be sent to worker processes ({error}); {advice}{otherwise}")


def _pickling_error(thing: Any) -> str | None:
    try:
        pickle.dumps(thing)
    except Exception as error:  # noqa: BLE001 - a __reduce__ or __getstate__ may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _culprit(function: Callable[..., Any], name: str) -> tuple[str, str]:
    """The innermost thing that cannot be pickled, as text, and what to do about it."""
    thing = cast("Any", function)
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
