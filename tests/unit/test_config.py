"""The options: their limits, units and messages."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import (
    FetchConfig,
    FlowConfig,
    ImageConfig,
    OutputConfig,
    RunConfig,
    available_cores,
    flag_of,
    parse_encoding,
    parse_names,
    parse_networks,
    parse_number,
    parse_size,
)
from penstock.errors import ConfigError

PARTS = (ImageConfig, FetchConfig, FlowConfig, OutputConfig)
FIELDS = {spec.name: spec for spec in dataclasses.fields(RunConfig)}
HINTS = get_type_hints(RunConfig)
LIMITED = [
    (name, side) for name in FIELDS for side in ("at_least", "at_most") if FIELDS[name].metadata[side] is not None
]
CHOICES = [name for name, hint in HINTS.items() if get_origin(hint) is Literal]
WHOLE = [name for name, hint in HINTS.items() if int in (hint, *get_args(hint)) and not FIELDS[name].metadata["parse"]]
TRUTHS = [name for name, hint in HINTS.items() if hint is bool]
TEXTS = ["url_column", "caption_column", "proxy"]


def test_defaults_are_those_of_the_command_line() -> None:
    """The documented defaults, which scripts rely on."""
    documented = {
        "size": 256,
        "resize": "crop",
        "format": "webdataset",
        "encode": "jpg",
        "quality": 95,
        "exact": False,
        "url_column": "url",
        "caption_column": None,
        "keep_columns": [],
        "strategy": "auto",
        "connections": 256,
        "per_host": 8,
        "workers": None,
        "lanes": None,
        "timeout": 30.0,
        "connect_timeout": 10.0,
        "retries": 2,
        "max_bytes": 32 * 2**20,
        "max_pixels": 64 * 10**6,
        "memory": 2**30,
        "shard_size": 10_000,
        "overwrite": False,
        "retry_failed": False,
        "min_success": 0.0,
        "allow_network": [],
        "engine": "local",
    }
    assert documented.items() <= RunConfig().as_dict().items()


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is(name: str) -> None:
    """Each has a help text of one line without a full stop, and a default that it accepts itself."""
    text = FIELDS[name].metadata["help"]
    assert text
    assert "\n" not in text
    assert not text.endswith(".")
    default = getattr(RunConfig(), name)
    assert getattr(RunConfig(**{name: default}), name) == default


@pytest.mark.parametrize(("name", "side"), LIMITED)
def test_limits(name: str, side: str) -> None:
    """The limit itself is allowed, what lies beyond it is refused with the option, the value and the limits."""
    limit = FIELDS[name].metadata[side]
    assert getattr(RunConfig(**{name: limit}), name) == limit
    beyond = limit - 1 if side == "at_least" else limit + 1
    with pytest.raises(ConfigError, match=f"^{flag_of(name)} {beyond}: expected a number ") as caught:
        RunConfig(**{name: beyond})
    if name not in ("max_bytes", "max_pixels", "retries", "min_success"):  # a minus sign is no number with a unit
        assert str(limit) in str(caught.value)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", ["8", True, math.nan, math.inf, 10.5, [8]])
def test_whole_numbers(name: str, value: Any) -> None:
    """Text, truth, fractions and what is no number are refused by name."""
    with pytest.raises(ConfigError, match=f"^{flag_of(name)} .*: expected a whole number$"):
        RunConfig(**{name: value})


def test_whole_floats_become_integers() -> None:
    """What a TOML file or a calculation gives as 64.0 is 64."""
    size = RunConfig(size=64.0).size  # type: ignore[arg-type]  # on purpose
    assert size == 64
    assert isinstance(size, int)
    assert isinstance(RunConfig(timeout=3).timeout, float)


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    """Each choice is accepted, and another is refused with the list of them."""
    choices = get_args(HINTS[name])
    for choice in choices:
        resize = "pad" if choice == "arrays" else RunConfig().resize
        assert getattr(RunConfig(**{"resize": resize, name: choice}), name) == choice
    wrongs: list[Any] = ["nonsense", None, 3, [], choices[0].upper()]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=f"^{flag_of(name)} .*: expected one of {', '.join(choices)}$"):
            RunConfig(**{name: wrong})


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("value", [0, "true", None])
def test_truths(name: str, value: Any) -> None:
    """Nothing but true and false."""
    with pytest.raises(ConfigError, match=f"^{flag_of(name)} .*: expected true or false$"):
        RunConfig(**{name: value})


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    """Columns and addresses are text."""
    with pytest.raises(ConfigError, match=f"^{flag_of(name)} 3: expected text$"):
        RunConfig(**{name: 3})  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("7", 7),
        (7, 7),
        ("7B", 7),
        ("1kb", 1000),
        (" 1.5 GB ", 1_500_000_000),
        ("32MiB", 2**25),
        ("1GiB", 2**30),
    ],
)
def test_sizes(text: str | int, expected: int) -> None:
    """Decimal and binary units, in any case."""
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "3XB", "-1", "1e9", "1,5GB", "3 3", "64MP", None, True])
def test_no_sizes(text: Any) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError, match="such as 32MiB"):
        parse_size(text)


def test_pixels() -> None:
    """Pixels have decimal units."""
    assert [parse_number(text) for text in ("64MP", "100KP", "0.5mp", 9)] == [64_000_000, 100_000, 500_000, 9]
    with pytest.raises(ValueError, match="such as 64MP"):
        parse_number("64MiB")


@given(st.integers(0, 2**52), st.sampled_from(["", "B"]))
def test_bytes_are_exact(size: int, unit: str) -> None:
    """A plain number of bytes is taken as it is."""
    assert parse_size(f"{size}{unit}") == size


def test_names() -> None:
    """Commas separate names in a text, and in nothing else."""
    assert parse_names(" a, b,,c ") == ("a", "b", "c")
    assert parse_names(["a,b", " c "]) == ("a,b", " c ")
    assert parse_names("") == ()


def test_networks() -> None:
    """Networks are brought into one form; what is none is refused by name."""
    assert parse_networks("127.0.0.1/8, ::1") == ("127.0.0.0/8", "::1/128")
    assert RunConfig(allow_network=["10.1.2.3/8"]).allow_network == ("10.0.0.0/8",)  # type: ignore[arg-type]  # any iterable
    for wrong in ("localhost", "10.0.0.0/33", "http://10.0.0.1"):
        with pytest.raises(ConfigError, match=f"^--allow-network '{wrong}': "):
            RunConfig(allow_network=wrong)  # type: ignore[arg-type]  # as the command line gives it


@pytest.mark.parametrize("resize", ["fit", "none"])
def test_arrays_need_one_shape(resize: Any) -> None:
    """Images of different shapes do not fit into one array."""
    with pytest.raises(ConfigError, match=f"^--resize '{resize}': arrays need one shape"):
        RunConfig(format="arrays", resize=resize)


def test_overwrite_and_retry_contradict() -> None:
    """What is deleted cannot be retried."""
    with pytest.raises(ConfigError, match="--retry-failed"):
        RunConfig(overwrite=True, retry_failed=True)


@pytest.mark.parametrize("kind", PARTS)
def test_parts(kind: type[Any]) -> None:
    """Each room gets its own options, as they are in the whole."""
    whole = RunConfig(size=7, timeout=3, workers=2, shard_size=5, allow_network=("10.0.0.0/8",), keep_columns=("a",))
    part = whole.part(kind)
    assert type(part) is kind
    assert all(getattr(part, spec.name) == getattr(whole, spec.name) for spec in dataclasses.fields(kind))


def test_parts_make_up_the_whole() -> None:
    """No option has two homes."""
    names = [spec.name for kind in PARTS for spec in dataclasses.fields(kind)]
    assert len(names) == len(set(names))
    assert set(FIELDS) - set(names) == {"overwrite", "verify", "retry_failed", "min_success", "engine", "address"}


def test_as_dict_is_json() -> None:
    """The dict survives JSON, and makes the same config again."""
    config = RunConfig(keep_columns=("a", "b"), allow_network=("::1",), max_bytes="3MB")  # type: ignore[arg-type]  # any spelling
    values = config.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert RunConfig(**values) == config


def test_configs_travel_and_do_not_change() -> None:
    """A config can be sent to other processes; nobody can alter it there."""
    config = RunConfig(size=3)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.size = 4  # type: ignore[misc]  # on purpose


def test_row_timeout() -> None:
    """One row may take all its attempts."""
    assert FetchConfig(timeout=3, retries=2).row_timeout == 9


def test_there_is_a_core() -> None:
    """Something runs this."""
    assert available_cores() >= 1


def test_encodings() -> None:
    """Names that mean the same are the same; what is no text encoding is refused, with a word about --encode."""
    assert [parse_encoding(name) for name in ("utf8", "UTF-8", "Latin-1", "utf-16")] == [
        "utf-8",
        "utf-8",
        "iso8859-1",
        "utf-16",
    ]
    for wrong in ("png", "rot13", "base64", ""):
        with pytest.raises(ConfigError, match=rf"^--encoding '{wrong}': expected a text encoding, .*--encode\)$"):
            RunConfig(encoding=wrong)
