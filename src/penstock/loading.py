"""A finished folder of the format ``arrays``, as one long array that stays on disk."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast, get_args, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.errors import SourceError
from penstock.folder import read_ledger
from penstock.location import local_folder
from penstock.records import Kind, ShardReport
from penstock.sink.names import shard_name

__all__ = ["Images", "load"]

Loaded = Literal["uint8", "float32"]

_OPEN_SHARDS = 64
"""Shards mapped at the same time: each holds a file descriptor, of which a process has about a thousand."""


def load(folder: str | Path, dtype: Loaded = "uint8") -> Images:
    """The images that a run with ``format="arrays"`` has written, without reading them into memory.

    Only committed shards count, so a run that was interrupted, or still works, gives what is whole.

    Example::

        images = penstock.load("out/", dtype="float32")
        images.shape                 # (9876, 256, 256, 3)
        images[7], images[10:20]     # (256, 256, 3) and (10, 256, 256, 3) float32 in [0, 1]
        images.keys[7]               # '000000009'

    Args:
        folder: the run's output.
        dtype: ``uint8`` as stored, or ``float32``: divided by 255 on access, so in [0, 1].

    Raises:
        ConfigError: the folder is in an object store.
        SourceError: the folder is not the output of a run, holds another format, or arrays that are not uint8 images.
    """
    if dtype not in get_args(Loaded):
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(get_args(Loaded))}")
    return Images(local_folder(folder, "penstock.load"), dtype)


class Images:
    """A read-only sequence of images; made by `load`.

    The first axis counts the written rows, shard by shard, and inside a shard by key. Keys ascend over all shards
    unless failed rows were retried, which go into shards of their own at the end.

    Can be pickled: a copy opens the folder anew. Indexing gives arrays that are copies.
    """

    def __init__(self, folder: Path, dtype: Loaded) -> None:
        self._folder = folder
        self._dtype = dtype
        shards = read_ledger(folder).reports
        self._shards = [report for report in shards if report.written]
        if self._shards:
            _require_arrays(folder, self._shards)
        self._ends = np.cumsum([report.written for report in self._shards], dtype=np.int64)
        self._maps: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()
        self._item_shape = self._map(0).shape[1:] if self._shards else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, height, width, 3)``; ``(0,)`` if nothing was written."""
        return (len(self), *self._item_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what indexing gives."""
        return np.dtype(self._dtype)

    @functools.cached_property
    def keys(self) -> npt.NDArray[np.str_]:
        """Key of each image; ``(N,)``."""
        return np.array(self._table(["key"])["key"].to_pylist(), dtype=np.str_)

    @functools.cached_property
    def fields(self) -> pa.Table:
        """The table's rows of the images, in their order: URL, sizes, caption, kept columns."""
        return self._table(None)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice | npt.ArrayLike) -> npt.NDArray[Any]: ...

    def __getitem__(self, index: int | slice | npt.ArrayLike) -> npt.NDArray[Any]:
        """One image for an integer; several, stacked, for a slice, an array of integers or a mask."""
        if isinstance(index, slice):
            return self._gather(np.arange(*index.indices(len(self))))
        positions = np.asarray(index)
        if positions.dtype == bool:
            positions = _masked(positions, len(self))
        if positions.size == 0:
            positions = positions.astype(np.int64)
        if positions.ndim > 1 or positions.dtype.kind not in "iu":
            raise TypeError(f"images are indexed by integers, slices, or 1-d arrays of these, not by {index!r}")
        gathered = self._gather(_wrapped(np.atleast_1d(positions), len(self)))
        return gathered if positions.ndim else cast("npt.NDArray[Any]", gathered[0])

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for shard in range(len(self._shards)):
            for image in self._map(shard):
                yield self._as_asked(np.array(image))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the images are on disk: an array of them is always a copy")
        images = self[:]
        return images if dtype is None else images.astype(dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self._folder, self._dtype)

    def __repr__(self) -> str:
        return f"<{len(self)} images {self.shape[1:]} {self._dtype} in {self._folder}>"

    def _gather(self, positions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Copies of the images at these positions, read shard by shard."""
        images = np.empty((len(positions), *self._item_shape), np.uint8)
        shards = np.searchsorted(self._ends, positions, side="right")
        for shard in np.unique(shards):
            here = shards == shard
            start = self._ends[shard] - self._shards[shard].written
            images[here] = self._map(int(shard))[positions[here] - start]
        return self._as_asked(images)

    def _as_asked(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        return images if self._dtype == "uint8" else np.divide(images, np.float32(255), dtype=np.float32)

    def _map(self, shard: int) -> npt.NDArray[np.uint8]:
        """The array of one shard, mapped into memory."""
        if shard in self._maps:
            self._maps.move_to_end(shard)
            return self._maps[shard]
        mapped = self._open(self._shards[shard])
        if len(self._maps) >= _OPEN_SHARDS:
            self._maps.popitem(last=False)
        self._maps[shard] = mapped
        return mapped

    def _open(self, report: ShardReport) -> npt.NDArray[np.uint8]:
        path = self._folder / f"{shard_name(report.shard)}.npy"
        try:
            mapped: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SourceError(f"{path} cannot be read: {error}; `penstock verify` tells what is damaged") from error
        shape = (report.written, *getattr(self, "_item_shape", mapped.shape[1:]))
        if mapped.dtype != np.uint8 or mapped.shape != shape:
            raise SourceError(f"{path} holds {mapped.dtype} of {mapped.shape}, expected uint8 of {shape}")
        return mapped

    def _table(self, columns: list[str] | None) -> pa.Table:
        tables = [self._written_rows(report, columns) for report in self._shards]
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({"key": []})

    def _written_rows(self, report: ShardReport, columns: list[str] | None) -> pa.Table:
        path = self._folder / f"{shard_name(report.shard)}.parquet"
        try:
            return pq.read_table(
                path, columns=columns, filters=[("outcome", "=", Kind.WRITTEN.value)], partitioning=None
            )
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path} cannot be read: {error}; `penstock verify` tells what is damaged") from error


def _require_arrays(folder: Path, shards: list[ShardReport]) -> None:
    first = shards[0]
    names = [file.name for file in first.files]
    if f"{shard_name(first.shard)}.npy" not in names:
        raise SourceError(
            f"{folder} holds no arrays of images: its first shard is {', '.join(names)}; run with --format arrays"
        )


def _masked(mask: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.integer[Any]]:
    if mask.shape != (length,):
        raise IndexError(f"a mask of {mask.shape} for {length} images")
    return np.flatnonzero(mask)


def _wrapped(positions: npt.NDArray[np.integer[Any]], length: int) -> npt.NDArray[np.integer[Any]]:
    """Positions from the start, given positions of which negative ones count from the end."""
    if len(positions) and (positions.min() < -length or positions.max() >= length):
        raise IndexError(f"position {positions[abs(positions).argmax()]} of {length} images")
    return np.where(positions < 0, positions + length, positions)
