"""The bad images are what their names say, and the same in each process."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from penstock.errors import ItemError
from penstock.image.encode import encode
from penstock.image.sniff import kind_of, size_of
from penstock.records import Reason
from penstock.testing.bad_images import BAD_IMAGES, BOMB, PROFILE
from penstock.testing.faults import FAULTS
from penstock.testing.image_files import png_chunk


def opened(name: str) -> Image.Image:
    return Image.open(io.BytesIO(BAD_IMAGES[name].data))


def chunk(name: str, kind: bytes) -> bytes:
    """The body of a chunk of a PNG file."""
    data = BAD_IMAGES[name].data
    place = data.index(kind)
    return data[place + 4 : place + 4 + int.from_bytes(data[place - 4 : place], "big")]


def test_they_are_in_the_order_of_the_catalogue() -> None:
    """Every row from 63 to 83 has one, and names are file names of their own."""
    rows = [bad.row for bad in BAD_IMAGES.values()]
    assert rows == sorted(rows)
    assert set(rows) == set(range(63, 84))
    assert all(name == bad.name for name, bad in BAD_IMAGES.items())


def test_they_are_the_same_in_each_process() -> None:
    """Another process makes the same bytes, whatever its hash seed."""
    program = (
        "import hashlib; from penstock.testing.bad_images import BAD_IMAGES\n"
        "print(hashlib.sha256(b''.join(bad.data for bad in BAD_IMAGES.values())).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours = hashlib.sha256(b"".join(bad.data for bad in BAD_IMAGES.values())).hexdigest()
    assert other.stdout.strip() == ours


def test_they_are_small() -> None:
    """All together they fit into a few megabytes, the profile and the thousand million zeros included."""
    assert sum(len(bad.data) for bad in BAD_IMAGES.values()) < 2 * PROFILE


def test_they_are_made_once() -> None:
    """The bytes are kept."""
    bad = BAD_IMAGES["cmyk.jpg"]
    assert bad.data is bad.data


@pytest.mark.parametrize(
    "name",
    [name for name in BAD_IMAGES if name.startswith(("pixel-bomb", "zero")) and not name.endswith((".ico", ".tif"))],
)
def test_headers_lie(name: str) -> None:
    """The size is in the header: hundreds of millions of pixels at least, or none."""
    data = BAD_IMAGES[name].data
    size = size_of(data, kind_of(data))
    assert size is not None
    assert (size[0] * size[1] >= 2**28) if name.startswith("pixel-bomb") else (0 in size)
    assert len(data) < 10_000


@pytest.mark.parametrize(("name", "kind", "start"), [("ztxt-bomb.png", b"zTXt", 9), ("itxt-bomb.png", b"iTXt", 12)])
def test_metadata_unpacks_to_much(name: str, kind: bytes, start: int) -> None:
    """A text of 64 KB is one of 64 MB."""
    assert len(zlib.decompress(chunk(name, kind)[start:])) == BOMB


def test_the_profile_unpacks_to_much() -> None:
    """So does the colour profile."""
    assert len(zlib.decompress(chunk("iccp-bomb.png", b"iCCP")[9:])) == BOMB


def test_the_pixels_unpack_to_much() -> None:
    """Behind the four pixels of the one lie megabytes and megabytes; the other has as many as its header says."""
    packed = chunk("deflate-bomb.png", b"IDAT")
    assert len(zlib.decompressobj().decompress(packed, 10**7)) == 10**7
    assert opened("largest-allowed.png").size == (8000, 8000)
    assert opened("largest-allowed.png").getextrema() == (0, 0)


@pytest.mark.parametrize("count", [200, 2000])
def test_scans(count: int) -> None:
    """A progressive JPEG has as many scans as its name says, and Pillow can read it."""
    data = BAD_IMAGES[f"scans-{count}.jpg"].data
    assert data.count(b"\xff\xda") == count
    image = opened(f"scans-{count}.jpg")
    assert (image.info["progressive"], image.size) == (1, (1024, 1024))
    image.draft("L", (128, 128))
    image.load()


def test_frames() -> None:
    """The animation has a hundred thousand frames of which each can be decoded."""
    data = BAD_IMAGES["frames-100000.gif"].data
    assert data.count(b",\0\0\0\0\2\0\2\0") == 100_000
    image = opened("frames-100000.gif")
    for frame in (0, 1, 50):
        image.seek(frame)
        assert image.convert("RGB").getpixel((1, 1)) == (0, 0, 0)
    assert [opened(f"animated.{form}").n_frames for form in ("gif", "png", "webp")] == [3, 3, 3]  # type: ignore[attr-defined]  # of animations


def test_colours_are_stored_as_named() -> None:
    """Inks, deep channels, palettes and single bits are in the files."""
    modes = {
        "cmyk.jpg": "CMYK",
        "cmyk-unmarked.jpg": "CMYK",
        "ycck.jpg": "CMYK",
        "grey-16.png": "I;16",
        "grey-16.tif": "I;16",
        "palette.png": "P",
        "grey-alpha.png": "LA",
        "one-bit.png": "1",
        "floats.tif": "F",
    }
    assert {name: opened(name).mode for name in modes} == modes
    assert [BAD_IMAGES[name].data[24] for name in ("grey-16.png", "rgb-16.png", "rgba-16.png")] == [16, 16, 16]
    assert opened("ycck.jpg").info["adobe_transform"] == 2
    assert "adobe" not in opened("cmyk-unmarked.jpg").info
    plain, inks = (np.asarray(opened(name).convert("RGB"), int) for name in ("broken-icc.jpg", "cmyk.jpg"))
    assert abs(plain - inks).mean() < 10


def test_orientations() -> None:
    """Each tag is in its file, the ones that mean nothing too."""
    tags = [opened(f"orientation-{value}.jpg").getexif()[0x0112] for value in range(10)]
    assert tags == list(range(10))


def test_profiles() -> None:
    """One is noise, one is five megabytes of it, one is for grey pictures and in a coloured one."""
    assert len(opened("large-icc.jpg").info["icc_profile"]) == PROFILE
    assert opened("grey-icc.jpg").info["icc_profile"][16:20] == b"GRAY"
    assert opened("grey-icc.jpg").mode == "RGB"
    assert opened("broken-icc.png").info["icc_profile"] == opened("broken-icc.jpg").info["icc_profile"]


def test_pages() -> None:
    """The pages of a TIFF and the pictures of an MPO are there; a page that is its own next one is found out by Pillow."""
    assert [opened(name).n_frames for name in ("pages.tif", "stereo.mpo")] == [3, 3]  # type: ignore[attr-defined]  # of animations
    data = BAD_IMAGES["page-loop.tif"].data
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    assert struct.unpack_from("<I", data, first + 2 + 12 * count)[0] == first


def test_tails() -> None:
    """What comes behind a picture, or hides in it, is there."""
    assert b"PK\3\4" in BAD_IMAGES["polyglot-zip.jpg"].data
    assert opened("polyglot-html.jpg").info["comment"].startswith(b"<html>")
    assert b"\xff\xd9\x89PNG" in BAD_IMAGES["two-in-one.jpg"].data
    assert gzip.decompress(BAD_IMAGES["picture.svgz"].data) == BAD_IMAGES["picture.svg"].data


def test_a_wide_image_has_no_webp() -> None:
    """Row 83 fails where its result is encoded at its own size, and not before."""
    with pytest.raises(ItemError) as caught:
        encode(opened("too-wide-for-webp.png"), "webp", 95)
    assert caught.value.reason is Reason.ENCODE_FAILED


def test_a_checksum_is_wrong() -> None:
    """The header's own, and nothing else: with the right one Pillow reads the file."""
    data = BAD_IMAGES["bad-crc.png"].data
    Image.open(io.BytesIO(data[:8] + png_chunk(b"IHDR", data[16:29]) + data[33:])).load()


def test_the_faults_have_them_all() -> None:
    """Each image is a fault as well, with the same row and reason; names are unique and fit for a host."""
    places = {fault.place: fault for fault in FAULTS}
    for bad in BAD_IMAGES.values():
        fault = places[f"/bad/{bad.name}"]
        assert (fault.row, fault.reason) == (bad.row, bad.expected)
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and len(name) <= 63 for name in names)
