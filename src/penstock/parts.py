"""What the rows of a list are made of, where that is more than one image: images, lists of images, texts, columns.

>>> parts = {"jpg": Image("image_url", size=224), "txt": Text("text_url"), "caption": Column("caption")}
>>> parts_json(parts)["jpg"]
{'image': 'image_url', 'size': 224, 'required': True}
>>> parse_parts(parts_json(parts)) == parts
True

The second form is the one of TOML files. A part of the user's is a *group* of requests: one, or of a list of images one
for each URL.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.errors import ConfigError

if TYPE_CHECKING:  # config reads this module for its option
    from penstock.config import Encode, Format, ImageConfig, Resize

__all__ = [
    "Column",
    "Image",
    "Images",
    "Part",
    "Text",
    "check_stored",
    "image_config",
    "kept_columns",
    "parse_parts",
    "parts_json",
    "request_names",
    "sampled",
]

LONGEST_NAME = 40
"""Of a part, in characters: with the number and the ending that a member of a tar adds it stays below 60."""

MOST_IMAGES = 256
"""Of one list. Arbitrary: all of a row's images lie in memory at the same time."""

ENCODES = ("jpg", "png", "webp")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)
_SETTINGS = ("size", "resize", "encode", "quality")


@dataclass(frozen=True, slots=True)
class _Pictures:
    """What is said of images, be it one or several; what is None is as the run's options have it."""

    column: str
    _: KW_ONLY
    size: int | None = None
    resize: Resize | None = None
    encode: Encode | None = None
    quality: int | None = None
    required: bool = True
    """Whether a row without it, or without a single one of them, fails."""

    def __post_init__(self) -> None:
        _check(self)
        _check_settings(self)


@dataclass(frozen=True, slots=True)
class Image(_Pictures):
    """A part that is the image at the URL in `column`; what is None is as the run's options have it.

    Raises:
        ConfigError: a field has a value that cannot be used.
    """


@dataclass(frozen=True, slots=True)
class Images(_Pictures):
    """A part that is the images at the URLs in `column`: a list, a JSON array, or text with blanks between the URLs.

    What is None is as the run's options have it.

    Raises:
        ConfigError: a field has a value that cannot be used.
    """

    _: KW_ONLY
    at_most: int = 8
    """URLs that are fetched, the first ones; how many were left out is in the table."""

    def __post_init__(self) -> None:
        _Pictures.__post_init__(self)  # super() fails in a class that a decorator has made anew, as slots need it
        _check_whole(self.at_most, "at_most", MOST_IMAGES)


@dataclass(frozen=True, slots=True)
class Text:
    """A part that is the text at the URL in `column`, stored as UTF-8.

    Raises:
        ConfigError: a field has a value that cannot be used.
    """

    column: str
    _: KW_ONLY
    charset: str | None = None
    """Encoding of all the texts; None: what each one's byte order mark or server says, else UTF-8, else detected."""
    max_bytes: int = 2**20
    """A longer text fails; in Python also written as ``"1MiB"``."""
    required: bool = True
    """Whether a row without it fails."""

    def __post_init__(self) -> None:
        from penstock.config import parse_encoding, parse_size  # noqa: PLC0415 - config reads this module

        _check(self)
        _coerce(self, "max_bytes", parse_size)
        _check_whole(self.max_bytes, "max_bytes")
        if self.charset is not None:
            _coerce(self, "charset", parse_encoding)


@dataclass(frozen=True, slots=True)
class Column:
    """A part that is the value in `column` as text (JSON, if it is none); nothing is fetched for it.

    Raises:
        ConfigError: a field has a value that cannot be used.
    """

    column: str
    _: KW_ONLY
    required: bool = False
    """Whether a row without a value is left out, before anything is fetched."""

    def __post_init__(self) -> None:
        _check(self)


Part: TypeAlias = Image | Images | Text | Column

_KINDS: dict[str, type[Part]] = {"image": Image, "images": Images, "text": Text, "column": Column}


def _check(part: _Pictures | Text | Column) -> None:
    column: Any = part.column
    required: Any = part.required
    if not isinstance(column, str) or not column:
        raise ConfigError(f"column {column!r}: expected the name of a column")
    if not isinstance(required, bool):
        raise ConfigError(f"required {required!r}: expected true or false")


def _check_settings(part: _Pictures) -> None:
    """The limits are those of the options."""
    from penstock.config import ImageConfig  # noqa: PLC0415 - config reads this module

    try:
        checked = _with_own(part, ImageConfig())  # values that are not checked may have no hash
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("--")) from None
    for name in _SETTINGS:
        if getattr(part, name) is not None:
            object.__setattr__(part, name, getattr(checked, name))


def _check_whole(value: Any, name: str, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        allowed = "of at least 1" if most is None else f"from 1 to {most}"
        raise ConfigError(f"{name} {value!r}: expected a whole number {allowed}")


def _coerce(part: Part, name: str, parse: Any) -> None:
    value = getattr(part, name)
    try:
        object.__setattr__(part, name, parse(value))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name} {value!r}: {error}") from None


@functools.lru_cache(maxsize=1024)
def image_config(part: _Pictures, config: ImageConfig) -> ImageConfig:
    """The options of a part's images: its own, and for the rest those of the run."""
    return _with_own(part, config)


def _with_own(part: _Pictures, config: ImageConfig) -> ImageConfig:
    own = {name: getattr(part, name) for name in _SETTINGS if getattr(part, name) is not None}
    return dataclasses.replace(config, **own)


# ---- from and to JSON types


