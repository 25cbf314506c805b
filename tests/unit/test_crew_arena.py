"""The memory of batches: what is written is read, a region is free when nobody holds it, and not before."""

from __future__ import annotations

import contextlib
import gc
import logging
import mmap
import os
import pickle
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from penstock.crew import arena as module
from penstock.crew.arena import Arena, Landing, Mapping, Place
from penstock.records import Facts, Failure, Landed, Reason, Result, Sample, Value

PAGE = mmap.ALLOCATIONGRANULARITY


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena()
    yield arena
    arena.close()


@pytest.fixture
def mapping(arena: Arena) -> Iterator[Mapping]:
    mapping = Mapping(os.dup(arena.descriptor))
    yield mapping
    mapping.close()


def region_of(arena: Arena, size: int = 100) -> int:
    offset = arena.allocate(size)
    assert offset is not None
    return offset


class Counter:
    """Counts the calls of an `on_free`."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


# The owner's side.


def test_regions_can_be_mapped_and_do_not_overlap(arena: Arena) -> None:
    """Each begins where a mapping can, behind the one before."""
    assert [arena.allocate(size) for size in (1, PAGE, PAGE + 1, 1)] == [0, PAGE, 2 * PAGE, 4 * PAGE]
    assert os.fstat(arena.descriptor).st_size == 5 * PAGE


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system takes memory when it is written to")
def test_a_region_s_memory_is_taken_at_once(arena: Arena) -> None:
    """Not when it is written to: a lack of it would be SIGBUS then."""
    region_of(arena, 10 * PAGE)
    assert os.fstat(arena.descriptor).st_blocks * 512 >= 10 * PAGE


def test_what_is_written_is_read(arena: Arena) -> None:
    """Bytes of arrays of any type, at any offset."""
    offset = region_of(arena)
    arena.write(offset + 8, np.array([1.5, -2.0]).data)
    assert arena.read(offset + 8, 16) == np.array([1.5, -2.0]).tobytes()


def test_reading_past_the_end_is_an_error(arena: Arena) -> None:
    """And no endless loop."""
    with pytest.raises(EOFError):
        arena.read(region_of(arena), PAGE + 1)


@contextlib.contextmanager
def scarcity() -> Iterator[None]:
    """The system lets no file grow beyond two pages; not for a whole test, for pytest may be writing to one, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PAGE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_lack_of_memory_is_told_once(arena: Arena, caplog: pytest.LogCaptureFixture) -> None:
    """One line that says what to do; then None for good, and what there is stays in use."""
    offset = region_of(arena)
    with caplog.at_level(logging.WARNING, "penstock"), scarcity():
        allocated = [arena.allocate(size) for size in (3_000_000, 100)]
    assert allocated == [None, None]
    (message,) = caplog.messages
    assert message.startswith("no shared memory for a batch (3.0 MB: File too large); ")
    assert "smaller batch_size" in message
    arena.write(offset, memoryview(b"still there"))
    assert arena.read(offset, 11) == b"still there"


# The consumer's side.


def test_an_array_is_the_region_itself(arena: Arena, mapping: Mapping) -> None:
    """No copy: each side sees what the other one writes."""
    region_of(arena)
    offset = region_of(arena)
    array = mapping.array(offset, 100, Counter())
    arena.write(offset, memoryview(b"written later"))
    assert array[:13].tobytes() == b"written later"
    array[:3] = 7
    assert arena.read(offset, 3) == bytes([7, 7, 7])
    assert array.shape == (100,)
    assert array.dtype == np.uint8


