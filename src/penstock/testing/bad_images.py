"""Image files that are wrong, or odd, in every way of the catalogue; and what Penstock makes of each.

Small, and the same bytes in each process with the same Pillow. They are made when they are asked for::

    for bad in BAD_IMAGES.values():
        print(bad.name, bad.expected, len(bad.data))

The server has them below ``/bad/``.
"""

from __future__ import annotations

import functools
import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from penstock.records import Reason
from penstock.testing.bombs import zlib_zeros
from penstock.testing.image_files import (
    bmp_header,
    gif,
    insert_segment,
    many_scans,
    png,
    png_chunk,
    repeated_frames,
    resized_jpeg,
    tiff,
    webp_canvas,
    without_segment,
)

__all__ = ["BAD_IMAGES", "BadImage"]

HUGE = 50_000
"""Pixels of a side: 2.5 thousand million in all."""

BOMB = 64_000_000
"""Bytes that the metadata of a small file unpack to."""

PROFILE = 5_000_000
"""Bytes of a colour profile that is larger than any picture needs."""

ORIENTATION = 0x0112


@dataclass(frozen=True)
class BadImage:
    """One file."""

    name: str
    """With the ending that a server would give it."""
    row: int
    """Of the catalogue."""
    expected: Reason | None
    """Why it gives no image, under the default options; None if it gives one."""
    make: Callable[[], bytes] = field(repr=False, compare=False)

    @functools.cached_property
    def data(self) -> bytes:
        """The bytes of the file."""
        return self.make()


# ---- from Pillow


