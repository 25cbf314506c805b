"""One long run over a list with faults: does it stay as quick, as small and as right as it began?

    python tests/soak/soak.py --rows 1000000

A loopback server gives tiny pictures and, for one row in twenty, something else: see `MIX`. The run is looked at every few
seconds, from outside. What comes out is a table, and a file of JSON with every sample. It ends with 1 if the account is
not exactly what went in.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from processes import GONE, Usage, usage_of_tree

import penstock
from penstock.engines.work import Progress
from penstock.flow import LaneStatistics
from penstock.report.machine import machine_facts
from penstock.testing.server import ImageServer

MIX: dict[str, tuple[float, str | None]] = {
    "image/{name}": (950, None),
    "status/404": (14, "http.not_found"),
    "html": (8, "content.not_image"),
    "truncated/{name}": (6, "image.truncated"),
    "short/{name}": (4, "body.truncated"),
    "reset/{name}": (4, "body.reset"),
    "status/403": (3, "http.forbidden"),
    "empty": (2, "body.empty"),
    "status/500": (1.95, "http.server_error"),
    "slow/15/{name}": (0.05, "timeout.idle"),
    "redirect/2/{name}": (4, None),
    "slow/0.5/{name}": (3, None),
}
"""Of a thousand rows: how many ask for this path, and how they end (None: with an image). Silent servers are rare, because
each halves what is asked of the one host at a time, which no list of many hosts would see."""

DISTINCT = 50
"""Queries by which a path is asked for: a server that counts by target must not grow with the list."""

CONNECTIONS = 64
"""More would bring nothing on the loopback."""

WARM_UP, COOL_DOWN = 0.1, 0.98
"""Of the rows: until the first caches fill, from the second on the last slow rows are waited for. Not measured."""

ENOUGH = 6
"""Samples below which there is nothing to tell of speed and growth."""

RESULTS = Path(__file__).parents[2] / "benchmarks/results/soak.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the run."""

    seconds: float
    rows: int
    """Settled so far."""
    cpu: float
    """Seconds used so far by all its processes."""
    parent: int
    """Bytes of resident memory; so are the next three."""
    workers: int
    tree: int
    server: int
    descriptors: int
    """Of the parent."""
    threads: int
    """Of the parent."""


def write_list(path: Path, rows: int, server: ImageServer, seed: int) -> Counter[str]:
    """A list of so many rows, one at a time; how they should end, by reason."""
    expected: Counter[str] = Counter()
    with path.open("w") as file:
        for url, reason in _rows(rows, server, random.Random(seed)):
            file.write(url + "\n")
            expected[reason or "written"] += 1
    return expected


def _rows(rows: int, server: ImageServer, chance: random.Random) -> Iterator[tuple[str, str | None]]:
    paths = list(MIX)
    weights = [weight for weight, _ in MIX.values()]
    for index, path in enumerate(chance.choices(paths, weights, k=1)[0] for _ in range(rows)):
        name = server.pictures[index % len(server.pictures)]
        yield f"{server.url}/{path.format(name=name)}?i={index % DISTINCT}", MIX[path][1]


def work(listing: Path, out: Path, counter: Path, options: dict[str, Any]) -> None:
    """What the measured process does: the run, with the number of settled rows in the file `counter`."""
    descriptor = os.open(counter, os.O_WRONLY | os.O_CREAT)

    def count(progress: Progress, _: LaneStatistics) -> None:
        os.pwrite(descriptor, b"%12d" % progress.settled, 0)

    report = penstock.run(listing, out, on_progress=count, **options)
    sys.stdout.write(json.dumps(report.as_dict()))


def soak(rows: int, *, seed: int = 0, interval: float = 5.0, size: int = 32, **options: Any) -> dict[str, Any]:
    """Run over so many rows and look at it every `interval` seconds; what `RESULTS` holds."""
    with (
        tempfile.TemporaryDirectory(prefix="penstock-soak-") as place,
        ImageServer(count=20, mean_bytes=2_000, seed=seed) as server,
    ):
        folder = Path(place)
        expected = write_list(folder / "urls.txt", rows, server, seed)
        settings = {
            "size": size,
            "connections": CONNECTIONS,
            "per_host": CONNECTIONS,
            "allow_network": ["127.0.0.0/8"],
        } | options
        command = [sys.executable, __file__, "--work", str(folder), json.dumps(settings)]
        with (folder / "report.json").open("wb") as output, subprocess.Popen(command, stdout=output) as process:
            samples = list(_samples(process, folder / "counter", server.pid, interval))
        if process.returncode:
            raise RuntimeError(f"the run ended with {process.returncode}")
        report = json.loads((folder / "report.json").read_text())
        del report["folder"]  # gone in a moment
        found = Counter(report["reasons"]) + Counter(written=report["written"])
        output_bytes = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    return {
        "facts": machine_facts() | {"rows": rows, "seed": seed} | settings,
        "account": {"expected": dict(expected), "found": dict(found)},
        "report": report,
        "output_bytes": output_bytes,
        "figures": figures(samples),
        "samples": [asdict(sample) for sample in samples],
    }


