"""What travels: the values that pass between the rooms of Penstock.

A row of the source becomes a `Row`; the fetch turns its requests into `Fetched` or `Failure`; the crew turns
those into a `Result`; and each row ends as exactly one `Outcome`:

    Row ──fetch──▶ Fetched | Failure ──crew──▶ Result(Sample | Failure) ──flow──▶ Settled(Outcome, Sample | None)

All of them are frozen, slotted and picklable. None of them does I/O.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:  # numpy costs a worker 80 ms at its start, and most of them never see an array
    import numpy.typing as npt

__all__ = [
    "Facts",
    "Failure",
    "Fetched",
    "Kind",
    "Landed",
    "Outcome",
    "PartOutcome",
    "Reason",
    "Request",
    "Result",
    "Retry",
    "Row",
    "Sample",
    "Settled",
    "ShardFile",
    "ShardReport",
    "Trace",
    "Value",
]

KEY_DIGITS = 9
"""Digits of a sample's key; the width that readers of img2dataset's shards expect."""

PART = "image"
"""Name of the one thing that a row asks for, where the user gave no parts."""

MAX_DETAIL = 200
"""Longest free text kept with a failure, in characters."""

Value: TypeAlias = "bytes | npt.NDArray[Any]"
"""What a part of a sample may be: encoded bytes, or an array."""


class Retry(enum.Enum):
    """What a failure says about a second attempt."""

    NEVER = "never"
    """The same request would fail the same way."""
    ONCE = "once"
    """One more attempt is worth it, a third is not."""
    BACKOFF = "backoff"
    """Worth all the attempts that the options allow, with growing pauses."""
    HOST = "host"
    """As `BACKOFF`, and the pause holds for the whole host."""
    LATER = "later"
    """Not in this run; a later one may be luckier."""
    LOCAL = "local"
    """The fault is this machine's and not the URL's: the attempt is given back, and no row ever ends so."""


class Reason(enum.StrEnum):
    """Why a row was not written: a closed list, grouped by the phase before the dot.

    Each member carries `retry` (what a second attempt is worth) and `meaning` (one line for people).

    >>> Reason.DNS_NXDOMAIN.value, Reason.DNS_NXDOMAIN.phase, Reason.DNS_NXDOMAIN.retry
    ('dns.nxdomain', 'dns', <Retry.NEVER: 'never'>)
    """

    retry: Retry
    meaning: str

    def __new__(cls, value: str, retry: Retry, meaning: str) -> Self:
        """Make a member whose value is the dotted name and nothing else."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.retry = retry
        member.meaning = meaning
        return member

    @classmethod
    def named(cls, value: str) -> Reason:
        """The reason with this dotted name; KeyError if there is none."""
        return _REASONS[value]

    @property
    def phase(self) -> str:
        """The part before the dot: ``url``, ``dns``, ``http``, ``image`` and so on."""
        return self.value.partition(".")[0]

    @property
    def kind(self) -> Kind:
        """How a row with this reason ends: not fetched on purpose, or failed."""
        return Kind.SKIPPED if self.phase in ("policy", "optout") else Kind.FAILED

    @property
    def downloaded(self) -> bool:
        """Whether the bytes had come: the row failed in the work on them."""
        return self.phase in ("content", "image", "decode", "encode", "transform")

    @property
    def worth_retrying(self) -> bool:
        """Whether a later run may be luckier."""
        return self.retry is not Retry.NEVER

    URL_MISSING = "url.missing", Retry.NEVER, "the row has no URL (empty, null or blank)"
    URL_INVALID = (
        "url.invalid",
        Retry.NEVER,
        "the URL cannot be parsed, has no scheme or host, or holds control characters",
    )
    URL_SCHEME_DENIED = (
        "url.scheme_denied",
        Retry.NEVER,
        "only http and https are fetched, and what --allow-scheme names",
    )
    URL_CREDENTIALS = "url.credentials", Retry.NEVER, "the URL carries a user name or password"
    URL_NONSTANDARD_IP = (
        "url.nonstandard_ip",
        Retry.NEVER,
        "the host is an IP address in a disguised form (127.1, 0x7f.1, 2130706433)",
    )
    URL_PORT_DENIED = "url.port_denied", Retry.NEVER, "the port is invalid or belongs to another protocol"
    URL_TOO_LONG = "url.too_long", Retry.NEVER, "the URL is longer than 8192 characters"
    POLICY_DENIED = "policy.denied", Retry.NEVER, "the host is on --deny-hosts"
    POLICY_DUPLICATE = "policy.duplicate", Retry.NEVER, "an earlier row has the same URL (--dedup)"
    POLICY_NO_VALUE = "policy.no_value", Retry.NEVER, "the row has no value in a column that a required part is made of"
    POLICY_DROP_LAST = (
        "policy.drop_last",
        Retry.LATER,
        "of a stream: the row's image came, and its batch, an epoch's last, did not become full (drop_last)",
    )

    DNS_NXDOMAIN = "dns.nxdomain", Retry.NEVER, "the host name does not exist"
    DNS_TEMPORARY = "dns.temporary", Retry.BACKOFF, "the resolver failed for the moment"
    DNS_TIMEOUT = "dns.timeout", Retry.BACKOFF, "the resolver did not answer in time"
    DNS_NO_ADDRESS = "dns.no_address", Retry.NEVER, "the host name exists and has no address"
    SSRF_BLOCKED = (
        "ssrf.blocked",
        Retry.NEVER,
        "the host's address is not on the public internet and no --allow-network covers it",
    )

    CONNECT_REFUSED = "connect.refused", Retry.ONCE, "the server refused the connection"
    CONNECT_TIMEOUT = "connect.timeout", Retry.ONCE, "no connection within --connect-timeout"
    CONNECT_RESET = "connect.reset", Retry.BACKOFF, "the connection broke before an answer came"
    CONNECT_UNREACHABLE = "connect.unreachable", Retry.BACKOFF, "no route to the server's network or host"
    TLS_TIMEOUT = "tls.timeout", Retry.ONCE, "the server accepted the connection and never finished the TLS handshake"
    TLS_CERTIFICATE = "tls.certificate", Retry.NEVER, "the server's certificate is expired, unknown or for another name"
    TLS_PROTOCOL = "tls.protocol", Retry.NEVER, "the server does not speak a TLS that can be used"

    HOST_UNAVAILABLE = (
        "host.unavailable",
        Retry.LATER,
        "the host did not answer several times in a row, and was not asked for this row",
    )

    HTTP_NOT_FOUND = "http.not_found", Retry.NEVER, "404: the server has no such thing"
    HTTP_GONE = "http.gone", Retry.NEVER, "410: the server says that it is gone for good"
    HTTP_LEGAL = "http.legal", Retry.NEVER, "451: withheld for legal reasons"
    HTTP_FORBIDDEN = (
        "http.forbidden",
        Retry.NEVER,
        "401, 402, 403 or 407: the server wants to know who asks, or refuses",
    )
    HTTP_CLIENT_ERROR = "http.client_error", Retry.NEVER, "another 4xx"
    HTTP_SERVER_ERROR = "http.server_error", Retry.BACKOFF, "408, 425 or a 5xx"
    HTTP_RATE_LIMITED = "http.rate_limited", Retry.HOST, "429, or 503 with Retry-After"
    HTTP_REDIRECT_LIMIT = "http.redirect_limit", Retry.NEVER, "more than 5 redirects"
    HTTP_REDIRECT_INVALID = (
        "http.redirect_invalid",
        Retry.NEVER,
        "a 3xx without a usable Location, or one that was not asked for",
    )
    HTTP_UNEXPECTED = "http.unexpected", Retry.NEVER, "a success other than 200"
    HTTP_PROTOCOL_ERROR = "http.protocol_error", Retry.NEVER, "the answer is not valid HTTP"
    HTTP_ENCODING = "http.encoding", Retry.NEVER, "the body came compressed though identity was asked for"

    BODY_EMPTY = "body.empty", Retry.ONCE, "200 with no bytes"
    BODY_TRUNCATED = "body.truncated", Retry.ONCE, "the body ended before its announced end"
    BODY_TOO_LARGE = "body.too_large", Retry.NEVER, "the body is larger than --max-bytes, or a text than its max_bytes"
    BODY_RESET = "body.reset", Retry.BACKOFF, "the connection broke inside the body"
    TIMEOUT_TOTAL = "timeout.total", Retry.ONCE, "the attempt took longer than --timeout"
    TIMEOUT_IDLE = "timeout.idle", Retry.BACKOFF, "the server fell silent"
    TIMEOUT_LOW_SPEED = "timeout.low_speed", Retry.ONCE, "the body came slower than the floor of speed"
    STORAGE_NOT_FOUND = "storage.not_found", Retry.NEVER, "the storage has no such object"
    STORAGE_FORBIDDEN = "storage.forbidden", Retry.NEVER, "the storage wants other credentials, or refuses"
    STORAGE_ERROR = "storage.error", Retry.BACKOFF, "the storage failed in another way"

    OPTOUT_ROBOTS = "optout.robots", Retry.NEVER, "the host's robots.txt forbids it"
    OPTOUT_ROBOTS_UNREACHABLE = (
        "optout.robots_unreachable",
        Retry.LATER,
        "the host's robots.txt could not be read (5xx, 429, time-out): as good as forbidden, says RFC 9309",
    )
    OPTOUT_HEADER = (
        "optout.header",
        Retry.NEVER,
        "the answer's X-Robots-Tag (noai, noimageai, noindex, noimageindex, none, noml) or Content-Usage forbids it",
    )
    OPTOUT_TDM = "optout.tdm", Retry.NEVER, "the answer reserves text and data mining (tdm-reservation: 1)"

    CONTENT_NOT_IMAGE = "content.not_image", Retry.NEVER, "the bytes are no image (a page, JSON, text …)"
    CONTENT_NOT_TEXT = (
        "content.not_text",
        Retry.NEVER,
        "the bytes of a text part are no text, or in no encoding that can be told, or not in the one that was given",
    )
    CONTENT_UNSUPPORTED = "content.unsupported", Retry.NEVER, "an image of a kind that is not decoded (SVG, PSD …)"
    IMAGE_TRUNCATED = "image.truncated", Retry.NEVER, "the image file ends too early"
    IMAGE_CORRUPT = "image.corrupt", Retry.NEVER, "the image file is damaged"
    IMAGE_TOO_MANY_PIXELS = "image.too_many_pixels", Retry.NEVER, "the image has more pixels than --max-pixels"
    IMAGE_ZERO_SIZE = "image.zero_size", Retry.NEVER, "the image has no pixels"
    IMAGE_TOO_SMALL = "image.too_small", Retry.NEVER, "the image's shorter side is below --min-size"
    IMAGE_ASPECT = "image.aspect", Retry.NEVER, "the image is more elongated than --max-aspect"
    IMAGE_TOO_MANY_SCANS = (
        "image.too_many_scans",
        Retry.NEVER,
        "a progressive JPEG with more than 256 scans, which would take minutes of CPU",
    )
    IMAGE_METADATA_BOMB = "image.metadata_bomb", Retry.NEVER, "the image's metadata unpacks to an absurd size"

    DECODE_TIMEOUT = "decode.timeout", Retry.NEVER, "decoding took longer than the deadline, and was killed"
    DECODE_CRASH = "decode.crash", Retry.NEVER, "the process that decoded this image died, twice"
    DECODE_OOM = (
        "decode.oom",
        Retry.LATER,
        "the process that decoded this image was killed (SIGKILL), at its second attempt, too: so ends a lack of memory",
    )
    DECODE_MEMORY = "decode.memory", Retry.NEVER, "decoding needs more memory than --worker-memory"
    ENCODE_FAILED = "encode.failed", Retry.NEVER, "the result cannot be encoded (too large for its format)"
    TRANSFORM_ERROR = (
        "transform.error",
        Retry.NEVER,
        "the user's transform raised an exception or returned something unusable",
    )

    LOCAL_DESCRIPTORS = "local.descriptors", Retry.LOCAL, "this machine has no file descriptor left for a connection"
    LOCAL_PORTS = "local.ports", Retry.LOCAL, "this machine has no port or buffer left for a connection"
    LOCAL_DNS_DOWN = "local.dns_down", Retry.LOCAL, "this machine's resolver answers nothing any more"
    LOCAL_NETWORK_DOWN = "local.network_down", Retry.LOCAL, "this machine reaches nobody any more"
    LOCAL_WORKER = "local.worker", Retry.LOCAL, "the worker processes cannot be started, or die at once: the run stops"
    LOCAL_OUTPUT = "local.output", Retry.LOCAL, "the output cannot be written (no room, I/O error): the run stops"


