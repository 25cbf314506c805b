"""What is asked of an object store: the operations, their patience, and the diagnosis of what goes wrong."""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import OutputError
from penstock.sink import objects

upath = pytest.importorskip("upath", reason="universal_pathlib is not installed: the development extra has it")


@pytest.fixture
def root() -> Any:
    """An empty place in memory."""
    return upath.UPath(f"memory://{uuid.uuid4().hex}/out")


def test_objects_come_and_go(root: Any, tmp_path: Path) -> None:
    """Files go up under names of any depth, are listed, copied, read and deleted."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    objects.put([(tmp_path / "a", "00000.tar"), (tmp_path / "b", "00001/000000001.jpg")], root)
    objects.write(b"c", root, ".penstock/lock")
    assert objects.listed(root) == [(".penstock", True), ("00000.tar", False), ("00001", True)]
    assert objects.names_below(root, "00001") == ["00001/000000001.jpg"]
    objects.copy([("00000.tar", "x/y"), ("00001/000000001.jpg", "x/z")], root)
    assert objects.read_several(["x/z", "x/y"], root) == [b"b", b"a"]
    assert objects.read(root, "nothing") is None
    objects.remove(["nothing", "x/y"], root)
    assert objects.names_below(root, "x") == ["x/z"]
    objects.remove_below(root, "x")
    objects.remove_below(root, "x")
    assert objects.names_below(root, "x") == []
    with pytest.raises(FileNotFoundError):
        objects.copy([("nothing", "x/y")], root)


def test_nothing_is_listed_where_nothing_is(root: Any) -> None:
    """A place that nobody has written to is empty, and no error."""
    assert objects.listed(root) == []
    assert objects.names_below(root, "x") == []


def test_conditional_put(root: Any) -> None:
    """The first one makes the object; another one learns that it did not; a repetition of the first is the first."""
    assert objects.create(b"mine", root, "x")
    assert not objects.create(b"other", root, "x")
    assert objects.create(b"mine", root, "x")
    assert objects.read(root, "x") == b"mine"


def test_conditional_put_of_other_dialects(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some stores' word for "it is there" is one that their client does not know: then the object itself tells."""
    objects.write(b"other", root, "x")

    def refusing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(root.fs, "pipe_file", refusing)
    assert not objects.create(b"mine", root, "x")
    assert objects.create(b"other", root, "x")


class NoCredentialsError(Exception):
    """As botocore has it, which need not be here."""


def flaky(error: Exception, times: int) -> tuple[Callable[[], str], list[int]]:
    """An operation that fails so many times, and how often it was called."""
    calls: list[int] = []

    def operation() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return operation, calls


def test_short_outages_are_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store may do later is tried again, with growing pauses, and in the end given up."""
    slept: list[float] = []
    monkeypatch.setattr("penstock.sink.objects.time.sleep", slept.append)
    operation, calls = flaky(ConnectionError("reset"), 3)
    assert objects._patiently(operation) == "done"
    assert (len(calls), slept) == (4, [1.0, 2.0, 5.0])
    operation, calls = flaky(ConnectionError("reset"), 99)
    with pytest.raises(ConnectionError):
        objects._patiently(operation)
    assert len(calls) == len(objects.PAUSES) + 1


def test_whoever_is_in_a_hurry_does_not_wait() -> None:
    """Who leaves at once waits for no store: the try under way is the last."""
    hurry = threading.Event()
    hurry.set()
    operation, calls = flaky(ConnectionError("reset"), 99)
    with pytest.raises(ConnectionError):
        objects._patiently(operation, hurry)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [PermissionError(), FileNotFoundError(), FileExistsError(), NoCredentialsError()])
def test_what_would_not_change_is_not_tried_again(error: Exception) -> None:
    """A refusal is final at once."""
    operation, calls = flaky(error, 1)
    with pytest.raises(type(error)):
        objects._patiently(operation)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (PermissionError("denied"), "denied; check the credentials"),
        (NoCredentialsError("Unable to locate"), "Unable to locate; check the credentials"),
        (FileNotFoundError("no such bucket"), "make the bucket if there is none"),
        (RuntimeError(), "RuntimeError; run again when the store answers"),
    ],
)
def test_diagnosis(root: Any, error: Exception, advice: str) -> None:
    """One kind of error leaves the sink, with what went wrong and what to do."""
    with pytest.raises(OutputError, match=rf"cannot write to memory://.*: .*{advice}"), objects.storing(root):
        raise error
    with pytest.raises(OutputError, match="ours"), objects.storing(root):
        raise OutputError("ours")
