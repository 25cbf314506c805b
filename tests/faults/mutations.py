"""Small pictures of every format, and thousands of ways to spoil them.

The same seed gives the same bytes. A mutation is a function of the bytes and a source of randomness; up to three of them
follow each other. PNG files get right checksums again half of the time, or no decoder would look behind the first one.
"""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, features

from penstock.image import structure
from penstock.testing.bad_images import BAD_IMAGES
from penstock.testing.image_files import insert_segment, many_scans, png_chunk, repeated_frames

__all__ = ["monsters", "mutants", "originals"]

Mutation = Callable[[bytes, random.Random], bytes]

LARGEST = 30_000
"""Bytes of the bad images that are mutated, too."""

ORIGINALS_SHARE = 4
"""How often an original is mutated for each time that a monster is."""

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1)
"""What lengths, counts, offsets and dimensions are overwritten with."""


def _picture(mode: str = "RGB", width: int = 40, height: int = 28) -> Image.Image:
    noise = np.random.default_rng(width).integers(0, 60, (height, width, 4), dtype=np.uint8)
    noise += np.arange(width, dtype=np.uint8)[None, :, None] * 4
    return Image.fromarray(noise).convert(mode)


def _saved(form: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    _picture(mode).save(out, form, **options)
    return out.getvalue()


def _animated(form: str, mode: str = "RGB") -> bytes:
    return _saved(form, mode, save_all=True, append_images=[_picture(mode).rotate(90 * turn) for turn in (1, 2)])


def _tagged() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    return _saved("JPEG", exif=exif, icc_profile=bytes(300), xmp=b"<x:xmpmeta/>", comment=b"hello")


@functools.cache
def originals() -> dict[str, bytes]:
    """Whole pictures by name: each format that is decoded, in its varieties."""
    made = {
        "jpeg": _saved("JPEG"),
        "jpeg progressive": _saved("JPEG", progressive=True),
        "jpeg restarts": _saved("JPEG", restart_marker_rows=1),
        "jpeg cmyk": _saved("JPEG", "CMYK"),
        "jpeg grey": _saved("JPEG", "L"),
        "jpeg tagged": _tagged(),
        "mpo": _animated("MPO"),
        "png": _saved("PNG"),
        "png alpha": _saved("PNG", "RGBA"),
        "png palette": _saved("PNG", "P", transparency=b"\0\x80"),
        "png 16 bit": _saved("PNG", "I;16"),
        "png 1 bit": _saved("PNG", "1"),
        "apng": _animated("PNG"),
        "gif": _saved("GIF", "P"),
        "gif animated": _animated("GIF", "P"),
        "bmp": _saved("BMP"),
        "bmp palette": _saved("BMP", "P"),
        "tiff": _saved("TIFF"),
        "tiff pages": _animated("TIFF"),
        "tiff 16 bit": _saved("TIFF", "I;16"),
        "bigtiff": _saved("TIFF", big_tiff=True),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
        made[f"tiff {compression}"] = _saved("TIFF", compression=compression)
    made["tiff group4"] = _saved("TIFF", "1", compression="group4")
    if features.check("webp"):
        made |= {"webp": _saved("WEBP"), "webp lossless": _saved("WEBP", lossless=True)}
        made |= {"webp alpha": _saved("WEBP", "RGBA"), "webp animated": _animated("WEBP")}
    if features.check("avif"):
        made |= {"avif": _saved("AVIF", speed=10), "avif alpha": _saved("AVIF", "RGBA", speed=10)}
    return made


# ---- mutations


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 2, 4, 64))) + data[place:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.choice((1, 2, 4, 64)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    """A part again and again: segments, frames, tables."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((4, 12, 40, 400)))
    return data[:end] + data[start:end] * rng.choice((1, 5, 50)) + data[end:]


def _blank(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice((4, 16, 100))]
    return data[:start] + rng.choice((b"\0", b"\xff")) * len(part) + data[start + len(part) :]


def _number(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    """An extreme number in the first `within` bytes, of 1, 2 or 4 bytes and either order."""
    size = rng.choice((1, 2, 2, 4, 4))
    value = (rng.choice(EXTREMES) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
    place = rng.randrange(min(within or len(data), len(data)))
    return data[:place] + value + data[place + size :]


def _header(data: bytes, rng: random.Random) -> bytes:
    """As `_number`, where most formats have dimensions, depths and lengths."""
    return _number(data, rng, within=64)


def _dimensions(data: bytes, rng: random.Random) -> bytes:
    """A JPEG's frame, an image descriptor of GIF, a TIFF's first tags; of others the header."""
    marks = {b"\xff\xd8": b"\xff\xc0", b"GI": b",", b"II": b"\0\1\4\0", b"\0\0": b"ispe", b"RI": b"VP8"}
    place = data.find(marks.get(data[:2], b"IHDR")) + 4
    return data[:place] + _number(data[place:] or b"\0", rng, within=16)


def _splice(data: bytes, rng: random.Random) -> bytes:
    """The beginning of this file and the end of another one."""
    other = rng.choice(list(originals().values()))
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


MUTATIONS: tuple[Mutation, ...] = (
    *(_cut, _flip, _flip, _insert, _remove, _repeat, _blank),
    *(_number, _number, _header, _dimensions, _splice),
)


def _with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are right again; any other file as it is."""
    if not data.startswith(b"\x89PNG"):
        return data
    parts, position = [data[:8]], 8
    for name, end in structure.png_chunks(data):
        if end > len(data):
            break
        parts.append(png_chunk(name, data[position + 8 : end - 4]))
        position = end
    return b"".join(parts) + data[position:]


# ---- monsters: small files that ask for a lot


@functools.cache
def monsters() -> dict[str, bytes]:
    """Files that are whole, or nearly so, and excessive in one thing."""
    jpeg, png = originals()["jpeg"], originals()["png"]
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 10_000 + b"\0"
    gif = originals()["gif"]
    return {
        "2,000 scans": many_scans(2000),
        "100,000 frames": repeated_frames(100_000),
        "100,000 segments": jpeg[:2] + (b"\xff\xe5\0\x06abcd") * 100_000 + jpeg[2:],
        "100,000 pieces of EXIF": jpeg[:2] + (b"\xff\xe1\0\x10Exif\0\0" + bytes(8)) * 100_000 + jpeg[2:],
        "EXIF of 8 MB": functools.reduce(
            lambda data, _: insert_segment(data, 0xE1, b"Exif\0\0" + bytes(65_000)), range(130), jpeg
        ),
        "100,000 chunks": png[:33] + png_chunk(b"teSt", b"") * 100_000 + png[33:],
        "megabytes of comments": gif[:781] + comment + gif[781:],
        "a million tiny comments": gif[:781] + b"!\xfe" + b"\1x" * 10**6 + b"\0" + gif[781:],
        "a million strips": _many_strips(10**6),
        "100,000 tags": b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 100_000) + bytes(20) * 100_000,
        **{bad.name: bad.data for bad in BAD_IMAGES.values()},
    }


def _many_strips(count: int) -> bytes:
    """A TIFF, one pixel wide, in strips of one pixel that all lie in the same place."""
    tags = [(256, 1, 1), (257, 1, count), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, 110), (277, 1, 1)]
    tags.append((278, 1, 1))
    table = b"".join(struct.pack("<HHII", tag, 4, values, value) for tag, values, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table + bytes(4) + struct.pack("<I", 8) * count


def mutants(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """All the monsters, then mutations: `count` files in all, each with a name for it."""
    rng = random.Random(zlib.crc32(b"mutants %d" % seed))
    yield from monsters().items()
    small = originals() | {name: data for name, data in monsters().items() if 0 < len(data) < LARGEST}
    names = [*sorted(originals()) * ORIGINALS_SHARE, *sorted(small.keys() - originals().keys())]
    for number in range(count - len(monsters())):
        name = names[number % len(names)]
        data, applied = small[name], []
        for mutation in rng.choices(MUTATIONS, k=rng.choice((1, 1, 2, 3))):
            data = mutation(data, rng) if data else data
            applied.append(mutation.__name__.strip("_"))
        if rng.random() < 0.5:
            data = _with_right_checksums(data)
        yield f"{number}: {name}, {', '.join(applied)}", data
