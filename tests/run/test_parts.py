"""Whole runs over rows of several parts: images, lists of images, texts, columns."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from penstock.cli import main
from penstock.parts import Part
from penstock.testing.server import ImageServer
from run.transforms import invert_in_place, length_head_and_name

RunFunction = Callable[..., penstock.Report]

STRATEGIES = ["threads", "processes", "hybrid", "asyncio"]
TEXT = "一只黑猫坐在窗台上，望着外面的花园。天气很好，阳光照在它的身上。"

PARTS: dict[str, Part] = {
    "jpg": penstock.Image("image_url", size=24),
    "txt": penstock.Text("text_url"),
    "views": penstock.Images("image_urls", at_most=2, encode="png", required=False),
    "caption": penstock.Column("caption"),
}
ROWS = 24
REASONS = {"content.not_image": 1, "content.not_text": 1, "http.not_found": 2}


def items_of(server: ImageServer) -> list[dict[str, Any]]:
    """Rows of which four fail (by the text, the image, what they turn out to be) and one lacks its optional images."""
    urls = server.image_urls(ROWS)
    items: list[dict[str, Any]] = [
        {
            "image_url": url,
            "text_url": f"{server.url}/charset/gb18030/{quote(TEXT)}?i={index}",
            "image_urls": urls[index : index + 3],
            "caption": f"number {index}",
            "n": index,
        }
        for index, url in enumerate(urls)
    ]
    items[3]["text_url"] = f"{server.url}/status/404?i=3"
    items[5]["image_urls"] = [f"{server.url}/html", f"{server.url}/status/404?i=5", urls[0]]
    items[7]["image_url"] = f"{server.url}/status/404?i=7"
    items[9]["caption"] = None
    items[11]["image_url"] = f"{server.url}/html?i=11"
    items[13]["text_url"] = urls[13]
    items[15]["image_urls"] = []
    return items


@pytest.fixture
def items(image_server: ImageServer) -> list[dict[str, Any]]:
    return items_of(image_server)


@pytest.fixture
def listing(items: list[dict[str, Any]], tmp_path: Path) -> Path:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(items), path)
    return path


def table(folder: Path) -> list[dict[str, Any]]:
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [{**row, "parts": json.loads(row["parts"])} for row in rows]


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """What is in the tars, by key and ending."""
    samples: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples[key][ending] = file.read()
    return dict(samples)


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the shards, but for the statistics, which hold times."""
    paths = [path for path in folder.iterdir() if path.suffix in (".tar", ".parquet")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_with_their_texts(run: RunFunction, listing: Path, tmp_path: Path, strategy: str) -> None:
    """A row is written when its required parts are there, one member a part; the table tells of each part."""
    report = run(listing, parts=PARTS, keep_columns=("n",), strategy=strategy)
    assert (report.rows, report.written, report.failed, report.skipped) == (24, 20, 4, 0)
    assert report.reasons == REASONS
    assert penstock.verify(tmp_path / "out") == []
    samples = members(tmp_path / "out")
    assert set(samples["000000000"]) == {"jpg", "txt", "views.0.png", "views.1.png", "caption.txt", "json"}
    assert samples["000000000"]["txt"].decode() == TEXT
    assert samples["000000000"]["caption.txt"] == b"number 0"
    assert set(samples["000000005"]) == set(samples["000000015"]) == {"jpg", "txt", "caption.txt", "json"}
    assert "caption.txt" not in samples["000000009"]
    assert json.loads(samples["000000005"]["json"])["parts"]["views.1"]["reason"] == "http.not_found"
    rows = table(tmp_path / "out")
    assert (rows[0]["width"], rows[0]["n"], rows[0]["caption"]) == (24, 0, "number 0")
    assert rows[0]["parts"]["views.1"]["left_out"] == 1
    assert (rows[0]["parts"]["txt"]["encoding"], rows[0]["parts"]["txt"]["encoding_from"]) == ("gb18030", "detected")
    assert [rows[5]["parts"][name]["reason"] for name in ("views.0", "views.1")] == [
        "content.not_image",
        "http.not_found",
    ]
    assert rows[15]["parts"]["views.0"] == {"reason": "url.missing"}
    assert (rows[3]["reason"], rows[3]["error_message"]) == ("http.not_found", "part txt: HTTP 404")
    assert rows[3]["parts"]["jpg"]["http_status"] == 200
    assert (rows[11]["reason"], rows[13]["reason"]) == ("content.not_image", "content.not_text")
    assert rows[13]["parts"]["txt"]["reason"] == "content.not_text"


@pytest.mark.slow
def test_shards_do_not_depend_on_strategy_or_lanes(run: RunFunction, listing: Path, tmp_path: Path) -> None:
    """To the byte."""
    made = []
    settings: list[dict[str, Any]] = [*({"strategy": strategy} for strategy in STRATEGIES), {"lanes": 2}]
    for number, options in enumerate(settings):
        run(listing, str(number), parts=PARTS, workers=2, shard_size=8, **options)
        made.append(contents(tmp_path / str(number)))
    assert all(one == made[0] for one in made)
    assert len(made[0]) == 6


def test_files_and_parquet(run: RunFunction, listing: Path, tmp_path: Path) -> None:
    """The other formats hold the same; in parquet texts are text, and columns are those of the table."""
    run(listing, "files", parts=PARTS, format="files")
    assert penstock.verify(tmp_path / "files") == []
    names = {path.name for path in (tmp_path / "files/00000").glob("000000000.*")}
    assert names == {f"000000000.{end}" for end in ("jpg", "txt", "views.0.png", "views.1.png", "caption.txt", "json")}
    run(listing, "tables", parts=PARTS, format="parquet", keep_columns=("n",))
    assert penstock.verify(tmp_path / "tables") == []
    whole = pq.read_table(tmp_path / "tables/00000.parquet")
    assert whole.schema.names[-6:] == ["n", "caption", "jpg", "txt", "views.0", "views.1"]
    assert whole.schema.field("txt").type == pa.string()
    row = whole.to_pylist()[0]
    assert (row["txt"], row["caption"], row["jpg"][:2]) == (TEXT, "number 0", b"\xff\xd8")


def test_arrays(run: RunFunction, listing: Path, tmp_path: Path) -> None:
    """One array a part; `penstock.load` gives the one called ``image``."""
    parts = {
        "image": penstock.Image("image_url"),
        "small": penstock.Image("image_url", size=8),
        "caption": penstock.Column("caption"),
    }
    assert run(listing, parts=parts, format="arrays").written == 22
    assert penstock.load(tmp_path / "out").shape == (22, 32, 32, 3)
    assert np.load(tmp_path / "out/00001.small.npy").shape == (8, 8, 8, 3)
    assert penstock.load(tmp_path / "out").fields["caption"][0].as_py() == "number 0"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the package leaves closing to the collector
def test_webdataset_reads_them(run: RunFunction, listing: Path, tmp_path: Path) -> None:
    """The library that the format is made for decodes each part by its ending."""
    webdataset = pytest.importorskip("webdataset")
    run(listing, parts=PARTS, shard_size=100)
    dataset = webdataset.WebDataset(str(tmp_path / "out/00000.tar"), shardshuffle=False).decode("rgb8")
    samples = list(dataset)
    assert len(samples) == 20
    assert samples[0]["jpg"].shape == (24, 24, 3)
    assert samples[0]["views.1.png"].shape == (32, 32, 3)
    assert (samples[0]["txt"], samples[0]["caption.txt"]) == (TEXT, "number 0")


def test_retry_failed_asks_for_the_whole_row(run: RunFunction, image_server: ImageServer, tmp_path: Path) -> None:
    """A failed row is fetched again with all its parts and columns, as they stand in the table."""
    items = items_of(image_server)
    items[2]["image_urls"] = [f"{image_server.url}/flaky/1/{image_server.pictures[0]}?id={tmp_path.name}"] * 3
    parts = {**PARTS, "views": penstock.Images("image_urls", at_most=1)}
    first = run(items, parts=parts, retries=0, keep_columns=("n",))
    assert first.reasons["http.server_error"] == 1
    last = run(items, parts=parts, retries=0, keep_columns=("n",), retry_failed=True)
    assert last.written == first.written + 1
    assert penstock.verify(tmp_path / "out") == []
    assert set(members(tmp_path / "out")["000000002"]) == {"jpg", "txt", "views.0.jpg", "caption.txt", "json"}
    row = next(row for row in table(tmp_path / "out") if row["key"] == "000000002" and row["outcome"] == "written")
    assert (row["n"], row["caption"], row["parts"]["views.0"]["left_out"]) == (2, "number 2", 2)


def test_dedup_compares_all_the_urls(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """A row is a duplicate if it asks for the same things, not if only its image is the same; gaps count as such."""
    other = {**items[0], "text_url": items[1]["text_url"]}
    report = run([items[0], other, items[0], items[15], items[15]], parts=PARTS, dedup=True)
    assert report.reasons == {"policy.duplicate": 2}
    assert [row["outcome"] for row in table(tmp_path / "out")] == [
        "written",
        "written",
        "skipped",
        "written",
        "skipped",
    ]


def test_a_required_column_without_a_value(
    run: RunFunction, items: list[dict[str, Any]], image_server: ImageServer
) -> None:
    """Such a row is skipped, and nothing of it is fetched."""
    before = image_server.statistics().requests
    report = run(items[9:10], parts={**PARTS, "caption": penstock.Column("caption", required=True)})
    assert report.reasons == {"policy.no_value": 1}
    assert image_server.statistics().requests == before


def test_transforms(run: RunFunction, listing: Path, tmp_path: Path) -> None:
    """A function of the pixels is called for each image; one of the bytes does not know which part it would get."""
    with pytest.raises(penstock.ConfigError, match="with parts, give transform_image"):
        run(listing, parts=PARTS, transform=length_head_and_name)
    assert not (tmp_path / "out").exists()
    run(listing, "plain", parts=PARTS)
    run(listing, "negative", parts=PARTS, transform_image=invert_in_place)
    plain, turned = members(tmp_path / "plain"), members(tmp_path / "negative")
    assert plain.keys() == turned.keys()
    assert plain["000000000"]["jpg"] != turned["000000000"]["jpg"]
    assert plain["000000000"]["txt"] == turned["000000000"]["txt"]


def test_parts_are_part_of_a_runs_identity(run: RunFunction, listing: Path) -> None:
    """The same parts go on; others are another run."""
    run(listing, parts=PARTS)
    assert run(listing, parts=dict(PARTS)).rows_before == ROWS
    with pytest.raises(penstock.OutputRefusedError, match="--parts was"):
        run(listing, parts={"jpg": PARTS["jpg"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": {**PARTS, "url": penstock.Text("text_url")}, "format": "parquet"}, "part 'url': the shards' table"),
        ({"parts": {**PARTS, "link": penstock.Column("url")}}, "the shards' table has a column of that name"),
        ({"parts": {**PARTS, "gone": penstock.Text("gone")}}, r"no column 'gone' \(--parts gone\)"),
        ({"parts": PARTS, "keep_columns": ("parts",)}, "--keep-columns parts"),
        ({"format": "parquet", "keep_columns": ("jpg",)}, "--keep-columns jpg: the image"),
    ],
)
def test_refused_before_anything_is_made(
    run: RunFunction, items: list[dict[str, Any]], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Names that are taken, and columns that are not there."""
    for item in items:
        item["url"] = item["parts"] = item["jpg"] = "x"
    with pytest.raises(penstock.PenstockError, match=message):
        run(items, **options)
    assert not (tmp_path / "out").exists()


# ---- the command line

TOML = """
[jpg]
image = "image_url"
size = 24
[txt]
text = "text_url"
[views]
images = "image_urls"
at_most = 2
encode = "png"
required = false
[caption]
column = "caption"
"""
OPTIONS = ["--allow-network", "127.0.0.0/8", "--size", "32", "--per-host", "64", "--workers", "1", "--shard-size", "8"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "parts.toml"
    path.write_text(TOML)
    return path


def test_command_line(
    run: RunFunction, listing: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--parts FILE`` makes what Python makes; the other commands read it."""
    out = tmp_path / "typed"
    assert main(["run", str(listing), "--out", str(out), *OPTIONS, "--parts", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 20
    run(listing, parts=PARTS, shard_size=8)
    assert contents(out) == contents(tmp_path / "out")
    assert main(["verify", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    assert main(["failures", str(out)]) == 0
    assert "part txt: HTTP 404" in " ".join(capsys.readouterr().out.split())


def test_parts_in_the_config_file(listing: Path, file: Path, tmp_path: Path) -> None:
    """There they are a table, or the name of a file."""
    config = tmp_path / "run.toml"
    for text in (TOML.replace("[", "[parts."), f"parts = '{file}'"):
        config.write_text(f"size = 32\n{text}")
        out = tmp_path / hashlib.sha256(text.encode()).hexdigest()
        assert main(["run", str(listing), "--out", str(out), "--config", str(config), *OPTIONS, "--quiet"]) == 0
        assert len(members(out)) == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[jpg]\nimage = "u"\nsise = 3', "part 'jpg': unknown key 'sise'; did you mean 'size'?"),
        ("[jpg]", "part 'jpg': has no key; expected exactly one of image, images, text, column"),
        ("[jpg", "not TOML"),
        ('[png]\nimage = "image_url"', "part 'png' would be stored as jpg; give it another name, or encode 'png'"),
    ],
)
def test_wrong_files(
    listing: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what to do, and exit code 2."""
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert main(["run", str(listing), "--out", str(tmp_path / "out"), "--parts", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def size_of(path: Path) -> int:
    """Bytes of a file, which may be gone by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_killed_runs_go_on(listing: Path, file: Path, tmp_path: Path) -> None:
    """After SIGKILL the same command ends with the shards of an unbroken run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [
        sys.executable,
        "-m",
        "penstock",
        "run",
        str(listing),
        *OPTIONS,
        "--parts",
        str(file),
        "--quiet",
        "--out",
    ]
    subprocess.run([*command, str(whole)], check=True, timeout=60)
    process = subprocess.Popen([*command, str(broken)], start_new_session=True)
    spools = broken / ".penstock/spool"
    while process.poll() is None and not any(size_of(path) > 5000 for path in spools.glob("*")):
        time.sleep(0.001)  # polls a condition
    os.killpg(process.pid, signal.SIGKILL)  # before its end was waited for, so that the group still is its own
    assert process.wait() == -signal.SIGKILL, "it was to be killed in the midst of its work"
    subprocess.run([*command, str(broken)], check=True, timeout=60)
    assert contents(broken) == contents(whole)
    assert penstock.verify(broken) == []
