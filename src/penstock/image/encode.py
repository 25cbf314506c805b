"""Pixels to the bytes of an image file."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from penstock.config import Encode
from penstock.errors import ItemError
from penstock.records import Reason

__all__ = ["encode"]

_LONGEST_SIDE = {"jpg": 65500, "png": 2**31 - 1, "webp": 16383}
"""What the formats (for JPEG: libjpeg) can hold, in pixels."""


def encode(image: Image.Image, kind: Encode, quality: int) -> bytes:
    """`image` as the bytes of a file of this kind; the same image always gives the same bytes.

    Args:
        image: mode RGB.
        kind: ``jpg``, ``png`` or ``webp``.
        quality: 1 to 100; png, which loses nothing, does not use it.

    Raises:
        ItemError: `Reason.ENCODE_FAILED` where the format cannot hold the image.
    """
    limit = _LONGEST_SIDE[kind]
    if max(image.size) > limit:
        detail = f"{image.width}x{image.height} as {kind}, which holds at most {limit} pixels a side"
        raise ItemError(Reason.ENCODE_FAILED, detail)
    buffer = io.BytesIO()
    try:
        image.save(buffer, **_arguments(kind, quality))
    except (OSError, ValueError) as error:
        raise ItemError(Reason.ENCODE_FAILED, f"{kind}: {type(error).__name__}: {error}") from error
    return buffer.getvalue()


def _arguments(kind: Encode, quality: int) -> dict[str, Any]:
    """What `PIL.Image.Image.save` is told."""
    if kind == "png":
        # Level 1 costs two thirds of the default, 6, and is 2 to 3 % larger on photographs.
        return {"format": "PNG", "compress_level": 1}
    if kind == "webp":
        # Method 2 costs half of the default, 4, and is as small at the qualities that data sets use.
        return {"format": "WEBP", "quality": quality, "method": 2}
    return {"format": "JPEG", "quality": quality}