VIEWS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda array: array,
    "images": lambda array: array[:48].reshape(4, 2, 2, 3),
    "float32": lambda array: array[4:36].view(np.float32).reshape(2, 4),
    "a view of a view": lambda array: array[:50][10:20][::-2],
    "one image": lambda array: array[:48].reshape(4, 2, 2, 3)[1],
    "memoryview": memoryview,
    "subclass": lambda array: array.view(np.recarray),
    "broadcast": lambda array: np.broadcast_to(array, (3, 100)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_region_is_leased_as_long_as_a_view_lives(arena: Arena, mapping: Mapping, name: str) -> None:
    """Whatever is made of the array; and it is free once the last of them is gone, told once."""
    freed = Counter()
    array = mapping.array(region_of(arena), 100, freed)
    view = VIEWS[name](array)
    del array
    gc.collect()
    assert freed.calls == 0
    del view
    gc.collect()
    assert freed.calls == 1


@pytest.mark.slow
def test_a_tensor_leases_the_region(arena: Arena, mapping: Mapping, require_torch: ModuleType) -> None:
    """`torch.from_numpy` shares the memory, and so do the tensor's own views."""
    freed = Counter()
    tensor = require_torch.from_numpy(mapping.array(region_of(arena), 100, freed)[:48].reshape(4, 2, 2, 3))
    view = tensor.permute(0, 3, 1, 2)
    del tensor
    gc.collect()
    assert freed.calls == 0
    del view
    gc.collect()
    assert freed.calls == 1


def test_a_region_can_be_lent_again_and_again(arena: Arena, mapping: Mapping) -> None:
    """Each loan has its own end, and no mapping of its own."""
    offset = region_of(arena)
    loans = [Counter() for _ in range(5)]
    for value, freed in enumerate(loans):
        arena.write(offset, memoryview(bytes([value])))
        array = mapping.array(offset, 100, freed)
        assert array[0] == value
        del array
    gc.collect()
    assert [freed.calls for freed in loans] == [1] * 5
    assert len(mapping._maps) == 1


def test_arrays_outlive_the_mapping(arena: Arena) -> None:
    """One who has left the loop may go on with the last batch."""
    mapping, freed = Mapping(os.dup(arena.descriptor)), Counter()
    offset = region_of(arena)
    arena.write(offset, memoryview(b"kept"))
    array = mapping.array(offset, 100, freed)
    mapping.close()
    assert array[:4].tobytes() == b"kept"
    assert freed.calls == 0
    del array
    gc.collect()
    assert freed.calls == 1


def test_one_who_keeps_all_arrays_gets_copies_in_the_end(
    arena: Arena, mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping costs a descriptor. A copy leases nothing, so that the same region serves for the rest."""
    monkeypatch.setattr(module, "MAPPED_AT_MOST", 3)
    kept, loans = [], [Counter() for _ in range(6)]
    for value, (offset, freed) in enumerate(zip([0, 1, 2, 3, 3, 3], loans, strict=True)):
        if offset == value:
            region_of(arena, PAGE)
        arena.write(offset * PAGE, memoryview(bytes([value])))
        kept.append(mapping.array(offset * PAGE, PAGE, freed))
    assert [array[0] for array in kept] == [0, 1, 2, 3, 4, 5]
    assert [freed.calls for freed in loans] == [0, 0, 0, 1, 1, 1]
    assert all(array.flags.writeable for array in kept)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_cannot_end_a_loan(arena: Arena, mapping: Mapping) -> None:
    """It drops copies of the arrays, while those in the process that got them are still held."""
    freed = Counter()
    array = mapping.array(region_of(arena), 100, freed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # native libraries may have threads; the child uses none
        child = os.fork()
    if child == 0:
        del array
        os._exit(freed.calls)
    assert os.waitpid(child, 0)[1] == 0
    assert array[0] == 0


# A worker's side.


def landed(arena: Arena, parts: dict[str, Value], sizes: list[int] | None = None) -> tuple[Result, Place]:
    """What becomes of a sample with a place for its arrays or, if given, for arrays of such sizes."""
    if sizes is None:
        sizes = [part.nbytes for part in parts.values() if isinstance(part, np.ndarray)]
    place = tuple((region_of(arena, max(1, size)), size) for size in sizes)
    landing = pickle.loads(pickle.dumps(Landing(arena.descriptor)))
    return landing.land(Result(Sample(parts, Facts(width=3)), 0.5, http_status=200), place), place


ARRAYS: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "image": lambda: np.arange(60, dtype=np.uint8).reshape(4, 5, 3),
    "big-endian": lambda: np.arange(4, dtype=">i4"),
    "times": lambda: np.array(["2024-02-29"], "datetime64[D]"),
    "strided": lambda: np.arange(24.0).reshape(4, 6)[::2, ::-3],
    "fortran": lambda: np.asfortranarray(np.arange(6).reshape(2, 3)),
    "one number": lambda: np.array(3.5),
    "nothing": lambda: np.empty((0, 3)),
    "read-only": lambda: np.frombuffer(b"abc", np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_lands_as_its_c_order_bytes(arena: Arena, name: str) -> None:
    """Whatever its layout was; dtype and shape travel with the result, and so does all else."""
    array = ARRAYS[name]()
    result, ((offset, size),) = landed(arena, {"image": array})
    mark = Landed(array.dtype.str, array.shape)
    assert result == Result(Sample({"image": mark}, Facts(width=3)), 0.5, http_status=200)
    there = np.frombuffer(arena.read(offset, size), mark.dtype).reshape(mark.shape)
    np.testing.assert_array_equal(there, array, strict=True)
    assert mark.nbytes == size


def test_several_arrays_land_in_the_order_of_the_parts(arena: Arena) -> None:
    """Bytes between them stay as they are, and so does the order."""
    first, second = np.arange(5, dtype=np.uint8), np.arange(3.0)
    result, place = landed(arena, {"a": first, "text": b"words", "b": second})
    assert isinstance(result.value, Sample)
    assert list(result.value.parts.items()) == [
        ("a", Landed("|u1", (5,))),
        ("text", b"words"),
        ("b", Landed("<f8" if sys.byteorder == "little" else ">f8", (3,))),
    ]
    assert [arena.read(*entry) for entry in place] == [first.tobytes(), second.tobytes()]
    assert result.value.nbytes == len(b"words")


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"a": np.zeros(5, np.uint8)}, [4]),
        ({"a": np.zeros(5, np.uint8)}, [6]),
        ({"a": np.zeros(5, np.uint8)}, [5, 5]),
        ({"a": np.zeros(5, np.uint8), "b": np.zeros(5, np.uint8)}, [5]),
        ({"a": np.zeros(5, np.uint8), "b": np.zeros(6, np.uint8)}, [5, 5]),
        ({"a": b"bytes"}, [5]),
        ({"a": np.array([None])}, [8]),
        ({"a": np.array([(1, 2.0)], "i4,f8")}, [12]),
    ],
    ids=["larger", "smaller", "too few", "too many", "one of them", "bytes", "objects", "records"],
)
def test_what_does_not_fit_stays_as_it_is(arena: Arena, parts: dict[str, Value], sizes: list[int]) -> None:
    """All of it, even if some would: nothing is written, and the result is the same object."""
    result, place = landed(arena, parts, sizes)
    assert isinstance(result.value, Sample)
    assert result.value.parts is parts
    assert all(arena.read(*entry) == bytes(entry[1]) for entry in place)


def test_a_failure_does_not_land(arena: Arena) -> None:
    """There is nothing to write."""
    failure = Result(Failure(Reason.IMAGE_CORRUPT))
    assert Landing(arena.descriptor).land(failure, ((region_of(arena), 5),)) is failure


def test_what_cannot_be_written_stays_as_it_is(arena: Arena) -> None:
    """The row goes by wire then."""
    sample = Sample({"a": np.ones(5, np.uint8)})
    result = Result(sample)
    with scarcity():
        landed = Landing(arena.descriptor).land(result, ((2 * PAGE, 5),))
    assert landed is result
