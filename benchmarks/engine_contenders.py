"""One contender of `bench_engines`, in a process of its own.

    python engine_contenders.py "penstock, Ray" --list urls.parquet --warm few.parquet --folder DIR --cores 2

It prints one line of JSON. `bench_engines` runs them all in turn, and measures their memory and the whole of their time from
outside.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq
from engines.job import Contest, Job


@dataclass(frozen=True, slots=True)
class Contender:
    """Where it is, and how it is set."""

    family: str
    """Who is compared: of each family the quickest."""
    module: str
    function: str
    share: int = 1
    """It gets one row in so many: it is that slow, and its rate does not depend on their number."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its environment."""


CONTENDERS = {
    "penstock": Contender("local", "penstock_run", "local"),
    "penstock, a lane a core": Contender("local", "penstock_run", "lanes"),
    "penstock, Ray": Contender("on Ray", "penstock_run", "on_ray"),
    "penstock, Dask": Contender("on Dask", "penstock_run", "on_dask"),
    "Ray Data, download": Contender(
        "Ray Data", "ray_data", "downloading", share=2, variables={"RAY_DATA_USE_OBSTORE": "0"}
    ),
    "Ray Data, download by obstore": Contender("Ray Data", "ray_data", "downloading", share=2),
    "Ray Data, threads": Contender("Ray Data, by hand", "ray_data", "threads", share=2),
    "Daft": Contender("Daft", "daft_frame", "native", share=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--list", type=Path, required=True, help="parquet with the column url")
    parser.add_argument("--warm", type=Path, required=True, help="a short one, done before")
    parser.add_argument("--folder", type=Path, required=True, help="where it may write")
    parser.add_argument("--cores", type=int, required=True)
    options = parser.parse_args()
    contender = CONTENDERS[options.name]
    contest = cast("Contest", getattr(importlib.import_module(f"engines.{contender.module}"), contender.function))
    rows = pq.ParquetFile(options.list).metadata.num_rows
    with contest(Job(options.list, rows, options.warm, options.folder, options.cores)) as run:
        figures = run()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
