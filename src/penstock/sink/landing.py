"""Where whole shards go: the commit rule, on a disk and in an object store.

A shard's files are written into a scratch folder on a disk. On a disk they are then renamed to their final names; into
a store, which has no rename, they are uploaded::

                      on a disk                                    in an object store
    scratch           DIR/.penstock/tmp/00000-x7f2q/               on this machine's own disk
    land              rename to DIR/00000.tar …                    put as DIR/00000.tar …
    land, prepared    stays where it is, flushed                   put as DIR/.penstock/tmp/00000-x7f2q/00000.tar …
    adopt             rename                                       copied inside the store, and the prepared ones deleted

Either way the shard exists when the journal has its line, and what has a final name before is a leftover: another attempt at the
shard replaces it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from penstock.errors import OutputError, OutputRefusedError
from penstock.records import ShardReport
from penstock.sink import objects
from penstock.sink.disk import flush, place, remove, scratch, writing
from penstock.sink.names import shards_in

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["LOCK", "SCRATCH", "Bucket", "Disk", "Landing", "refusal_of_overtaken"]

SCRATCH = ".penstock/tmp"
LOCK = ".penstock/lock"
"""In a store: says which run works there."""


def refusal_of_overtaken(root: UPath) -> OutputRefusedError:
    """For a run in a store that others took for dead."""
    return OutputRefusedError(
        f"another run has gone on in {root}, since nothing was heard of this one for a while; leave it to that one"
    )


class Landing(Protocol):
    """What the sink asks of the place where shards go."""

    scratch_folder: Path
    """On a disk of this machine; whoever writes shards makes it."""

    def scratch(self, prefix: str, *, prepare: bool) -> AbstractContextManager[Path]:
        """A new folder for the files of a shard, for as long as they are needed there; its name is the attempt's."""
        ...

    def land(self, paths: list[Path], *, prepare: bool) -> None:
        """Give the files of a shard their final names, durably.

        On a disk all of them or, after an error, none. In a store some may have theirs then, which counts for nothing.

        Args:
            paths: files and directories in a folder that `scratch` has made.
            prepare: leave that to `adopt`.
        """
        ...

    def adopt(self, prepared: Sequence[ShardReport]) -> None:
        """Give prepared shards their final names, durably; as in `land`."""
        ...

    def discard(self, attempt: str) -> None:
        """Delete a prepared shard."""
        ...

    def hurry(self) -> None:
        """Wait for nothing any more. Any thread may say so."""
        ...

    def sweep(self, committed: Collection[int], *, strays: bool) -> None:
        """Delete prepared shards, and files with final names that belong to no committed shard.

        Args:
            committed: the shards that exist.
            strays: there may be such files that no shard to come will replace.
        """
        ...


