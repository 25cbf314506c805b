"""What is refused before any decoder sees it: files whose mere structure would take minutes or gigabytes.

Their sizes in pixels are checked elsewhere (`penstock.image.decode`). Here it is the number of their parts. Each bound is
far above what programs write and far below what hurts: at the bound, a file costs less than a second.

What unpacks to a lot (compressed text in PNG, and its colour profile) is bounded by Pillow. What is left, such as a JPEG of
64 megapixels in 256 scans, is for the deadline and the memory limit of the process that decodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from penstock.errors import ItemError
from penstock.image.structure import (
    FRAME_HEADERS,
    START_OF_SCAN,
    GifWalk,
    TiffWalk,
    jpeg_scans,
    jpeg_segments,
    png_chunks,
)
from penstock.records import Reason

__all__ = ["MAX_PARTS", "MAX_SCANS", "MAX_STRIPS", "refuse"]

MAX_SCANS = 256
"""Scans of a JPEG: each is a pass over all the pixels, and costs a file some bytes. Encoders write 10."""

MAX_PARTS = 1000
"""Segments before the pixels of a JPEG, chunks of a PNG beside its pixels, tags of a TIFF: programs write 10 to 300.

Pillow makes objects of each, and its reading of EXIF in several segments is quadratic in their number.
"""

MAX_STRIPS = 100_000
"""Strips or tiles of a TIFF, each of which is set up as a decoder of its own."""

_STRIPS = frozenset([273, 324])
"""Tags that have a value for each strip or tile."""

_BASELINE = frozenset([0xC0, 0xC1])
_SCAN = re.compile(bytes([0xFF, START_OF_SCAN]))


def refuse(data: bytes, kind: str) -> None:
    """Do nothing, for the file is no bomb.

    Raises:
        ItemError: it is one: `Reason.IMAGE_TOO_MANY_SCANS` or `Reason.IMAGE_METADATA_BOMB`.
    """
    if kind in _CHECKS:
        _CHECKS[kind](data)


def _bomb(what: str) -> ItemError:
    return ItemError(Reason.IMAGE_METADATA_BOMB, what)


def _refuse_jpeg(data: bytes) -> None:
    segments = list(islice(jpeg_segments(data), MAX_PARTS + 1))
    if len(segments) > MAX_PARTS:
        raise _bomb(f"jpeg: more than {MAX_PARTS} segments before the first scan")
    first = segments[-1][1] if segments else 0
    if (
        _may_have_many_scans(data, segments)
        and _more(_SCAN.finditer(data, first), MAX_SCANS)  # a third of the walk's time, and settles it for most files
        and _more(jpeg_scans(data, first), MAX_SCANS)
    ):
        raise ItemError(Reason.IMAGE_TOO_MANY_SCANS, f"jpeg: more than {MAX_SCANS} scans")


def _more(things: Iterable[Any], limit: int) -> bool:
    """Whether there are more of them than that; no more are looked at."""
    return any(True for _ in islice(things, limit, None))


def _may_have_many_scans(data: bytes, segments: list[tuple[int, int]]) -> bool:
    """Whether the decoder would read past the first scan. Of most files it would not, which saves looking at all bytes."""
    if not segments or segments[-1][0] != START_OF_SCAN:
        return False
    frame = next(((marker, start) for marker, start in segments if marker in FRAME_HEADERS), None)
    if frame is None or frame[0] not in _BASELINE:
        return frame is not None
    components, components_in_scan = data[frame[1] + 9 : frame[1] + 10], data[segments[-1][1] + 4 : segments[-1][1] + 5]
    return components_in_scan < components


def _refuse_png(data: bytes) -> None:
    others = (name for name, _ in png_chunks(data) if name not in (b"IDAT", b"fcTL", b"fdAT"))
    if _more(others, MAX_PARTS):
        raise _bomb(f"png: more than {MAX_PARTS} chunks beside the pixels")


def _refuse_gif(data: bytes) -> None:
    walk = GifWalk(data)
    if next(walk.frames(), None) is None and walk.exhausted:
        raise _bomb("gif: too many blocks before the first frame")


def _refuse_tiff(data: bytes) -> None:
    walk = TiffWalk(data)
    for table in islice(walk.tables(), 1):
        entries = list(islice(walk.entries(*table), MAX_PARTS + 1))
        if len(entries) > MAX_PARTS:
            raise _bomb(f"tiff: more than {MAX_PARTS} tags")
        if any(MAX_STRIPS < entry.values <= len(data) for entry in entries if entry.tag in _STRIPS):
            raise _bomb(f"tiff: more than {MAX_STRIPS} strips or tiles")


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "gif": _refuse_gif,
    "jpeg": _refuse_jpeg,
    "png": _refuse_png,
    "tiff": _refuse_tiff,
}
