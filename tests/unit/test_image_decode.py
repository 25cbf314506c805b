"""From the bytes of a file to pixels, or to the reason why there are none."""

import contextlib
import gzip
import io
import json
import mmap
import random
import resource
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin, TiffImagePlugin, features

from penstock.config import ImageConfig, Resize
from penstock.errors import ItemError
from penstock.image import decode as decoding
from penstock.image import exif, sniff
from penstock.image.decode import decode
from penstock.image.resize import OVERSAMPLING, plan
from penstock.records import Reason

EXACT = ImageConfig(size=16, exact=True, min_size=1)
WHITE = (255, 255, 255)
FORMATS: dict[str, dict[str, Any]] = {
    "jpeg": {"format": "JPEG"},
    "progressive": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP"},
    "lossless": {"format": "WEBP", "lossless": True},
    "gif": {"format": "GIF"},
    "bmp": {"format": "BMP"},
    "tiff": {"format": "TIFF"},
    "lzw": {"format": "TIFF", "compression": "tiff_lzw"},
    **({"avif": {"format": "AVIF", "speed": 10}} if features.check("avif") else {}),
}


def picture(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth gradient with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1)
    return Image.fromarray((plane * 0.9 + rng.integers(0, 25, plane.shape)).astype(np.uint8))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: A002 - Pillow's name
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def color_at(data: bytes, position: tuple[int, int] = (0, 0)) -> Any:
    return decode(data, EXACT).image.convert("RGB").getpixel(position)


def failure(data: bytes, config: ImageConfig = EXACT) -> ItemError:
    with pytest.raises(ItemError) as caught:
        decode(data, config)
    return caught.value


