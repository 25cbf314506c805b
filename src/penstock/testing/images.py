"""Generated pictures that compress, and cost to decode, like photographs.

A photograph is, to an encoder, objects that hide each other, texture whose amplitude falls as 1/f, and smooth colour.
All three are made once as periodic fields; a picture is a window into each at its own place, mirrored and mixed::

    leaves (Y, Cb, Cr) ─┐
    texture ────────────┼─window, mirror, mix──▶ YCbCr ──▶ JPEG | PNG | WebP | GIF
    haze, twice ────────┘
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Picture", "make_images", "truncated_jpeg"]

Field = npt.NDArray[np.int8]
Plane = npt.NDArray[np.int16]

FIELD = 1280
"""Side of the periodic fields, and so the longest side of a picture, in pixels."""

HEADER = 600
"""Bytes of a picture that are not pixels: the tables of a JPEG."""

MEAN_BYTES = (2_000, 250_000)
"""Allowed averages: below, headers are all there is; above, pictures would not fit into the fields."""

KINDS = (
    *["jpeg"] * 46,
    *["jpeg-progressive"] * 26,
    *[f"jpeg-orientation-{tag}" for tag in range(1, 9)],
    *["jpeg-grey"] * 4,
    *["jpeg-cmyk"] * 2,
    *["png-rgb"] * 3,
    *["png-grey16"] * 2,
    *["png-palette"] * 2,
    *["webp"] * 6,
    "gif",
)
"""The mix of the web, roughly: 86 % JPEG, 7 % PNG, 6 % WebP, 1 % GIF. One hundred, so each is a per cent."""

STRIDE = 37
"""Prime to 100: steps of it visit all the kinds, and the first few pictures already differ in kind."""

BYTES_PER_PIXEL = {
    "jpeg": 0.21,
    "jpeg-cmyk": 0.5,
    "png-rgb": 1.0,
    "png-grey16": 1.25,
    "png-palette": 0.37,
    "webp": 0.21,  # needs 0.14, and keeps the pixels of a JPEG: larger ones would take too long to make
    "gif": 0.43,
}
"""What each kind comes to, measured."""

STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores an upright picture under each EXIF orientation but 1."""

