"""Works that behave and works that do not, all picklable: the bytes of the row say what is to happen."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import ItemError
from penstock.records import Facts, Fetched, Reason, Request, Result, Row, Sample

gate = threading.Event()
"""For works in threads: `wait_for_gate` waits for it."""


def row_of(index: int, text: str = "") -> Row:
    """A row for the work `obey`."""
    return Row(index, (Request("image", f"http://example.com/{index}"),), text)


def bytes_of(command: str | bytes = b"") -> tuple[Fetched, ...]:
    """What `obey` is to do, as if it had been downloaded."""
    data = command.encode() if isinstance(command, str) else command
    return (Fetched("image", data, 200, 2, 0.25),)


def jobs_of(*commands: str | bytes) -> dict[int, tuple[Row, tuple[Fetched, ...]]]:
    """Rows 0, 1, 2 … and what each is to do."""
    return {index: (row_of(index), bytes_of(command)) for index, command in enumerate(commands)}


def echo(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """The bytes as they came."""
    return Result.of(Sample({part.part: part.data for part in fetched}, Facts(width=row.index)), fetched)


def arrays(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """The array of `ARRAYS` that the row's caption names."""
    return Result.of(Sample({"array": ARRAYS[row.caption or ""]()}), fetched)


def filled(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """An array that is full of the row's index."""
    return Result.of(Sample({"array": np.full(50_000, row.index, np.int64)}), fetched)


def sized(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """As many bytes as the row's caption says, each of them 1 more than the row's index."""
    return Result.of(Sample({"image": np.full(int(row.caption or 0), row.index + 1, np.uint8)}), fetched)


def mixed(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """An image and a number, both of the row's index, and the bytes between them."""
    image, number = np.full((4, 5, 3), row.index, np.uint8), np.array([row.index / 2])
    return Result.of(Sample({"image": image, "text": fetched[0].data, "number": number}), fetched)


def obey_then_fill(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """Do what the bytes say; then as `sized`."""
    obey(row, fetched)
    return sized(row, fetched)


def wait_then_fill(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """As `wait_for_gate`; then as `sized`."""
    wait_for_gate(row, fetched)
    return sized(row, fetched)


def obey(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """Do what the bytes say; then echo them, or return what the deed returned."""
    name, _, argument = fetched[0].data.decode().partition(" ")
    value = DEEDS[name](argument) if name else None
    if value is None:
        return echo(row, fetched)
    return value if isinstance(value, Result) else Result.of(Sample({"image": value}), fetched)


def wait_for_gate(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """Rows with bytes wait until the gate opens."""
    if fetched[0].data:
        gate.wait()
    return echo(row, fetched)


def returns_nothing(row: Row, fetched: tuple[Fetched, ...]) -> Any:
    """Not what a work is to return."""


def doze(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """Take a moment."""
    time.sleep(0.02)
    return echo(row, fetched)


class BadLoad:
    """A work that does `deed` when a worker loads it."""

    def __init__(self, deed: str) -> None:
        self.deed = deed

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return _load_badly, (self.deed,)

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        return echo(row, fetched)


def _load_badly(deed: str) -> None:
    if deed == "die":
        os.write(2, b"libbroken.so: cannot open shared object file")
        os._exit(127)
    raise ImportError("No module named 'broken_wheel'")


def _item_error(_: str) -> None:
    raise ItemError(Reason.IMAGE_CORRUPT, "bad Huffman code")


def _memory_error(_: str) -> None:
    raise MemoryError("cannot allocate 8 GiB")


def _key_error(_: str) -> None:
    raise KeyError("missing")


def _loop(_: str) -> None:
    while True:
        pass


def _hold_gil(_: str) -> None:
    ctypes.PyDLL(None).sleep(1000)


def _match_for_ever(_: str) -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def _bus_error(_: str) -> None:
    """Touch a page of a mapped file that has been cut off meanwhile."""
    file = os.memfd_create("cut")
    os.ftruncate(file, mmap.PAGESIZE)
    mapped = mmap.mmap(file, mmap.PAGESIZE)
    os.ftruncate(file, 0)
    mapped[0]


def _recurse(_: str) -> None:
    """Have C code recurse until its stack is used up: regcomp does, for each bracket."""
    depth = 2_000_000
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * depth + b")" * depth, 1)


def _hoard(_: str) -> None:
    """Take memory until there is no more."""
    hoard = []
    while True:
        hoard.append(bytes(2**22))


leaked: list[bytes] = []


def _leak(size: str) -> None:
    leaked.append(bytes(int(size)))


def _kill_siblings(_: str) -> None:
    """SIGKILL for all the other workers."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, after = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if (
            int(after[1]) == os.getppid() and pid != os.getpid() and _is_worker(pid)
        ):  # servers of the tests are siblings, too
            os.kill(pid, signal.SIGKILL)


def _is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"penstock.crew.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _babble(size: str) -> None:
    """Nonsense into the worker's own connection, which its command line names."""
    os.write(int(sys.argv[1]), b"\xff" * int(size))


def _first_time_only(argument: str) -> None:
    """Do the deed the first time: ``once PATH DEED``."""
    path, _, deed = argument.partition(" ")
    if not Path(path).exists():
        Path(path).touch()
        DEEDS[deed.split()[0]](deed.partition(" ")[2])


def _announce_and_sleep(fifo: str) -> None:
    with Path(fifo).open("w") as stream:
        stream.write(str(os.getpid()))
    time.sleep(1000)


def _fork_and_return(_: str) -> None:
    os.fork()


def _fork_and_return_late(fifos: str) -> None:
    """Its child returns once something is written to the first FIFO, and has the second one open until it ends."""
    go, gone = fifos.split()
    if os.fork() == 0:
        os.open(gone, os.O_WRONLY)
        Path(go).read_bytes()


def _die_and_leave_a_child(_: str) -> None:
    if os.fork() == 0:
        time.sleep(4)
    os._exit(0)


def _close_everything(_: str) -> None:
    os.closerange(3, 256)
    time.sleep(1000)


def _noise(argument: str) -> None:
    """So many bytes to standard error, or another descriptor: ``noise SIZE DESCRIPTOR``."""
    size, _, descriptor = argument.partition(" ")
    for _ in range(int(size) // 65536):
        os.write(int(descriptor or 2), b"libpng warning: \n" * 3855)


def _surroundings(_: str) -> bytes:
    """What a worker's own child sees, and how the worker is set up."""
    listing = ["/bin/ls", "/proc/self/fd"]
    inherited = subprocess.run(listing, capture_output=True, text=True, check=True, close_fds=False).stdout.split()
    return repr(
        {
            "descriptors": len(inherited),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "oom": int(Path("/proc/self/oom_score_adj").read_text()),
            "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
            "heavy": sorted(sys.modules.keys() & {"asyncio", "pyarrow", "aiohttp", "rich", "multiprocessing"}),
        }
    ).encode()


DEEDS: dict[str, Callable[[str], Any]] = {
    "segfault": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "bus": _bus_error,
    "illegal": lambda _: os.kill(os.getpid(), signal.SIGILL),
    "recurse": _recurse,
    "exit": lambda _: os._exit(0),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "loop": _loop,
    "hold_gil": _hold_gil,
    "regex": _match_for_ever,
    "hoard": _hoard,
    "leak": _leak,
    "kill_siblings": _kill_siblings,
    "babble": _babble,
    "once": _first_time_only,
    "announce": _announce_and_sleep,
    "fork": _fork_and_return,
    "fork_late": _fork_and_return_late,
    "orphan": _die_and_leave_a_child,
    "close": _close_everything,
    "noise": _noise,
    "print": print,
    "sys_exit": lambda _: sys.exit(3),
    "item_error": _item_error,
    "memory_error": _memory_error,
    "key_error": _key_error,
    "lambda": lambda _: Result(Sample({"image": lambda: None})),  # type: ignore[dict-item]  # that is the point
    "surroundings": _surroundings,
}

ARRAYS: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "uint8 image": lambda: np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3),
    "float32": lambda: np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
    "bool": lambda: np.array([True, False]),
    "big-endian": lambda: np.arange(4, dtype=">i4"),
    "complex": lambda: np.array([1 + 2j]),
    "text": lambda: np.array(["ä", "bc"]),
    "structured": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "zero size": lambda: np.empty((0, 3), np.uint8),
    "zero dimensions": lambda: np.array(3.5),
    "strided": lambda: np.arange(24).reshape(4, 6)[::2, ::-3],
    "fortran": lambda: np.asfortranarray(np.arange(6).reshape(2, 3)),
}