def png(width: int, height: int, depth: int, color: int, raw: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file made by hand: what Pillow cannot write."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


# Right pixels


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_decoded(name: str) -> None:
    """What Pillow opens and converts, decode gives too, bit for bit, from bytes and from a memoryview."""
    data = saved(picture(), **FORMATS[name])
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    for given in (data, memoryview(data)):
        decoded = decode(given, EXACT)
        assert decoded.image.tobytes() == expected.tobytes()
        assert (decoded.width, decoded.height, decoded.scale, decoded.transpose) == (48, 40, 1, None)


def test_cmyk_is_not_inverted() -> None:
    """An Adobe CMYK JPEG, which stores its inks inverted, comes out as the color that it shows."""
    assert np.allclose(color_at(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")), (255, 0, 0), atol=3)
    assert np.allclose(color_at(saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")), WHITE, atol=3)


@pytest.mark.parametrize("value", [0, 255, 256, 0x1234, 0x8000, 0xFFFF])
def test_sixteen_bits_lose_the_low_ones(value: int) -> None:
    """16-bit grey (PNG, TIFF of both byte orders), grey with alpha, RGB and RGBA all show value >> 8, never clipped."""
    two = struct.pack(">H", value)
    opaque = b"\xff\xff"
    grey = Image.fromarray(np.full((1, 1), value, np.uint16))
    files = [
        png(1, 1, 16, 0, b"\0" + two),
        png(1, 1, 16, 2, b"\0" + two * 3),
        png(1, 1, 16, 4, b"\0" + two + opaque),
        png(1, 1, 16, 6, b"\0" + two * 3 + opaque),
        saved(grey, "TIFF"),
        saved(grey.convert("I"), "TIFF"),
        saved(Image.frombytes("I;16B", (1, 1), two), "TIFF"),
    ]
    assert [color_at(data) for data in files] == [(value >> 8,) * 3] * len(files)


def test_deep_integers_are_scaled_to_their_largest() -> None:
    """A 32-bit TIFF that uses more than 16 bits keeps its order: no value wraps around."""
    image = Image.fromarray(np.array([[0, 1 << 20, (1 << 24) - 1, -5]], np.int32))
    assert [color_at(saved(image, "TIFF"), (x, 0))[0] for x in range(4)] == [0, 16, 255, 0]


def test_floating_point_is_not_guessed() -> None:
    """No range is agreed on for floating-point pixels, so that they are unsupported."""
    assert failure(saved(Image.new("F", (2, 2), 0.5), "TIFF")).reason is Reason.CONTENT_UNSUPPORTED


def test_transparency_lies_on_white() -> None:
    """Palette, grey, RGB and RGBA, with alpha or with one transparent color, in 8 and in 16 bits."""
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    half = Image.new("RGBA", (1, 1), (0, 100, 200, 128))
    assert color_at(saved(palette, transparency=b"\x00\xff")) == WHITE
    assert color_at(saved(palette, transparency=b"\x00\xff"), (1, 0)) == (40, 50, 60)
    assert color_at(saved(palette, transparency=1), (1, 0)) == WHITE
    assert color_at(saved(palette, "GIF", transparency=0)) == WHITE
    assert color_at(saved(half)) == (127, 177, 227)
    assert color_at(saved(half, "WEBP", lossless=True)) == (127, 177, 227)
    assert color_at(saved(Image.new("LA", (1, 1), (50, 0)))) == WHITE
    assert color_at(saved(Image.new("LA", (1, 1), (50, 255)))) == (50, 50, 50)
    assert color_at(saved(Image.new("L", (1, 1), 50), transparency=50)) == WHITE
    assert color_at(saved(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))) == WHITE
    assert color_at(saved(Image.new("RGB", (1, 1), (1, 2, 4)), transparency=(1, 2, 3))) == (1, 2, 4)
    assert color_at(saved(Image.new("1", (1, 1), 0), transparency=0)) == WHITE
    assert color_at(png(1, 1, 16, 0, b"\0\x12\x34", (b"tRNS", b"\x12\x34"))) == WHITE
    assert color_at(png(1, 1, 16, 0, b"\0\x12\x35", (b"tRNS", b"\x12\x34"))) == (0x12,) * 3
    assert color_at(png(1, 1, 16, 2, b"\0" + b"\x12\x34" * 3, (b"tRNS", b"\x12\x34" * 3))) == WHITE


def test_one_bit_is_black_and_white() -> None:
    """Pixels of 1-bit images are 0 and 255."""
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    for format_ in ("PNG", "BMP", "TIFF"):
        data = saved(image, format_)
        assert (color_at(data), color_at(data, (1, 0))) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_an_animation_the_first_frame_counts(format_: str) -> None:
    """The later frames are not even looked at: the file may be cut or damaged there."""
    first, second = Image.new("RGB", (32, 32), (250, 0, 0)), picture(32, 32)
    data = saved(first, format_, save_all=True, append_images=[second] * 3)
    assert np.allclose(color_at(data), (250, 0, 0), atol=4)


def test_a_file_may_have_a_tail() -> None:
    """Bytes after the end of the image (a second file, a page) change nothing."""
    for name, options in FORMATS.items():
        data = saved(picture(), **options)
        tail = b"" if name == "avif" else b"<html>PK\x03\x04" * 20
        assert decode(data + tail, EXACT).image.tobytes() == decode(data, EXACT).image.tobytes()


def test_a_broken_profile_is_ignored() -> None:
    """An ICC profile of garbage never fails the image."""
    for format_ in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert decode(saved(picture(), format_, icc_profile=b"\x00garbage" * 99), EXACT).image.size == (48, 40)


# Scaled decoding


@pytest.mark.parametrize("mode", ["crop", "fit", "stretch", "pad"])
@pytest.mark.parametrize("source", [(1024, 768), (601, 1999), (385, 385), (3000, 40)])
@pytest.mark.parametrize("size", [16, 48, 128, 256])
def test_jpegs_are_decoded_no_larger_than_needed(mode: Resize, source: tuple[int, int], size: int) -> None:
    """The scale is the strongest of 1/8, 1/4, 1/2 that leaves 1.5 times the target in both directions."""
    decoded = decode(saved(Image.new("L", source), "JPEG"), ImageConfig(size=size, resize=mode))
    shrink = plan(*source, size, mode).shrink
    assert decoded.scale in (1, 2, 4, 8)
    assert decoded.image.size == tuple(-(-side // decoded.scale) for side in source)
    assert (decoded.width, decoded.height) == source
    assert decoded.scale == 1 or shrink / decoded.scale >= OVERSAMPLING
    assert decoded.scale == 8 or shrink / (decoded.scale * 2) < OVERSAMPLING


def test_exact_and_none_decode_at_full_size() -> None:
    """Nothing is scaled where the pixels are promised to be Pillow's, or the size to be kept."""
    data = saved(picture(400, 300), "JPEG")
    for options in ({"exact": True}, {"resize": "none"}):
        assert decode(data, ImageConfig(size=16, **options)).image.size == (400, 300)


# EXIF


def tagged(orientation: int, **options: Any) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "Maker"
    tags[0x011A] = 72.5
    tags.get_ifd(0x8769)[0x9000] = b"0232"
    tags.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + b"x" * 3000
    tags.get_ifd(0x8825)[2] = (48.0, 8.0, 14.25)
    return saved(picture(), exif=tags, **options)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", *(["AVIF"] if features.check("avif") else [])])
def test_exif_becomes_json(format_: str) -> None:
    """Names to numbers, text and lists; long values are left out."""
    tags = json.loads(decode(tagged(6, format=format_), EXACT).exif or "")
    expected = {"Orientation": 6, "Make": "Maker", "XResolution": 72.5, "ExifVersion": "0232"}
    assert {name: tags.get(name) for name in expected} == expected
    assert tags["GPSLatitude"] == [48.0, 8.0, 14.25]
    assert "UserComment" not in tags


def test_a_tiff_file_is_its_own_exif() -> None:
    """The tags of the first page are read as EXIF; the orientation among them is already applied."""
    decoded = decode(tagged(6, format="TIFF"), ImageConfig())
    assert {"Orientation": 6, "Make": "Maker"}.items() <= {**json.loads(decoded.exif or ""), "StripOffsets": 0}.items()
    assert (decoded.width, decoded.height, decoded.transpose) == (40, 48, None)


def test_images_without_exif_have_none() -> None:
    """No tags, no JSON."""
    assert decode(saved(picture(), "JPEG"), EXACT).exif is None


def test_exif_is_capped() -> None:
    """Many long tags give JSON of 16 KiB at most, and still valid."""
    tags: exif.Tags = {f"tag{index}": "ü" * 250 for index in range(500)}
    text = exif.as_json(tags) or ""
    assert len(text) <= exif.MAX_JSON
    assert len(text) > exif.MAX_JSON // 2
    assert json.loads(text).items() <= tags.items()
    assert exif.as_json({"one": "x" * exif.MAX_JSON}) is None


def test_broken_exif_never_fails_the_image() -> None:
    """EXIF with flipped bytes, or cut, leaves the pixels alone, raises nothing and warns of nothing."""
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = 6, "description " * 5
    blob, rng = tags.tobytes(), random.Random(4)
    for _ in range(200):
        broken = bytearray(blob[: rng.randrange(6, len(blob) + 1)])
        for _ in range(rng.randrange(4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        decoded = decode(saved(Image.new("L", (8, 8)), "JPEG", exif=bytes(broken)), EXACT)
        assert decoded.exif is None or isinstance(json.loads(decoded.exif), dict)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_bounds_hold(order: str) -> None:
    """Counts, offsets and types that lie give nothing; so do NaN, a zero denominator and tables that point to themselves."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)

    def table(*entries: bytes) -> bytes:
        return head + struct.pack(order + "H", len(entries)) + b"".join(entries)

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(order + "HHI", tag, kind, count) + value

    here = struct.pack(order + "I", 8)
    assert exif.parse(table(entry(0x0112, 4, 1, struct.pack(order + "I", 3)))) == {"Orientation": 3}
    assert exif.parse(table(entry(0x9101, 7, 4, b"\1\2\3\0"))) == {"ComponentsConfiguration": "01020300"}
    assert exif.parse(table(entry(0x0112, 3, 2**32 - 1, b"\0\0\0\0"))) == {}
    assert exif.parse(table(entry(0x0112, 99, 1, b"\0\0\0\0"))) == {}
    assert exif.parse(table(entry(0x010F, 2, 100, b"\xff" * 4))) == {}
    assert exif.parse(table(entry(0x0112, 11, 1, struct.pack(order + "f", float("nan"))))) == {}
    assert exif.parse(table(entry(0x011A, 5, 1, struct.pack(order + "I", 22)), struct.pack(order + "II", 1, 0))) == {}
    assert exif.parse(table(entry(0x8769, 4, 1, here))).keys() == {"ExifOffset"}
    assert exif.parse(head[:4] + struct.pack(order + "I", 2**31)) == exif.parse(head[:5]) == exif.parse(b"") == {}


def test_xmp_turns_an_image_without_exif() -> None:
    """The orientation in XMP counts as it does for Pillow: only where the EXIF has none."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    only_xmp = saved(picture(), "JPEG", xmp=xmp)
    assert (decode(only_xmp, EXACT).width, decode(only_xmp, EXACT).height) == (40, 48)
    assert decode(tagged(1, format="JPEG", xmp=xmp), EXACT).width == 48


# Reasons


@pytest.mark.parametrize(
    ("data", "reason", "kind"),
    [
        (b"", Reason.CONTENT_NOT_IMAGE, "empty"),
        (b" \n ", Reason.CONTENT_NOT_IMAGE, "empty"),
        (b"<!DOCTYPE html><html><svg></svg>", Reason.CONTENT_NOT_IMAGE, "html"),
        (b"\xef\xbb\xbf\r\n <HTML lang='de'>\xfc", Reason.CONTENT_NOT_IMAGE, "html"),
        (b'<?xml version="1.0"?><Error/>', Reason.CONTENT_NOT_IMAGE, "xml"),
        (b'{"error": 404}', Reason.CONTENT_NOT_IMAGE, "json"),
        (b"%PDF-1.7", Reason.CONTENT_NOT_IMAGE, "pdf"),
        (b"PK\x03\x04...", Reason.CONTENT_NOT_IMAGE, "zip"),
        ("Not found – sorry".encode(), Reason.CONTENT_NOT_IMAGE, "text"),
        (b"\x00\x01\x02\x03", Reason.CONTENT_NOT_IMAGE, "unknown"),
        (gzip.compress(b"<html>"), Reason.CONTENT_NOT_IMAGE, "gzip"),
        (b"\x1f\x8b is no gzip file", Reason.CONTENT_NOT_IMAGE, "gzip"),
        (gzip.compress(b"<svg/>" + bytes(10_000_000)), Reason.CONTENT_UNSUPPORTED, "svg"),
        (b"SIMPLE  =                    T", Reason.CONTENT_UNSUPPORTED, "fits"),
        (b"\xd7\xcd\xc6\x9a\0\0", Reason.CONTENT_UNSUPPORTED, "wmf"),
        (b"BM is no bitmap file", Reason.CONTENT_NOT_IMAGE, "text"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41", Reason.CONTENT_NOT_IMAGE, "mp4"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="">', Reason.CONTENT_UNSUPPORTED, "svg"),
        (b"<svg width='1'/>", Reason.CONTENT_UNSUPPORTED, "svg"),
        (b"8BPS\0\1", Reason.CONTENT_UNSUPPORTED, "psd"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Reason.CONTENT_UNSUPPORTED, "heic"),
        (b"\xff\x0a\xfa\x7f", Reason.CONTENT_UNSUPPORTED, "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", Reason.CONTENT_UNSUPPORTED, "jxl"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", Reason.CONTENT_UNSUPPORTED, "eps"),
        (b"\0\0\1\0\1\0", Reason.CONTENT_UNSUPPORTED, "ico"),
        (b"P6\n1 1\n255\n...", Reason.CONTENT_UNSUPPORTED, "pnm"),
    ],
)
def test_other_content_is_named(data: bytes, reason: Reason, kind: str) -> None:
    """What the bytes are instead of an image stands in the detail."""
    error = failure(data)
    assert (error.reason, error.detail) == (reason, kind)


def test_what_this_pillow_cannot_decode_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that Pillow was built without counts as unsupported, by name: the image is not to blame."""
    monkeypatch.delitem(vars(decoding)["_OPENERS"], "webp")
    error = failure(saved(picture(), "WEBP"))
    assert (error.reason, error.detail) == (Reason.CONTENT_UNSUPPORTED, "webp")


@pytest.mark.parametrize("name", FORMATS)
def test_the_sniffer_knows_what_is_decoded(name: str) -> None:
    """Files of the decoded formats are recognised, with the size that their headers tell."""
    data = saved(picture(), **FORMATS[name])
    kind = sniff.kind_of(data)
    assert kind in sniff.IMAGES
    assert not sniff.is_cut(data, kind)
    assert sniff.size_of(data, kind) == (48, 40)


def test_the_sniffer_knows_webps_headers() -> None:
    """Lossy, lossless and extended WebP each keep their size elsewhere."""
    alpha = picture(300, 7).convert("RGBA")
    alpha.putalpha(9)
    for data in (saved(picture(300, 7), "WEBP"), saved(alpha, "WEBP", lossless=True), saved(alpha, "WEBP")):
        assert sniff.size_of(data, "webp") == (300, 7)


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_is_truncated(name: str) -> None:
    """Cut anywhere, a file is truncated, or whole as far as the pixels go; next to its header it may be corrupt or no image."""
    data = saved(picture(32, 24), **FORMATS[name])
    whole = decode(data, EXACT).image.tobytes()
    reasons = []
    for end in range(0, len(data), 7):
        try:
            assert decode(data[:end], EXACT).image.tobytes() == whole
        except ItemError as error:
            reasons.append(error.reason)
    allowed = {Reason.IMAGE_TRUNCATED, Reason.IMAGE_CORRUPT, Reason.CONTENT_NOT_IMAGE}
    assert set(reasons) <= allowed
    assert reasons.count(Reason.IMAGE_TRUNCATED) > 0.8 * len(reasons)


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bits_cost_one_image_at_most(name: str) -> None:
    """Whatever a damaged file does to the decoder, it gives an image or an ItemError with a reason about the image."""
    data, rng = saved(picture(32, 24), **FORMATS[name]), random.Random(name)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        try:
            assert decode(bytes(broken), EXACT).image.mode in ("RGB", "L")
        except ItemError as error:
            assert error.reason.phase in ("content", "image", "decode")  # noqa: PT017 - either way is right


def test_damage_is_corrupt_with_the_decoders_words() -> None:
    """A bad checksum is `image.corrupt`; the detail has the kind of file and the exception."""
    data = bytearray(saved(picture()))
    data[19] ^= 1  # the width, under the checksum of IHDR
    error = failure(bytes(data))
    assert error.reason is Reason.IMAGE_CORRUPT
    assert error.detail.startswith("png: SyntaxError: broken PNG file")


@pytest.mark.parametrize("error", [struct.error, KeyError, ZeroDivisionError, RecursionError, ValueError, OSError])
def test_odd_exceptions_are_corrupt(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """Whatever a decoder raises becomes `image.corrupt` with the exception's name."""

    def load(self: object) -> None:
        raise error("odd")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    caught = failure(saved(picture()))
    assert caught.reason is Reason.IMAGE_CORRUPT
    assert error.__name__ in caught.detail


def test_lack_of_memory_has_its_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MemoryError of the decoder is `decode.memory`: the image is not to blame."""

    def load(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert failure(saved(picture())).reason is Reason.DECODE_MEMORY


def bombs() -> dict[str, bytes]:
    """Small files that claim to be huge, by format."""
    huge = struct.pack("<HH", 65535, 65535)
    jpeg = bytearray(saved(Image.new("L", (8, 8)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = huge
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff\x3f\0\xff\x3f\0"
    tiff = bytearray(saved(Image.new("L", (8, 8)), "TIFF"))
    for tag in (256, 257):  # width and height
        place = next(at for at in range(8, len(tiff)) if tiff[at : at + 2] == struct.pack("<H", tag))
        tiff[place + 2 : place + 12] = struct.pack("<HII", 4, 1, 50_000)
    avif = {"avif": resized_avif(50_000, 50_000)} if "avif" in FORMATS else {}
    return avif | {
        "tiff": bytes(tiff),
        "png": png(50_000, 50_000, 8, 2, b""),
        "gif": b"GIF89a" + huge + b"\0\0\0,\0\0\0\0" + huge + b"\0\2\1\0\0;",
        "jpeg": bytes(jpeg),
        "webp": b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas,
        "bmp": b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 50_000, -50_000, 1, 24, *[0] * 6),
    }


def resized_avif(width: int, height: int) -> bytes:
    data = bytearray(saved(picture(), **FORMATS["avif"]))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "gif", "jpeg", "webp", "bmp", "tiff", *({"avif"} & FORMATS.keys())])
def test_bombs_are_refused_unopened(kind: str) -> None:
    """A header that claims more than `max_pixels` is enough to refuse the file, and nothing is allocated for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = failure(bombs()[kind])
    assert error.reason is Reason.IMAGE_TOO_MANY_PIXELS
    assert "more than 64000000 pixels" in error.detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_max_pixels_is_the_limit() -> None:
    """As many pixels as the limit pass, one row more does not; for every format, and whatever Pillow's own limit is."""
    for options in FORMATS.values():
        data = saved(picture(20, 10), **options)
        assert decode(data, ImageConfig(max_pixels=200)).width == 20
        assert failure(data, ImageConfig(max_pixels=199)).reason is Reason.IMAGE_TOO_MANY_PIXELS


def test_pillows_own_limit_does_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a higher `max_pixels`, an image over Pillow's limit is decoded without a warning. (TIFF and WebP keep it.)"""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for options in (FORMATS["jpeg"], FORMATS["png"], FORMATS["gif"], FORMATS["bmp"]):
        assert decode(saved(picture(50, 40), **options), EXACT).width == 50


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_images_without_pixels_are_refused(size: tuple[int, int]) -> None:
    """A width or height of 0 is `image.zero_size`."""
    jpeg = bytearray(saved(Image.new("L", (8, 8)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", *size)
    gif = b"GIF89a" + struct.pack("<HH", *size) + b"\0\0\0;"
    avif = [resized_avif(*size)] if "avif" in FORMATS else []
    for data in (png(*size, 8, 2, b""), bytes(jpeg), gif, *avif):
        assert failure(data).reason is Reason.IMAGE_ZERO_SIZE


@pytest.mark.parametrize(
    ("name", "head"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_metadata_bombs_are_refused(name: bytes, head: bytes) -> None:
    """Compressed text, or a profile, of some KB that unpacks to many MB is not unpacked."""
    body = head + zlib.compress(b"\0" * 8_000_000)
    assert failure(png(1, 1, 8, 0, b"\0\0", (name, body))).reason is Reason.IMAGE_METADATA_BOMB


@pytest.mark.parametrize("name", FORMATS)
def test_small_and_long_images_can_be_refused(name: str) -> None:
    """By their shorter side and by their aspect, the bounds themselves being allowed; upright or not."""
    data = saved(picture(20, 10), **FORMATS[name])
    assert decode(data, ImageConfig(min_size=10, max_aspect=2)).width == 20
    assert failure(data, ImageConfig(min_size=11)).reason is Reason.IMAGE_TOO_SMALL
    assert failure(data, ImageConfig(max_aspect=1.9)).reason is Reason.IMAGE_ASPECT
    assert failure(saved(picture(10, 20), **FORMATS[name]), ImageConfig(max_aspect=1.9)).reason is Reason.IMAGE_ASPECT


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1)])
def test_tracking_pixels_are_left_out_by_default(size: tuple[int, int]) -> None:
    """A side of one pixel is no picture."""
    error = failure(saved(Image.new("L", size), "GIF"), ImageConfig())
    assert (error.reason, error.detail) == (Reason.IMAGE_TOO_SMALL, f"{size[0]}x{size[1]}, a side below 2 pixels")


def test_too_little_memory_is_not_taken_for_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the memory for its pixels is to be had, a decoder that fails is not believed to have found damage."""
    damaged = saved(picture(), **FORMATS["jpeg"])[:300]
    assert failure(damaged).reason is Reason.IMAGE_TRUNCATED
    asked = []

    def no_room(_: int, size: int) -> None:
        asked.append(size)
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", no_room)
    assert failure(damaged).reason is Reason.DECODE_MEMORY
    assert asked == [8 * 48 * 40]


def test_pillow_keeps_its_settings() -> None:
    """Whatever comes, nothing that other code in this process may rely on is changed."""
    before = settings_of_pillow()
    for data in [*bombs().values(), *noisy(), saved(picture(), "PNG")[:200]]:
        with contextlib.suppress(ItemError):
            decode(data, EXACT)
    assert settings_of_pillow() == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def settings_of_pillow() -> dict[str, Any]:
    modules = (Image, ImageFile, PngImagePlugin, GifImagePlugin, TiffImagePlugin)
    plain = (bool, int, str, float)
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and (value is None or isinstance(value, plain))
    }


# Warnings


def noisy() -> tuple[bytes, bytes]:
    """Files that Pillow warns about: a TIFF with a damaged tag, a PNG with a useless animation chunk."""
    tiff = bytearray(saved(picture(), "TIFF", software="some software"))
    place = tiff.index(struct.pack("<HH", 305, 2))
    tiff[place + 4 : place + 12] = struct.pack("<II", 400, len(tiff) - 4)
    return bytes(tiff), png(1, 1, 8, 0, b"\0\0", (b"acTL", b"\0" * 8))


@pytest.mark.parametrize("number", [0, 1])
def test_warnings_as_errors_refuse_no_image(number: int) -> None:
    """Where warnings are exceptions (as they are in these tests), a file that Pillow warns about is decoded all the same."""
    data = noisy()[number]
    with pytest.raises(UserWarning):
        Image.open(io.BytesIO(data)).load()
    filters = list(warnings.filters)
    assert decode(data, EXACT).image.width in (1, 48)
    assert warnings.filters == filters