@functools.cache
def _picture(width: int = 128, height: int = 96) -> Image.Image:
    """Two slopes and some noise."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 25, (height, width, 3))
    plane = np.stack([x * 230 // width, y * 230 // height, (x + y) * 230 // (width + height)], -1) + noise
    return Image.fromarray(plane.astype(np.uint8))


def _saved(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (image or _picture()).save(out, form, **options)
    return out.getvalue()


def _frames(form: str) -> bytes:
    further = [_picture().rotate(angle) for angle in (90, 180)]
    return _saved(form, save_all=True, append_images=further)


def _cmyk() -> bytes:
    return _saved("JPEG", _picture().convert("CMYK"))


def _ycck() -> bytes:
    """The same, with the mark that says how its colours are stored."""
    data = bytearray(_cmyk())
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def _oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return _saved("JPEG", exif=exif)


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 - the same bytes in each run


# ---- surgery


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _patched(data: bytes, place: int, patch: bytes) -> bytes:
    return data[:place] + patch + data[place + len(patch) :]


def _bad_crc() -> bytes:
    return _patched(_saved("PNG"), 29, b"\0\0\0\0")  # of the header, whose checksum ends at 33


def _bad_stream() -> bytes:
    data = _saved("PNG")
    return _patched(data, data.index(b"IDAT") + 40, bytes(40))


def _bad_huffman() -> bytes:
    data = _saved("JPEG")
    return _patched(data, data.index(b"\xff\xc4") + 5, b"\xff" * 16)


def _bad_scan() -> bytes:
    """Noise in the middle of the pixels, which libjpeg takes for pixels."""
    data = _saved("JPEG")
    return _patched(data, len(data) // 2 + 300, _noise(100).replace(b"\xff", b"\xfe"))


def _bad_webp() -> bytes:
    return _patched(_saved("WEBP", lossless=True), 25, _noise(200))


def _first_page_again() -> bytes:
    """A TIFF whose first page says that the next one is itself."""
    data = _saved("TIFF")
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    return _patched(data, start + 2 + 12 * count, struct.pack("<I", start))


# ---- by hand


def _rows(*rows: bytes) -> bytes:
    return zlib.compress(b"".join(b"\0" + row for row in rows))


def _deep(color: int, channels: int) -> bytes:
    """Pixels of 16 bits."""
    row = b"".join(struct.pack(">H", 4096 * x) for x in range(8) for _ in range(channels))
    return png((8, 8), 16, color, _rows(*[row] * 8))


def _with_chunk(name: bytes, body: bytes) -> bytes:
    return png((8, 8), 8, 0, _rows(*[bytes(8)] * 8), (name, body))


def _deflate_bomb() -> bytes:
    """Four pixels, and a thousand million bytes more behind them."""
    return png((2, 2), 8, 0, zlib_zeros(1_000_000_000))


def _large() -> bytes:
    """As many pixels as are allowed, in a file of 64 KB."""
    return png((8000, 8000), 8, 0, zlib_zeros(8001 * 8000))


def _ico(inner: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inner), 22) + inner


def _tiff_of(width: int, height: int, *, strips: bool = True) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1)]
    place = [(273, 8), (277, 1), (278, height), (279, 64)] if strips else [(277, 1)]
    return tiff([*tags, *place], bytes(64))


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("index.html"), "<script>alert(1)</script>")
    return out.getvalue()


def _psd() -> bytes:
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 8, 8, 8, 3)
    return head + struct.pack(">IIIH", 0, 0, 0, 0) + bytes(8 * 8 * 3)


def _fits() -> bytes:
    cards = (
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    0",
        "END",
    )
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode()


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>\n'
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n"
_PDF = b"%PDF-1.7\n1 0 obj\n<</Type /Catalog>>\nendobj\ntrailer\n<</Root 1 0 R>>\n%%EOF\n"
_FLI = struct.pack("<IHHHHHH", 128, 0xAF11, 1, 8, 8, 8, 0).ljust(128, b"\0")
_WMF = b"\xd7\xcd\xc6\x9a" + bytes(18) + struct.pack("<HHHIHIH", 1, 9, 0x300, 12, 0, 3, 0)
_HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + png_chunk(b"meta", bytes(4))[:-4]
_JXL = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "
_GREY_PROFILE = (struct.pack(">I", 132) + bytes(8) + b"mntrGRAYXYZ ").ljust(36, b"\0") + b"acsp" + bytes(92)
_SCRIPT = b"<html><script>alert(1)</script></html>"

_ONE = (
    BadImage("noise.bin", 63, Reason.CONTENT_NOT_IMAGE, lambda: b"\0" + _noise(2000)),
    BadImage("truncated.jpg", 64, Reason.IMAGE_TRUNCATED, lambda: _half(_saved("JPEG"))),
    BadImage("truncated-progressive.jpg", 64, Reason.IMAGE_TRUNCATED, lambda: _half(_saved("JPEG", progressive=True))),
    BadImage("truncated.png", 64, Reason.IMAGE_TRUNCATED, lambda: _half(_saved("PNG"))),
    BadImage("truncated.webp", 64, Reason.IMAGE_TRUNCATED, lambda: _half(_saved("WEBP"))),
    BadImage("truncated.gif", 64, Reason.IMAGE_TRUNCATED, lambda: _half(_saved("GIF"))),
    BadImage("head-only.jpg", 64, Reason.IMAGE_TRUNCATED, lambda: _saved("JPEG")[:20]),
    BadImage("bad-crc.png", 65, Reason.IMAGE_CORRUPT, _bad_crc),
    BadImage("bad-stream.png", 65, Reason.IMAGE_CORRUPT, _bad_stream),
    BadImage("bad-huffman.jpg", 65, Reason.IMAGE_CORRUPT, _bad_huffman),
    BadImage("bad-webp.webp", 65, Reason.IMAGE_CORRUPT, _bad_webp),
    BadImage("bad-scan.jpg", 65, None, _bad_scan),
    BadImage("pixel-bomb.png", 66, Reason.IMAGE_TOO_MANY_PIXELS, lambda: png((HUGE, HUGE), 8, 2, _rows(bytes(64)))),
    BadImage("pixel-bomb.gif", 66, Reason.IMAGE_TOO_MANY_PIXELS, lambda: gif((65_535, 65_535), [])),
    BadImage("pixel-bomb.bmp", 66, Reason.IMAGE_TOO_MANY_PIXELS, lambda: bmp_header(HUGE, -HUGE)),
    BadImage("pixel-bomb.tif", 66, Reason.IMAGE_TOO_MANY_PIXELS, lambda: _tiff_of(HUGE, HUGE)),
    BadImage("pixel-bomb.webp", 66, Reason.IMAGE_TOO_MANY_PIXELS, lambda: webp_canvas(16_384, 16_384)),
    BadImage("pixel-bomb.jpg", 66, Reason.IMAGE_TOO_MANY_PIXELS, lambda: resized_jpeg(_saved("JPEG"), 65_500, 65_500)),
    BadImage("pixel-bomb.ico", 66, Reason.CONTENT_UNSUPPORTED, lambda: _ico(png((HUGE, HUGE), 8, 2, _rows(bytes(64))))),
    BadImage("deflate-bomb.png", 66, None, _deflate_bomb),
    BadImage("largest-allowed.png", 66, None, _large),
    BadImage(
        "ztxt-bomb.png",
        67,
        Reason.IMAGE_METADATA_BOMB,
        lambda: _with_chunk(b"zTXt", b"Comment\0\0" + zlib_zeros(BOMB)),
    ),
    BadImage(
        "itxt-bomb.png",
        67,
        Reason.IMAGE_METADATA_BOMB,
        lambda: _with_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib_zeros(BOMB)),
    ),
    BadImage(
        "iccp-bomb.png",
        67,
        Reason.IMAGE_METADATA_BOMB,
        lambda: _with_chunk(b"iCCP", b"profile\0\0" + zlib_zeros(BOMB)),
    ),
    BadImage("scans-2000.jpg", 68, Reason.IMAGE_TOO_MANY_SCANS, lambda: many_scans(2000)),
    BadImage("scans-200.jpg", 68, None, lambda: many_scans(200)),
    BadImage("zero-width.png", 69, Reason.IMAGE_ZERO_SIZE, lambda: png((0, 8), 8, 0, _rows())),
    BadImage("zero-height.jpg", 69, Reason.IMAGE_ZERO_SIZE, lambda: resized_jpeg(_saved("JPEG"), 8, 0)),
    BadImage("zero-size.gif", 69, Reason.IMAGE_ZERO_SIZE, lambda: gif((0, 0), [])),
    BadImage("one-pixel.png", 69, Reason.IMAGE_TOO_SMALL, lambda: _saved("PNG", Image.new("RGB", (1, 1)))),
    BadImage("one-wide.png", 69, Reason.IMAGE_TOO_SMALL, lambda: _saved("PNG", Image.new("RGB", (1, 100)))),
    BadImage("one-high.gif", 69, Reason.IMAGE_TOO_SMALL, lambda: _saved("GIF", Image.new("L", (100, 1)))),
    BadImage("one-high-65500.jpg", 70, Reason.IMAGE_TOO_SMALL, lambda: _saved("JPEG", Image.new("L", (65_500, 1)))),
    BadImage("two-high-65500.jpg", 70, None, lambda: _saved("JPEG", Image.new("L", (65_500, 2)))),
    BadImage("two-wide-65500.png", 70, None, lambda: _saved("PNG", Image.new("L", (2, 65_500)))),
    BadImage("frames-100000.gif", 71, None, lambda: repeated_frames(100_000)),
    BadImage("animated.gif", 71, None, lambda: _frames("GIF")),
    BadImage("animated.png", 71, None, lambda: _frames("PNG")),
    BadImage("animated.webp", 71, None, lambda: _frames("WEBP")),
    BadImage("cmyk.jpg", 72, None, _cmyk),
    BadImage("cmyk-unmarked.jpg", 72, None, lambda: without_segment(_cmyk(), 0xEE)),
    BadImage("ycck.jpg", 72, None, _ycck),
    BadImage("grey-16.png", 73, None, lambda: _deep(0, 1)),
    BadImage("rgb-16.png", 73, None, lambda: _deep(2, 3)),
    BadImage("rgba-16.png", 73, None, lambda: _deep(6, 4)),
    BadImage("grey-16.tif", 73, None, lambda: _saved("TIFF", _picture().convert("I;16"))),
    BadImage("palette.png", 74, None, lambda: _saved("PNG", _picture().quantize(16), transparency=b"\0\x80\xff")),
    BadImage("grey-alpha.png", 74, None, lambda: _saved("PNG", _picture().convert("LA"))),
    BadImage("one-bit.png", 74, None, lambda: _saved("PNG", _picture().convert("1"))),
    BadImage("orientation-garbage.jpg", 75, None, lambda: _saved("JPEG", exif=b"Exif\0\0" + _noise(200))),
    BadImage("broken-icc.jpg", 76, None, lambda: _saved("JPEG", icc_profile=_noise(500))),
    BadImage("broken-icc.png", 76, None, lambda: _saved("PNG", icc_profile=_noise(500))),
    BadImage("large-icc.jpg", 76, None, lambda: _saved("JPEG", icc_profile=_noise(PROFILE))),
    BadImage("grey-icc.jpg", 76, None, lambda: _saved("JPEG", icc_profile=_GREY_PROFILE)),
    BadImage("picture.svg", 77, Reason.CONTENT_UNSUPPORTED, lambda: _SVG),
    BadImage("picture.svgz", 77, Reason.CONTENT_UNSUPPORTED, lambda: gzip.compress(_SVG, mtime=0)),
    BadImage("picture.eps", 78, Reason.CONTENT_UNSUPPORTED, lambda: _EPS),
    BadImage("picture.psd", 78, Reason.CONTENT_UNSUPPORTED, _psd),
    BadImage("picture.fits", 78, Reason.CONTENT_UNSUPPORTED, _fits),
    BadImage("picture.wmf", 78, Reason.CONTENT_UNSUPPORTED, lambda: _WMF),
    BadImage("picture.ico", 78, Reason.CONTENT_UNSUPPORTED, lambda: _ico(_saved("PNG"))),
    BadImage("picture.fli", 78, Reason.CONTENT_NOT_IMAGE, lambda: _FLI),
    BadImage("document.pdf", 78, Reason.CONTENT_NOT_IMAGE, lambda: _PDF),
    BadImage("polyglot-zip.jpg", 79, None, lambda: _saved("JPEG") + _zip()),
    BadImage("polyglot-html.jpg", 79, None, lambda: insert_segment(_saved("JPEG"), 0xFE, _SCRIPT)),
    BadImage("trailing-garbage.jpg", 79, None, lambda: _saved("JPEG") + _noise(1000)),
    BadImage("trailing-garbage.png", 79, None, lambda: _saved("PNG") + _noise(1000)),
    BadImage("two-in-one.jpg", 79, None, lambda: _saved("JPEG") + _saved("PNG")),
    BadImage("picture.heic", 80, Reason.CONTENT_UNSUPPORTED, lambda: _HEIC),
    BadImage("picture.jxl", 80, Reason.CONTENT_UNSUPPORTED, lambda: _JXL),
    BadImage("stereo.mpo", 81, None, lambda: _frames("MPO")),
    BadImage("pages.tif", 81, None, lambda: _frames("TIFF")),
    BadImage("page-loop.tif", 81, None, _first_page_again),
    BadImage("floats.tif", 81, Reason.CONTENT_UNSUPPORTED, lambda: _saved("TIFF", _picture().convert("F"))),
    BadImage("no-strips.tif", 82, Reason.IMAGE_CORRUPT, lambda: _tiff_of(8, 8, strips=False)),
    BadImage("too-wide-for-webp.png", 83, None, lambda: _saved("PNG", Image.new("L", (17_000, 8)))),
)
_ORIENTED = tuple(
    BadImage(f"orientation-{value}.jpg", 75, None, functools.partial(_oriented, value)) for value in range(10)
)

BAD_IMAGES: Mapping[str, BadImage] = MappingProxyType(
    {bad.name: bad for bad in sorted((*_ONE, *_ORIENTED), key=lambda bad: bad.row)}
)
"""All of them by name, in the order of the catalogue."""
