"""What kind of file some bytes are, judged by the bytes alone: servers' content types and names are too often wrong.

Everything here reads headers only, allocates next to nothing and never raises.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Callable

from penstock.image.structure import (
    END_OF_IMAGE,
    FRAME_HEADERS,
    START_OF_SCAN,
    GifWalk,
    TiffWalk,
    jpeg_segments,
    png_chunks,
)

__all__ = ["IMAGES", "is_cut", "kind_of", "size_of"]

IMAGES = frozenset(
    [
        "avif",
        "bmp",
        "cur",
        "dds",
        "eps",
        "exr",
        "fits",
        "gif",
        "heic",
        "icns",
        "ico",
        "jp2",
        "jpeg",
        "jxl",
        "png",
        "pnm",
        "psd",
        "qoi",
        "svg",
        "tiff",
        "webp",
        "wmf",
        "xcf",
    ]
)
"""The kinds that are images, whether Penstock decodes them or not. MPO files are JPEG files with more behind them."""

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"8BPS", "psd"),
    (b"%!PS", "eps"),
    (b"\xc5\xd0\xd3\xc6", "eps"),
    (b"\0\0\1\0", "ico"),
    (b"\0\0\2\0", "cur"),
    (b"icns", "icns"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL ", "jxl"),
    (b"\0\0\0\x0cjP  ", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"DDS ", "dds"),
    (b"qoif", "qoi"),
    (b"v/1\x01", "exr"),
    (b"SIMPLE  =", "fits"),
    (b"gimp xcf", "xcf"),
    (b"\xd7\xcd\xc6\x9a", "wmf"),
    (b"%PDF-", "pdf"),
    (b"PK\3\4", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"Rar!", "rar"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"ID3", "mp3"),
    (b"OggS", "ogg"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"FLV\1", "flv"),
    (b"FWS", "flash"),
    (b"CWS", "flash"),
)

_BRANDS = {
    b"avif": "avif",
    b"avis": "avif",
    b"heic": "heic",
    b"heix": "heic",
    b"heim": "heic",
    b"heis": "heic",
    b"hevc": "heic",
    b"hevx": "heic",
}
"""Brands of ISO media files (the ``ftyp`` box) that are images."""

_TEXTS = (
    (re.compile(rb"<(!doctype html|html|head|body|title|script|meta|div|p|h1|a|table)\b", re.IGNORECASE), "html"),
    (re.compile(rb"<svg\b|<[?!].*<svg\b", re.DOTALL), "svg"),
    (re.compile(rb"<"), "xml"),
    (re.compile(rb"[{\[]\s*[\"{}\[\]\d-]"), "json"),
)
"""What text starts with, after a byte order mark and blanks. Pages come first: they may hold an SVG."""

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Sizes of the header that follows a BMP file's first 14 bytes: two letters alone are a weak sign."""


_ISPE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)
"""The property of an AVIF item that is its width and height."""
_ISPE_WITHIN = 2**16
"""Bytes of a file among which it is looked for."""


def kind_of(data: bytes) -> str:
    r"""A short name such as ``jpeg``, ``svg``, ``html``, ``text``, ``empty``; ``unknown`` if nothing fits.

    >>> kind_of(b"\xff\xd8\xff\xe0"), kind_of(b"<!DOCTYPE html>"), kind_of(b"")
    ('jpeg', 'html', 'empty')
    """
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return _gzip_kind(data) if kind == "gzip" else kind
    if data.startswith(b"RIFF"):
        return {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "wav"}.get(data[8:12], "riff")
    if data[4:8] == b"ftyp":
        return _iso_kind(data)
    if data.startswith(b"BM") and len(data) >= 18 and struct.unpack_from("<I", data, 14)[0] in _BMP_HEADERS:
        return "bmp"
    if re.match(rb"P[1-7][\s#]", data):
        return "pnm"
    return _text_kind(data[:1024])


def _iso_kind(data: bytes) -> str:
    """By the brands of the ``ftyp`` box: the major one, a version, then those that it is compatible with."""
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    for start in (0, *range(8, len(brands), 4)):
        if brands[start : start + 4] in _BRANDS:
            return _BRANDS[brands[start : start + 4]]
    return "heic" if brands[:4] in (b"mif1", b"msf1") else "mp4"


