"""The main job against its floor and against the textbook, in one run.

    python benchmarks/bench_main.py                # the table of docs/benchmarks.md
    python benchmarks/bench_main.py --count 500 --runs 1

A server in a process of its own serves generated pictures (about 150 KB each, 50 ms latency); it counts for nobody. The
contenders take turns, so that a machine that grows slower grows slower for all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import Measurement, measure

from penstock.crew.allocator import ALLOCATOR_VARIABLES
from penstock.report.machine import machine_facts
from penstock.testing.images import make_images
from penstock.testing.server import ImageServer

HERE = Path(__file__).parent
TEXTBOOK = ("textbook threads", "textbook processes", "textbook hybrid")
OTHERS = (*TEXTBOOK, "threads, 16 of them")
TEXTBOOK_SHARE = 8
"""The others get one URL in so many: they are that much slower, and their rate does not depend on the number."""

Entry = dict[str, float]
Figure = Callable[[Entry], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--pictures", type=int, default=200, help="distinct pictures")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=machine_facts()["cores"])
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    parser.add_argument("--strategies", default="auto", help="Penstock's, separated by commas")
    parser.add_argument("--save", type=Path, help="write everything measured, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = bench(options, Path(folder))
    facts = machine_facts() | {key: str(value) for key, value in vars(options).items() if key != "save"}
    print(render(results, facts))
    if options.save:
        options.save.write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")


def bench(options: argparse.Namespace, folder: Path) -> dict[str, list[Entry]]:
    """Name → one entry a run: images, wall, cpu, peak, and the floor's inner figures."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for picture in make_images(options.pictures):
        (corpus / picture.name).write_bytes(picture.data)
    results: dict[str, list[Entry]] = {}
    with ImageServer(corpus=corpus, latency=options.latency) as server:
        urls = server.image_urls(options.count)
        (folder / "all.txt").write_text("\n".join(urls) + "\n")
        (folder / "part.txt").write_text("\n".join(urls[: options.count // TEXTBOOK_SHARE]) + "\n")
        (folder / "warm.txt").write_text("\n".join(urls[:400]) + "\n")
        for run in range(options.runs + 1):
            for name in ["floor", *(f"penstock {name}" for name in options.strategies.split(",")), *OTHERS]:
                part = "warm.txt" if run == 0 else "part.txt" if name in OTHERS else "all.txt"
                entry = one(name, folder, part, run, options.workers)
                print(f"run {run}: {name}: {entry['images'] / entry['wall']:.0f} images/s", file=sys.stderr)
                if run:  # the first round warms caches
                    results.setdefault(name, []).append(entry)
    return results


def one(name: str, folder: Path, part: str, run: int, workers: int) -> Entry:
    if name.startswith("penstock"):
        strategy = name.partition(" ")[2]
        out = folder / f"out-{strategy}-{run}"
        done = measure(
            [
                sys.executable, "-m", "penstock", "run", str(folder / part), "--out", str(out),
                "--size", "128", "--strategy", strategy, "--workers", str(workers), "--per-host", "256",
                "--allow-network", "127.0.0.0/8", "--json",
            ]
        )  # fmt: skip
        return entry_of(done, json.loads(done.output)["written"])
    done = measure(
        [
            sys.executable, str(HERE / "contenders.py"), name, "--list", str(folder / part),
            "--corpus", str(folder / "corpus"), "--workers", str(workers),
        ],
        # The floor gets the allocator's settings that Penstock's workers have: it is to be as low as it can be.
        ALLOCATOR_VARIABLES if name == "floor" else {},
    )  # fmt: skip
    inner: Entry = json.loads(done.output)
    return entry_of(done, inner["images"]) | inner


def entry_of(done: Measurement, images: float) -> Entry:
    return {"images": images, "wall": done.wall, "cpu": done.cpu, "peak": done.peak_bytes}


def render(results: dict[str, list[Entry]], facts: dict[str, str | int]) -> str:
    """A Markdown table: medians, with the smallest and largest beside them."""
    best = max(median(results[name], rate) for name in TEXTBOOK)
    floor_cpu = median(results["floor"], lambda entry: 1000 * entry["inner_cpu"] / entry["images"])
    lines = [
        "| what | images/s | of the best textbook | CPU ms an image | floor's share of it | peak memory MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, entries in results.items():
        speed = inner_rate if name == "floor" else rate
        cpu = inner_cpu if name == "floor" else tree_cpu
        lines.append(
            f"| {name} | {spread(entries, speed, '.0f')} | {median(entries, speed) / best:.1f}× "
            f"| {spread(entries, cpu, '.2f')} | {floor_cpu / median(entries, cpu):.0%} "
            f"| {median(entries, lambda entry: entry['peak'] / 1e6):.0f} |"
        )
    return "\n".join([*lines, "", ", ".join(f"{key} {value}" for key, value in facts.items())])


def rate(entry: dict[str, float]) -> float:
    return entry["images"] / entry["wall"]


def inner_rate(entry: dict[str, float]) -> float:
    return entry["images"] / entry["inner_wall"]


def tree_cpu(entry: dict[str, float]) -> float:
    return 1000 * entry["cpu"] / entry["images"]


def inner_cpu(entry: dict[str, float]) -> float:
    return 1000 * entry["inner_cpu"] / entry["images"]


def median(entries: list[Entry], figure: Figure) -> float:
    return statistics.median(figure(entry) for entry in entries)


def spread(entries: list[Entry], figure: Figure, form: str) -> str:
    values = sorted(figure(entry) for entry in entries)
    return f"{statistics.median(values):{form}} ({values[0]:{form}}–{values[-1]:{form}})"


if __name__ == "__main__":
    main()
