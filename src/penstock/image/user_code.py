"""A user's function, called for one row: what it raises is the row's failure, and what it returns are the row's parts."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from penstock.errors import ItemError
from penstock.records import MAX_TRACEBACKS, PART, Reason, Trace, Value

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Told", "call", "described", "is_array", "parts_of", "parts_of_image", "shown"]

Told = set[str]
"""Kinds of exceptions of which the traceback was handed on: each worker sends it along once, not with each row."""

MAX_TRACE = 4000
"""Characters of a traceback that are kept: the last ones, where the cause stands."""

_PART_NAME = re.compile(r"[A-Za-z0-9_]+")

_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (Path(os.__file__).parent, Path(__file__).parents[1]))
"""Where the standard library and Penstock lie."""

_PACKAGES = re.compile(r"[/\\](site|dist)-packages[/\\]")


def call(function: Callable[..., Any], *arguments: Any, told: Told) -> Any:
    """What `function` returns.

    Raises:
        ItemError: `Reason.TRANSFORM_ERROR` if it raises, with the traceback if this kind is not among those `told` of,
            to which it is added.
        MemoryError: as the function raised it; so is an ItemError.
    """
    try:
        return function(*arguments)
    except (ItemError, MemoryError):
        raise
    except Exception as error:
        raise _failure(error, told) from error


def _failure(error: Exception, told: Told) -> ItemError:
    failure = ItemError(Reason.TRANSFORM_ERROR, described(error))
    place = _users_frame(error)
    kind = f"{type(error).__qualname__} at {place.filename}:{place.lineno}"
    if kind not in told and len(told) < MAX_TRACEBACKS:
        told.add(kind)
        failure.trace = Trace(kind, _traceback(error))
    return failure


def described(error: BaseException) -> str:
    """Type, message and place of an exception."""
    place = _users_frame(error)
    return f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})"  # noqa: PTH119 - a name such as <stdin> is no path


def _users_frame(error: BaseException) -> traceback.FrameSummary:
    """The innermost frame that is of no library; where all of them are, the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if not _of_library(frame.filename)), frames[-1])


def _of_library(filename: str) -> bool:
    return filename.startswith(_LIBRARIES) or _PACKAGES.search(filename) is not None


def _traceback(error: Exception) -> str:
    """The traceback without the frame of `call`, and fit for a terminal: a message may quote what was downloaded."""
    assert error.__traceback__ is not None  # it was caught
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next)).rstrip()
    text = "".join(character if character.isprintable() or character == "\n" else " " for character in lines)
    return text if len(text) <= MAX_TRACE else f"\N{HORIZONTAL ELLIPSIS}{text[1 - MAX_TRACE :]}"


def parts_of(returned: Any) -> dict[str, Value]:
    """The parts in a mapping that a user's function returned.

    Raises:
        ItemError: `Reason.TRANSFORM_ERROR`; the detail names what it returned instead.
    """
    if not isinstance(returned, Mapping) or not returned:
        what = "an empty mapping" if isinstance(returned, Mapping) else shown(returned)
        raise ItemError(Reason.TRANSFORM_ERROR, f"expected a mapping from names to bytes or arrays, not {what}")
    return {_part_name(name): _part(name, value) for name, value in returned.items()}


def parts_of_image(returned: Any) -> dict[str, Value]:
    """As `parts_of`, where a function may also return the image alone, as an array."""
    if is_array(returned):
        return parts_of({PART: returned})
    if isinstance(returned, Mapping):
        return parts_of(returned)
    raise ItemError(
        Reason.TRANSFORM_ERROR, f"expected an array or a mapping from names to bytes or arrays, not {shown(returned)}"
    )


def _part_name(name: Any) -> str:
    if isinstance(name, str) and _PART_NAME.fullmatch(name):
        return name
    raise ItemError(Reason.TRANSFORM_ERROR, f"part name {name!r}: expected letters, digits and underscores")


def _part(name: str, value: Any) -> Value:
    if isinstance(value, bytes) or (is_array(value) and not value.dtype.hasobject):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise ItemError(Reason.TRANSFORM_ERROR, f"part {name!r}: expected bytes or an array, not {shown(value)}")


def is_array(value: Any) -> TypeGuard[npt.NDArray[Any]]:
    """Whether this is a NumPy array; NumPy is not imported for it: who has an array has done so."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def shown(value: Any) -> str:
    """What a value is, for a message."""
    if value is None:
        return "None"
    return "an array of objects" if is_array(value) else f"a {type(value).__qualname__}"
