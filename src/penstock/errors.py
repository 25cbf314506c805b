"""What a caller can catch.

A row that fails is never an exception: it is an `Outcome` with a `Reason`. These are for a run that cannot start
or cannot go on::

    PenstockError                     every error below; `exit_code` is what the command line returns
    ├── ConfigError (ValueError)   2  an option has a value that cannot be used
    ├── SourceError                2  the list cannot be read: missing file or column, damaged, empty
    ├── MissingExtraError          2  an optional package is needed; the message has the pip line
    ├── OutputRefusedError         4  the folder holds another run, or another process works in it
    ├── OutputError                5  the output cannot be written: no room, read-only, I/O error
    ├── LocalError                 1  this machine has no descriptors or ports left for a run
    ├── WorkerError                1  the workers cannot be started or die at once
    ├── TooManyFailuresError       3  of a stream: the share of rows that gave an image is below min_success
    │   └── NoImagesError          3  not a single row gave an image
    ├── RowFailedError             3  of a stream with on_failure="raise": a row has failed
    ├── StateRefusedError          2  of a stream: the state belongs to another list or other options
    └── AccountError               1  the account does not close: a bug in Penstock, please report it

`ItemError` is the exception by which code that works on a single row reports a failure of that row; it never
leaves Penstock.
"""

from __future__ import annotations

from penstock.records import Failure, Outcome, Reason, Trace

__all__ = [
    "AccountError",
    "ConfigError",
    "ItemError",
    "LocalError",
    "MissingExtraError",
    "NoImagesError",
    "OutputError",
    "OutputRefusedError",
    "PenstockError",
    "RowFailedError",
    "SourceError",
    "StateRefusedError",
    "TooManyFailuresError",
    "WorkerError",
]


class PenstockError(Exception):
    """Base of everything that Penstock raises at its callers."""

    exit_code = 1
    reason: Reason | None = None
    """For a trouble of this machine: its ``local.*`` reason."""


class ConfigError(PenstockError, ValueError):
    """An option has a value that cannot be used; the message names the option and what is allowed."""

    exit_code = 2


class SourceError(PenstockError):
    """The list cannot be read; the message names the file."""

    exit_code = 2


class MissingExtraError(PenstockError, ImportError):
    """An optional package is needed; the message has the pip line."""

    exit_code = 2


class OutputRefusedError(PenstockError):
    """The output folder belongs to something else."""

    exit_code = 4


class OutputError(PenstockError):
    """The output cannot be written."""

    exit_code = 5
    reason = Reason.LOCAL_OUTPUT


class LocalError(PenstockError):
    """This machine lacks something that a run cannot do without, and waiting did not help: descriptors, ports."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(
            f"{reason.meaning}, and none became free ({detail}); raise the limit (ulimit -n) or lower --connections, "
            "and run again: it goes on from here"
        )
        self.reason: Reason = reason
        self._detail = detail

    def __reduce__(self) -> tuple[type[LocalError], tuple[Reason, str]]:
        """As it was made: lane processes send it to their parent."""
        return LocalError, (self.reason, self._detail)


class WorkerError(PenstockError):
    """The workers cannot be started, or die as soon as they start."""

    reason = Reason.LOCAL_WORKER


class TooManyFailuresError(PenstockError):
    """Of a stream: a smaller share of its rows gave an image than ``min_success`` asks for."""

    exit_code = 3


class NoImagesError(TooManyFailuresError):
    """Of a stream: an epoch has ended, and not a single row of it gave an image; the message tells why."""


class RowFailedError(PenstockError):
    """Of a stream with ``on_failure="raise"``: a row has failed."""

    exit_code = 3

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        reason = "" if outcome.reason is None else f"{outcome.reason.value} ({outcome.reason.meaning})"
        super().__init__(f"row {outcome.row.index}, {outcome.row.url}: {reason}: {outcome.detail}".removesuffix(": "))

    def __reduce__(self) -> tuple[type[RowFailedError], tuple[Outcome]]:
        """As it was made: the process of a stream sends it to the loop's."""
        return RowFailedError, (self.outcome,)


class StateRefusedError(PenstockError):
    """Of a stream: a state belongs to another list or to other options; the message names the difference."""

    exit_code = 2


class AccountError(PenstockError):
    """Rows were lost or counted twice: a bug in Penstock."""


class ItemError(Exception):
    """A failure of one row, on its way to becoming a `Failure`."""

    def __init__(self, reason: Reason, detail: str = "", *, http_status: int | None = None, size: int = 0) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.http_status = http_status
        self.size = size
        self.attempts = 0
        """Made at something else, for the sake of many rows: robots.txt."""
        self.trace: Trace | None = None
        """Of an exception of the user's code that is behind it."""

    def failure(self, attempts: int = 0) -> Failure:
        """The failure that this exception stands for."""
        return Failure(self.reason, self.detail, self.http_status, attempts, self.size, trace=self.trace)
