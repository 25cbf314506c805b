"""`penstock.run` on one machine, on Ray and on Dask, beside what Ray Data and Daft make of the same list.

    python benchmarks/bench_engines.py measure              # results/engines.json, and the block of docs/benchmarks.md
    python benchmarks/bench_engines.py measure --quick      # one small round, printed only
    python benchmarks/bench_engines.py render --check       # change nothing; exit with 1 if the page is stale

It needs the extras `ray`, `dask` and `bench`. A server in a process of its own serves generated pictures, as in `bench_main`.
Every contender is measured in a process of its own, with its cluster inside it, and they take turns, each round from
another one on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bench_stream import Results, aim, cpu, median, rate, say, spread, turned
from engine_contenders import CONTENDERS
from engines.job import SHARD, WARM_ROWS, Figures
from measure import measure
from pages import fill

from penstock.report.machine import machine_facts
from penstock.testing.images import make_images
from penstock.testing.server import ImageServer

HERE = Path(__file__).parent
RESULTS = HERE / "results/engines.json"

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1", "SCARF_NO_ANALYTICS": "1"}
"""Nobody is told that this was run."""

QUICK_COUNT = 2000
PACKAGES = ("ray", "dask", "distributed", "obstore", "daft")


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    if options.part == "render":
        return render(check=options.check)
    if options.quick:
        options.count, options.runs = QUICK_COUNT, 1
    with tempfile.TemporaryDirectory() as folder:
        stored = measured(options, Path(folder))
    if options.add:
        stored = together(json.loads(RESULTS.read_text(encoding="utf-8")), stored)
    print(block(stored))
    if options.save or not options.quick:
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        render(check=False)
    return 0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("render").add_argument("--check", action="store_true")
    measuring = parts.add_parser("measure")
    measuring.add_argument("--count", type=int, default=4000, help="images; some get fewer")
    measuring.add_argument("--pictures", type=int, default=200, help="distinct pictures")
    measuring.add_argument("--runs", type=int, default=3)
    measuring.add_argument("--cores", type=int, default=machine_facts()["cores"], help="of each cluster")
    measuring.add_argument("--latency", type=float, default=0.05, help="seconds")
    measuring.add_argument("--only", nargs="*", choices=CONTENDERS, help="these and no others")
    measuring.add_argument("--quick", action="store_true", help=f"one round of {QUICK_COUNT} images; not stored")
    measuring.add_argument("--add", action="store_true", help="rounds to those that are stored, of the same machine")
    measuring.add_argument("--save", action="store_true", help="store all the same")
    return parser.parse_args(arguments)


# ---- measure


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What is stored: the machine, and of every contender one entry a round."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for picture in make_images(options.pictures):
        (corpus / picture.name).write_bytes(picture.data)
    names = options.only or list(CONTENDERS)
    results: Results = {name: [] for name in names}
    with ImageServer(corpus=corpus, latency=options.latency) as server:
        bench = Bench(folder, server, options.cores)
        for number in range(1, options.runs + 1):
            for name in turned(names, number):
                results[name].append(bench.one(name, number, options.count))
                say(number, name, results[name][-1])
    facts = machine_facts() | {name: version(name) for name in PACKAGES}
    chosen = {name: getattr(options, name) for name in ("count", "pictures", "runs", "cores", "latency")}
    return {"facts": facts | chosen | {"shard_size": SHARD}, "results": results}


@dataclass(frozen=True, slots=True)
class Bench:
    """Runs the contenders, one after the other. Each warms itself, so there is no round for that."""

    folder: Path
    server: ImageServer
    cores: int

    def one(self, name: str, number: int, count: int) -> Figures:
        """A process of its own."""
        contender = CONTENDERS[name]
        work = self.folder / f"{list(CONTENDERS).index(name)}-{number}"
        work.mkdir()
        done = measure(
            [
                sys.executable, str(HERE / "engine_contenders.py"), name, "--folder", str(work),
                "--list", str(self.listing(work / "list.parquet", count // contender.share)),
                "--warm", str(self.listing(work / "few.parquet", WARM_ROWS)), "--cores", str(self.cores),
            ],
            QUIET | dict(contender.variables),
        )  # fmt: skip
        figures: Figures = json.loads(done.output)
        return figures | {"wall": done.wall, "peak": done.peak_bytes}

    def listing(self, path: Path, rows: int) -> Path:
        """A list. Ray Data's obstore asks for ``?`` as ``%3F``, which no server knows: so URLs have no query."""
        urls = [url.partition("?")[0] for url in self.server.image_urls(rows)]
        pq.write_table(pa.table({"url": urls}), path, row_group_size=SHARD)
        return path


