"""Where in a batch's memory each image lies."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.crew.arena import PLAIN_KINDS, Place
from penstock.errors import ConfigError
from penstock.records import Landed, Sample

__all__ = ["Layout", "Stack", "stacks_of"]

ALIGNMENT = 64
"""Bytes: a cache line, and what vector instructions like."""

STACKED_KINDS = PLAIN_KINDS + "SU"
"""Kinds of dtype whose bytes can be copied and whose name tells all: no fields, no pointers to Python's objects."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A part that is an array of the same kind for every row: a batch has them stacked."""

    name: str
    dtype: str
    """As `numpy.dtype.str`."""
    shape: tuple[int, ...]
    """Of one row."""

    @property
    def nbytes(self) -> int:
        """Of one row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name!r} as {np.dtype(self.dtype)} {self.shape}"


def stacks_of(sample: Sample, loose: Collection[str]) -> tuple[Stack, ...]:
    """The arrays of a sample, without the parts of which rows may have any number.

    Raises:
        ConfigError: an array is of a dtype that cannot be stacked.
    """
    return tuple(
        Stack(name, part.dtype if isinstance(part, Landed) else _stacked_dtype(name, part.dtype), tuple(part.shape))
        for name, part in sample.parts.items()
        if not isinstance(part, bytes) and name not in loose
    )


def _stacked_dtype(name: str, dtype: np.dtype[Any]) -> str:
    if dtype.kind not in STACKED_KINDS:
        raise ConfigError(
            f"part {name!r} has the dtype {dtype}: a batch stacks plain numbers; have the transform return each field as "
            "an array of its own, or bytes"
        )
    return dtype.str


@dataclass(frozen=True, slots=True)
class Layout:
    """How a slab is divided: one stack behind the other, each with room for a whole batch."""

    stacks: tuple[Stack, ...]
    batch_size: int
    sizes: tuple[int, ...] = field(init=False)
    """Of one row in each stack, in bytes."""
    starts: tuple[int, ...] = field(init=False)
    """Where each stack begins, in bytes from the start of the slab."""
    size: int = field(init=False)
    """Of a slab, in bytes."""

    def __post_init__(self) -> None:
        """Compute once what is needed for every row."""
        sizes = tuple(stack.nbytes for stack in self.stacks)
        *starts, size = accumulate((_aligned(size * self.batch_size) for size in sizes), initial=0)
        for name, value in (("sizes", sizes), ("starts", tuple(starts)), ("size", size)):
            object.__setattr__(self, name, value)

    def place(self, index: int, slab: int = 0) -> Place:
        """Where the arrays of the row at `index` lie, given the slab's offset."""
        return tuple((slab + start + index * size, size) for start, size in zip(self.starts, self.sizes, strict=True))

    def arrays(self, slab: npt.NDArray[np.uint8], count: int) -> dict[str, npt.NDArray[Any]]:
        """The stacks of a batch of `count` rows: views of the slab's bytes."""
        return {
            stack.name: _stacked(slab[start : start + count * size], stack, count)
            for stack, start, size in zip(self.stacks, self.starts, self.sizes, strict=True)
        }


def _stacked(data: npt.NDArray[np.uint8], stack: Stack, count: int) -> npt.NDArray[Any]:
    return data.view(np.dtype(stack.dtype)).reshape(count, *stack.shape)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def differing(there: Iterable[Stack], here: Iterable[Stack]) -> tuple[str, str]:
    """Two samples' stacks as text, without what is the same in both; their names, if only the order is not."""
    theirs, ours = list(there), list(here)
    if set(theirs) == set(ours):
        return _in_order(theirs), _in_order(ours)
    return _shown([s for s in theirs if s not in ours]), _shown([s for s in ours if s not in theirs])


def _shown(stacks: list[Stack]) -> str:
    return ", ".join(map(str, stacks)) or "no such array"


def _in_order(stacks: list[Stack]) -> str:
    return f"{', '.join(repr(stack.name) for stack in stacks)} in this order"