_REASONS = {reason.value: reason for reason in Reason}


class Kind(enum.StrEnum):
    """The three ways in which a row can end."""

    WRITTEN = "written"
    FAILED = "failed"
    SKIPPED = "skipped"


def group_of(part: str) -> str:
    """The part that the user named: of ``views.2`` it is ``views``."""
    return part.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Request:
    """One thing that a row asks for."""

    part: str
    """Name of the part: `PART` unless the user gave parts; those of a list of images are ``views.0``, ``views.1`` …"""
    url: str | None
    """As the source gave it; None or blank when the row has none."""
    refused: Reason | None = None
    """Why it is not to be fetched, where that is known from the list alone."""
    required: bool = True
    """Whether the row fails without it; of a group, whether it fails without a single one of the group."""
    left_out: int = 0
    """Of the last one of a group: further URLs in the row's list, beyond the number that the part takes."""

    @property
    def group(self) -> str:
        """The part that the user named: of ``views.2`` it is ``views``."""
        return group_of(self.part)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the source."""

    index: int
    """Position in the source, from 0, over all its files."""
    requests: tuple[Request, ...]
    """What is to be fetched for it, at least one."""
    caption: str | None = None
    """Text of the caption column, if one was asked for."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The kept columns; values are JSON types."""

    @property
    def key(self) -> str:
        """The sample's name: the position with nine digits (more past 10⁹ rows)."""
        return f"{self.index:0{KEY_DIGITS}d}"

    @property
    def url(self) -> str | None:
        """The first request's URL."""
        return self.requests[0].url

    def failed_by(self, parts: tuple[Fetched | Failure, ...]) -> Failure | None:
        """The failure by which the row fails, given how each of its requests ended; None if it can go on.

        A row fails if a required part of it did not come: of a group of requests, if none of the group did. It fails
        as well if nothing came at all. Then its failure is the first one of that part, and tells which part it is.
        """
        ended = tuple(zip(self.requests, parts, strict=True))
        came = {request.group for request, part in ended if not isinstance(part, Failure)}
        for request, part in ended:
            if isinstance(part, Failure) and request.group not in came and (request.required or not came):
                return part if request.part == PART else part.of_part(request.part)
        return None

    def part_outcomes(self, parts: tuple[Fetched | Failure, ...]) -> dict[str, PartOutcome]:
        """How each request of a row of several parts ended; nothing for a row of one, whose own outcome says it."""
        if len(self.requests) == 1:
            return {}
        return {request.part: PartOutcome.of(part) for request, part in zip(self.requests, parts, strict=True)}


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes of one request."""

    part: str
    data: bytes
    http_status: int | None
    attempts: int
    seconds: float
    """From the start of the first attempt to the last byte, pauses included."""
    body_seconds: float = 0.0
    """From the head of the answer to the last byte. Known where it was fetched; a worker process is not told."""
    server_type: str = ""
    """The answer's Content-Type, as far as it is printable; nothing is decided by it."""
    downgraded: bool = False
    """A redirect led from https to http."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where in the user's own code an exception was raised."""

    kind: str
    """Its type, and the innermost line of the user's: ``ValueError at /home/me/train.py:12``."""
    text: str
    """The traceback."""


