"""Streams that unpack to a thousand times their size: zeros, compressed.

A block of zeros is compressed once; blocks that end with a full flush do not depend on each other, so that the same
bytes can be sent as often as is wanted. Making a gigabyte costs no more than its checksum.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator

__all__ = ["gzip_zeros", "zlib_zeros"]

BLOCK = 2**20
"""Zeros in one block."""

_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_ADLER_MODULUS = 65521


def gzip_zeros(size: int) -> Iterator[bytes]:
    """A gzip file of `size` zeros, in pieces of about a kilobyte.

    >>> import gzip
    >>> gzip.decompress(b"".join(gzip_zeros(3_000_000))) == bytes(3_000_000)
    True
    """
    yield _GZIP_HEAD
    zeros, checksum = bytes(BLOCK), 0
    for count in _blocks(size):
        yield _packed(count)
        checksum = zlib.crc32(zeros[:count], checksum)
    yield _last() + checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")


def zlib_zeros(size: int) -> bytes:
    """The zlib stream of `size` zeros.

    >>> zlib.decompress(zlib_zeros(3_000_000)) == bytes(3_000_000)
    True
    """
    adler = (size % _ADLER_MODULUS << 16) + 1  # of zeros, which leave the first sum as it began
    return b"".join([b"\x78\x9c", *map(_packed, _blocks(size)), _last(), adler.to_bytes(4, "big")])


def _blocks(size: int) -> Iterator[int]:
    full, rest = divmod(size, BLOCK)
    for _ in range(full):
        yield BLOCK
    yield rest


@functools.lru_cache(maxsize=2)
def _packed(count: int) -> bytes:
    """So many zeros, on their own."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(count)) + packer.flush(zlib.Z_FULL_FLUSH)


def _last() -> bytes:
    """The empty block that ends a stream."""
    return zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
