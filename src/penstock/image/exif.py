"""EXIF: the orientation, and the tags as JSON.

Read here, and not by `PIL.Image.Image.getexif`, because odd EXIF is common on the web: Pillow reports it by warnings,
which cannot be silenced for one thread alone, and puts no bound on what it reads. This reader never raises, never warns, looks
at three tables at most, and leaves out whatever is damaged, long or of an unknown type.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

from PIL import ExifTags

__all__ = ["as_json", "orientation", "parse"]

Scalar = int | float | str
Tags = dict[str, Scalar | list[Scalar]]

MAX_JSON = 16 * 1024
"""Longest JSON text kept, in characters; later tags are dropped."""

_MAX_ENTRIES = 256
"""Entries looked at in one table: cameras write about 40."""
_MAX_VALUE = 512
"""Bytes of one value: this leaves out maker notes, thumbnails and embedded documents."""

_FORMATS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}
_RATIONALS = {5: "I", 10: "i"}
_ASCII, _UNDEFINED = 2, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

_SUBTABLES: Mapping[int, Mapping[int, str]] = {0x8769: ExifTags.TAGS, 0x8825: ExifTags.GPSTAGS}
"""Tags of the main table that point to further ones: Exif and GPS."""


def parse(blob: bytes) -> Tags:
    """The tags by name, from a TIFF structure with or without the ``Exif`` header that JPEG puts before it.

    Numbers stay numbers, rationals become floats, text loses its padding, other bytes become hexadecimal. What cannot
    be read is left out: ``parse(b"") == {}``.
    """
    start = 6 if blob.startswith(b"Exif\0\0") else 0
    data = blob[start:] if start else blob
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return {}
    tags: Tags = {}
    (offset,) = struct.unpack_from(order + "I", data, 4)
    for tag, value in _table(data, order, offset):
        if tag not in _SUBTABLES:
            tags[ExifTags.TAGS.get(tag, f"0x{tag:04x}")] = value
        elif isinstance(value, int):
            names = _SUBTABLES[tag]
            tags.update((names.get(inner, f"0x{inner:04x}"), found) for inner, found in _table(data, order, value))
    return tags


def orientation(tags: Tags) -> int:
    """The orientation, 1 to 8; anything else in its place counts as 1."""
    value = tags.get("Orientation")
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def as_json(tags: Tags) -> str | None:
    """The tags as a JSON object of at most `MAX_JSON` characters; None if there are none."""
    names = list(tags)
    while names:
        text = json.dumps({name: tags[name] for name in names})
        if len(text) <= MAX_JSON:
            return text
        names = names[: len(names) * MAX_JSON // (len(text) + 1)]
    return None


def _table(data: bytes, order: str, offset: int) -> Iterator[tuple[int, Scalar | list[Scalar]]]:
    """The readable entries of the table at `offset`."""
    if offset + 2 > len(data):
        return
    (count,) = struct.unpack_from(order + "H", data, offset)
    fits = (len(data) - offset - 2) // 12
    for entry in range(min(count, fits, _MAX_ENTRIES)):
        value = _value(data, order, offset + 2 + 12 * entry)
        if value is not None:
            yield value


def _value(data: bytes, order: str, entry: int) -> tuple[int, Scalar | list[Scalar]] | None:
    """Tag and value of the entry of 12 bytes at `entry`, or None if it cannot be read."""
    tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
    size = _SIZES.get(kind, 0) * count
    if not 0 < size <= _MAX_VALUE:
        return None
    start = entry + 8 if size <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
    raw = data[start : start + size]
    if len(raw) < size:
        return None
    if kind in (_ASCII, _UNDEFINED):
        return tag, _text(raw, binary=kind == _UNDEFINED)
    numbers = _rationals(raw, order + _RATIONALS[kind]) if kind in _RATIONALS else _numbers(raw, order, kind, count)
    if not numbers:
        return None
    return tag, numbers[0] if len(numbers) == 1 else numbers


def _text(raw: bytes, *, binary: bool) -> str:
    text = raw.rstrip(b"\0 ").decode("utf-8", errors="replace")
    return raw.hex() if binary and not text.isprintable() else text


def _numbers(raw: bytes, order: str, kind: int, count: int) -> list[Scalar]:
    numbers = struct.unpack(f"{order}{count}{_FORMATS[kind]}", raw)
    return [] if any(number != number or abs(number) == float("inf") for number in numbers) else list(numbers)  # noqa: PLR0124 - the test for NaN


def _rationals(raw: bytes, format_: str) -> list[Scalar]:
    """Numerators over denominators; empty if one of these is zero."""
    pairs = list(struct.iter_unpack(f"{format_[0]}2{format_[1]}", raw))
    return [round(above / below, 6) for above, below in pairs] if all(below for _, below in pairs) else []
