"""The memory of batches: one anonymous file in memory, shared by those who fill batches and whoever takes them.

    Arena      the owner's side      ──allocate──▶ region, a batch's room ──▶ places, one for each row
    Landing    a worker's side       ──land──────▶ the arrays of a row's sample, written to their place
    Mapping    the consumer's side   ──array─────▶ the region as an array ──▶ once nobody holds it: free again

Only the consumer maps the file. Workers write into it with ``pwrite``, as they do into their slots (see `wire`): a worker
that dies while it writes leaves nothing locked, and a write that is too much is an OSError and not SIGBUS.
"""

from __future__ import annotations

import dataclasses
import logging
import mmap
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.crew.wire import Place, anonymous_file, read_at, read_writable_at, write_at
from penstock.records import Landed, Result, Sample

if TYPE_CHECKING:  # as in records: it would double the time that a worker takes to start
    import numpy as np
    import numpy.typing as npt

__all__ = ["Arena", "Landing", "Mapping", "Place"]

MAPPED_AT_MOST = 64
"""Regions that a consumer maps; each costs a descriptor, of which a process may have 1024 or, on macOS, 256. A stream needs
a few; so many are for a user who keeps all batches."""

PLAIN_KINDS = "biufcmM"
"""Kinds of dtype, as `numpy.dtype.kind`, whose elements are so many bytes and nothing else, and which their name describes."""

_logger = logging.getLogger("penstock")


class Arena:
    """The owner's side: makes the file and divides it into regions. For one thread at a time.

    Regions of one size can be used again and again, so that none is ever given back; the memory is free when the owner, the
    workers and the consumer have closed the file and no array of it is left.

    Args:
        descriptor: of an empty file to take over, which another process has made; None to make one.

    Attributes:
        descriptor: of the file, for a `Landing` here and a `Mapping` elsewhere; not inherited.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = anonymous_file() if descriptor is None else descriptor
        self._size = 0
        self._exhausted = False

    def allocate(self, size: int) -> int | None:
        """The offset of a new region, or None if there is no memory for it: then there will be none later on, either.

        The memory is taken here and now. Were it taken at the first write, its lack would be SIGBUS for the consumer.

        Args:
            size: bytes, at least one.
        """
        if self._exhausted:
            return None
        offset, room = self._size, -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            _reserve(self.descriptor, offset, room)
        except OSError as error:
            self._exhausted = True
            _logger.warning(
                "no shared memory for a batch (%.1f MB: %s); batches are copied through a pipe instead, which is slower; "
                "give a smaller batch_size or size, or the container more memory",
                size / 1e6,
                error.strerror,
            )
            return None
        self._size += room
        return offset

    def write(self, offset: int, view: memoryview) -> None:
        """Put contiguous bytes at `offset`."""
        write_at(self.descriptor, view.cast("B"), offset)

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes from `offset` on."""
        return read_at(self.descriptor, size, offset)

    def close(self) -> None:
        """Close the file; nothing more can be written."""
        os.close(self.descriptor)


class Mapping:
    """The consumer's side: regions as arrays.

    Args:
        descriptor: of the arena's file; taken over.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._maps: dict[int, mmap.mmap] = {}

    def array(self, offset: int, size: int, on_free: Callable[[], object]) -> npt.NDArray[np.uint8]:
        """A region's bytes, without a copy: the owner may use it again when the array and all views of it are gone.

        Past 64 regions, which is more than are in use unless batches are kept, the array is a copy and the region free at
        once.

        Args:
            offset: where the region begins.
            size: bytes, the same for the same offset every time.
            on_free: called once when nobody holds the array any more, in whichever thread this comes about, even in the
                middle of a garbage collection: it must wait for no lock. A fork's copy of the array does not count.

        Returns:
            (size,) uint8, which may be written to.
        """
        import numpy as np  # noqa: PLC0415 - as above

        region = self._region(offset, size)
        if region is None:
            copy = np.frombuffer(read_writable_at(self._descriptor, size, offset), np.uint8)
            on_free()
            return copy
        array = np.frombuffer(
            region, np.uint8, count=size
        )  # a new one each time: views hold on to this, not to the map
        weakref.finalize(array, _let_go, os.getpid(), on_free).atexit = False
        return array

    def close(self) -> None:
        """Close the file; arrays that are still held stay as they are."""
        self._maps.clear()  # not closed: those that have an array are still in use, and the others close themselves
        os.close(self._descriptor)

    def _region(self, offset: int, size: int) -> mmap.mmap | None:
        if offset not in self._maps:
            if len(self._maps) >= MAPPED_AT_MOST:
                return None
            self._maps[offset] = mmap.mmap(self._descriptor, size, offset=offset)
        return self._maps[offset]


class Landing:
    """A worker's side: writes the arrays of a sample to their place. Picklable.

    Args:
        descriptor: of the arena's file, which has the same number in a worker process.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def land(self, result: Result, place: Place) -> Result:
        """The result with `Landed` instead of each array, if all of its arrays are such as the place is for; else as it was.

        Whoever has given the place finds out from the shapes why something came to nothing there.

        Args:
            result: any; a failure stays as it is, and so do the parts of a sample that are bytes.
            place: where the arrays go, in the order of the sample's parts.
        """
        if not isinstance(result.value, Sample):
            return result
        arrays = _arrays(result.value)
        fits = [array.nbytes for array in arrays.values()] == [size for _, size in place]
        if not fits or not all(array.dtype.kind in PLAIN_KINDS for array in arrays.values()):
            return result
        try:
            for array, (offset, _) in zip(arrays.values(), place, strict=True):
                write_at(self.descriptor, _bytes_of(array), offset)
        except (OSError, MemoryError):  # no memory to make it contiguous; by wire it may come in pieces
            return result
        landed = {name: Landed(array.dtype.str, array.shape) for name, array in arrays.items()}
        return dataclasses.replace(result, value=Sample({**result.value.parts, **landed}, result.value.facts))


def _reserve(descriptor: int, offset: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)
    else:  # macOS, where the file lies on a disk
        os.ftruncate(descriptor, offset + size)


def _let_go(holder: int, on_free: Callable[[], object]) -> None:
    if os.getpid() == holder:  # a process forked from it has let go of a copy
        on_free()


def _arrays(sample: Sample) -> dict[str, npt.NDArray[np.generic]]:
    import numpy as np  # noqa: PLC0415 - as above

    return {name: part for name, part in sample.parts.items() if isinstance(part, np.ndarray)}


def _bytes_of(array: npt.NDArray[np.generic]) -> memoryview:
    import numpy as np  # noqa: PLC0415 - as above

    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
