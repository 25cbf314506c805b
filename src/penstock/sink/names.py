"""What the files of a shard are called, and which shards' files lie somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.location import Location
from penstock.sink import objects

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["shard_name", "shard_of", "shards_in"]

_SHARD_FILE = re.compile(r"(\d{5}|[1-9]\d{5,})(_stats\.json|\.tar|\.parquet|(\.[\w.-]+)?\.npy)?", re.ASCII)
_MEMBER_FILE = re.compile(r"\d{9,}\.", re.ASCII)


def shard_name(shard: int) -> str:
    """What the files of a shard are called.

    >>> shard_name(7)
    '00007'
    """
    return f"{shard:05d}"


def shard_of(name: str) -> int | None:
    """The shard that a file in an output folder belongs to, or None if Penstock would not write such a name.

    >>> shard_of("00007.tar"), shard_of("00007_stats.json"), shard_of("00007"), shard_of("00007.txt")
    (7, 7, 7, None)
    """
    match = _SHARD_FILE.fullmatch(name)
    return int(match[1]) if match else None


def shards_in(location: Location) -> Iterator[tuple[str, int]]:
    """Files and directories of shards that lie there, with the shard each belongs to, by name.

    A folder of the user's that is called by a number is none of ours.
    """
    for name, members in _on_disk(location) if isinstance(location, Path) else _in_store(location):
        shard = shard_of(name)
        if shard is not None and all(_MEMBER_FILE.match(member) for member in members):
            yield name, shard


def _on_disk(folder: Path) -> Iterator[tuple[str, Iterator[str]]]:
    for path in sorted(folder.iterdir()):
        yield path.name, (member.name for member in (path.iterdir() if path.is_dir() else ()))


def _in_store(root: UPath) -> Iterator[tuple[str, Iterator[str]]]:
    for name, is_folder in objects.listed(root):
        members = objects.names_below(root, name) if is_folder and shard_of(name) is not None else []
        yield name, (member.removeprefix(f"{name}/") for member in members)
