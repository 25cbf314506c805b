"""Bytes to pixels: the first frame, in 8-bit RGB or grey, the right way up, on white.

The plugin of Pillow is chosen by the file's magic number and called directly, not through `PIL.Image.open`, for three
reasons: no other plugin ever sees the bytes; Pillow's check for decompression bombs, which warns and depends on a
global, gives way to ``max_pixels``; and the plugin's own error says more than "cannot identify image file".

What would take minutes or gigabytes is refused by the header or the structure of the file, before anything is allocated
(see `penstock.image.bombs` for the structure). No global setting of Pillow is changed: ``LOAD_TRUNCATED_IMAGES`` is for the
whole process, and would skip checksums, too. libjpeg's warnings about damaged data do not come through Pillow, so that a
JPEG with some flipped bits is decoded as far as libjpeg can, and counts as an image.

The fast path lets libjpeg scale by 1/2, 1/4 or 1/8 while it decodes, which it does for a fraction of the cost. The odd
eighths have no SIMD code and cost as much as the full size.
"""

from __future__ import annotations

import io
import mmap
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from penstock.config import ImageConfig
from penstock.errors import ItemError
from penstock.image import bombs, exif, frames, sniff
from penstock.image.resize import OVERSAMPLING, SIDEWAYS, plan
from penstock.records import Reason

__all__ = ["Decoded", "decode"]

# Pillow warns about every odd tag of a TIFF file and every odd APNG. `warnings.catch_warnings` is not thread-safe, so
# that the filter cannot be put around our own calls; it names the two modules whose warnings say nothing but that.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(TiffImagePlugin|PngImagePlugin)$")

_warnings_lock = threading.Lock()


class _Jpeg(JpegImageFile):
    """A JPEG file, without Pillow's reading of the EXIF for the sake of a resolution that nobody asks for.

    It takes longer than all the rest of opening the file, and warns about damaged EXIF.
    """

    def _read_dpi_from_exif(self) -> None:
        pass


_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "bmp": BmpImageFile,
    "gif": GifImageFile,
    "jpeg": _Jpeg,
    "png": PngImageFile,
    "tiff": TiffImageFile,
    # Pillow can be built without these.
    **({"avif": AvifImageFile} if features.check("avif") else {}),
    **({"webp": WebPImageFile} if features.check("webp") else {}),
}

_BYTES_PER_PIXEL = 8
"""What the decoders need at least beside the image itself: two canvases of a WebP, the coefficients of a JPEG."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as it came out of its file."""

    image: Image.Image
    """Mode RGB, or L for a grey image; it carries no metadata."""
    width: int
    """Of the whole image in pixels, upright, before any scaling."""
    height: int
    scale: int = 1
    """1, 2, 4 or 8: the image was decoded at ``1/scale`` of its size."""
    transpose: Image.Transpose | None = None
    """What is still to be done to make the image upright; always None in exact mode."""
    exif: str | None = None
    """EXIF tags as a JSON object, if there are any."""
    frames: int = 1
    """Of the file; see `penstock.image.frames.count`."""


def decode(data: bytes | memoryview, config: ImageConfig) -> Decoded:
    """The pixels of an image file: JPEG (MPO too), PNG, WebP, GIF, BMP, TIFF or AVIF.

    Transparency is composited on white. 16 bits become 8 by dropping the low ones. With ``config.exact`` the image
    comes at full size and upright; otherwise possibly smaller (see `Decoded.scale`) and not yet transposed.

    Raises:
        ItemError: with a reason of the phases ``content``, ``image`` and ``decode``.
    """
    data = bytes(data)
    try:
        return _decode(data, config)
    except Warning:
        # This process turns warnings into exceptions. It is the one case where the filters are changed under way.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, config)


def _decode(data: bytes, config: ImageConfig) -> Decoded:
    kind = _kind(data)
    bombs.refuse(data, kind)
    stated = sniff.size_of(data, kind)
    if stated is not None:
        _check_size(stated, config)
    with _diagnosed(data, kind, stated):
        file = _OPENERS[kind](io.BytesIO(data))
    width, height = size = file.size
    _check_size(size, config)
    with _diagnosed(data, kind, size):
        tags = _tags(file, data)
        count = frames.count(file, data)
        transpose = _TRANSPOSE.get(_orientation(file, tags))
        scale = 1
        if isinstance(file, JpegImageFile):
            scale = _draft(file, config)
            file.decodermaxblock = len(data)  # feed the decoder once, not by 64 KiB
        file.load()
        image = _eight_bits(file)
    if transpose is not None and config.exact:
        image = image.transpose(transpose)
    if transpose in SIDEWAYS:
        width, height = height, width
    left = None if config.exact else transpose
    return Decoded(image, width, height, scale, left, exif.as_json(tags), count)


def _kind(data: bytes) -> str:
    """The kind of file, if it is one that is decoded."""
    kind = sniff.kind_of(data)
    if kind in _OPENERS:
        return kind
    raise ItemError(Reason.CONTENT_UNSUPPORTED if kind in sniff.IMAGES else Reason.CONTENT_NOT_IMAGE, kind)


def _check_size(size: tuple[int, int], config: ImageConfig) -> None:
    shown, pixels = f"{size[0]}x{size[1]}", size[0] * size[1]
    if pixels == 0:
        raise ItemError(Reason.IMAGE_ZERO_SIZE, shown)
    if pixels > config.max_pixels:
        raise ItemError(Reason.IMAGE_TOO_MANY_PIXELS, f"{shown}, more than {config.max_pixels} pixels")
    if min(size) < config.min_size:
        raise ItemError(Reason.IMAGE_TOO_SMALL, f"{shown}, a side below {config.min_size} pixels")
    if config.max_aspect is not None and max(size) > config.max_aspect * min(size):
        raise ItemError(Reason.IMAGE_ASPECT, f"{shown}, longer than {config.max_aspect:g} times its width or height")