def parts_json(parts: Mapping[str, Part]) -> dict[str, dict[str, Any]]:
    """The parts as JSON types, which `parse_parts` takes."""
    return {name: _as_json(part) for name, part in parts.items()}


def _as_json(part: Part) -> dict[str, Any]:
    kind = next(name for name, kind in _KINDS.items() if isinstance(part, kind))
    values = {name: getattr(part, name) for name in _keys(type(part))}
    return {kind: part.column} | {name: value for name, value in values.items() if value is not None}


def _keys(kind: type[Part]) -> list[str]:
    """What can be said of such a part, beside its column."""
    return [spec.name for spec in dataclasses.fields(kind) if spec.name != "column"]


def parse_parts(value: Any) -> dict[str, Part]:
    """Parts by name, from a mapping of parts or of JSON types, or from the TOML file at a path.

    Raises:
        ConfigError: they cannot be used; the message names the part and the key.
    """
    if isinstance(value, (str, os.PathLike)):
        value = _read(Path(value))
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected a mapping from names to parts, or a TOML file, not a {type(value).__name__}")
    parts = {name: _parse_part(name, part) for name, part in value.items()}
    lowered = [name.lower() for name in parts]
    twice = next((name for name in lowered if lowered.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two parts are called {twice!r}, but for upper and lower case, which many readers ignore")
    if all(isinstance(part, Column) for part in parts.values()):
        raise ConfigError("nothing would be fetched: expected at least one image or text")
    return parts


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML: {error}") from error


def _parse_part(name: Any, value: Any) -> Part:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"part {name!r}: a name is made of up to {LONGEST_NAME} letters, digits, underscores and hyphens"
        )
    if name.lower() == "json":
        raise ConfigError(f"part {name!r}: json is taken, by the row of the table that is stored beside each sample")
    if isinstance(value, Part):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f'part {name!r}: expected a table, such as {{ image = "image_url" }}, not {value!r}')
    try:
        return _of_mapping({str(key).replace("-", "_"): item for key, item in value.items()})
    except ConfigError as error:
        raise ConfigError(f"part {name!r}: {error}") from None


def _of_mapping(values: dict[str, Any]) -> Part:
    kinds = [key for key in values if key in _KINDS]
    if len(kinds) != 1:
        found = f"has {' and '.join(kinds)}" if kinds else f"has {_listed(values) or 'no key'}"
        raise ConfigError(f"{found}; expected exactly one of {_listed(_KINDS)}, which names the column")
    kind = _KINDS[kinds[0]]
    known = _keys(kind)
    for key in values:
        if key not in (kinds[0], *known):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"of {kinds[0]!r} can be said: {_listed(known)}"
            raise ConfigError(f"unknown key {key!r}; {hint}")
    return kind(values[kinds[0]], **{key: value for key, value in values.items() if key != kinds[0]})


def _listed(names: Any) -> str:
    return ", ".join(names)


# ---- what the rooms ask


def kept_columns(keep: Iterable[str], parts: Mapping[str, Part]) -> tuple[str, ...]:
    """The columns whose values are kept: those that were asked for, and those that parts are made of; each once."""
    of_parts = (part.column for part in parts.values() if isinstance(part, Column))
    return tuple(dict.fromkeys((*keep, *of_parts)))


def sampled(parts: Mapping[str, Part], format: Format) -> dict[str, Part]:  # noqa: A002 - the option's name
    """The parts that become entries of a sample: with these formats columns are in the table beside it, and that is all."""
    in_table = format in ("parquet", "arrays")
    return {name: part for name, part in parts.items() if not (in_table and isinstance(part, Column))}


def request_names(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """What a row can ask for.

    >>> request_names({"jpg": Image("url"), "views": Images("urls", at_most=2), "caption": Column("caption")})
    ('jpg', 'views.0', 'views.1')
    """
    return tuple(request for name, part in parts.items() for request in _requests_of(name, part))


def _requests_of(name: str, part: Part) -> list[str]:
    if isinstance(part, Images):
        return [f"{name}.{number}" for number in range(part.at_most)]
    return [] if isinstance(part, Column) else [name]


def check_stored(parts: Mapping[str, Part], config: ImageConfig, format: Format) -> None:  # noqa: A002 - the option's name
    """Whether a format can hold these parts.

    Raises:
        ConfigError: it cannot; the message says what to do.
    """
    for name, part in parts.items():
        if format == "arrays":
            _check_array(name, part, config)
        else:
            _check_ending(name, part, config.encode)


def _check_array(name: str, part: Part, config: ImageConfig) -> None:
    if isinstance(part, Images | Text):
        what = "a list of images" if isinstance(part, Images) else "a text"
        raise ConfigError(f"--format arrays: part {name!r} is {what}; arrays hold one image of one shape for each row")
    if isinstance(part, Image):
        if not part.required:
            raise ConfigError(f"--format arrays: part {name!r} is not required; arrays need an image of every row")
        resize = part.resize or config.resize
        if resize in ("fit", "none"):
            raise ConfigError(f"--format arrays: part {name!r} has resize {resize!r}; expected crop, stretch or pad")


def _check_ending(name: str, part: Part, encode: Encode) -> None:
    """A part that is called by an ending has to be what the ending says: readers go by it."""
    ending = (part.encode or encode) if isinstance(part, _Pictures) else "txt"
    if name.lower() in (*ENCODES, "txt") and name != ending:
        or_encode = f", or encode {name.lower()!r}" if isinstance(part, _Pictures) and name in ENCODES else ""
        raise ConfigError(f"--parts: part {name!r} would be stored as {ending}; give it another name{or_encode}")