MAX_TRACEBACKS = 20
"""Kinds of exceptions of which a traceback is kept: by each worker, and by each report. Arbitrary: nobody reads more."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request, or the work on its bytes, gave nothing."""

    reason: Reason
    detail: str = ""
    """Free text for people, at most `MAX_DETAIL` printable characters; no secrets."""
    http_status: int | None = None
    attempts: int = 0
    size: int = 0
    """Bytes that were downloaded all the same."""
    seconds: float = 0.0
    """Of a fetch: from the start of the first attempt until it was given up, pauses included; 0 if none was made."""
    trace: Trace | None = None
    """Of an exception of the user's code, if this is the first of its kind in its worker."""

    def __post_init__(self) -> None:
        """Keep the detail printable and short: it goes into tables, terminals and logs."""
        detail = "".join(c if c.isprintable() else " " for c in self.detail[: 4 * MAX_DETAIL])
        object.__setattr__(self, "detail", " ".join(detail.split())[:MAX_DETAIL])

    def of_part(self, name: str) -> Failure:
        """The same, with the part in its detail."""
        return dataclasses.replace(self, detail=f"part {name}: {self.detail}".removesuffix(": "))


@dataclass(frozen=True, slots=True)
class Facts:
    """What was learnt about an image on the way."""

    width: int | None = None
    """Of the result, in pixels."""
    height: int | None = None
    original_width: int | None = None
    """Of the source image in pixels, after its EXIF orientation."""
    original_height: int | None = None
    sha256: str | None = None
    """Of the downloaded bytes, in hexadecimal."""
    exif: str | None = None
    """EXIF tags as a JSON object, when there are any."""
    frames: int | None = None
    """Of the file: 1 for a still image. The first one is used; the others are counted, up to a bound, not decoded."""


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """How one part of a row ended; the row's own outcome does not tell of its optional parts."""

    reason: Reason | None = None
    """Why the part is not in the sample; None if it came."""
    detail: str = ""
    http_status: int | None = None
    attempts: int = 0
    size: int = 0
    """Bytes downloaded for it."""
    facts: Facts = Facts()
    """Of an image; of a text `Facts.sha256` alone."""
    encoding: str | None = None
    """Of a text, as it came: the name that Python has for it."""
    encoding_from: str | None = None
    """Who says so: ``given`` (the options), ``bom``, ``declared`` (the server), ``utf-8`` (it is valid), ``detected``."""

    @classmethod
    def of(cls, part: Fetched | Failure) -> PartOutcome:
        """As far as the fetch knows it."""
        if isinstance(part, Failure):
            return cls(part.reason, part.detail, part.http_status, part.attempts, part.size)
        return cls(http_status=part.http_status, attempts=part.attempts, size=len(part.data))


