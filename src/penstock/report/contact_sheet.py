"""Many small pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

__all__ = ["contact_sheet"]


def contact_sheet(images: Sequence[Image.Image], *, columns: int = 8, tile: int = 96, gap: int = 4) -> Image.Image:
    """The images in rows of `columns`, each scaled into a square of `tile` pixels, on white."""
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("RGB", (columns * (tile + gap) + gap, rows * (tile + gap) + gap), "white")
    for position, image in enumerate(images):
        small = image.convert("RGB")
        small.thumbnail((tile, tile))
        row, column = divmod(position, columns)
        left = gap + column * (tile + gap) + (tile - small.width) // 2
        top = gap + row * (tile + gap) + (tile - small.height) // 2
        sheet.paste(small, (left, top))
    return sheet
