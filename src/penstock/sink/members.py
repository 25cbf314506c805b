"""How the parts of a sample become members of a shard: names, and what is inside."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import ItemError
from penstock.records import PART, Reason
from penstock.sink.base import PartKind, Record

__all__ = ["PLAIN_KINDS", "check_members", "extension", "members", "npy_bytes", "unusable"]

# Readers split a member's name at its first dot, and file systems and ustar want it short.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*", re.ASCII)
_LONGEST_NAME = 60
PLAIN_KINDS = "biufcmMSU"
"""Kinds of dtype whose `dtype.str` says all: no objects, no records, none that a third package defines."""

_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _check_part(kind: PartKind) -> None:
    """Whether any format could store such a part.

    Raises:
        ItemError: the name is no plain name, or the array's dtype no plain dtype.
    """
    if len(kind.name) > _LONGEST_NAME or not _NAME.fullmatch(kind.name):
        raise unusable(f"part {kind.name!r}: a name is made of letters, digits, _, - and single dots")
    if kind.dtype is not None and np.dtype(kind.dtype).kind not in PLAIN_KINDS:
        raise unusable(f"part {kind.name!r} is an array of {kind.dtype}: only plain numbers, text and times are stored")


def check_members(kinds: Sequence[PartKind], own: Collection[str]) -> None:
    """Whether the parts can be members of the same sample.

    Args:
        kinds: what the parts are.
        own: members that the sample has beside its parts.

    Raises:
        ItemError: there is none, one cannot be stored, or two would have the same name; readers ignore case.
    """
    if not kinds:
        raise unusable("the sample has no parts")
    seen = set(own)
    for kind in kinds:
        _check_part(kind)
        name = extension(kind.name, is_array=kind.dtype is not None).lower()
        if name in seen:
            raise unusable(f"part {kind.name!r} would be stored as .{name}, and so would another")
        seen.add(name)


def unusable(detail: str) -> ItemError:
    """The failure of a row whose sample cannot be stored."""
    return ItemError(Reason.TRANSFORM_ERROR, detail)


def extension(name: str, *, is_array: bool) -> str:
    """What follows the key and its dot.

    >>> extension("jpg", is_array=False), extension("image", is_array=True), extension("mask", is_array=True)
    ('jpg', 'npy', 'mask.npy')
    """
    if not is_array:
        return name
    return "npy" if name == PART else f"{name}.npy"


def members(record: Record) -> Iterator[tuple[str, bytes]]:
    """The members of a written row: its parts, its caption if it has one (``txt``), its row of the table (``json``)."""
    for name, part in record.parts.items():
        member = f"{record.key}.{extension(name, is_array=isinstance(part, np.ndarray))}"
        yield member, npy_bytes(part) if isinstance(part, np.ndarray) else part
    if record.caption is not None:
        yield f"{record.key}.txt", record.caption.encode()
    yield f"{record.key}.json", _json_bytes(record.meta)


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """An array as the content of an ``.npy`` file; never with pickle."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def _json_bytes(meta: Any) -> bytes:
    try:
        return _encode_json(meta).encode()
    except ValueError:
        return _encode_json(_without_nan(meta)).encode()


def _without_nan(value: Any) -> Any:
    """The value with null in place of the floats that JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
