"""What is done: the journal's lines, replayed. Decides, and does no I/O.

The journal is one JSON object a line. The first says which run this is; each further one says that a shard exists::

    {"run": {"version": 1, "run_id": "…", "source": {…} | null, "options": {…}}}
    {"shard": 0, "rows": 10000, "written": 9876, …}
    {"shard": 1, …}
    {"finished": {"rows": 20000}}
    {"lost": {"shard": 1}}

A shard exists if and only if its line does; the line is written after the shard's files have their final names. A last
line without its newline was cut off by a crash and counts for nothing. A shard that was committed and is not there any
more, or is damaged, is taken back by a line of its own: from then on it does not exist.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.config import RunConfig, flag_of
from penstock.errors import OutputRefusedError
from penstock.records import ShardFile, ShardReport
from penstock.report.account import Account, RunningAccount

__all__ = ["IDENTITY", "Digests", "Ledger", "Manifest", "Shards"]

VERSION = 1
"""Of the journal's format."""

IDENTITY = (
    "size",
    "resize",
    "encode",
    "quality",
    "exact",
    "max_pixels",
    "min_size",
    "max_aspect",
    "max_bytes",
    "deny_hosts",
    "allow_scheme",
    "assume_https",
    "robots",
    "opt_outs",
    "insecure",
    "format",
    "shard_size",
    "dedup",
    "encoding",
    "url_column",
    "caption_column",
    "keep_columns",
    "parts",
)
"""Options that decide what is in a shard. The others (width, patience, strategy) may differ when a run goes on."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which run a folder holds."""

    run_id: str
    source: Mapping[str, Any] | None
    """The source's fingerprint; None for a source that can be read only once."""
    options: Mapping[str, Any]
    """The options named in `IDENTITY`, and the names of the user's own functions."""

    @classmethod
    def of(
        cls, run_id: str, fingerprint: Mapping[str, Any] | None, config: RunConfig, steps: Mapping[str, str | None]
    ) -> Manifest:
        """The manifest of a run that is about to start; `steps` are the names of the user's functions, by argument."""
        values = config.as_dict()
        return cls(run_id, fingerprint, {name: values[name] for name in IDENTITY} | dict(steps))

    def check_same(self, other: Manifest) -> None:
        """Raise OutputRefusedError with the difference, unless `other` would make the same shards."""
        differences = [
            f"{flag_of(name)} was {self.options.get(name)!r} there and is {value!r} now"
            for name, value in other.options.items()
            if self.options.get(name) != value
        ]
        if self.source != other.source:
            differences.insert(0, _source_difference(self.source, other.source))
        if differences:
            raise OutputRefusedError(
                f"the folder holds another run: {'; '.join(differences)}. Give another --out, or --overwrite to delete it"
            )


