"""What rows are made of: parts from Python, from TOML, and back; what is refused, and how."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from penstock.config import RunConfig
from penstock.errors import ConfigError
from penstock.parts import Column, Image, Images, Part, Text, parse_parts, parts_json, request_names

PARTS: dict[str, Part] = {
    "jpg": Image("image_url", size=224),
    "views": Images("image_urls", at_most=3, encode="png", required=False),
    "txt": Text("text_url", charset="latin-1", max_bytes=2**10),
    "caption": Column("caption", required=True),
}

TOML = """
[jpg]
image = "image_url"
size = 224
[views]
images = "image_urls"
at-most = 3
encode = "png"
required = false
[txt]
text = "text_url"
charset = "latin-1"
max_bytes = "1KiB"
[caption]
column = "caption"
required = true
"""


def test_toml_says_the_same_as_python(tmp_path: Path) -> None:
    """A file names the kind of each part by the key that holds its column, and the rest as Python does."""
    path = tmp_path / "parts.toml"
    path.write_text(TOML)
    assert parse_parts(path) == parse_parts(str(path)) == parse_parts(PARTS) == PARTS


def test_parts_survive_json_and_pickle() -> None:
    """The journal holds them as JSON, workers and lanes get them pickled."""
    assert parse_parts(json.loads(json.dumps(parts_json(PARTS)))) == PARTS
    assert pickle.loads(pickle.dumps(PARTS)) == PARTS


def test_config_holds_them() -> None:
    """The option takes all three forms, and gives JSON types back; columns that parts are made of are kept."""
    config = RunConfig(parts=PARTS, keep_columns=("n", "caption"))
    assert RunConfig(parts=config.as_dict()["parts"]).parts == PARTS
    assert config.kept_columns == ("n", "caption")
    assert RunConfig().as_dict()["parts"] is None


def test_names_of_requests() -> None:
    """Each image of a list is a request of its own; a column is none."""
    assert request_names(PARTS) == ("jpg", "views.0", "views.1", "views.2", "txt")


WRONG: list[tuple[Any, str]] = [
    ({"jpg": {"image": "u", "sise": 3}}, "part 'jpg': unknown key 'sise'; did you mean 'size'?"),
    ({"txt": {"text": "u", "xyz": 3}}, "unknown key 'xyz'; of 'text' can be said: charset, max_bytes, required"),
    ({"jpg": {}}, "part 'jpg': has no key; expected exactly one of image, images, text, column"),
    ({"jpg": {"size": 3}}, "part 'jpg': has size; expected exactly one of"),
    ({"jpg": {"image": "u", "text": "v"}}, "has image and text; expected exactly one of"),
    ({"jpg": {"image": "u", "size": 0}}, "part 'jpg': size 0: expected a number from 1 to 16384"),
    ({"jpg": {"image": "u", "resize": "x"}}, "resize 'x': expected one of crop, fit"),
    ({"jpg": {"image": "u", "required": "no"}}, "required 'no': expected true or false"),
    ({"jpg": {"image": 3}}, "column 3: expected the name of a column"),
    ({"v": {"images": "u", "at_most": 0}}, "at_most 0: expected a whole number from 1 to 256"),
    ({"v": {"images": "u", "at_most": True}}, "at_most True: expected a whole number"),
    ({"txt": {"text": "u", "charset": "nix"}}, "charset 'nix': expected a text encoding"),
    ({"txt": {"text": "u", "charset": 3}}, "charset 3: "),
    ({"txt": {"text": "u", "max_bytes": "1x"}}, "max_bytes '1x': expected a number with a unit"),
    ({"txt": {"text": "u", "max_bytes": 0}}, "max_bytes 0: expected a whole number of at least 1"),
    ({"a.b": Image("u")}, "part 'a.b': a name is made of"),
    ({"x" * 41: Image("u")}, "a name is made of up to 40"),
    ({3: Image("u")}, "part 3: a name is made of"),
    ({"Json": Image("u")}, "part 'Json': json is taken"),
    ({"a": Image("u"), "A": Text("v")}, "two parts are called 'a'"),
    ({"a": "u"}, "part 'a': expected a table"),
    ({"caption": Column("c")}, "nothing would be fetched"),
    ({}, "nothing would be fetched"),
    (3, "expected a mapping from names to parts, or a TOML file, not a int"),
    ("nowhere.toml", "--parts 'nowhere.toml': No such file"),
]


@pytest.mark.parametrize(("parts", "message"), WRONG)
def test_what_is_wrong_is_named(parts: Any, message: str) -> None:
    """The message has the part, the key, and what is allowed."""
    with pytest.raises(ConfigError, match=r"^--parts") as caught:
        RunConfig(parts=parts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[jpg", "not TOML"), ('[jpg]\nimage = "u"\nsise = 3', "part 'jpg': unknown key 'sise'"), ("a = 1", "part 'a'")],
)
def test_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The file comes first in the message."""
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        RunConfig(parts=str(path))  # type: ignore[arg-type]  # any spelling
    assert str(caught.value).startswith(f"--parts {str(path)!r}: {message}")


@pytest.mark.parametrize(
    "options",
    [
        {"parts": {"png": Image("u")}},
        {"parts": {"JPG": Image("u")}},
        {"parts": {"jpg": Image("u", encode="webp")}},
        {"parts": {"txt": Image("u")}},
        {"parts": {"jpg": Text("u")}},
        {"parts": {"jpg": Image("u"), "webp": Column("c")}},
        {"parts": {"jpg": Image("u")}, "caption_column": "c"},
        {"parts": {"jpg": Image("u")}, "url_column": "u"},
        {"parts": {"a": Images("u")}, "format": "arrays"},
        {"parts": {"a": Image("u"), "b": Text("t")}, "format": "arrays"},
        {"parts": {"a": Image("u", required=False)}, "format": "arrays"},
        {"parts": {"a": Image("u", resize="fit")}, "format": "arrays"},
        {"parts": {"a": Image("u")}, "format": "arrays", "resize": "none"},
    ],
)
def test_combinations_that_cannot_be(options: dict[str, Any]) -> None:
    """A name that says another kind than is stored, and what a format cannot hold, is refused before the run starts."""
    with pytest.raises(ConfigError, match=r"^--(parts|caption-column|url-column|format)"):
        RunConfig(**options)


def test_combinations_that_can_be() -> None:
    """A part's own settings count for these checks, and columns are no trouble to any format."""
    RunConfig(parts={"png": Image("u", encode="png")})
    RunConfig(parts={"a": Image("u", resize="pad"), "c": Column("c")}, format="arrays", resize="none")
