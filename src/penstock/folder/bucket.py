"""The output in an object store as a run sees it: its lease, its journal, its report.

::

    s3://…/00000.tar 00000.parquet 00000_stats.json …   the shards (sink/ writes them)
    s3://…/report.json                                   what happened
    s3://…/.penstock/journal/00000000.jsonl …            which run this is, which shards exist (see journal.py)
    s3://…/.penstock/lock                                who works here, and that it is alive (see lease.py)
    s3://…/.penstock/duplicates.npy                      rows that --dedup leaves out
    s3://…/.penstock/tmp/                                prepared shards of a cluster's workers

What is not whole yet lies on this machine's own disk, and goes when the run ends: shards that exist stay, the rows of others are
fetched anew by the next run.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from penstock.folder.base import DUPLICATES, HIDDEN, REPORT, STAGED, json_line, refusal_of_foreign
from penstock.folder.journal import CLEARED, replay_segments, segment_name
from penstock.folder.lease import Lease
from penstock.ledger import Ledger
from penstock.records import ShardReport
from penstock.sink import objects
from penstock.sink.disk import writing
from penstock.sink.landing import refusal_of_overtaken
from penstock.sink.private import private_folder

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["OutputBucket"]


class OutputBucket:
    """A prefix of an object store that one run owns while it works; see `penstock.folder.base.Output`.

    >>> with OutputBucket(UPath("s3://bucket/out")) as bucket:  # doctest: +SKIP
    ...     ledger = bucket.read_ledger()
    ...     bucket.append(entry)
    """

    def __init__(self, root: UPath) -> None:
        self.root = root
        self.work_folder: Path | None = None
        self.owner = uuid.uuid4().hex
        self._segments = 0
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.work_folder = stack.enter_context(private_folder())
            with objects.storing(self.root):
                self._refuse_foreign()
                self._lease = stack.enter_context(Lease(self.root, self.owner))
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()
        self.work_folder = None

    def _refuse_foreign(self) -> None:
        """Only a journal says that the objects beside it may be ours: it gets its first lines before the first of them."""
        if objects.read(self.root, segment_name(0)) is not None:
            return
        foreign = [name for name, _ in objects.listed(self.root) if not name.startswith(HIDDEN)]
        if foreign:
            raise refusal_of_foreign(self.root, foreign)

    def read_ledger(self) -> Ledger:
        """See `Output.read_ledger`."""
        ledger, self._segments = replay_segments(self.root)
        return ledger

    def append(self, *entries: Mapping[str, Any]) -> None:
        """See `Output.append`.

        Raises:
            OutputRefusedError: another run has gone on with this one: it could not know that it still works.
        """
        lines = [{"by": self.owner}, *entries]
        with objects.storing(self.root, "write the journal of"):
            mine = self._lease.held and objects.create(
                b"".join(map(json_line, lines)), self.root, segment_name(self._segments)
            )
        if not mine:
            raise refusal_of_overtaken(self.root)
        self._segments += 1

    def check_writable(self) -> None:
        """See `Output.check_writable`: a put, a copy and a deletion."""
        probe = f"{HIDDEN}/probe-{self.owner}"
        with objects.storing(self.root):
            objects.write(b"penstock", self.root, probe)
            objects.copy([(probe, f"{probe}-copied")], self.root)
            objects.remove([probe, f"{probe}-copied"], self.root)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """See `Output.write_report`."""
        with objects.storing(self.root, f"write {REPORT} into"):
            objects.write(json_line(report, indent=2), self.root, REPORT)

    def duplicates(self, find: Callable[[], npt.NDArray[np.int64]]) -> Path:
        """See `Output.duplicates`."""
        assert self.work_folder is not None
        path = self.work_folder / "duplicates.npy"
        with objects.storing(self.root, f"read {DUPLICATES} of"):
            stored = objects.read(self.root, DUPLICATES)
        if stored is None:
            stored = _npy(find())
            with objects.storing(self.root, f"write {DUPLICATES} into"):
                objects.write(stored, self.root, DUPLICATES)
        with writing(self.work_folder, len(stored)):
            path.write_bytes(stored)
        return path

    def take_back(self, lost: Iterable[ShardReport]) -> None:
        """See `Output.take_back`."""
        files = [file.name for report in lost for file in report.files]
        with objects.storing(self.root, "delete shards in"):
            for folder in (name for name in files if name.endswith("/")):
                objects.remove_below(self.root, folder[:-1])
            objects.remove([*(name for name in files if not name.endswith("/")), REPORT], self.root)

    def clear(self, ledger: Ledger) -> None:  # noqa: ARG002 - what is there is found by its names
        """See `Output.clear`. The journal says that no shard exists; a run that begins anew sweeps their files."""
        with objects.storing(self.root, "delete what was in"):  # first: a next run would take them for its own
            objects.remove([REPORT, DUPLICATES, STAGED], self.root)
        self.append(CLEARED)


def _npy(positions: npt.NDArray[np.int64]) -> bytes:
    file = io.BytesIO()
    np.save(file, positions, allow_pickle=False)
    return file.getvalue()