ORIENTATION_TAG = 0x0112


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture."""

    name: str
    """File name, with the ending of its format."""
    data: bytes
    format: str
    """``jpeg``, ``png``, ``webp`` or ``gif``."""
    kind: str
    """The format and its variety, one of `KINDS`."""


def make_images(count: int, seed: int = 0, mean_bytes: int = 150_000) -> list[Picture]:
    """`count` distinct pictures, `mean_bytes` bytes large on average over the mix of kinds.

    The picture at a position depends on the seed, the position and `mean_bytes`, not on `count`.

    >>> [picture.name for picture in make_images(3, mean_bytes=5_000)]
    ['000000.jpg', '000001.jpg', '000002.jpg']

    Raises:
        ValueError: `mean_bytes` is not within `MEAN_BYTES`.
    """
    low, high = MEAN_BYTES
    if not low <= mean_bytes <= high:
        raise ValueError(f"mean_bytes {mean_bytes}: expected {low} to {high}")
    return [_picture(index, seed, mean_bytes) for index in range(count)]


def truncated_jpeg(seed: int = 0) -> bytes:
    """A JPEG that breaks off in the middle of its pixels."""
    data = _picture(KINDS.index("jpeg"), seed, 20_000).data
    return data[: len(data) // 2]


def _picture(index: int, seed: int, mean_bytes: int) -> Picture:
    kind = KINDS[index * STRIDE % len(KINDS)]
    stem = kind if kind in BYTES_PER_PIXEL else kind.partition("-")[0]
    rng = np.random.default_rng([seed, index])
    upright = _render(rng, _fields(seed), (mean_bytes - HEADER) / BYTES_PER_PIXEL[stem])
    form = kind.partition("-")[0]
    data = _encode(upright, kind, quality=int(rng.integers(85, 91)))
    return Picture(f"{index:06d}.{'jpg' if form == 'jpeg' else form}", data, form, kind)


# ---- the fields


@dataclass(frozen=True, slots=True)
class _Fields:
    """The raw material. All are (2 FIELD, 2 FIELD) and periodic, so that every window of up to FIELD pixels is a view."""

    leaves: tuple[Field, ...]
    """Y, Cb and Cr of overlapping objects."""
    texture: Field
    haze: Field


@functools.lru_cache(maxsize=2)
def _fields(seed: int) -> _Fields:
    rng = np.random.default_rng([seed])
    haze = _noise(rng, exponent=2.2)
    return _Fields(
        leaves=tuple(_tiled(plane) for plane in _dead_leaves(rng, haze)),
        texture=_tiled(_noise(rng, exponent=1.2)),
        haze=_tiled(haze),
    )


def _tiled(field: npt.NDArray[Any]) -> Field:
    return np.tile(np.clip(field, -128, 127).astype(np.int8), (2, 2))


def _noise(rng: np.random.Generator, exponent: float) -> npt.NDArray[np.float32]:
    """Periodic noise with an amplitude of 1 / frequency**exponent and a standard deviation of 40."""
    frequency = np.hypot(np.fft.fftfreq(FIELD)[:, None], np.fft.rfftfreq(FIELD))
    frequency[0, 0] = np.inf  # no constant part
    phase = rng.random(frequency.shape) * (2 * math.pi)
    field = np.fft.irfft2(np.exp(1j * phase) / frequency**exponent, s=(FIELD, FIELD))
    field *= 40 / field.std()
    return field.astype(np.float32)


def _dead_leaves(rng: np.random.Generator, haze: npt.NDArray[np.float32], leaves: int = 500) -> npt.NDArray[np.int8]:
    """Discs over discs, radii falling as a power law: the edges and flat parts of natural scenes; (3, FIELD, FIELD).

    `haze` bends them, so that they look like stones and leaves, and their edges run in all directions.
    """
    planes = np.zeros((3, FIELD, FIELD), np.int8)
    radii = np.sort(np.clip(14 / np.sqrt(rng.random(leaves)), 14, FIELD // 4).astype(int))
    for radius, tint in zip(radii[::-1], rng.normal(0, (45, 8, 8), (leaves, 3)), strict=True):
        reach = np.arange(-radius, radius + 1)
        down, right = np.nonzero(reach[:, None] ** 2 + reach**2 <= radius**2)
        top, left = rng.integers(0, FIELD, 2)
        planes[:, (down + top) % FIELD, (right + left) % FIELD] = np.clip(tint, -100, 100).astype(np.int8)[:, None]
    bend, along = haze.astype(int), np.arange(FIELD)
    return planes[:, (along[:, None] + 2 * bend) % FIELD, (along + 2 * bend.T) % FIELD]


# ---- one picture


def _render(rng: np.random.Generator, fields: _Fields, pixels: float) -> Image.Image:
    """An upright picture of about `pixels` pixels, in YCbCr, with colour at half the resolution as cameras have it."""
    height, width = _shape(rng, pixels)
    place, mirror = _place(rng), rng.random(2) < 0.5

    def window(field: Field, corner: tuple[int, int], step: int = 1) -> Plane:
        view = field[corner[0] : corner[0] + height : step, corner[1] : corner[1] + width : step]
        return view[:: -1 if mirror[0] else 1, :: -1 if mirror[1] else 1].astype(np.int16)

    contrast, grain = (int(value) for value in rng.integers((60, 16), (130, 60)))
    luma = window(fields.leaves[0], place) * contrast
    luma += window(fields.texture, _place(rng)) * grain
    luma >>= 7
    slope = rng.integers(-50, 51, 2)
    luma += np.linspace(128 - slope[0], 128 + slope[0], height, dtype=np.int16)[:, None]
    luma += np.linspace(-slope[1], slope[1], width, dtype=np.int16)
    bands = [_band(luma)]
    for leaf in fields.leaves[1:]:
        chroma = window(fields.haze, _place(rng), 2) >> 3
        chroma += window(leaf, place, 2)
        chroma += np.int16(128 + rng.normal(0, 8))
        bands.append(_band(chroma).resize((width, height), Image.Resampling.NEAREST))
    return Image.merge("YCbCr", bands)


def _shape(rng: np.random.Generator, pixels: float) -> tuple[int, int]:
    """Height and width: the usual aspects, areas that vary threefold."""
    aspect = float(rng.choice([1.0, 4 / 3, 3 / 2, 16 / 9]))
    area = pixels * rng.uniform(0.5, 1.5)
    long, short = min(FIELD, round(math.sqrt(area * aspect))), max(16, round(math.sqrt(area / aspect)))
    return (long, short) if rng.random() < 0.3 else (short, long)


def _place(rng: np.random.Generator) -> tuple[int, int]:
    top, left = rng.integers(0, FIELD, 2)
    return int(top), int(left)


def _band(plane: Plane) -> Image.Image:
    np.clip(plane, 0, 255, out=plane)
    return Image.fromarray(plane.astype(np.uint8))


# ---- encoding


def _encode(upright: Image.Image, kind: str, quality: int) -> bytes:
    if kind.startswith("jpeg"):
        return _jpeg(upright, kind.removeprefix("jpeg").lstrip("-"), quality)
    if kind == "webp":
        return _saved(upright.convert("RGB"), "WEBP", quality=quality - 5, method=1)
    if kind == "png-grey16":
        grey = np.asarray(upright.getchannel("Y"), np.uint16)
        return _saved(Image.fromarray(grey * 256 + grey[::-1]), "PNG", compress_level=3)
    rgb = upright.convert("RGB")
    if kind == "png-rgb":
        return _saved(rgb, "PNG", compress_level=3)
    palette = rgb.quantize(96, Image.Quantize.FASTOCTREE)
    if kind == "gif":
        return _saved(palette, "GIF")
    return _saved(palette, "PNG", transparency=bytes(range(64, 256, 2)), compress_level=3)


def _jpeg(upright: Image.Image, variety: str, quality: int) -> bytes:
    if variety == "grey":
        return _saved(upright.getchannel("Y"), "JPEG", quality=quality)
    if variety == "cmyk":
        return _saved(upright.convert("RGB").convert("CMYK"), "JPEG", quality=quality)
    if not variety.startswith("orientation"):
        return _saved(upright, "JPEG", quality=quality, progressive=variety == "progressive")
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = tag = int(variety[-1])
    stored = upright.transpose(STORED_AS[tag]) if tag in STORED_AS else upright
    return _saved(stored, "JPEG", quality=quality, exif=exif)


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()
