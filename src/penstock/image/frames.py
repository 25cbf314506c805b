"""How many frames an image file has, without decoding more of them than the first."""

from __future__ import annotations

from itertools import islice

from PIL import ImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from penstock.image import exif
from penstock.image.structure import GifWalk, TiffWalk

__all__ = ["MAX_FRAMES", "count"]

MAX_FRAMES = 1000
"""The largest number that is told: it stands for itself and for all above."""

_NUMBER_OF_IMAGES = "0xb001"
"""The tag of an MPO's table; Pillow has no name for it."""


def count(file: ImageFile.ImageFile, data: bytes) -> int:
    """Frames of an animation, pages of a TIFF, pictures of an MPO; 1 of anything else, `MAX_FRAMES` at most.

    For GIF and TIFF, Pillow's own ``n_frames`` reads the whole file; here the blocks and tables are walked over,
    and of a GIF not more than `penstock.image.structure.MAX_BLOCKS` of them. The other formats say it in their headers.

    Args:
        file: opened by Pillow.
        data: its bytes.
    """
    if isinstance(file, GifImageFile):
        found = sum(1 for _ in islice(GifWalk(data).frames(), MAX_FRAMES))
    elif isinstance(file, TiffImageFile):
        found = sum(1 for _ in islice(TiffWalk(data).tables(), MAX_FRAMES))
    elif isinstance(file, JpegImageFile):
        found = _pictures(file)
    else:
        found = getattr(file, "n_frames", 1)
    return max(1, min(found, MAX_FRAMES))


def _pictures(file: JpegImageFile) -> int:
    """Of an MPO, which is a JPEG with others behind it and a table of them: cameras store depth and previews so."""
    found = exif.parse(file.info["mp"]).get(_NUMBER_OF_IMAGES) if "mp" in file.info else None
    return found if isinstance(found, int) else 1
