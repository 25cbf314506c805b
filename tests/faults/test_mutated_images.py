"""Thousands of spoilt images through real workers: no crash, no hang, bounded memory, the same reasons each time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest

from faults.collecting import Collector, collecting
from faults.mutations import monsters, mutants, originals
from faults.works import bytes_of, row_of
from penstock.build import worker_memory
from penstock.config import ImageConfig, RunConfig
from penstock.crew.processes import ProcessCrew
from penstock.errors import ItemError
from penstock.image.decode import decode
from penstock.image.work import ImageWork
from penstock.records import Failure, Reason

COUNT = int(os.environ.get("PENSTOCK_MUTATIONS", "3000"))
SEED = int(os.environ.get("PENSTOCK_MUTATIONS_SEED", "0"))

BATCH = 500
"""Files inside the crew at a time: this bounds the parent's memory here, as the flow does elsewhere."""

CONFIG = RunConfig(size=32, max_pixels=4_000_000)
WORKER_PEAK = 300 * 2**20
"""Bytes of resident memory: the interpreter with its modules takes 60 MiB, four megapixels with alpha and a copy 32."""
PARENT_GROWTH = 150 * 2**20

EXPECTED = {
    Reason.CONTENT_NOT_IMAGE,
    Reason.CONTENT_UNSUPPORTED,
    Reason.IMAGE_TRUNCATED,
    Reason.IMAGE_CORRUPT,
    Reason.IMAGE_TOO_MANY_PIXELS,
    Reason.IMAGE_TOO_SMALL,
    Reason.IMAGE_ZERO_SIZE,
    Reason.IMAGE_TOO_MANY_SCANS,
    Reason.IMAGE_METADATA_BOMB,
}
"""What becomes of such files, besides images. None is worth a crash, a time-out or all the memory."""


@dataclass
class Run:
    """What became of the files."""

    names: list[str] = field(default_factory=list)
    reasons: list[Reason | None] = field(default_factory=list)
    worker_peak: int = 0
    parent_growth: int = 0

    def named(self, unwanted: Iterable[Reason]) -> list[tuple[str, Reason]]:
        """The files that ended so."""
        pairs = zip(self.names, self.reasons, strict=True)
        return [(name, reason) for name, reason in pairs if reason is not None and reason in set(unwanted)]


def memory_of(pid: int | str, line: str) -> int:
    """A figure of ``/proc/PID/status``, in bytes; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(text.split()[1]) * 1024 for text in lines if text.startswith(line))


def batches(count: int) -> Iterator[list[tuple[int, tuple[str, bytes]]]]:
    numbered = enumerate(mutants(count, SEED))
    while batch := list(islice(numbered, BATCH)):
        yield batch


def work_off(collector: Collector, batch: list[tuple[int, tuple[str, bytes]]], run: Run) -> None:
    jobs = {index: (row_of(index), bytes_of(data)) for index, (_, data) in batch}
    values = [result.value for _, result in sorted(collector.work_off(jobs).items())]
    run.names += [name for _, (name, _) in batch]
    run.reasons += [value.reason if isinstance(value, Failure) else None for value in values]


def run_all(poison: Path) -> Run:
    """Every mutant through a crew as a run has it."""
    work = ImageWork(CONFIG.part(ImageConfig), as_array=False)
    memory = worker_memory(CONFIG, work)
    run, before = Run(), memory_of("self", "VmRSS")
    with collecting(ProcessCrew(work, 2, 30.0, memory=memory, keep_poison=poison)) as collector:
        for batch in batches(COUNT):
            work_off(collector, batch, run)
            run.parent_growth = max(run.parent_growth, memory_of("self", "VmRSS") - before)
        statistics = collector.crew.statistics()
        run.worker_peak = max(memory_of(pid, "VmHWM") for pid in statistics.pids)
    return run


@pytest.mark.slow
@pytest.mark.timeout(120 + COUNT // 20)
@pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")
def test_no_mutant_does_harm(tmp_path: Path) -> None:
    """Each ends as an image or with a reason about its bytes, the same in three runs; memory stays bounded.

    A hundred thousand of them, and others, take a command and less than ten minutes::

        PENSTOCK_MUTATIONS=100000 PENSTOCK_MUTATIONS_SEED=1 \\
            python -m pytest -o faulthandler_timeout=0 tests/faults/test_mutated_images.py

    What kills a worker lies in the folder ``poison`` of the test's temporary one.
    """
    first, *others = [run_all(tmp_path / "poison") for _ in range(3)]
    assert len(first.reasons) == COUNT
    assert first.named(set(Reason) - EXPECTED) == [], f"see {tmp_path / 'poison'}"
    assert set(first.reasons) == EXPECTED | {None}
    assert first.reasons.count(None) > COUNT / 10
    for other in others:
        pairs = zip(first.names, first.reasons, other.reasons, strict=True)
        assert [(name, one, two) for name, one, two in pairs if one != two] == []
    for run in (first, *others):
        assert run.worker_peak < WORKER_PEAK
        assert run.parent_growth < PARENT_GROWTH


def test_the_originals_are_whole() -> None:
    """Only what was an image can be spoilt."""
    for name, data in originals().items():
        assert decode(data, CONFIG.part(ImageConfig)).image.size, name


def test_the_mutants_are_always_the_same() -> None:
    """The same seed gives the same files, another seed others."""
    few = len(monsters()) + 20
    assert list(mutants(few, 3)) == list(mutants(few, 3))
    assert list(mutants(few, 3)) != list(mutants(few, 4))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("2,000 scans", Reason.IMAGE_TOO_MANY_SCANS),
        ("100,000 frames", None),
        ("100,000 segments", Reason.IMAGE_METADATA_BOMB),
        ("100,000 pieces of EXIF", Reason.IMAGE_METADATA_BOMB),
        ("EXIF of 8 MB", None),
        ("100,000 chunks", Reason.IMAGE_METADATA_BOMB),
        ("megabytes of comments", None),
        ("a million tiny comments", Reason.IMAGE_METADATA_BOMB),
        ("a million strips", Reason.IMAGE_METADATA_BOMB),
        ("100,000 tags", Reason.IMAGE_METADATA_BOMB),
    ],
)
def test_monsters_end_as_they_should(name: str, reason: Reason | None) -> None:
    """What is large in one thing only is an image if it costs little, and refused if it would cost much."""
    try:
        decode(monsters()[name], CONFIG.part(ImageConfig))
    except ItemError as error:
        found: Reason | None = error.reason
    else:
        found = None
    assert found is reason
