"""What is refused by its structure, what is not, and how many frames a file has."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, features

from penstock.config import ImageConfig
from penstock.errors import ItemError
from penstock.image import bombs, frames, sniff, structure
from penstock.image.bombs import MAX_PARTS, MAX_SCANS, MAX_STRIPS
from penstock.image.decode import decode
from penstock.records import Reason
from penstock.testing.image_files import insert_segment, many_scans, png_chunk, repeated_frames

CONFIG = ImageConfig(min_size=1)


def saved(form: str, mode: str = "RGB", count: int = 1, **options: Any) -> bytes:
    """A picture, or several that differ."""
    first, *others = [Image.new(mode, (12, 10), 20 * shade + 5) for shade in range(count)]
    out = io.BytesIO()
    first.save(out, form, **options, **({"save_all": True, "append_images": others} if others else {}))
    return out.getvalue()


def refused(data: bytes) -> Reason | None:
    try:
        bombs.refuse(data, sniff.kind_of(data))
    except ItemError as error:
        return error.reason
    return None


# Scans


def test_scans_have_a_limit() -> None:
    """As many as the limit pass, one more does not."""
    assert refused(many_scans(MAX_SCANS)) is None
    assert refused(many_scans(MAX_SCANS + 1)) is Reason.IMAGE_TOO_MANY_SCANS


def test_scans_of_others_do_not_count() -> None:
    """Not those of a thumbnail in the EXIF, nor what looks like them behind the end or inside a segment."""
    scans = b"\xff\xda\0\x08" * 300
    progressive = saved("JPEG", progressive=True)
    for data in (
        insert_segment(progressive, 0xE1, b"Exif\0\0" + scans),
        progressive + scans,
        progressive[:-2] + b"\xff\xfe" + struct.pack(">H", 2 + len(scans)) + scans + b"\xff\xd9",
    ):
        assert data.count(b"\xff\xda") > MAX_SCANS
        assert refused(data) is None
        assert decode(data, CONFIG).width == 12


def test_an_end_marker_in_a_segment_hides_no_scans() -> None:
    """The walk goes from segment to segment, as the decoder does."""
    data = many_scans(300)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    assert refused(data[:second] + b"\xff\xfe\0\x04\xff\xd9" + data[second:]) is Reason.IMAGE_TOO_MANY_SCANS


def test_scans_of_a_single_component_count_without_being_progressive() -> None:
    """A baseline file may give each component its own scan, and then the decoder reads them all."""
    data = bytearray(saved("JPEG"))
    scan = data.index(b"\xff\xda")
    many = bytes(data[:scan]) + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 300 + b"\xff\xd9"
    assert refused(many) is Reason.IMAGE_TOO_MANY_SCANS
    assert refused(bytes(data[:-2]) + bytes(data[scan:-2]) * 300 + b"\xff\xd9") is None, "the first scan has it all"


# Parts


def png_with(count: int, *, behind: bool) -> bytes:
    data = saved("PNG")
    place = len(data) - 12 if behind else 33
    return data[:place] + png_chunk(b"teSt", b"") * count + data[place:]


def tiff_of(entries: list[tuple[int, int, int]], tail: bytes = b"") -> bytes:
    """A TIFF of one table: tags, numbers of values, values."""
    table = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + tail


def gif_with(extension: bytes) -> bytes:
    data = saved("GIF", "L")
    place = data.index(b",")
    return data[:place] + extension + data[place:]


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda count: insert_segments(saved("JPEG"), count), MAX_PARTS - 20),
        (lambda count: png_with(count, behind=False), MAX_PARTS - 20),
        (lambda count: png_with(count, behind=True), MAX_PARTS - 20),
        (lambda count: tiff_of([(1000 + tag, 1, 0) for tag in range(count)]), MAX_PARTS),
        (lambda count: tiff_of([(273, count, 8)], bytes(2 * MAX_STRIPS)), MAX_STRIPS),
        (lambda count: tiff_of([(324, count, 8)], bytes(2 * MAX_STRIPS)), MAX_STRIPS),
        (lambda count: gif_with(b"!\xfe" + b"\1x" * count + b"\0"), structure.MAX_BLOCKS - 20),
        (lambda count: gif_with(b"!\xfe\0" * count), structure.MAX_BLOCKS - 20),
        (lambda count: gif_with(b"\0" * count), structure.MAX_BLOCKS - 20),
    ],
)
def test_parts_have_a_limit(make: Callable[[int], bytes], most: int) -> None:
    """Segments, chunks, tags, strips and blocks pass up to it, give or take what any file has; not above."""
    assert refused(make(most)) is None
    assert refused(make(most + 40)) is Reason.IMAGE_METADATA_BOMB


def insert_segments(data: bytes, count: int) -> bytes:
    return data[:2] + b"\xff\xe5\0\x02" * count + data[2:]


def test_a_count_without_the_parts_is_no_bomb() -> None:
    """A damaged number is corrupt, not a bomb: what is not there costs nothing."""
    assert refused(b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(100)) is None
    assert refused(tiff_of([(273, 2**31, 8)])) is None


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF"])
def test_no_header_holds_up_a_walk(form: str) -> None:
    """Cut anywhere, a file is walked over without an exception."""
    data = saved(form)
    for end in range(len(data)):
        assert refused(data[:end]) is None
        sniff.size_of(data[:end], sniff.kind_of(data))


# Frames


def frames_of(data: bytes) -> int:
    return decode(data, CONFIG).frames


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_frames_are_counted(form: str) -> None:
    """Those of an animation, the pages of a TIFF, the pictures of an MPO; a still has one."""
    if form in ("WEBP", "AVIF") and not features.check(form.lower()):
        pytest.skip(f"Pillow was built without {form}")
    assert frames_of(saved(form, count=5)) == 5
    assert frames_of(saved(form)) == 1


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_are_counted_in_every_tiff(big: bool, order: str) -> None:
    """Of either byte order, classic and BigTIFF."""
    count, pointer, head = ("Q", "Q", 16) if big else ("H", "I", 8)
    magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    data = magic + (struct.pack(order + "HHQ", 8, 0, head) if big else struct.pack(order + "I", head))
    for page in range(3):
        table = struct.calcsize(f"{order}{count}{pointer}")
        data += struct.pack(order + count + pointer, 0, head + table * (page + 1) if page < 2 else 0)
    assert len(list(structure.TiffWalk(data).tables())) == 3


def test_pages_that_point_back_are_counted_once() -> None:
    """A loop of tables ends the count."""
    data = bytearray(saved("TIFF", count=2))
    walk = structure.TiffWalk(bytes(data))
    (_, _), (start, entries) = walk.tables()
    data[start + 12 * entries : start + 12 * entries + 4] = data[4:8]
    assert frames_of(bytes(data)) == 2


def test_a_large_number_is_told_as_the_bound() -> None:
    """A hundred thousand frames are not walked over."""
    assert frames_of(repeated_frames(frames.MAX_FRAMES - 1)) == frames.MAX_FRAMES - 1
    assert frames_of(repeated_frames(100_000)) == frames.MAX_FRAMES
    apng = saved("PNG", count=2)
    place = apng.index(b"acTL") - 4
    assert frames_of(apng[:place] + png_chunk(b"acTL", struct.pack(">II", 2**31, 0)) + apng[place + 20 :]) == 1000


def test_the_first_frame_of_a_gif_counts_for_its_size() -> None:
    """Pillow extends the screen to it and allocates the rest of it at once, so that it must be seen before."""
    data = bytearray(saved("GIF", "L"))
    place = data.index(b",")
    data[place + 5 : place + 9] = struct.pack("<HH", 13_000, 12_000)
    assert sniff.size_of(bytes(data), "gif") == (13_000, 12_000)
