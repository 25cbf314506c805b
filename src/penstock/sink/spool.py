"""The spool of an open shard: its settled rows in order of arrival, in a file that survives a kill.

Rows are settled in any order, but a shard is written in the order of its keys, and memory has to stay flat. So each
row is appended to the spool as it comes, and the format reads them back in order when the last one is there. When a
run is killed, the rows that are already in the spool need not be fetched again::

    penstock spool 1 <sha256 of the run's id, and a line feed>
    frame*:  crc32 of what follows (4) │ size of meta (4) │ size of payload (8) │ meta │ payload
             meta: JSON [index, [[name, size, dtype | null, shape | null], …], the caller's own]
             payload: the bytes of the parts, one after the other

No fsync: a loss of power costs some work, and the checksums find where the loss begins. Every frame is one system call
and has no buffer to lose, because that turned out to cost no more than buffering (10 µs for 10 KB).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from penstock.errors import AccountError
from penstock.records import Value
from penstock.sink.base import PartKind

__all__ = ["Spool", "SpooledRow", "kinds_of"]

_CRC = struct.Struct("<I")
_SIZES = struct.Struct("<IQ")
_HEAD = _CRC.size + _SIZES.size

# Text with lone surrogates (JSON allows them) could be stored nowhere later on, so the spool replaces them; a kept value
# of a type that JSON lacks becomes text rather than the end of the run.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str, check_circular=False).encode


@dataclass(frozen=True, slots=True)
class SpooledRow:
    """One row as it was added."""

    index: int
    meta: Any
    parts: dict[str, Value]


class _Frame(NamedTuple):
    """Where a row lies in the file."""

    offset: int
    meta_size: int
    payload_size: int

    @property
    def end(self) -> int:
        return self.offset + _HEAD + self.meta_size + self.payload_size


class Spool:
    """Rows by index, in a file; for one thread at a time.

    Opening a spool that exists keeps its valid beginning and cuts off the rest; one of another run is emptied.

    Args:
        path: the file; its folder must exist.
        run_id: identifies the input and the options.

    Raises:
        OSError: as it comes, from all methods.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self._header = b"penstock spool 1 " + hashlib.sha256(run_id.encode()).hexdigest().encode() + b"\n"
        self._frames: dict[int, _Frame] = {}
        self._kinds: set[tuple[PartKind, ...]] = set()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    @property
    def indices(self) -> AbstractSet[int]:
        """Of the rows that are here."""
        return self._frames.keys()

    @property
    def kinds(self) -> Collection[tuple[PartKind, ...]]:
        """Every kind of sample that occurs: what its parts are."""
        return self._kinds

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self._end

    def add(self, index: int, meta: Any, parts: Mapping[str, Value], kinds: tuple[PartKind, ...]) -> None:
        """Append one row; after an error the spool is as it was before.

        Args:
            index: of the row.
            meta: JSON types.
            parts: arrays must have a plain dtype (numbers, booleans, text, times).
            kinds: of the parts.

        Raises:
            AccountError: the row is here already.
        """
        if index in self._frames:
            raise AccountError(f"row {index} was settled twice")
        blobs = [part.tobytes() if isinstance(part, np.ndarray) else part for part in parts.values()]
        heads = [(kind.name, len(blob), kind.dtype, kind.shape) for kind, blob in zip(kinds, blobs, strict=True)]
        text = _encode((index, heads, meta)).encode("utf-8", "replace")
        payload = blobs[0] if len(blobs) == 1 else b"".join(blobs)
        sizes = _SIZES.pack(len(text), len(payload))
        crc = zlib.crc32(payload, zlib.crc32(text, zlib.crc32(sizes)))
        self._append(_CRC.pack(crc) + sizes + text, payload)
        self._keep(index, _Frame(self._end, len(text), len(payload)), kinds)

    def rows(self) -> Iterator[SpooledRow]:
        """All rows by ascending index; arrays are read-only views.

        Raises:
            OSError: among others, when the file was damaged after it was written.
        """
        for _, frame in sorted(self._frames.items()):
            row = self._read(frame)
            if row is None:
                raise OSError(f"{self.path} is damaged at byte {frame.offset}; delete it and run again")
            yield row

    def metas(self) -> Iterator[Any]:
        """The callers' own part of all rows by ascending index, without reading the payloads."""
        for _, frame in sorted(self._frames.items()):
            yield json.loads(os.pread(self._descriptor, frame.meta_size, frame.offset + _HEAD))[2]

    def clear(self) -> None:
        """Forget all rows."""
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, self._header)
        self._frames.clear()
        self._kinds.clear()
        self._end = len(self._header)

    def close(self) -> None:
        """Give the file back and keep it; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1  # closed even where the system reports an error
        if descriptor >= 0:
            os.close(descriptor)

    def _append(self, *pieces: bytes) -> None:
        try:
            done = os.writev(self._descriptor, pieces)
            if done < sum(map(len, pieces)):  # the disk is full, or the frame longer than one call takes (2 GiB)
                rest = memoryview(b"".join(pieces))[done:]
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise

    def _keep(self, index: int, frame: _Frame, kinds: tuple[PartKind, ...]) -> None:
        self._frames[index] = frame
        if kinds:
            self._kinds.add(kinds)
        self._end = frame.end

    def _recover(self) -> None:
        if os.pread(self._descriptor, len(self._header), 0) != self._header:
            self.clear()
            return
        self._end = len(self._header)
        length = os.fstat(self._descriptor).st_size
        while (frame := self._frame_at(self._end, length)) and (row := self._read(frame)):
            self._keep(row.index, frame, kinds_of(row.parts))
        os.ftruncate(self._descriptor, self._end)

    def _frame_at(self, offset: int, length: int) -> _Frame | None:
        """The frame that begins there, as far as its sizes make sense."""
        head = os.pread(self._descriptor, _HEAD, offset)
        if len(head) < _HEAD:
            return None
        frame = _Frame(offset, *_SIZES.unpack_from(head, _CRC.size))
        return frame if frame.end <= length else None

    def _read(self, frame: _Frame) -> SpooledRow | None:
        """The row of a frame, or None if the checksum says that it is not what was written."""
        data = memoryview(os.pread(self._descriptor, frame.end - frame.offset, frame.offset))
        if len(data) < _HEAD or zlib.crc32(data[_CRC.size :]) != _CRC.unpack_from(data)[0]:
            return None
        index, heads, meta = json.loads(bytes(data[_HEAD : _HEAD + frame.meta_size]))
        start, parts = _HEAD + frame.meta_size, {}
        for name, size, dtype, shape in heads:
            blob = data[start : start + size]
            parts[name] = bytes(blob) if dtype is None else np.ndarray(shape, dtype, buffer=blob)
            start += size
        return SpooledRow(index, meta, parts)


def kinds_of(parts: Mapping[str, Value]) -> tuple[PartKind, ...]:
    """What the parts of a sample are."""
    return tuple(
        PartKind(name, part.dtype.str, part.shape) if isinstance(part, np.ndarray) else PartKind(name, None, None)
        for name, part in parts.items()
    )