@contextmanager
def _diagnosed(data: bytes, kind: str, size: tuple[int, int] | None) -> Iterator[None]:
    """Turns whatever a decoder raises into the reason that it stands for; `size` is that of the image, if known."""
    try:
        yield
    except (ItemError, Warning):
        raise
    except MemoryError as error:
        raise ItemError(Reason.DECODE_MEMORY, kind) from error
    except Exception as error:  # decoders raise struct.error, KeyError, ZeroDivisionError, RecursionError ...
        reason = _reason(error, data, kind, size)
        raise ItemError(reason, f"{kind}: {type(error).__name__}: {error}") from error


def _reason(error: Exception, data: bytes, kind: str, size: tuple[int, int] | None) -> Reason:
    message = str(error).lower()
    if isinstance(error, Image.DecompressionBombError):
        return Reason.IMAGE_TOO_MANY_PIXELS
    if "max_text_chunk" in message or "max_text_memory" in message:
        return Reason.IMAGE_METADATA_BOMB
    if "out of memory" in message or "decoder error -9" in message or not _room_for(size):
        return Reason.DECODE_MEMORY
    if "truncated" in message or sniff.is_cut(data, kind):
        return Reason.IMAGE_TRUNCATED
    return Reason.IMAGE_CORRUPT


def _room_for(size: tuple[int, int] | None) -> bool:
    """Whether there is still as much memory as decoding an image of that size takes; asking for it takes none.

    Under a limit, libjpeg (progressive), libwebp and dav1d fail with the words that they have for damaged data.
    """
    pixels = size[0] * size[1] if size is not None else 0
    try:
        mmap.mmap(-1, max(pixels * _BYTES_PER_PIXEL, mmap.PAGESIZE)).close()
    except OSError:
        return False
    return True


def _tags(file: ImageFile.ImageFile, data: bytes) -> exif.Tags:
    """The EXIF tags of an opened file: a look into a dict for the many that have none."""
    if isinstance(file, TiffImageFile):  # the file is its own EXIF
        return exif.parse(data)
    blob = file.info.get("exif")
    if blob is None and "Raw profile type exif" in file.info:  # ImageMagick's way to put EXIF into PNG
        blob = _unhex(file.info["Raw profile type exif"])
    return exif.parse(blob) if isinstance(blob, bytes) else {}


def _unhex(profile: Any) -> bytes | None:
    """The bytes of a raw profile: a blank line, its name and its length, then hexadecimal lines."""
    try:
        return bytes.fromhex("".join(str(profile).split("\n")[3:]))
    except ValueError:
        return None


def _orientation(file: ImageFile.ImageFile, tags: exif.Tags) -> int:
    """1 to 8: from the EXIF or else, as Pillow does it, from the XMP."""
    if isinstance(file, TiffImageFile):  # Pillow's plugin turns these itself, while loading
        return 1
    if "Orientation" in tags or "xmp" not in file.info:
        return exif.orientation(tags)
    match = re.search(rb'tiff:Orientation(?:="|>)([1-8])', file.info["xmp"])
    return int(match[1]) if match else 1


def _draft(file: JpegImageFile, config: ImageConfig) -> int:
    """Have the decoder scale by the returned 1, 2, 4 or 8, so that `OVERSAMPLING` is left to the resize.

    The orientation plays no part: the shrinking is the same when the sides are swapped.
    """
    if config.exact or config.resize == "none":
        return 1
    shrink = plan(*file.size, config.size, config.resize).shrink
    scale = next((scale for scale in (8, 4, 2) if shrink >= scale * OVERSAMPLING), 1)
    if scale > 1:
        # Asked for a size, Pillow takes the largest scale that stays above it: for this size, exactly `scale`.
        file.draft(None, (file.width // scale, file.height // scale))
    return scale


def _eight_bits(file: ImageFile.ImageFile) -> Image.Image:
    """The loaded image in mode RGB or L, without its transparency and its metadata."""
    if file.mode in ("RGB", "L") and "transparency" not in file.info:
        image: Image.Image = file
    elif file.mode.startswith("I"):
        image = _from_sixteen(file)
    elif file.mode == "F":
        raise ItemError(Reason.CONTENT_UNSUPPORTED, "floating-point pixels")
    elif file.has_transparency_data:
        image = _on_white(file)
    else:
        image = file.convert("L" if file.mode == "1" else "RGB")
    image.info = {}  # or it would be copied from image to image, and into the encoded one
    return image


def _from_sixteen(file: ImageFile.ImageFile) -> Image.Image:
    """Grey with more than 8 bits, by dropping the low ones; a grey that is marked as transparent becomes white."""
    import numpy as np  # noqa: PLC0415 - as in records: few images need it

    deep = np.asarray(file)
    shift = max(8, int(deep.max()).bit_length() - 8)  # a 32-bit image may hold more than 16 bits
    grey = (deep.clip(0) >> shift).astype(np.uint8)
    if isinstance(file.info.get("transparency"), int):
        grey[deep == file.info["transparency"]] = 255
    return Image.fromarray(grey)


def _on_white(file: ImageFile.ImageFile) -> Image.Image:
    transparent = file.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:  # of a 16-bit RGB image, which Pillow reads as 8-bit
        file.info["transparency"] = tuple(value >> 8 for value in transparent)
    layer = file.convert("RGBA")
    canvas = Image.new("RGB", layer.size, (255, 255, 255))
    canvas.paste(layer, mask=layer)  # a third of what alpha_composite takes
    return canvas