def _gzip_kind(data: bytes) -> str:
    """SVG is served compressed, too; 1 KiB at most is unpacked to see it."""
    try:
        head = zlib.decompressobj(wbits=31).decompress(data[:1024], 1024)
    except zlib.error:
        return "gzip"
    return "svg" if _text_kind(head) == "svg" else "gzip"


def _text_kind(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return "empty"
    found = next((kind for pattern, kind in _TEXTS if pattern.match(text)), None)
    return found or ("text" if _is_text(text) else "unknown")


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last character may be cut."""
    decoded = head.decode("utf-8", errors="replace").rstrip("\ufffd")
    return "\ufffd" not in decoded and all(c.isprintable() or c in "\t\n\r\f" for c in decoded)


def size_of(data: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height by the file's header, in pixels; None where the header is cut, or of another kind."""
    try:
        return _SIZES[kind](data) if kind in _SIZES else None
    except struct.error:
        return None


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif_size(data: bytes) -> tuple[int, int]:
    """Of the screen, and of the first frame where that is larger: decoders extend the screen to it."""
    width, height = struct.unpack_from("<HH", data, 6)
    right, bottom = next(GifWalk(data).frames(), (0, 0))
    return max(width, right), max(height, bottom)


def _bmp_size(data: bytes) -> tuple[int, int]:
    layout = "<HH" if data[14:15] == b"\x0c" else "<ii"
    width, height = struct.unpack_from(layout, data, 18)
    return abs(width), abs(height)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return 1 + low_width + (high_width << 16), 1 + low_height + (high_height << 16)
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, start in jpeg_segments(data):
        if marker in FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, start + 5)
            return width, height
    return None


def _avif_size(data: bytes) -> tuple[int, int] | None:
    """The largest one of those that it names: the others are of thumbnails, tiles and the like."""
    sizes = [struct.unpack(">II", found[1]) for found in _ISPE.finditer(data, 0, _ISPE_WITHIN)]
    return max(sizes, key=math.prod, default=None)


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    walk = TiffWalk(data)
    table = next(walk.tables(), None)
    sides = {entry.tag: entry.value for entry in walk.entries(*table)} if table else {}
    return (sides[256], sides[257]) if sides.keys() >= {256, 257} else None


_SIZES: dict[str, Callable[[bytes], tuple[int, int] | None]] = {
    "avif": _avif_size,
    "bmp": _bmp_size,
    "gif": _gif_size,
    "jpeg": _jpeg_size,
    "png": _png_size,
    "tiff": _tiff_size,
    "webp": _webp_size,
}


def is_cut(data: bytes, kind: str) -> bool:
    """Whether a file that could not be decoded ends before its format says it should."""
    return kind in _CUTS and _CUTS[kind](data)


def _jpeg_cut(data: bytes) -> bool:
    """No end marker after the start of the first scan: one before that belongs to a thumbnail."""
    scan = next((start for marker, start in jpeg_segments(data) if marker == START_OF_SCAN), len(data))
    return data.find(bytes([0xFF, END_OF_IMAGE]), scan) < 0


def _png_cut(data: bytes) -> bool:
    """A chunk that goes past the end, or no IEND."""
    name, end = b"", 0
    for name, end in png_chunks(data):  # noqa: B007 - the last one is what counts
        pass
    return name != b"IEND" or end > len(data)


def _iso_cut(data: bytes) -> bool:
    """A box that goes past the end."""
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length < 8:  # 0: up to the end of the file; 1: a 64-bit length, which no image needs
            return False
        position += length
    return position > len(data)


def _tiff_cut(data: bytes) -> bool:
    """The first table lies past the end."""
    offset = int.from_bytes(data[4:8], "little" if data.startswith(b"I") else "big")
    return b"*" in data[2:4] and len(data) < offset + 2  # not BigTIFF, which has + for * and puts the offset elsewhere


def _gif_cut(data: bytes) -> bool:
    """No trailer."""
    return not data.endswith(b";")


def _webp_cut(data: bytes) -> bool:
    """Shorter than its RIFF header says."""
    return int.from_bytes(data[4:8], "little") + 8 > len(data)


def _bmp_cut(data: bytes) -> bool:
    """Shorter than its header says."""
    return int.from_bytes(data[2:6], "little") > len(data)


_CUTS = {
    "avif": _iso_cut,
    "bmp": _bmp_cut,
    "gif": _gif_cut,
    "jpeg": _jpeg_cut,
    "png": _png_cut,
    "tiff": _tiff_cut,
    "webp": _webp_cut,
}
