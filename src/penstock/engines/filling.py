"""Shards being filled: which row belongs to which shard, and when a shard is whole.

::

    placed rows ──feed──▶ lane ──add──▶ spool of its shard ──(all its rows settled)──▶ committer thread
                                                                commit, announce, forget the spool

The next shard opens as soon as its first row enters, long before the last one is whole, so that no core idles on a
straggler. Committing happens on a thread of its own: fsync and the writing of a large tar must not hold up the hub.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import operator
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from penstock.errors import AccountError, ItemError, OutputRefusedError
from penstock.records import Kind, Row, Settled, ShardReport
from penstock.sink.shards import OpenShard, ShardStore

__all__ = ["Filling", "Placed"]


class Placed(NamedTuple):
    """A row, and where it belongs."""

    shard: int
    row: Row
    earlier_reason: str | None = None
    """For a row that is retried: why it failed before."""


MAX_COMMITS_WAITING = 2
"""Whole shards that may wait for the committer before the hub waits for it: bounds the disk space of their spools."""


@dataclass(slots=True)
class _Shard:
    """An open shard and what it still waits for."""

    open: OpenShard
    digest: Any = field(default_factory=hashlib.sha256)
    rows: int = 0
    """Rows that have entered."""
    pending: int = 0
    """Rows among them that are not settled."""
    sealed: bool = False
    """All its rows have entered."""
    retried: Counter[str] = field(default_factory=Counter)


class Filling:
    """Feeds a lane with the rows of shards that do not exist yet, and commits each shard when it is whole.

    Args:
        store: the folder's shards.
        committed: shards that exist, with the digest of their rows; their rows are passed over.
        check_digests: compare the rows passed over with the digest of their shard (for lists without a fingerprint).
        announce: called on the committer's thread with each shard that has its final names; when it returns, the
            shard exists (the journal has its line).
    """

    def __init__(
        self,
        store: ShardStore,
        *,
        committed: Mapping[int, str],
        announce: Callable[[ShardReport], None],
        check_digests: bool = False,
    ) -> None:
        self._store = store
        self._committed = committed
        self._check_digests = check_digests
        self._announce = announce
        self._shards: dict[int, _Shard] = {}
        self._shard_of: dict[int, int] = {}
        self._committer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="penstock-commit")
        self._commits: deque[tuple[Future[None], _Shard]] = deque()
        self.recovered = 0
        """Rows taken over from the spools of an interrupted run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the commit under way (without an error, for all) and close the spools, which a later run takes over."""
        if error is not None:
            self._store.hurry()
        self._committer.shutdown(wait=True, cancel_futures=error is not None)
        with contextlib.ExitStack() as stack:  # all of them, whatever closing one of them raises
            for shard in (*self._shards.values(), *(shard for _, shard in self._commits)):
                stack.callback(shard.open.close)

    def feed(self, placed: Iterable[Placed]) -> Iterator[Row]:
        """The rows that are to be settled, opening and sealing shards on the way.

        Raises:
            OutputRefusedError: the digests are to be compared, and the committed shards were made from another list.
        """
        unseen = set(self._committed)
        for number, members in itertools.groupby(placed, key=operator.attrgetter("shard")):
            if number in self._committed:
                unseen.discard(number)
                self._pass_over(number, members)
            else:
                yield from self._feed_shard(number, members)
        if self._check_digests and unseen:
            raise _another_list(f"this list ends before the rows of shard {min(unseen):05d}")

    def _pass_over(self, number: int, members: Iterable[Placed]) -> None:
        digest = hashlib.sha256()
        for member in members:
            if self._check_digests:
                digest.update(_digest_line(member.row))
        if self._check_digests and digest.hexdigest() != self._committed[number]:
            raise _another_list(f"the rows of shard {number:05d} are not the same in this list")

    def _feed_shard(self, number: int, members: Iterable[Placed]) -> Iterator[Row]:
        shard = self._shards[number] = _Shard(self._store.open(number))
        for _, row, earlier_reason in members:
            shard.rows += 1
            shard.digest.update(_digest_line(row))
            if earlier_reason is not None:
                shard.retried[earlier_reason] += 1
            if row.index in shard.open.recovered:
                self.recovered += 1
                continue
            shard.pending += 1
            self._shard_of[row.index] = number
            yield row
        shard.sealed = True
        self._commit_if_whole(number)

    def add(self, settled: Settled) -> Settled:
        """Take in a settled row; a sample that the format cannot hold makes it a failure.

        Raises:
            AccountError: the row was not fed, or was settled before.
            OutputError: the disk refuses.
        """
        number = self._shard_of.pop(settled.outcome.row.index, None)
        if number is None:
            raise AccountError(f"row {settled.outcome.row.index} was settled twice, or never fed; please report this")
        shard = self._shards[number]
        try:
            shard.open.add(settled)
        except ItemError as error:
            settled = _refused(settled, error)
            shard.open.add(settled)
        shard.pending -= 1
        self._commit_if_whole(number)
        return settled

    def _commit_if_whole(self, number: int) -> None:
        shard = self._shards[number]
        if not shard.sealed or shard.pending:
            return
        # This may raise: until then the shard is among those that are closed at the end.
        self._reap(keep=MAX_COMMITS_WAITING)
        self._commits.append((self._committer.submit(self._commit, number, shard), shard))
        del self._shards[number]

    def _commit(self, number: int, shard: _Shard) -> None:
        report = shard.open.commit(shard.rows)
        self._announce(dataclasses.replace(report, rows_sha256=shard.digest.hexdigest(), retried=dict(shard.retried)))
        self._store.forget(number)

    def _reap(self, keep: int) -> None:
        """Raise what a commit raised; wait until at most `keep` commits are under way."""
        while self._commits and (self._commits[0][0].done() or len(self._commits) > keep):
            self._commits[0][0].result()
            self._commits.popleft()

    def finish(self) -> None:
        """Wait for the last commits. Call it when everything that was fed is settled.

        Raises:
            AccountError: a row that entered has not left.
        """
        self._reap(keep=0)
        if self._shards:
            missing = sum(shard.pending for shard in self._shards.values())
            raise AccountError(f"{missing} rows entered and never left; please report this with your command")

    def commit_whole(self) -> None:
        """Wait for the commits of shards that are whole; the others stay in their spools."""
        self._reap(keep=0)


def _another_list(difference: str) -> OutputRefusedError:
    return OutputRefusedError(
        f"the folder holds another run: {difference}. Give another --out, or --overwrite to delete it"
    )


def _refused(settled: Settled, error: ItemError) -> Settled:
    """The same row as a failure."""
    failed = dataclasses.replace(settled.outcome, kind=Kind.FAILED, reason=error.reason, detail=error.detail)
    return Settled(failed)


def _digest_line(row: Row) -> bytes:
    return "\0".join(request.url or "" for request in row.requests).encode("utf-8", "surrogatepass") + b"\n"
