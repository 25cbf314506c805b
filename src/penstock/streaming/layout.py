"""Where in a batch's memory each image lies."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.crew.arena import Place
from penstock.records import Landed, Sample

__all__ = ["Layout", "Stack", "stacks_of"]

ALIGNMENT = 64
"""Bytes: a cache line, and what vector instructions like."""


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
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.name!r} as {np.dtype(self.dtype)} {self.shape}"


def stacks_of(sample: Sample, loose: Collection[str]) -> tuple[Stack, ...]:
    """The arrays of a sample, without the parts of which rows may have any number."""
    return tuple(
        Stack(name, part.dtype if isinstance(part, Landed) else part.dtype.str, tuple(part.shape))
        for name, part in sample.parts.items()
        if not isinstance(part, bytes) and name not in loose
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """How a slab is divided: one stack behind the other, each with room for a whole batch."""

    stacks: tuple[Stack, ...]
    batch_size: int

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each stack begins, in bytes from the start of the slab; and at last where the slab ends."""
        return tuple(accumulate((_aligned(stack.nbytes * self.batch_size) for stack in self.stacks), initial=0))

    @property
    def size(self) -> int:
        """Of a slab, in bytes."""
        return self.starts[-1]

    def place(self, index: int, slab: int = 0) -> Place:
        """Where the arrays of the row at `index` lie, given the slab's offset."""
        return tuple(
            (slab + start + index * stack.nbytes, stack.nbytes)
            for start, stack in zip(self.starts, self.stacks, strict=False)  # one start more than stacks: the end
        )

    def arrays(self, slab: npt.NDArray[np.uint8], count: int) -> dict[str, npt.NDArray[Any]]:
        """The stacks of a batch of `count` rows: views of the slab's bytes."""
        return {
            stack.name: _stacked(slab[start : start + count * stack.nbytes], stack, count)
            for start, stack in zip(self.starts, self.stacks, strict=False)
        }


def _stacked(data: npt.NDArray[np.uint8], stack: Stack, count: int) -> npt.NDArray[Any]:
    return data.view(np.dtype(stack.dtype)).reshape(count, *stack.shape)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def differing(there: Iterable[Stack], here: Iterable[Stack]) -> tuple[str, str]:
    """Two sample's stacks as text, without what is the same in both."""
    theirs, ours = list(there), list(here)
    return _shown([s for s in theirs if s not in ours]), _shown([s for s in ours if s not in theirs])


def _shown(stacks: list[Stack]) -> str:
    return ", ".join(map(str, stacks)) or "no such array"