class Disk:
    """A folder that this machine sees."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.scratch_folder = folder / SCRATCH

    def scratch(self, prefix: str, *, prepare: bool) -> AbstractContextManager[Path]:
        """See `Landing.scratch`."""
        return scratch(self.scratch_folder, prefix, keep=prepare)

    def land(self, paths: list[Path], *, prepare: bool) -> None:
        """See `Landing.land`."""
        flush(paths)
        if not prepare:
            place(paths, self._folder)

    def adopt(self, prepared: Sequence[ShardReport]) -> None:
        """See `Landing.adopt`."""
        attempts = [self.scratch_folder / report.attempt for report in prepared]
        paths = [
            attempt / file.name.rstrip("/")
            for report, attempt in zip(prepared, attempts, strict=True)
            for file in report.files
        ]
        with writing(self._folder, what="give shards their names in"):
            place(paths, self._folder)
            for attempt in attempts:
                remove(attempt)

    def discard(self, attempt: str) -> None:
        """See `Landing.discard`."""
        with writing(self._folder):
            remove(self.scratch_folder / attempt)

    def hurry(self) -> None:
        """See `Landing.hurry`: a disk is not waited for."""

    def sweep(self, committed: Collection[int], *, strays: bool) -> None:  # noqa: ARG002 - to look costs nothing here
        """See `Landing.sweep`."""
        with writing(self._folder):
            remove(self.scratch_folder)
            for name, shard in shards_in(self._folder):
                if shard not in committed:
                    remove(self._folder / name)


class Bucket:
    """A prefix of an object store.

    Args:
        root: the output.
        work_folder: one on this machine's disk; None for who only adopts and sweeps.
        owner: what the lock says while nobody else has taken over; empty where that is not looked at.
    """

    def __init__(self, root: UPath, work_folder: Path | None, owner: str) -> None:
        self._root = root
        self._owner = owner
        self._hurry = threading.Event()
        self.scratch_folder = Path() if work_folder is None else work_folder / "tmp"

    def scratch(self, prefix: str, *, prepare: bool) -> AbstractContextManager[Path]:  # noqa: ARG002 - uploaded either way
        """See `Landing.scratch`."""
        return scratch(self.scratch_folder, prefix)

    def land(self, paths: list[Path], *, prepare: bool) -> None:
        """See `Landing.land`."""
        attempt = f"{SCRATCH}/{paths[0].parent.name}/" if prepare else ""
        with objects.storing(self._root):
            if not prepare:
                self._remove_other_members([path.name for path in paths if path.is_dir()], _members(paths))
            objects.put(
                [(path, attempt + name) for path, name in _files(paths)],
                self._root,
                check=self._check_owner,
                hurry=self._hurry,
            )

    def _check_owner(self) -> None:
        """A run that was not heard of for a while may have been taken over: its files would replace committed ones.

        And what a worker prepares for a run that has ended, nobody would adopt or delete.
        """
        if self._owner and self._owner.encode() not in (objects.read(self._root, LOCK) or b""):
            raise refusal_of_overtaken(self._root)

    def hurry(self) -> None:
        """See `Landing.hurry`."""
        self._hurry.set()

    def adopt(self, prepared: Sequence[ShardReport]) -> None:
        """See `Landing.adopt`."""
        with objects.storing(self._root, "give shards their names in"):
            pairs = [pair for report in prepared for pair in self._moves(report)]
            folders = [file.name[:-1] for report in prepared for file in report.files if file.name.endswith("/")]
            self._remove_other_members(folders, {target for _, target in pairs})
            objects.copy(pairs, self._root, check=self._check_owner)
            objects.remove([source for source, _ in pairs], self._root)

    def _moves(self, report: ShardReport) -> Iterator[tuple[str, str]]:
        """The prepared objects of a shard, and their final names."""
        attempt = f"{SCRATCH}/{report.attempt}"
        for file in report.files:
            if file.name.endswith("/"):
                members = objects.sizes_below(self._root, f"{attempt}/{file.name[:-1]}")
                if sum(members.values()) != file.size:
                    raise OutputError(f"{self._root}/{attempt}/{file.name} is not what was prepared; run again")
                yield from ((member, member.removeprefix(f"{attempt}/")) for member in members)
            else:
                yield f"{attempt}/{file.name}", file.name

    def _remove_other_members(self, folders: list[str], members: Collection[str]) -> None:
        """Of leftovers: an object that is replaced goes by itself, but members that the shard will not have would stay."""
        for folder in folders:
            self._check_owner()
            there = objects.names_below(self._root, folder)
            objects.remove([name for name in there if name not in members], self._root)

    def discard(self, attempt: str) -> None:
        """See `Landing.discard`."""
        with objects.storing(self._root):
            objects.remove_below(self._root, f"{SCRATCH}/{attempt}")

    def sweep(self, committed: Collection[int], *, strays: bool) -> None:
        """See `Landing.sweep`. A long list of objects is costly, so it is asked for only where there may be strays."""
        with objects.storing(self._root):
            objects.remove_below(self._root, SCRATCH)
            if not strays:
                return
            for name, shard in shards_in(self._root):
                if shard not in committed:
                    objects.remove_below(self._root, name)


def _files(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """Files, and those in directories, with their names relative to where the paths are."""
    for path in paths:
        if path.is_dir():
            yield from ((member, f"{path.name}/{member.name}") for member in sorted(path.iterdir()))
        else:
            yield path, path.name


def _members(paths: list[Path]) -> set[str]:
    return {name for _, name in _files(paths)}
