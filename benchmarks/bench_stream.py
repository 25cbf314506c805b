"""`penstock.stream` beside the loaders that could stand in its place: the first batch, the steady state, the step beside it.

    python benchmarks/bench_stream.py measure               # results/stream.json, and the block of docs/benchmarks.md
    python benchmarks/bench_stream.py measure --quick       # one small round, printed only
    python benchmarks/bench_stream.py render --check        # change nothing; exit with 1 if the page is stale

It needs torch, which no extra installs, and the extra `bench`. A server in a process of its own serves generated pictures,
as in `bench_main`. Every loader is measured in a process of its own, and they take turns, each round from another one on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loaders.job import BATCH, CONNECTIONS
from measure import measure
from pages import fill
from stream_contenders import CONTENDERS, STEP_BATCHES, Figures

from penstock.crew.allocator import ALLOCATOR_VARIABLES
from penstock.crew.child import THREADS_VARIABLES
from penstock.report.machine import machine_facts
from penstock.testing.images import make_images
from penstock.testing.server import ImageServer

HERE = Path(__file__).parent
RESULTS = HERE / "results/stream.json"

LAPS = 4
"""Batches of each worker at the least, where workers make whole ones: the first and the last are not counted."""

QUICK_COUNT = 512

Results = dict[str, list[Figures]]
Figure = Callable[[Figures], float]


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    if options.part == "render":
        return render(check=options.check)
    if options.quick:
        options.count, options.runs = QUICK_COUNT, 1
    with tempfile.TemporaryDirectory() as folder:
        stored = measured(options, Path(folder))
    print(block(stored))
    if not options.quick:
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        render(check=False)
    return 0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("render").add_argument("--check", action="store_true")
    measuring = parts.add_parser("measure")
    measuring.add_argument("--count", type=int, default=2048, help="images")
    measuring.add_argument("--pictures", type=int, default=200, help="distinct pictures")
    measuring.add_argument("--runs", type=int, default=3)
    measuring.add_argument(
        "--workers", type=int, default=machine_facts()["cores"], help="decoders; one less beside a step"
    )
    measuring.add_argument("--latency", type=float, default=0.05, help="seconds")
    measuring.add_argument("--jitter", type=float, default=0.0, help="up to as many seconds more")
    measuring.add_argument(
        "--quick", action="store_true", help=f"one round of {QUICK_COUNT} images, nothing twice; not stored"
    )
    return parser.parse_args(arguments)


# ---- measure


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What is stored: the machine, and of every loader one entry a round, of its speed and of the step beside it."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for picture in make_images(options.pictures):
        (corpus / picture.name).write_bytes(picture.data)
    with ImageServer(corpus=corpus, latency=options.latency, jitter=options.jitter) as server:
        bench = Bench(folder, server)
        plain = [name for name, contender in CONTENDERS.items() if contender.workers_a_core == 1]
        bench.speed_round(0, plain, QUICK_COUNT // 2, options.workers)  # warms caches
        names = plain if options.quick else list(CONTENDERS)
        rounds = range(1, options.runs + 1)
        speed = by_name(bench.speed_round(number, names, options.count, options.workers) for number in rounds)
        names = stepping(speed)
        step = by_name(bench.step_round(number, names, max(1, options.workers - 1)) for number in rounds)
    facts = machine_facts() | {name: version(name) for name in ("torch", "spdl_core")}
    chosen = {name: getattr(options, name) for name in ("count", "pictures", "runs", "workers", "latency", "jitter")}
    return {"facts": facts | chosen, "speed": speed, "step": step}


@dataclass(frozen=True, slots=True)
class Bench:
    """Runs the contenders, one after the other."""

    folder: Path
    server: ImageServer

    def speed_round(self, number: int, names: list[str], count: int, workers: int) -> dict[str, Figures]:
        """Each over so many images, or over as many more as its workers need for their laps."""
        entries = {}
        for name in turned(names, number):
            contender = CONTENDERS[name]
            rows = max(count // contender.share, LAPS * contender.at_once(workers) * BATCH)
            entries[name] = self.one("speed", name, rows, workers)
            say(number, name, entries[name])
        return entries

    def step_round(self, number: int, names: list[str], workers: int) -> dict[str, Figures]:
        """These beside a training step; each has more rows than it can get ready meanwhile."""
        entries = {}
        for name in turned(names, number):
            batches = 1 + STEP_BATCHES + LAPS * CONTENDERS[name].at_once(workers)
            entries[name] = self.one("step", name, batches * BATCH + 2 * CONNECTIONS, workers)
            say(number, name, entries[name])
        return entries

    def one(self, what: str, name: str, rows: int, workers: int) -> Figures:
        """A process of its own."""
        listing = self.folder / "urls.txt"
        listing.write_text("\n".join(self.server.image_urls(rows)) + "\n", encoding="utf-8")
        done = measure(
            [
                sys.executable, str(HERE / "stream_contenders.py"), what, name, "--list", str(listing),
                "--corpus", str(self.folder / "corpus"), "--workers", str(workers), "--begun", str(time.monotonic()),
            ],
            # The floor gets the allocator's settings that Penstock's workers have: it is to be as low as it can be.
            dict.fromkeys(THREADS_VARIABLES, "1") | (ALLOCATOR_VARIABLES if name == "floor" else {}),
        )  # fmt: skip
        figures: Figures = json.loads(done.output)
        return figures | {"peak": done.peak_bytes}


def turned(names: list[str], number: int) -> list[str]:
    """Each round begins with another one."""
    start = number % len(names)
    return names[start:] + names[:start]


def say(number: int, name: str, figures: Figures) -> None:
    shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    print(f"round {number}: {name}: {shown}", file=sys.stderr)


def by_name(rounds: Iterable[dict[str, Figures]]) -> Results:
    results: Results = {name: [] for name in CONTENDERS}
    for entries in rounds:
        for name, figures in entries.items():
            results[name].append(figures)
    return {name: figures for name, figures in results.items() if figures}


def stepping(speed: Results) -> list[str]:
    """Of each family the quickest, and all of SPDL's forms: one of them is made for the sake of the step."""
    return [name for name in speed if CONTENDERS[name].family == "SPDL" or name == best(speed, CONTENDERS[name].family)]


