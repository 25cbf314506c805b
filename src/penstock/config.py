"""Every option, with its default, unit and limits, in one place.

The command line, the Python API and the reference page read these classes; nothing else states a default. A config is
data: it decides nothing and starts nothing.

`RunConfig` and `StreamConfig` are made of smaller ones, each of which is all that one room needs to know::

    SourceConfig  where in the list things stand        (source/)
    ImageConfig   what an image is turned into          (image/, inside the workers)
    FetchConfig   how bytes are brought here            (fetch/)
    FlowConfig    how wide, how much memory             (flow, crew, engines)
    OutputConfig  what lies in the folder at the end    (sink/, ledger, run)
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import ipaddress
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from penstock.errors import ConfigError
from penstock.parts import Part, check_stored, kept_columns, parse_parts, parts_json

__all__ = [
    "NOT_COMPARED",
    "NOT_STREAMED",
    "STRATEGIES",
    "CompareConfig",
    "FetchConfig",
    "FlowConfig",
    "ImageConfig",
    "OutputConfig",
    "RunConfig",
    "SourceConfig",
    "StreamConfig",
    "check_option_names",
    "parse_names",
    "parse_number",
    "parse_size",
]

T = TypeVar("T")
C = TypeVar("C", bound="_Config")

Resize = Literal["crop", "fit", "stretch", "pad", "none"]
Encode = Literal["jpg", "png", "webp"]
Format = Literal["webdataset", "parquet", "files", "arrays"]
Strategy = Literal["auto", "threads", "processes", "hybrid", "asyncio"]
Engine = Literal["local", "ray", "dask"]
Regard = Literal["respect", "ignore"]
Outage = Literal["wait", "ignore"]
OnFailure = Literal["skip", "raise"]
Workload = Literal["images", "io", "python", "native"]

STRATEGIES: tuple[Strategy, ...] = ("threads", "processes", "hybrid", "asyncio", "auto")
"""In the order in which they are explained."""

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_COUNTS = {"": 1, "P": 1, "KP": 10**3, "MP": 10**6, "GP": 10**9}


def _parse_unit(text: str | float, units: Mapping[str, int], example: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    factor = units.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"expected a number with a unit, such as {example}")
    return int(float(match[1]) * factor)


def parse_size(text: str | float) -> int:
    """Bytes from ``32MiB``, ``1.5GB`` or a plain number.

    >>> parse_size("32MiB"), parse_size(1000)
    (33554432, 1000)
    """
    return _parse_unit(text, _UNITS, "32MiB")


def parse_number(text: str | float) -> int:
    """Pixels from ``64MP`` (10⁶) or a plain number.

    >>> parse_number("64MP")
    64000000
    """
    return _parse_unit(text, _COUNTS, "64MP")


def parse_names(value: str | typing.Iterable[str]) -> tuple[str, ...]:
    """Names from ``a,b`` or from any iterable of strings.

    >>> parse_names("a, b"), parse_names(["a,b"])
    (('a', 'b'), ('a,b',))
    """
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(part.strip() if isinstance(value, str) else part for part in parts if part.strip())


def parse_encoding(name: str) -> str:
    """A text encoding by the name that Python has for it.

    >>> parse_encoding("Latin-1")
    'iso8859-1'
    """
    try:
        " ".encode(name)  # a codec that is none of text is refused here as well
    except LookupError:
        raise ValueError("expected a text encoding, such as latin-1 or utf-16 (for images it is --encode)") from None
    return codecs.lookup(name).name


def parse_strategies(value: str | typing.Iterable[str]) -> tuple[str, ...]:
    """Strategies from ``threads,auto`` or from an iterable of names; each once.

    >>> parse_strategies("threads, auto,threads")
    ('threads', 'auto')
    """
    names = tuple(dict.fromkeys(parse_names(value)))
    unknown = next((name for name in names if name not in STRATEGIES), None)
    if unknown is not None or not names:
        named = f"unknown strategy {unknown!r}; " if unknown is not None else ""
        raise ValueError(f"{named}expected some of {', '.join(STRATEGIES)}")
    return names


def parse_networks(value: str | typing.Iterable[str]) -> tuple[str, ...]:
    """Networks in canonical form from ``127.0.0.0/8,::1`` or from an iterable of strings.

    >>> parse_networks("127.0.0.1/8")
    ('127.0.0.0/8',)
    """
    return tuple(str(ipaddress.ip_network(name, strict=False)) for name in parse_names(value))


def parse_hosts(value: str | typing.Iterable[str]) -> tuple[str, ...]:
    """Host names in lower case, without leading and trailing dots, from ``a.com,b.org`` or an iterable.

    >>> parse_hosts("Example.org, .ads.example.net")
    ('example.org', 'ads.example.net')
    """
    return tuple(name.lower().strip(".") for name in parse_names(value))


def parse_schemes(value: str | typing.Iterable[str]) -> tuple[str, ...]:
    """Schemes of URLs from ``s3,gs`` or an iterable.

    >>> parse_schemes("S3, gs://")
    ('s3', 'gs')
    """
    schemes = tuple(name.lower().removesuffix("://").removesuffix(":") for name in parse_names(value))
    wrong = next((name for name in schemes if not re.fullmatch(r"[a-z][a-z0-9+.-]*", name)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} is no scheme; expected names such as s3 or gs")
    return schemes


def parse_name_server(value: str) -> str:
    """Address and port of a name server; the port is 53 unless given.

    >>> parse_name_server("9.9.9.9"), parse_name_server("[::1]:5353")
    ('9.9.9.9:53', '[::1]:5353')
    """
    host, colon, port = value.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):  # an address alone
        host, port = value, "53"
    address = ipaddress.ip_address(host.strip("[]"))
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ValueError(f"{port!r} is no port")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def option(
    default: T,
    text: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    parse: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
    shown: str | None = None,
) -> T:
    """A config field: its default (and how to write it, if not by its own text), help, limits, and parser."""
    metadata = {
        "help": text,
        "at_least": at_least,
        "at_most": at_most,
        "parse": parse,
        "metavar": metavar,
        "shown": shown,
    }
    field: Any = dataclasses.field(default=default, metadata=metadata)
    return cast("T", field)


def flag_of(name: str) -> str:
    """The command line's spelling of a field.

    >>> flag_of("max_bytes")
    '--max-bytes'
    """
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class _Config:
    """Checks and coerces every field by its annotation and its `option`."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for spec in dataclasses.fields(self):
            shown = self.spelled(spec.name)
            object.__setattr__(self, spec.name, _checked(spec, hints[spec.name], getattr(self, spec.name), shown))

    def __getstate__(self) -> dict[str, Any]:
        """What is not as by default: a config travels with every task of a cluster, between equal versions."""
        values = {spec.name: (getattr(self, spec.name), spec.default) for spec in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({spec.name: spec.default for spec in dataclasses.fields(self)} | state)

    @staticmethod
    def spelled(name: str) -> str:
        """A field as messages call it: by its flag, unless the class has no command."""
        return flag_of(name)

    def part(self, kind: type[C]) -> C:
        """The smaller config of class `kind` that this one contains."""
        return kind(**{spec.name: getattr(self, spec.name) for spec in dataclasses.fields(kind)})

    def as_dict(self) -> dict[str, Any]:
        """Every field by name; values are JSON types."""
        return {spec.name: _jsonable(getattr(self, spec.name)) for spec in dataclasses.fields(self)}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return parts_json(value)
    return list(value) if isinstance(value, tuple) else value


def _checked(spec: dataclasses.Field[Any], hint: Any, value: Any, name: str) -> Any:
    """`value` as the type of its field, or a ConfigError that names the field, the value and what is allowed."""
    shown = name if isinstance(value, Mapping) else f"{name} {value!r}"
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if spec.metadata["parse"] is not None:
        try:
            value = spec.metadata["parse"](value)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ConfigError(f"{shown}: {error}") from None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{shown}: expected one of {', '.join(get_args(kind))}")
    elif kind in (int, float):
        value = _checked_number(spec, kind, value, shown)
    elif kind in (bool, str) and not isinstance(value, kind):
        raise ConfigError(f"{shown}: expected {'true or false' if kind is bool else 'text'}")
    return value


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # a whole number with hundreds of digits
        return False


def _checked_number(spec: dataclasses.Field[Any], kind: type, value: Any, shown: str) -> float:
    if not _is_number(value) or (kind is int and value != int(value)):
        raise ConfigError(f"{shown}: expected {'a whole number' if kind is int else 'a number'}")
    low, high = spec.metadata["at_least"], spec.metadata["at_most"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        allowed = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ConfigError(f"{shown}: expected a number {allowed}")
    return cast("float", kind(value))


@dataclass(frozen=True, kw_only=True)
class ImageConfig(_Config):
    """What an image is turned into."""

    size: int = option(256, "side of the output square, in pixels", at_least=1, at_most=16384)
    resize: Resize = option(
        "crop",
        "crop: fill the square and cut the overhang; fit: longest side = size; stretch: ignore the aspect; "
        "pad: fit, then white borders; none: keep the size",
    )
    encode: Encode = option("jpg", "how images are stored (by every format but arrays)")
    quality: int = option(95, "of jpg and webp", at_least=1, at_most=100)
    exact: bool = option(False, "decode at full size and resize as Pillow does, bit for bit; slower")
    max_pixels: int = option(
        64_000_000,
        "refuse larger images before they are decoded",
        at_least=1,
        parse=parse_number,
        metavar="PIXELS",
        shown="64MP",
    )
    min_size: int = option(
        2, "refuse images whose shorter side is below this, in pixels: 2 leaves out tracking pixels", at_least=1
    )
    max_aspect: float | None = option(
        None, "refuse images whose longer side is more than so many times the shorter; default: no limit", at_least=1
    )


@dataclass(frozen=True, kw_only=True)
class FetchConfig(_Config):
    """How bytes are brought here."""

    connections: int = option(256, "requests in flight at most, over all hosts", at_least=1, at_most=65536)
    per_host: int = option(8, "requests in flight at most to one host", at_least=1, at_most=65536)
    timeout: float = option(30.0, "seconds for one attempt, from connecting to the last byte", at_least=0.05)
    connect_timeout: float = option(10.0, "seconds for name, connection and TLS together", at_least=0.05)
    retries: int = option(2, "further attempts, where the reason makes them worth it", at_least=0, at_most=100)
    max_bytes: int = option(
        2**25, "refuse larger downloads", at_least=1, parse=parse_size, metavar="SIZE", shown="32MiB"
    )
    allow_network: tuple[str, ...] = option(
        (),
        "networks outside the public internet that may be fetched from, such as 127.0.0.0/8",
        parse=parse_networks,
        metavar="CIDR",
    )
    allow_scheme: tuple[str, ...] = option(
        (),
        "schemes of URLs beside http and https, such as s3 or gs: read by fsspec, under this machine's credentials",
        parse=parse_schemes,
        metavar="A,B",
    )
    deny_hosts: tuple[str, ...] = option(
        (), "hosts not to be asked, with all that is below them, separated by commas", parse=parse_hosts, metavar="A,B"
    )
    robots: Regard = option("respect", "robots.txt of each host: skip what it forbids, or ignore it")
    opt_outs: Regard = option(
        "respect",
        "X-Robots-Tag, tdm-reservation and Content-Usage of each answer: skip what they reserve, or ignore them",
    )
    assume_https: bool = option(False, "take URLs without a scheme for https")
    insecure: bool = option(False, "do not verify the certificates of servers")
    outage: Outage = option(
        "wait", "when nobody can be reached any more: wait until this machine is back on the network, or ignore it"
    )
    dns: str | None = option(
        None,
        "ask this name server instead of the system's resolver; needs penstock[dns]",
        parse=parse_name_server,
        metavar="ADDRESS[:PORT]",
    )
    proxy: str | None = option(
        None, "send every request through this HTTP proxy; the address guard then covers the proxy only", metavar="URL"
    )

    @property
    def row_timeout(self) -> float:
        """Seconds for one row: all its attempts, redirects and pauses together."""
        return self.timeout * (self.retries + 1)

    @property
    def ignored(self) -> list[str]:
        """What should be respected, and is not to be."""
        asked = {name: getattr(self, name) == "ignore" for name in ("robots", "opt_outs", "outage")}
        return [name for name, ignored in (asked | {"certificates": self.insecure}).items() if ignored]


@dataclass(frozen=True, kw_only=True)
class FlowConfig(_Config):
    """How wide, and how much memory."""

    strategy: Strategy = option(
        "auto", "which kind of concurrency downloads and which one decodes; auto picks for this machine"
    )
    workers: int | None = option(None, "decoders; default: one for each core", at_least=1, at_most=4096)
    lanes: int | None = option(None, "pipelines side by side, each its own process; default: as needed", at_least=1)
    memory: int = option(
        2**30, "bound on what waits between the stages", at_least=2**24, parse=parse_size, metavar="SIZE", shown="1GiB"
    )
    decode_timeout: float = option(60.0, "seconds of work for one image in a worker process", at_least=0.05)
    worker_memory: int | None = option(
        None,
        "memory that a worker process may take for one image; default: what --max-pixels can need, and no bound for a "
        "transform of your own",
        at_least=2**24,
        parse=parse_size,
        metavar="SIZE",
    )
    keep_poison: str | None = option(
        None, "folder for the bytes of images that killed their worker process", metavar="DIR"
    )


@dataclass(frozen=True, kw_only=True)
class SourceConfig(_Config):
    """Where in the list things stand."""

    encoding: str = option(
        "utf-8", "of the list, where it is text: latin-1, utf-16, gb18030 …", parse=parse_encoding, metavar="NAME"
    )
    url_column: str = option("url", "column that holds the image's URL", metavar="NAME")
    caption_column: str | None = option(None, "column that holds a text to store beside the image", metavar="NAME")
    keep_columns: tuple[str, ...] = option(
        (), "further columns to store beside the image, separated by commas", parse=parse_names, metavar="A,B"
    )
    parts: Mapping[str, Part] | None = option(
        None,
        "for rows of several files: TOML file that names images, texts and columns; in Python a mapping",
        parse=parse_parts,
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        """Check what a single field cannot."""
        super().__post_init__()
        if self.parts is not None and self.caption_column is not None:
            raise ConfigError(
                f"--caption-column {self.caption_column!r} is for rows of one image; with --parts, a part can be a column"
            )
        if self.parts is not None and self.url_column != "url":
            raise ConfigError(
                f"--url-column {self.url_column!r} is for rows of one image; with --parts, each part names its column"
            )

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """Columns whose values are stored in the table: those that were asked for, and those that parts are made of."""
        return kept_columns(self.keep_columns, self.parts or {})


@dataclass(frozen=True, kw_only=True)
class OutputConfig(SourceConfig):
    """What lies in the folder at the end."""

    format: Format = option(
        "webdataset", "webdataset: tar shards; parquet; files: a folder a shard; arrays: .npy shards"
    )
    shard_size: int = option(10_000, "rows of input for each shard", at_least=1, at_most=10_000_000)
    dedup: bool = option(False, "fetch each URL once: skip the rows whose URL stands in an earlier one")


@dataclass(frozen=True, kw_only=True)
class RunConfig(OutputConfig, FlowConfig, FetchConfig, ImageConfig):
    """All the options of `penstock.run` and ``penstock run``."""

    overwrite: bool = option(False, "delete what an earlier run left in the folder, and start anew")
    verify: bool = option(False, "check the shards that are there first, and do again what is missing or damaged")
    retry_failed: bool = option(False, "of a finished run, fetch again the failed rows that are worth it")
    min_success: float = option(0.0, "exit with 3 if a smaller share of the rows was written", at_least=0, at_most=1)
    engine: Engine = option("local", "where the work is done: on this machine, or on a Ray or Dask cluster")
    address: str | None = option(
        None, "of the cluster; ray: auto, ray://…, host:port; dask: tcp://…, a scheduler's .json file", metavar="ADDR"
    )

    def __post_init__(self) -> None:
        """Check what a single field cannot."""
        super().__post_init__()
        if self.parts is not None:
            check_stored(self.parts, self.part(ImageConfig), self.format)
        elif self.format == "arrays" and self.resize in ("fit", "none"):
            raise ConfigError(
                f"--resize {self.resize!r}: arrays need one shape for all images; expected one of crop, stretch, pad"
            )
        if self.address is not None and self.engine == "local":
            raise ConfigError(f"--address {self.address} goes together with --engine ray or --engine dask")
        if self.overwrite and self.retry_failed:
            raise ConfigError("--retry-failed goes on with the run that --overwrite would delete; give one of them")


@dataclass(frozen=True, kw_only=True)
class StreamConfig(SourceConfig, FlowConfig, FetchConfig, ImageConfig):
    """All the options of `penstock.stream`, but those of `NOT_STREAMED`."""

    batch_size: int = option(64, "images of a batch", at_least=1, at_most=65536)
    drop_last: bool = option(False, "leave out the last batch of an epoch if it is not full")
    ordered: bool = option(False, "keep the order of the list (or of the shuffle), within a bounded window")
    shuffle: int = option(0, "shuffle within windows of so many rows; 0: not at all", at_least=0, at_most=10**8)
    seed: int = option(0, "of the shuffle; each epoch has an order of its own", at_least=0)
    epochs: int | None = option(1, "times that the list is gone through; none: without end", at_least=1)
    on_failure: OnFailure = option("skip", "what a failed row does: nothing, or raise an error")
    min_success: float = option(
        0.0, "stop if, after the first 100 rows, a smaller share of them gives an image", at_least=0, at_most=1
    )
    prefetch: int = option(2, "finished batches that may wait for the training loop", at_least=1, at_most=1024)

    @staticmethod
    def spelled(name: str) -> str:
        """There is no command that streams: fields go by their names."""
        return name


@dataclass(frozen=True, kw_only=True)
class CompareConfig(_Config):
    """What `penstock.compare` measures, and how often."""

    count: int | None = option(
        None, "rows, the first of the list; default: 200 of a list, and what the workload needs without one", at_least=1
    )
    runs: int = option(3, "measured runs of each strategy, after a warm-up", at_least=1, at_most=1000)
    strategies: tuple[str, ...] = option(
        STRATEGIES,
        "strategies to compare, separated by commas",
        parse=parse_strategies,
        metavar="A,B",
        shown=",".join(STRATEGIES),
    )
    workload: Workload = option(
        "images",
        "what is done with each download; images: decode and resize; io: nothing, only waiting; "
        "python: Python code, which holds the GIL; native: native code, which releases it",
    )
    once: bool = option(
        False, "fetch each URL a single time, then replay it from this machine with the latency and speed it had"
    )
    textbook: bool = option(
        False, "compare also with the three schemes as textbooks print them; on a list this implies --once"
    )


NOT_STREAMED = ("encode", "quality", "lanes")
"""Options of images and of the flow that mean nothing to a stream: it stores nothing, and is one pipeline."""

NOT_COMPARED = ("strategy", "parts", "dedup", "overwrite", "verify", "retry_failed", "min_success", "engine", "address")
"""Options of a run that a comparison, which makes many small ones, sets by itself."""


def check_option_names(options: Iterable[str], known: Sequence[str]) -> None:
    """An option that is not among the known ones is a ConfigError that names the nearest."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(known)}"
            raise ConfigError(f"unknown option {name!r}{hint}")


def available_cores() -> int:
    """Cores that this process may use: its affinity, where the system tells it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
