"""Image files put together by hand: what Pillow cannot write, because it should not be written."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

__all__ = [
    "bmp_header",
    "gif",
    "insert_segment",
    "many_scans",
    "png",
    "png_chunk",
    "repeated_frames",
    "resized_jpeg",
    "tiff",
    "webp_canvas",
    "without_segment",
]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PALETTE = b"\0\0\0\xff\xff\xff"

_BLOCKS_PER_SCAN = 2**14
"""What one symbol of a progressive JPEG can pass over: so many blocks without a coefficient."""

# ---- PNG


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(size: tuple[int, int], depth: int, color: int, stream: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file.

    Args:
        size: Width and height in pixels, as the header tells them.
        depth: Bits of a channel.
        color: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        stream: What the pixels are compressed to: a zlib stream of rows, each after a byte for its filter.
        chunks: Name and body of further chunks, which come before the pixels.
    """
    head = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", stream), (b"IEND", b"")]
    return PNG_MAGIC + b"".join(png_chunk(name, body) for name, body in parts)


# ---- GIF, BMP, WebP


def gif(size: tuple[int, int], frames: Iterable[bytes]) -> bytes:
    """A GIF file of two colours; `size` is that of its canvas."""
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + PALETTE + b"".join(frames) + b";"


def _gif_frame(width: int, height: int, codes: bytes) -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02" + bytes([len(codes)]) + codes + b"\0"


def repeated_frames(count: int) -> bytes:
    """A GIF of 2 by 2 pixels with so many frames, 16 bytes each."""
    # Codes of three bits: clear, one black pixel, two more (the first code that the decoder makes up), another; by then
    # there are eight codes, so that the last one, for the end, has four bits.
    return gif((2, 2), [_gif_frame(2, 2, _bits([(4, 3), (0, 3), (6, 3), (0, 3), (5, 4)]))] * count)


def _bits(values: Iterable[tuple[int, int]]) -> bytes:
    """Numbers of so many bits each, from the lowest bit on."""
    total, length = 0, 0
    for value, width in values:
        total |= value << length
        length += width
    return total.to_bytes(-(-length // 8), "little")


def bmp_header(width: int, height: int) -> bytes:
    """A BMP file without its pixels."""
    return b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6)


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP file that has a canvas and no picture on it."""
    canvas = struct.pack("<I", 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


# ---- TIFF


def tiff(tags: Iterable[tuple[int, int]], tail: bytes = b"", *, following: int = 0) -> bytes:
    """A TIFF file of one page.

    Args:
        tags: Number and value, in ascending order; each value is one 32-bit number.
        tail: What comes after the table, where offsets may point.
        following: Where the table of the next page is; the first one is at 8.
    """
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", following) + tail


# ---- JPEG


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def insert_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """The JPEG with one segment more, right after its start."""
    return jpeg[:2] + _segment(marker, body) + jpeg[2:]


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without the first segment of this marker."""
    start = jpeg.index(bytes([0xFF, marker]))
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def resized_jpeg(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its frame header; the pixels stay as they are."""
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]


def many_scans(count: int) -> bytes:
    """A progressive JPEG of 1,024 by 1,024 grey pixels with so many scans, 12 bytes each.

    Every scan goes over all the blocks and changes none: a decoder pays for each of them.
    """
    side = 1024
    tables = _segment(0xDB, b"\0" + b"\1" * 64)  # quantisation
    frame = _segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
    # One symbol in each Huffman table, so that its code is a single zero bit: "no difference" for the constant parts,
    # and for the rest "no coefficient in the next 2^14 blocks", of which there are as many.
    codes = _segment(0xC4, _huffman(0x00, 0x00)) + _segment(0xC4, _huffman(0x10, 0xE0))
    constant = _segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])) + bytes(_BLOCKS_PER_SCAN // 8)
    scan = _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x00])) + b"\0\1"
    return b"\xff\xd8" + tables + frame + codes + constant + scan * (count - 1) + b"\xff\xd9"


def _huffman(table: int, symbol: int) -> bytes:
    return bytes([table, 1, *[0] * 15, symbol])
