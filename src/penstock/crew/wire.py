"""How a parent and a worker process exchange values: an anonymous file for the bytes, a socket to say "look".

    sender                                             receiver
    pickle + buffers ──pwrite──▶ slot (memfd) ──pread──▶ value, in memory of its own
    (slot, size of head) ───────▶ socket ──────────────▶ wakes up

A slot is a file without a name, in memory on Linux, used in both directions by turns: the input lies there until the
worker has read it, then the result. Compared with a mapped arena, ``pread`` and ``pwrite`` cost 12 µs more for an image of
150 KB, and take away whole classes of trouble: a value of any size fits, nothing is ever remapped, running out of memory is
an OSError instead of SIGBUS, and no result can point into memory that the other side still writes to.

The socket carries nothing but notes of 12 bytes, of which no more than a few are ever under way, so that neither side
can block in writing: there is no order of events in which both wait for each other.

In the slot lies the head (a pickle of the value's own pickle and of the sizes of its buffers), then the buffers. Bytes
and arrays travel as buffers, uncopied by pickle (protocol 5).
"""

from __future__ import annotations

import dataclasses
import operator
import os
import pickle
import socket
import struct
import tempfile
from typing import Any

from penstock.records import Facts, Fetched, Result, Row, Sample

__all__ = [
    "SLOTS",
    "Channel",
    "Note",
    "Packed",
    "Place",
    "anonymous_file",
    "pack",
    "pack_job",
    "pack_result",
    "read_at",
    "read_writable_at",
    "unpack_job",
    "unpack_result",
    "write_at",
]

SLOTS = 2
"""Jobs that a worker holds: one running and one waiting, so that it never waits for its parent."""

KEEP = 4 * 2**20
"""Bytes of memory that a slot keeps for the next value; what a larger one took is given back. Arbitrary."""

NOTES_AT_ONCE = 16
"""More than are ever under way."""

_of_part = operator.attrgetter(*(spec.name for spec in dataclasses.fields(Fetched)[2:]))  # all but name and data
_of_facts = operator.attrgetter(*(spec.name for spec in dataclasses.fields(Facts)))
_of_cost = operator.attrgetter(*(spec.name for spec in dataclasses.fields(Result) if spec.name != "value"))

_NOTE = struct.Struct("<IQ")

Note = tuple[int, int]
"""Which slot, and how long the head in it is."""

Packed = list[bytes | memoryview]
"""A value ready to be sent: the head, then the buffers."""

Place = tuple[tuple[int, int], ...]
"""Where the arrays of a row's sample go: offset and size in bytes of each in the arena, in the order of the sample's parts."""


def anonymous_file() -> int:
    """A descriptor of a file that has no name, is not inherited, and vanishes with its last descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("penstock", os.MFD_CLOEXEC)
    descriptor, name = tempfile.mkstemp(prefix="penstock-")
    os.unlink(name)  # noqa: PTH108 - the pathlib way is longer and does the same
    return descriptor


def pack(value: object) -> Packed:
    """The head of a value and its buffers, ready for `Channel.send`.

    Raises:
        Exception: whatever pickle raises for a value that it cannot take.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    head = pickle.dumps((body, [(view.nbytes, view.readonly) for view in views]), protocol=5)
    return [head, *views]


def pack_job(row: Row, fetched: tuple[Fetched, ...], place: Place | None) -> Packed:
    """A row, its bytes and its place; `unpack_job` is the other end."""
    parts = [(p.part, pickle.PickleBuffer(p.data), *_of_part(p)) for p in fetched]
    return pack((row, parts, place))


def unpack_job(value: tuple[Row, list[tuple[Any, ...]], Place | None]) -> tuple[Row, tuple[Fetched, ...], Place | None]:
    """The row, its bytes and its place."""
    row, parts, place = value
    return row, tuple(Fetched(*part) for part in parts), place


def pack_result(result: Result) -> Packed:
    """A result; `unpack_result` is the other end.

    It travels as tuples: the pickle of our dataclasses costs three times as much.

    Raises:
        Exception: whatever pickle raises for a value that it cannot take.
    """
    value: object = result.value
    if isinstance(value, Sample):
        parts = {name: pickle.PickleBuffer(part) if type(part) is bytes else part for name, part in value.parts.items()}
        value = (parts, _of_facts(value.facts))
    return pack((value, *_of_cost(result)))


def unpack_result(value: tuple[Any, ...]) -> Result:
    """The result."""
    content, *cost = value
    if isinstance(content, tuple):
        parts, facts = content
        content = Sample(parts, Facts(*facts))
    return Result(content, *cost)


class Channel:
    """One end of the connection between a parent and one worker.

    Args:
        connection: the socket.
        slots: descriptors of the slots, the same files at both ends.
    """

    def __init__(self, connection: socket.socket, slots: list[int]) -> None:
        self.connection = connection
        self.slots = slots
        self._unread = b""

    def send(self, slot: int, packed: Packed) -> None:
        """Put a packed value into the slot and tell the other side.

        Raises:
            OSError: no memory for the value, or (ConnectionError) nobody at the other end.
        """
        offset = 0
        for piece in packed:
            write_at(self.slots[slot], memoryview(piece), offset)
            offset += len(piece)
        self.connection.sendall(_NOTE.pack(slot, len(packed[0])))

    def notes(self, most: int = NOTES_AT_ONCE) -> list[Note] | None:
        """The notes that have arrived, at least one unless the socket is non-blocking; None at the end.

        Args:
            most: notes to take at once.
        """
        while True:
            try:
                arrived = self.connection.recv(most * _NOTE.size - len(self._unread))
            except BlockingIOError:
                return []
            except ConnectionError:
                return None
            if not arrived:
                return None
            self._unread += arrived
            whole = len(self._unread) - len(self._unread) % _NOTE.size
            if whole:
                notes = list(_NOTE.iter_unpack(self._unread[:whole]))
                self._unread = self._unread[whole:]
                return notes

    def receive(self, note: Note) -> Any:
        """The value that a note speaks of. Its bytes and arrays own their memory; arrays that could be written to still can.

        Raises:
            Exception: whatever pickle raises for a value that does not exist on this side.
        """
        slot, head_size = note
        descriptor = self.slots[slot]
        body, sizes = pickle.loads(read_at(descriptor, head_size, 0))  # noqa: S301 - from our own worker or parent
        buffers = []
        offset = head_size
        for size, readonly in sizes:
            buffers.append(
                read_at(descriptor, size, offset) if readonly else read_writable_at(descriptor, size, offset)
            )
            offset += size
        if offset > KEEP:
            os.ftruncate(descriptor, 0)
        return pickle.loads(body, buffers=buffers)  # noqa: S301 - as above

    def close(self) -> None:
        """Close the socket and the slots."""
        self.connection.close()
        for descriptor in self.slots:
            os.close(descriptor)
        self.slots = []


def write_at(descriptor: int, view: memoryview, offset: int) -> None:
    """Write all of the bytes of `view`."""
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset` on."""
    pieces = []
    while size:
        piece = os.pread(descriptor, size, offset)
        if not piece:
            raise EOFError("a shared file holds less than was announced")
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)  # of a single piece: that piece, uncopied


def read_writable_at(descriptor: int, size: int, offset: int) -> memoryview:
    """As `read_at`, in memory that may be written to."""
    import numpy as np  # noqa: PLC0415 - as in records: only arrays need it

    whole = np.empty(size, np.uint8).data  # unlike a bytearray, not filled with zeros first
    view = whole
    while view.nbytes:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise EOFError("a shared file holds less than was announced")
        view, offset = view[count:], offset + count
    return whole