def _source_difference(there: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    if there is None or now is None:
        return "one of the two lists can be read only once, so that nobody can tell whether they are the same"
    changed = [name for name in sorted({*there, *now}) if there.get(name) != now.get(name)]
    return f"the list is not the same ({', '.join(changed)} differ)"


class Shards(Mapping[int, ShardReport]):
    """Reports of shards by number, packed: as objects, those of a million shards would take some gigabytes."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def __getitem__(self, number: int) -> ShardReport:
        return shard_from_json(json.loads(zlib.decompress(self._packed[number])))

    def __contains__(self, number: object) -> bool:
        return number in self._packed

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take in a shard's line; it replaces an earlier one."""
        self._packed[entry["shard"]] = zlib.compress(json.dumps(entry).encode(), 1)

    def remove(self, number: int) -> None:
        """Forget a shard.

        Raises:
            KeyError: it is not there.
        """
        del self._packed[number]


class Digests(Mapping[int, str]):
    """Of the shards of the list itself, not of retried rows: the digests of their rows, unpacked when somebody asks."""

    def __init__(self, shards: Shards, without: Container[int]) -> None:
        self._shards = shards
        self._without = without

    def __getitem__(self, number: int) -> str:
        if number not in self:
            raise KeyError(number)
        return self._shards[number].rows_sha256

    def __contains__(self, number: object) -> bool:
        return number in self._shards and number not in self._without

    def __iter__(self) -> Iterator[int]:
        return (number for number in self._shards if number not in self._without)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Ledger:
    """The state of a run, as far as its journal tells."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.shards = Shards()
        self.finished_rows: int | None = None
        """Rows of the whole source, once a run has come to its end. None while shards of it have to be made again."""
        self.list_rows: int | None = None
        """The same, and it stays when shards are lost: how long the list was."""
        self._retried: set[int] = set()
        """Shards of retried rows."""
        self._running = RunningAccount()

    @classmethod
    def replay(cls, lines: Iterable[str]) -> Ledger:
        """The ledger after these lines; a last line without a newline is ignored."""
        ledger = cls()
        for line in lines:
            if line.endswith("\n"):
                ledger.apply(json.loads(line))
        return ledger

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Take in one line.

        Raises:
            OutputRefusedError: another version of Penstock has written it.
        """
        if "run" in entry:
            run = entry["run"]
            if run["version"] != VERSION:
                raise OutputRefusedError(
                    f"the folder's journal has version {run['version']}, and this Penstock knows version {VERSION}: "
                    "use the Penstock that began the run, or give another --out"
                )
            self.manifest = Manifest(run["run_id"], run["source"], run["options"])
        elif "shard" in entry:
            self._add(entry)
        elif "finished" in entry:
            self.finished_rows = self.list_rows = entry["finished"]["rows"]
        elif "lost" in entry:
            for report in self.lost_with(entry["lost"]["shard"]):
                self._remove(report)
                if not report.retried:
                    self.finished_rows = None

    def _add(self, entry: Mapping[str, Any]) -> None:
        report = shard_from_json(entry)
        if report.shard in self.shards:
            self._remove(self.shards[report.shard])
        self.shards.add(entry)
        self._running.add(report)
        if report.retried:
            self._retried.add(report.shard)

    def _remove(self, report: ShardReport) -> None:
        self.shards.remove(report.shard)
        self._running.remove(report)
        self._retried.discard(report.shard)

    def lost_with(self, shard: int) -> list[ShardReport]:
        """The shard, if it exists, and those that go with it when it is lost.

        A shard of retried rows takes their earlier failures, which are in older shards, out of the account
        (`ShardReport.retried`, `Account.of`). If an older one is made anew, its rows get new outcomes: nobody may take
        the earlier ones back any more, nor hold the rows a second time. Only the range of its rows is known, so a shard
        may go without need. Its rows then count as the failures again that they were, and can be retried.
        """
        lost = [self.shards[shard]] if shard in self.shards else []
        for number in sorted(number for number in self._retried if number > shard):
            report = self.shards[number]
            if any(report.first <= other.last and other.first <= report.last for other in lost):
                lost.append(report)
        return lost

    @property
    def account(self) -> Account:
        """Rows by outcome, over the committed shards."""
        return self._running.account

    @property
    def digests(self) -> Digests:
        """The list's shards, with the digests of their rows."""
        return Digests(self.shards, self._retried)

    @property
    def reports(self) -> list[ShardReport]:
        """The shards, by number."""
        return [self.shards[number] for number in sorted(self.shards)]

    @property
    def next_shard(self) -> int:
        """The first number that no shard has."""
        return max(self.shards, default=-1) + 1


def run_entry(manifest: Manifest) -> dict[str, Any]:
    """The journal's first line."""
    return {"run": {"version": VERSION, **dataclasses.asdict(manifest)}}


def shard_entry(report: ShardReport) -> dict[str, Any]:
    """The line that says that a shard exists."""
    entry = dataclasses.asdict(report)
    del entry["attempt"]  # it has its final names
    return entry


def finished_entry(rows: int) -> dict[str, Any]:
    """The line that says that the source has come to its end."""
    return {"finished": {"rows": rows}}


def lost_entry(shard: int) -> dict[str, Any]:
    """The line that takes a shard back, and with it those that `Ledger.lost_with` names."""
    return {"lost": {"shard": shard}}


def shard_from_json(entry: Mapping[str, Any]) -> ShardReport:
    """The report that `shard_entry` wrote."""
    return ShardReport(**{**entry, "files": tuple(ShardFile(**file) for file in entry["files"])})
