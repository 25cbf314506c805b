"""What a stream gives: some images, and what belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.records import Outcome, PartOutcome

__all__ = ["Batch"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one size, all there: rows that failed are not among them, but in `outcomes`.

    The arrays lie in memory that is used again once nobody holds them, or a view of them, any more; as long as somebody
    does, they stay as they are.
    """

    keys: list[str]
    """Of each row: its position in the list, with nine digits; as the keys in shards."""
    parts: Mapping[str, npt.NDArray[Any] | list[Any]]
    """Everything that the rows turned into, by name: an array with N as its first axis, or a list of N values."""
    fields: Mapping[str, list[Any]]
    """The kept columns, each a list of N values."""
    captions: list[str | None] | None
    """Of the caption column, if one was asked for."""
    outcomes: tuple[Outcome, ...]
    """Rows that fell out since the last batch, with their reasons. Those behind the very last one are in the report alone."""
    epoch: int
    """Counted from 0."""
    part_outcomes: list[Mapping[str, PartOutcome]] = field(default_factory=list)
    """Of rows of several parts: how each part ended, by its name; those of a list are ``views.0``, ``views.1`` …"""

    @property
    def images(self) -> npt.NDArray[Any]:
        """``(N, S, S, 3)`` uint8, RGB, if there is no transform; else the first array that it returned, stacked.

        Raises:
            AttributeError: the rows have no part that is an array for all of them.
        """
        for part in self.parts.values():
            if isinstance(part, np.ndarray):
                return part
        raise AttributeError(f"these rows have no images: their parts are {', '.join(self.parts)}")

    def as_float(
        self, mean: float | Sequence[float] | None = None, std: float | Sequence[float] | None = None
    ) -> npt.NDArray[np.float32]:
        """The images as float32: in [0, 1], or normalised as ``(x / 255 - mean) / std``.

        >>> batch.as_float(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # doctest: +SKIP

        Args:
            mean: of all channels or of each, on the scale of 0 to 1; 0 if only `std` is given.
            std: as `mean`; 1 if only `mean` is given.

        Returns:
            An array of its own, of the shape of `images`.

        Raises:
            TypeError: the images are not uint8: a transform has made them, and their scale is its own.
        """
        images = self.images
        if images.dtype != np.uint8:
            raise TypeError(
                f"as_float() is for uint8 images, and these are {images.dtype}: the transform has scaled them"
            )
        if mean is None and std is None:
            floats: npt.NDArray[np.float32] = np.divide(images, np.float32(255), dtype=np.float32)
            return floats
        deviation = np.asarray(1.0 if std is None else std, np.float32)
        floats = np.multiply(images, np.float32(1) / (np.float32(255) * deviation), dtype=np.float32)
        floats -= np.asarray(0.0 if mean is None else mean, np.float32) / deviation
        return floats

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {_shown(part)}" for name, part in self.parts.items())
        return f"<Batch of {len(self)} in epoch {self.epoch}: {shown}>"


def _shown(part: npt.NDArray[Any] | list[Any]) -> str:
    return f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else "list"