# ---- figures


def rate(entry: Figures) -> float:
    return entry["steady_images"] / entry["steady_wall"]


def cpu(entry: Figures) -> float:
    return 1000 * entry["steady_cpu"] / entry["steady_images"]


def slow_down(entry: Figures) -> float:
    return entry["beside"] / entry["alone"]


def median(entries: list[Figures], figure: Figure) -> float:
    return statistics.median(figure(entry) for entry in entries)


def spread(entries: list[Figures], figure: Figure, form: str) -> str:
    values = sorted(figure(entry) for entry in entries)
    return f"{statistics.median(values):{form}} ({values[0]:{form}}–{values[-1]:{form}})"


def best(speed: Results, family: str) -> str:
    """The quickest of a family, by the median of its rounds."""
    members = [name for name in speed if CONTENDERS[name].family == family]
    return max(members, key=lambda name: median(speed[name], rate))


# ---- render


def render(*, check: bool) -> int:
    """Fill the block of the page; with `check` only say whether it is stale."""
    return fill("stream", block(json.loads(RESULTS.read_text(encoding="utf-8"))), check=check)


def block(stored: dict[str, Any]) -> str:
    speed, step = stored["speed"], stored["step"]
    facts = ", ".join(f"{name} {value}" for name, value in stored["facts"].items())
    return "\n\n".join(
        [speed_table(speed), step_table(step), aims_table(speed, step), f"Machine and versions: {facts}."]
    )


def speed_table(speed: Results) -> str:
    """Medians, with the smallest and largest beside them; the quickest of each family is set in bold."""
    lines = [
        "| loader | images/s | of the floor | first batch, s after the call | s before the call | CPU ms an image | peak MB |",
        "| --- |" + " ---: |" * 6,
    ]
    floor = median(speed["floor"], rate)
    for name, entries in speed.items():
        shown = f"**{name}**" if name == best(speed, CONTENDERS[name].family) else name
        lines.append(
            f"| {shown} | {spread(entries, rate, '.0f')} | {median(entries, rate) / floor:.0%} "
            f"| {spread(entries, lambda entry: entry['first_batch'], '.2f')} "
            f"| {median(entries, lambda entry: entry['before_call']):.2f} "
            f"| {spread(entries, cpu, '.2f')} | {median(entries, lambda entry: entry['peak'] / 1e6):.0f} |"
        )
    return "\n".join(lines)


def step_table(step: Results) -> str:
    lines = [
        "| beside the step | step alone, ms | step beside it, ms | slow-down | images/s meanwhile | waited for batches |",
        "| --- |" + " ---: |" * 5,
    ]
    lines += [
        f"| {name} | {median(entries, lambda entry: 1000 * entry['alone']):.1f} "
        f"| {spread(entries, lambda entry: 1000 * entry['beside'], '.1f')} | {spread(entries, slow_down, '.2f')} "
        f"| {median(entries, lambda entry: entry['rate']):.0f} | {median(entries, lambda entry: entry['waiting']):.0%} |"
        for name, entries in step.items()
    ]
    return "\n".join(lines)


def aims_table(speed: Results, step: Results) -> str:
    ours = speed["penstock.stream"]
    lines = ["| aim, by medians | measured | |", "| --- | --- | --- |"]
    for family, least in (("SPDL", 1.0), ("threads", 1.5), ("naive", 3.0)):
        other = best(speed, family)
        ratio = median(ours, rate) / median(speed[other], rate)
        lines.append(aim(f"images/s ≥ {least:g} times {other}", f"{ratio:.2f} times", reached=ratio >= least))
    first = median(ours, lambda entry: entry["first_batch"])
    lines.append(aim("first batch within 1.5 s of the call", f"{first:.2f} s", reached=first <= 1.5))
    slower = median(step["penstock.stream"], slow_down) - 1
    lines.append(aim("step within 10 % of the step alone", f"{slower:+.1%}", reached=slower <= 0.1))
    return "\n".join(lines)


def aim(what: str, figure: str, *, reached: bool) -> str:
    return f"| {what} | {figure} | {'reached' if reached else 'missed'} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
