"""What names an output: folders, files' URLs, object stores, and what cannot be one."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from penstock.errors import ConfigError, MissingExtraError, OutputError
from penstock.location import local_folder, location_of, reading

pytest.importorskip("upath", reason="universal_pathlib is not installed: the development extra has it")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("out", Path("out")),
        (Path("a/b"), Path("a/b")),
        ("file:///tmp/größe%20x", Path("/tmp/größe x")),
        ("local:///a", Path("/a")),
    ],
)
def test_folders_of_this_machine(given: str | Path, path: Path) -> None:
    """Paths, and URLs of files, are paths."""
    assert location_of(given) == path


def test_store() -> None:
    """Another scheme is a store, which can be sent to workers, and has the face of a path."""
    location = location_of("memory://bucket/out/")
    assert not isinstance(location, Path)
    assert str(location) == str(pickle.loads(pickle.dumps(location))) == "memory://bucket/out"
    assert str(location_of(location)) == "memory://bucket/out"
    assert str(location / "00000.tar") == "memory://bucket/out/00000.tar"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://example.com/out", "nothing can be written there"),
        ("s3://", "no bucket; expected something like s3://bucket/folder"),
        ("memory:///", "no bucket"),
        ("s3://bucket/img[1]", r"for patterns; choose another name"),
        ("s3://bucket/*", r"for patterns; choose another name"),
        ("file://tmp/out", "a file on another machine"),
        ("nope://bucket/out", "nope.*expected a folder, or an object store"),
    ],
)
def test_no_place_for_an_output(given: str, message: str) -> None:
    """What cannot be written to is refused, with what could be."""
    with pytest.raises(ConfigError, match=message):
        location_of(given)


@pytest.mark.parametrize(
    ("module", "given", "line"),
    [
        ("upath", "s3://bucket/out", r"pip install 'penstock\[s3\]'"),
        ("adlfs", "az://bucket/out", r"pip install 'penstock\[azure\]'"),
        ("upath", "oss://bucket/out", "pip install universal_pathlib, and fsspec's package for oss"),
    ],
)
def test_missing_package(module: str, given: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the pip line."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=line):
        location_of(given)


def test_options_that_workers_would_not_have() -> None:
    """A UPath is taken, but not with an endpoint of its own: lanes and workers open the output by its URL."""
    from upath import UPath

    assert str(location_of(UPath("memory://bucket/out"))) == "memory://bucket/out"
    with pytest.raises(ConfigError, match="do not reach lanes and workers"):
        location_of(UPath("memory://bucket/out", endpoint_url="http://127.0.0.1:1"))


def test_what_needs_files() -> None:
    """Mapped files cannot be in a store; the message says what to do."""
    assert local_folder("a", "this") == Path("a")
    with pytest.raises(
        ConfigError, match="this needs the files on this machine, and memory://b/out is an object store"
    ):
        local_folder("memory://b/out", "this")


def test_errors_of_a_client() -> None:
    """Reading from a store ends in errors of ours, whatever its client raises; those of a disk stay as they are."""
    store = location_of("memory://b/out")
    with pytest.raises(OutputError, match=r"cannot read memory://b/out: .*no route"), reading(store):
        raise RuntimeError("no route")
    with pytest.raises(OutputError, match="ours"), reading(store):
        raise OutputError("ours")
    with pytest.raises(FileNotFoundError), reading(Path("x")):
        raise FileNotFoundError