def _samples(process: subprocess.Popen[bytes], counter: Path, server: int, interval: float) -> Iterator[Sample]:
    clock = time.monotonic()
    while True:
        try:
            process.wait(interval)
        except subprocess.TimeoutExpired:
            rows = int(counter.read_bytes() or b"0") if counter.exists() else 0
            usages = usage_of_tree(process.pid)
            parent = usages.pop(process.pid, None)
            if rows and parent is not None:
                yield _sample(time.monotonic() - clock, rows, parent, list(usages.values()), _resident(server))
        else:
            return


def _sample(seconds: float, rows: int, parent: Usage, others: list[Usage], server: int) -> Sample:
    workers = sum(usage.resident for usage in others)
    cpu = parent.cpu + sum(usage.cpu for usage in others)
    return Sample(
        round(seconds, 2), rows, round(cpu, 2), parent.resident, workers, parent.resident + workers, server,
        parent.descriptors, parent.threads,
    )  # fmt: skip


def _resident(pid: int) -> int:
    try:
        return Usage.of(pid).resident
    except GONE:
        return 0


def figures(samples: list[Sample]) -> dict[str, Any]:
    """What the samples say: speed, drift from the first third of the time to the last, growth. Empty if there are too few."""
    last = samples[-1].rows if samples else 0
    # Where nothing was settled, a row has no cost.
    moving = [after for before, after in itertools.pairwise(samples) if after.rows > before.rows]
    warm = [sample for sample in moving if WARM_UP * last <= sample.rows <= COOL_DOWN * last]
    if len(warm) < ENOUGH:
        return {}
    third = len(warm) // 3 + 1
    early, late = warm[:third], warm[-third:]
    growth = {name: _slope(warm, name) * 1e5 / 1e6 for name in ("parent", "workers", "tree", "server")}
    return {
        "rows_per_second": _speed(warm),
        "cpu_seconds_per_1000_rows": _cost(warm),
        "windows": [round(_speed(window)) for window in _windows(warm, 10)],
        "drift_of_speed": _speed(late) / _speed(early) - 1,
        "drift_of_cpu": _cost(late) / _cost(early) - 1,
        "megabytes_per_100000_rows": growth,
        "peak_bytes": max(sample.tree for sample in samples),
        "descriptors": [min(sample.descriptors for sample in warm), max(sample.descriptors for sample in warm)],
        "threads": [min(sample.threads for sample in warm), max(sample.threads for sample in warm)],
    }


def _speed(samples: list[Sample]) -> float:
    return (samples[-1].rows - samples[0].rows) / (samples[-1].seconds - samples[0].seconds)


def _cost(samples: list[Sample]) -> float:
    return 1000 * (samples[-1].cpu - samples[0].cpu) / (samples[-1].rows - samples[0].rows)


def _windows(samples: list[Sample], count: int) -> Iterator[list[Sample]]:
    """The samples in at most so many stretches; each begins where the last ended."""
    step = max(1, (len(samples) - 1) // count)
    for first in range(0, len(samples) - step, step):
        yield samples[first : first + step + 1]


def _slope(samples: list[Sample], name: str) -> float:
    """Growth by row, by least squares."""
    rows = [sample.rows for sample in samples]
    return statistics.linear_regression(rows, [getattr(sample, name) for sample in samples]).slope


def table(result: dict[str, Any]) -> str:
    """For people, in Markdown."""
    measured, report = result["figures"], result["report"]
    lines = ["| figure | value |", "|---|---|"]
    rows = {
        "rows": f"{report['rows']:,}",
        "written": f"{report['written']:,}",
        "output": f"{result['output_bytes'] / 1e6:,.0f} MB",
    }
    if measured:
        growth = measured["megabytes_per_100000_rows"]
        rows |= {
            "rows per second": f"{measured['rows_per_second']:.0f}",
            "rows per second, over time": ", ".join(map(str, measured["windows"])),
            "CPU seconds for 1,000 rows": f"{measured['cpu_seconds_per_1000_rows']:.3f}",
            "drift, first to last third, of rows per second": f"{measured['drift_of_speed']:+.1%}",
            "drift, first to last third, of CPU seconds for a row": f"{measured['drift_of_cpu']:+.1%}",
            "growth of memory in MB for 100,000 rows: parent, workers, all": ", ".join(
                f"{growth[name]:+.2f}" for name in ("parent", "workers", "tree")
            ),
            "peak memory of all processes": f"{measured['peak_bytes'] / 1e6:.0f} MB",
            "descriptors of the parent": " to ".join(map(str, measured["descriptors"])),
            "threads of the parent": " to ".join(map(str, measured["threads"])),
        }
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "| end of a row | put in | came out |", "|---|---|---|"]
    expected, found = result["account"]["expected"], result["account"]["found"]
    lines += [
        f"| {name} | {expected.get(name, 0):,} | {found.get(name, 0):,} |" for name in sorted({*expected, *found})
    ]
    return "\n".join(lines)


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        folder = Path(sys.argv[2])
        work(folder / "urls.txt", folder / "out", folder / "counter", json.loads(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the list (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of pictures and faults")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two looks (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="side of the output (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    options = parser.parse_args()
    result = soak(options.rows, seed=options.seed, interval=options.interval, size=options.size)
    options.results.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(table(result) + "\n")
    return 0 if result["account"]["expected"] == result["account"]["found"] else 1


if __name__ == "__main__":
    sys.exit(main())
