"""Peak memory of a short and of a long run: it must not grow with the list.

    python benchmarks/bench_memory.py

The pictures are the main benchmark's; the list is one txt file, the strategy and all limits are the defaults.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from measure import measure

from penstock.testing.server import ImageServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="10000,100000", help="rows, separated by commas")
    options = parser.parse_args()
    print("| rows | written | seconds | peak memory of all processes, MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ImageServer(count=200, latency=0.05) as server:
        for count in map(int, options.counts.split(",")):
            listing = Path(folder, f"{count}.txt")
            listing.write_text("\n".join(server.image_urls(count)) + "\n")
            done = measure(
                [
                    sys.executable, "-m", "penstock", "run", str(listing), "--out", str(Path(folder, str(count))),
                    "--size", "128", "--per-host", "256", "--allow-network", "127.0.0.0/8", "--json",
                ]
            )  # fmt: skip
            written = json.loads(done.output)["written"]
            print(f"| {count} | {written} | {done.wall:.0f} | {done.peak_bytes / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