def together(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """More rounds of some contenders: where two are close, three rounds do not tell."""
    results = {name: [*entries, *later["results"].get(name, [])] for name, entries in earlier["results"].items()}
    rounds = sorted({len(entries) for entries in results.values()})
    return {"facts": earlier["facts"] | {"runs": " or ".join(map(str, rounds))}, "results": results}


# ---- render


def render(*, check: bool) -> int:
    """Fill the block of the page; with `check` only say whether it is stale."""
    return fill("engines", block(json.loads(RESULTS.read_text(encoding="utf-8"))), check=check)


def block(stored: dict[str, Any]) -> str:
    results = stored["results"]
    facts = ", ".join(f"{name} {value}" for name, value in stored["facts"].items())
    return "\n\n".join([table(results), aims_table(results), f"Machine and versions: {facts}."])


def table(results: Results) -> str:
    """Medians, with the smallest and largest beside them; the quickest of each family is set in bold."""
    lines = [
        "| what | images/s | of penstock | CPU ms an image | images/s of the call | s, start to exit | for images | peak MB |",
        "| --- |" + " ---: |" * 7,
    ]
    ours = best_rate(results, "local")
    for name, entries in results.items():
        shown = f"**{name}**" if name == best(results, CONTENDERS[name].family) else name
        lines.append(
            f"| {shown} | {spread(entries, rate, '.0f')} | {share(median(entries, rate), ours)} "
            f"| {spread(entries, cpu, '.2f')} | {median(entries, call_rate):.0f} "
            f"| {median(entries, lambda entry: entry['wall']):.0f} | {entries[0]['images']:.0f} "
            f"| {median(entries, lambda entry: entry['peak'] / 1e6):.0f} |"
        )
    return "\n".join(lines)


def aims_table(results: Results) -> str:
    lines = ["| aim, by medians | measured | |", "| --- | --- | --- |"]
    for ours, theirs, least in (
        ("on Ray", "local", 0.9),
        ("on Dask", "local", 0.9),
        ("on Ray", "Ray Data", 2.5),
        ("local", "Daft", 2.5),
    ):
        names = best(results, ours), best(results, theirs)
        if names[0] is None or names[1] is None:
            continue
        ratio = best_rate(results, ours) / best_rate(results, theirs)
        lines.append(aim(f"{names[0]} ≥ {least:g} times {names[1]}", f"{ratio:.2f} times", reached=ratio >= least))
    if by_hand := best_rate(results, "Ray Data, by hand"):
        ratio = best_rate(results, "on Ray") / by_hand
        lines.append(f"| penstock, Ray, beside Ray Data, threads | {ratio:.2f} times | no aim was set |")
    return "\n".join(lines)


def call_rate(entry: Figures) -> float:
    return entry["images"] / entry["call"]


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def best(results: Results, family: str) -> str | None:
    """The quickest of a family, by the median of its rounds; None if none of it was measured."""
    members = [name for name in results if CONTENDERS[name].family == family]
    return max(members, key=lambda name: median(results[name], rate), default=None)


def best_rate(results: Results, family: str) -> float:
    name = best(results, family)
    return 0.0 if name is None else median(results[name], rate)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