@dataclass(frozen=True, slots=True)
class Landed:
    """An array of a sample that lies in the batch's memory already."""

    dtype: str
    """As `numpy.dtype.str`."""
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        import numpy as np  # noqa: PLC0415 - as above: only arrays need it

        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Sample:
    """What a row turned into: named parts, each encoded bytes or an array."""

    parts: Mapping[str, Value | Landed]
    """For Penstock's own work one entry: ``{"jpg": bytes}`` (or png, webp), or ``{"image": (H, W, 3) uint8}``.

    None has landed unless the crew was given a place for the row, which only batches have.
    """
    facts: Facts = Facts()

    @property
    def nbytes(self) -> int:
        """Size of all the parts in bytes, without what has landed: that lies in a batch and takes no memory here."""
        here = (value for value in self.parts.values() if not isinstance(value, Landed))
        return sum(len(value) if isinstance(value, bytes) else value.nbytes for value in here)


@dataclass(frozen=True, slots=True)
class Result:
    """What the crew hands back for one row: a sample or a failure, and what the fetch cost."""

    value: Sample | Failure
    seconds: float = 0.0
    """Time that the work took inside the worker."""
    http_status: int | None = None
    attempts: int = 0
    size: int = 0
    """Bytes downloaded for the row."""
    fetch_seconds: float = 0.0
    downgraded: bool = False
    """A redirect led from https to http."""
    parts: Mapping[str, PartOutcome] = field(default_factory=dict)
    """Of a row of several parts: how each one ended that the work has seen."""

    @classmethod
    def of(cls, value: Sample | Failure, fetched: tuple[Fetched, ...], seconds: float = 0.0) -> Result:
        """A result that carries what fetching its parts cost (the slowest part's time: parts come at the same time)."""
        return cls(
            value,
            seconds,
            http_status=fetched[0].http_status if fetched else None,
            attempts=max((part.attempts for part in fetched), default=0),
            size=sum(len(part.data) for part in fetched),
            fetch_seconds=max((part.seconds for part in fetched), default=0.0),
            downgraded=any(part.downgraded for part in fetched),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a row ended. Every row that enters leaves as exactly one of these."""

    row: Row
    kind: Kind
    reason: Reason | None = None
    """None if and only if the row was written."""
    detail: str = ""
    http_status: int | None = None
    attempts: int = 0
    size: int = 0
    """Bytes downloaded for the row."""
    downgraded: bool = False
    """A redirect led from https to http."""
    parts: Mapping[str, PartOutcome] = field(default_factory=dict)
    """Of a row of several parts: how each one ended, as far as it is known."""
    trace: Trace | None = None
    """As of its `Failure`."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A row at its end: the outcome, and the sample if there is one."""

    outcome: Outcome
    sample: Sample | None = None
    """Not None if and only if the outcome is ``written``."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file of a committed shard."""

    name: str
    """Relative to the output folder, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a committed shard holds: one line of the journal."""

    shard: int
    rows: int
    written: int
    failed: int
    skipped: int
    reasons: Mapping[str, int]
    """Rows that were not written, by reason."""
    size_downloaded: int
    """Bytes fetched for its rows."""
    files: tuple[ShardFile, ...]
    first: int
    """Index of its first row."""
    last: int
    """Index of its last row."""
    rows_sha256: str = ""
    """Of its rows' URLs, in hexadecimal: tells whether a list that can be read only once is still the same."""
    retried: Mapping[str, int] = field(default_factory=dict)
    """For a shard of rows that had failed before: their earlier reasons, which this shard takes back."""
    attempt: str = ""
    """Under which name its files wait to be adopted by the run, if they do; never so in the journal."""
