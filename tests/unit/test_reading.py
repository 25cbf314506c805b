"""Shards as a source of rows and bytes: positions, parts, places, and what is damaged."""

from __future__ import annotations

import dataclasses
import json
import pickle
import queue
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from penstock.config import FetchConfig, ImageConfig, OutputConfig
from penstock.errors import ConfigError, ItemError, PenstockError, SourceError
from penstock.fetch.budget import ByteBudget
from penstock.fetch.policy.urls import UrlRules, check_url
from penstock.image.work import ImageTransformWork, ImageWork, InitializedWork, Steps, TransformWork
from penstock.parts import Column, Images, Part, Text
from penstock.parts import Image as ImagePart
from penstock.reading import ShardFetcher, ShardSource, is_shards, stored_work
from penstock.reading.places import Place
from penstock.records import Failure, Fetched, Kind, Outcome, Reason, Request, Row, Sample, Settled, Value
from penstock.sink.shards import ShardStore

FORMATS = ["webdataset", "parquet", "files", "arrays"]
INDICES = [0, 1, 3, 4, 6, 7, 12, 13, 9, 10]
"""The written rows of `make_folder`, in the order of the shards."""

Answers = dict[int, tuple[Fetched | Failure, ...]]


def pixels(index: int) -> np.ndarray:
    """A picture of its own for each row."""
    return np.random.default_rng(index).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def bytes_of(form: str, index: int) -> bytes:
    """What is stored of a row by `make_folder`."""
    return pixels(index).tobytes() if form == "arrays" else b"row %d" % index * (1 + index)


def commit(folder: Path, shard: int, samples: Mapping[int, Mapping[str, Value] | None], **options: Any) -> None:
    """A shard of these samples, None for a failed row, with its journal line."""
    options = {"format": "webdataset", "caption_column": "caption", "keep_columns": ("n",)} | options
    own = {name: options.pop(name, None) for name in ("transform", "transform_image")}
    config = OutputConfig(**options)
    store = ShardStore(folder, config, run_id="")
    spool = store.open(shard)
    for index, parts in samples.items():
        row = Row(index, (Request("image", f"https://example.com/{index}"),), f"caption {index}", {"n": index * 10})
        if parts is None:
            spool.add(Settled(Outcome(row, Kind.FAILED, Reason.HTTP_GONE)))
        else:
            spool.add(Settled(Outcome(row, Kind.WRITTEN), Sample(parts)))
    with (folder / ".penstock" / "journal.jsonl").open("a") as journal:
        if not journal.tell():
            images = {"size": 6, "resize": "crop", "encode": "jpg"}
            run = {"version": 1, "run_id": "a", "source": None, "options": images | config.as_dict() | own}
            journal.write(json.dumps({"run": run}) + "\n")
        journal.write(json.dumps(dataclasses.asdict(spool.commit())) + "\n")
    store.forget(shard)


def make_folder(folder: Path, form: str = "webdataset") -> Path:
    """Three shards with something, one with nothing; every third row has failed; the last shard has earlier keys."""
    for shard, indices in enumerate([[0, 1, 2, 3, 4], [5, 8], [6, 7, 12, 13], [9, 10]]):
        part = "image" if form == "arrays" else "jpg"
        samples = {
            index: None if index % 3 == 2 else {part: pixels(index) if form == "arrays" else bytes_of(form, index)}
            for index in indices
        }
        commit(folder, shard, samples, format=form)
    return folder


def unexpected(error: PenstockError) -> None:
    """An `OnBroken` that fails the test."""
    raise error


def fetch(folder: Path, rows: list[Row], limit: int = 2**20, texts: tuple[str, ...] = ()) -> Answers:
    """What the fetcher delivers for these rows; each is released as soon as it has come."""
    answers: queue.SimpleQueue[tuple[Row, tuple[Fetched | Failure, ...]]] = queue.SimpleQueue()
    budget, fetcher = ByteBudget(limit), ShardFetcher(folder, texts)
    came: Answers = {}
    fetcher.start(lambda row, parts: answers.put((row, parts)), budget, unexpected)
    try:
        for row in rows:
            fetcher.submit(row)
        for _ in rows:
            row, parts = answers.get(timeout=20)
            budget.release(sum(len(part.data) for part in parts if isinstance(part, Fetched)))
            came[row.index] = parts
    finally:
        fetcher.close()
    assert budget.used == 0
    return came


def data_of(answers: Answers) -> dict[int, dict[str, bytes]]:
    """Bytes by row and part, where nothing has failed."""
    return {
        index: {part.part: part.data for part in parts if isinstance(part, Fetched)}
        for index, parts in answers.items()
        if not any(isinstance(part, Failure) for part in parts)
    }


@pytest.mark.parametrize("form", FORMATS)
def test_written_rows_and_their_bytes(tmp_path: Path, form: str) -> None:
    """Rows come in the order of the shards, under their own keys, and the fetcher gives what was stored."""
    folder = make_folder(tmp_path, form)
    source = ShardSource(folder)
    rows = list(source.rows())
    assert [row.index for row in rows] == INDICES
    assert (source.count, source.format, source.rereadable) == (10, form, True)
    assert [row.caption for row in rows] == [f"caption {index}" for index in INDICES]
    assert [row.fields for row in rows] == [{"n": index * 10} for index in INDICES]
    assert data_of(fetch(folder, rows)) == {index: {"image": bytes_of(form, index)} for index in INDICES}


@pytest.mark.parametrize("form", FORMATS)
def test_positions_count_written_rows(tmp_path: Path, form: str) -> None:
    """Every slice of rows is that slice of all of them."""
    source = ShardSource(make_folder(tmp_path, form))
    rows = list(source.rows())
    for start in range(12):
        assert list(source.rows(start)) == rows[start:]
        assert list(source.rows(start, start + 3)) == rows[start : start + 3]
    assert list(source.rows(5, 2)) == []


def test_skipped_shards_are_not_opened(tmp_path: Path) -> None:
    """Rows from the third shard on need no file of the first two."""
    source = ShardSource(make_folder(tmp_path))
    for path in [*tmp_path.glob("00000*"), *tmp_path.glob("00001*")]:
        path.unlink()
    assert [row.index for row in source.rows(4)] == INDICES[4:]


def test_a_spec_opens_the_same_shards_elsewhere(tmp_path: Path) -> None:
    """It survives pickling, with the kept columns."""
    source = ShardSource(make_folder(tmp_path), keep_columns=["status"])
    again = pickle.loads(pickle.dumps(source.spec)).open()
    assert list(again.rows()) == list(source.rows())
    assert again.fingerprint == source.fingerprint
    assert next(again.rows()).fields == {"status": "success"}


def test_fingerprint(tmp_path: Path) -> None:
    """It is JSON, stays when the folder is moved, and changes with a further shard."""
    folder = make_folder(tmp_path / "a")
    before = ShardSource(folder).fingerprint
    moved = folder.rename(tmp_path / "b")
    assert ShardSource(moved).fingerprint == before == json.loads(json.dumps(before))
    commit(moved, 4, {15: {"jpg": b"x"}})
    assert ShardSource(moved).fingerprint != before


def test_only_committed_shards_count(tmp_path: Path) -> None:
    """A shard without a whole journal line is not there, whatever its files say."""
    journal = make_folder(tmp_path) / ".penstock" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:-5])
    assert [row.index for row in ShardSource(tmp_path).rows()] == INDICES[:4]


def test_is_shards(tmp_path: Path) -> None:
    """A folder with a journal is one; other folders, lists and texts of any length are not."""
    make_folder(tmp_path / "out")
    assert is_shards(tmp_path / "out")
    assert is_shards(str(tmp_path / "out"))
    others = [
        tmp_path,
        "urls.txt",
        "https://example.com/a.txt",
        "x" * 10_000,
        "\0",
        ["a"],
        None,
        tmp_path / "out" / "00000.tar",
    ]
    assert not any(map(is_shards, others))


def test_what_cannot_be_a_source(tmp_path: Path) -> None:
    """No run, nothing written, an unknown column, a missing table: each is a SourceError that says which."""
    with pytest.raises(SourceError, match="not the output of a run"):
        ShardSource(tmp_path)
    commit(tmp_path / "none", 0, {2: None})
    with pytest.raises(SourceError, match="no committed shard with a written row"):
        ShardSource(tmp_path / "none")
    folder = make_folder(tmp_path / "out")
    with pytest.raises(SourceError, match=r"no column 'widht' \(--keep-columns\).*did you mean 'width'"):
        ShardSource(folder, keep_columns=["widht"])
    source = ShardSource(folder)
    (folder / "00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"00002\.parquet cannot be read.*penstock verify"):
        list(source.rows())


PARTS: dict[str, Part] = {
    "caption": Column("c"),
    "abstract": Text("t", required=False),
    "views": Images("v", at_most=11, resize="none", required=False),
    "photo": ImagePart("p", encode="png"),
}
MEMBERS: dict[str, Value] = {
    "abstract.txt": "Änderung".encode(),
    "caption.txt": b"a cat",
    **{f"views.{number}.jpg": b"view %d" % number for number in range(11)},
    "photo.png": b"p",
}
VIEWS = [f"views.{number}" for number in range(11)]


@pytest.mark.parametrize("form", ["webdataset", "files"])
def test_samples_of_several_parts(tmp_path: Path, form: str) -> None:
    """Members are parts under the names of the run, images first; what a sample lacks is not asked for."""
    some: dict[str, Value] = {"photo.png": b"p", "other.txt": b"of nobody"}
    options: dict[str, Any] = {"format": form, "caption_column": None, "parts": PARTS}
    commit(tmp_path, 0, {0: MEMBERS, 1: None, 2: some}, **options)
    rows = list(ShardSource(tmp_path).rows())
    assert [request.part for request in rows[0].requests] == ["photo", *VIEWS, "abstract", "caption"]
    assert [request.part for request in rows[1].requests] == ["photo"]
    assert [request.required for request in rows[0].requests] == [True, *[False] * 13]
    stored = {request.part: MEMBERS[Place.of(str(request.url)).part] for request in rows[0].requests}
    assert data_of(fetch(tmp_path, rows)) == {0: stored, 2: {"photo": b"p"}}


def test_samples_of_several_parts_in_tables(tmp_path: Path) -> None:
    """There texts are columns of text, and columns that a part is made of are those of the table."""
    sample: dict[str, Value] = {"photo": b"p", "abstract": "Ä".encode(), "views.1": b"v", "views.0": b"w"}
    options: dict[str, Any] = {"format": "parquet", "caption_column": None, "keep_columns": ()}
    parts = {**PARTS, "caption": Column("n")}
    commit(tmp_path, 0, {0: sample, 1: {"photo": b"q"}}, **options, parts=parts)
    source = ShardSource(tmp_path)
    rows = list(source.rows())
    assert (source.keep_columns, [row.fields for row in rows]) == ((), [{"n": 0}, {"n": 10}])
    assert data_of(fetch(tmp_path, rows, texts=source.texts)) == {0: sample, 1: {"photo": b"q"}}


def test_parts_as_they_are_read_back(tmp_path: Path) -> None:
    """A stored column is a text; images of one shape for none are left to the options, where they have to be stacked."""
    commit(tmp_path, 0, {0: MEMBERS}, caption_column=None, parts=PARTS)
    parts = ShardSource(tmp_path).parts
    assert parts is not None
    assert list(parts) == list(PARTS)
    assert (parts["caption"], parts["views"]) == (Text("c", required=False), Images("v", at_most=11, required=False))
    assert (parts["photo"], parts["abstract"]) == (PARTS["photo"], PARTS["abstract"])


def test_a_required_part_that_is_gone(tmp_path: Path) -> None:
    """Its row fails, instead of coming without it."""
    commit(tmp_path, 0, {0: MEMBERS, 1: MEMBERS}, format="files", caption_column=None, parts=PARTS)
    (tmp_path / "00000/000000000.photo.png").unlink()
    (tmp_path / "00000/000000001.abstract.txt").unlink()
    rows = list(ShardSource(tmp_path).rows())
    answers = fetch(tmp_path, rows)
    failure = rows[0].failed_by(answers[0])
    assert failure is not None
    assert failure.reason is Reason.STORAGE_NOT_FOUND
    assert failure.detail.startswith("part photo: 00000 is missing")
    assert rows[1].failed_by(answers[1]) is None


@pytest.mark.parametrize("form", ["webdataset", "parquet", "files"])
def test_parts_of_a_transform(tmp_path: Path, form: str) -> None:
    """They have the names that it gave; the caption is no part."""
    sample: dict[str, Value] = {"bin": b"ab", "mask": np.arange(3), "image": np.arange(4), "jpg": b"bytes"}
    commit(tmp_path, 0, {0: sample}, format=form, transform="module.function")
    (row,) = ShardSource(tmp_path).rows()
    assert row.caption == "caption 0"
    assert [request.part for request in row.requests] == ["image", "bin", "jpg", "mask"]
    parts = data_of(fetch(tmp_path, [row]))[0]
    assert (parts["bin"], parts["jpg"]) == (b"ab", b"bytes")
    assert parts["mask"].startswith(b"\x93NUMPY")


def test_arrays_of_several_parts(tmp_path: Path) -> None:
    """Of arrays each part is a file, and a row's bytes are its numbers alone."""
    sample: dict[str, Value] = {"image": pixels(3), "mask": np.arange(5, dtype=np.int16)}
    commit(tmp_path, 0, {2: None, 3: sample}, format="arrays", transform="module.function")
    rows = list(ShardSource(tmp_path).rows())
    wanted = {name: value.tobytes() for name, value in sample.items() if isinstance(value, np.ndarray)}
    assert data_of(fetch(tmp_path, rows)) == {3: wanted}


@pytest.mark.parametrize(("form", "file"), [("webdataset", "00002.tar"), ("arrays", "00002.npy"), ("files", "00002")])
def test_missing_samples_fail_their_rows(tmp_path: Path, form: str, file: str) -> None:
    """The rows of that shard come, and fail with a reason that names the file; the others are as ever."""
    path = make_folder(tmp_path, form) / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    answers = fetch(tmp_path, list(ShardSource(tmp_path).rows()))
    assert set(data_of(answers)) == set(INDICES) - {6, 7, 12, 13}
    for index in (6, 7, 12, 13):
        (failure,) = answers[index]
        assert isinstance(failure, Failure)
        assert failure.reason is Reason.STORAGE_NOT_FOUND
        assert failure.detail.startswith(f"{file} is missing")
        assert "penstock verify" in failure.detail


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_vanish_fail_their_rows(tmp_path: Path, form: str) -> None:
    """What goes after its rows were read is not found either."""
    rows = list(ShardSource(make_folder(tmp_path, form)).rows())
    for path in tmp_path.glob("0*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    parts = [part for parts in fetch(tmp_path, rows).values() for part in parts]
    assert len(parts) == 10
    assert {part.reason for part in parts if isinstance(part, Failure)} == {Reason.STORAGE_NOT_FOUND}


@pytest.mark.parametrize("form", ["webdataset", "arrays"])
def test_a_file_that_was_cut_off(tmp_path: Path, form: str) -> None:
    """What lies before the cut is read; the rest fails as a damaged file."""
    folder = make_folder(tmp_path, form)
    path = folder / ("00002.tar" if form == "webdataset" else "00002.npy")
    cut = Place.of(str(list(ShardSource(folder).rows())[5].url))  # of row 7
    with path.open("r+b") as file:
        file.truncate(cut.at + cut.extent // 2)
    answers = fetch(folder, list(ShardSource(folder).rows()))
    assert data_of(answers)[6] == {"image": bytes_of(form, 6)}
    (failure,) = answers[7]
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.STORAGE_ERROR
    assert path.name in failure.detail
    assert {index for index in INDICES if index not in data_of(answers)} == {7, 12, 13}


def test_other_bytes_in_the_middle_of_a_tar(tmp_path: Path) -> None:
    """Where a header should be and is none, the rest of the shard is damaged."""
    folder = make_folder(tmp_path)
    second = Place.of(str(list(ShardSource(folder).rows())[5].url))  # of row 7
    with (folder / "00002.tar").open("r+b") as file:
        file.seek(second.at - 512)
        file.write(b"\xff" * 512)
    answers = fetch(folder, list(ShardSource(folder).rows()))
    reasons = {index: part.reason for index, (part,) in answers.items() if isinstance(part, Failure)}
    assert reasons == dict.fromkeys([7, 12, 13], Reason.STORAGE_ERROR)


def test_a_damaged_row_group(tmp_path: Path) -> None:
    """A table whose samples are gone, though its head is whole, fails their rows."""
    folder = make_folder(tmp_path, "parquet")
    rows = list(ShardSource(folder).rows())
    path = folder / "00002.parquet"
    path.write_bytes(bytes(100) + path.read_bytes()[-8:])
    reasons = {part.reason for part, *_ in fetch(folder, rows).values() if isinstance(part, Failure)}
    assert reasons == {Reason.STORAGE_ERROR}


def test_a_damaged_column_of_several(tmp_path: Path) -> None:
    """Where it takes the bytes to tell which parts a row has, the fetcher, and not the list, tells of the damage."""
    commit(tmp_path, 0, {index: {"jpg": b"1234" * 9, "bin": b"5678" * 9} for index in range(3)}, format="parquet")
    path = tmp_path / "00000.parquet"
    table = pq.ParquetFile(path).metadata
    columns = [table.row_group(0).column(number) for number in range(table.num_columns)]
    start = next(column.data_page_offset for column in columns if column.path_in_schema == "bin")
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    rows = list(ShardSource(tmp_path).rows())
    answers = fetch(tmp_path, rows)
    assert sorted(answers) == [0, 1, 2]
    reasons = {part.reason for parts in answers.values() for part in parts if isinstance(part, Failure)}
    assert reasons == {Reason.STORAGE_ERROR}


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for a single one, rows of all shards in turn are read all the same."""
    monkeypatch.setattr(sys.modules[ShardFetcher.__module__], "_OPEN_FILES", 1)
    folder = make_folder(tmp_path, "files")
    rows = list(ShardSource(folder).rows())
    assert len(data_of(fetch(folder, rows[::2] + rows[1::2]))) == 10


def test_a_small_budget_lets_rows_through_one_by_one(tmp_path: Path) -> None:
    """All rows come under a budget that holds none of them."""
    folder = make_folder(tmp_path)
    assert len(data_of(fetch(folder, list(ShardSource(folder).rows()), limit=1))) == 10


def test_bytes_wait_for_room(tmp_path: Path) -> None:
    """Nothing is delivered beyond the budget, and `close` ends the wait."""
    folder = make_folder(tmp_path)
    answers: queue.SimpleQueue[Row] = queue.SimpleQueue()
    budget, fetcher = ByteBudget(1), ShardFetcher(folder)
    fetcher.start(lambda row, _: answers.put(row), budget, unexpected)
    rows = list(ShardSource(folder).rows())
    for row in rows:
        fetcher.submit(row)
    assert answers.get(timeout=20) == rows[0]
    fetcher.close()
    fetcher.close()
    assert answers.empty()
    assert budget.used == len(bytes_of("webdataset", 0))


def test_an_unforeseen_fault_is_told(tmp_path: Path) -> None:
    """A row of another source breaks the fetcher, which says so instead of losing the row."""
    told: queue.SimpleQueue[PenstockError] = queue.SimpleQueue()
    fetcher = ShardFetcher(tmp_path)
    fetcher.start(lambda *_: pytest.fail("delivered"), ByteBudget(1), told.put)
    fetcher.submit(Row(0, (Request("image", "file:///etc/passwd"),)))
    assert "no place in a shard" in str(told.get(timeout=20))
    fetcher.close()


def test_the_network_refuses_places() -> None:
    """A place is no URL that anybody else would fetch, and comes back from its text as it was."""
    place = Place("00012.tar", "views.0.jpg", 1536, 3456)
    assert Place.of(place.url) == place
    with pytest.raises(ItemError) as refused:
        check_url(place.url, UrlRules.of(FetchConfig()))
    assert refused.value.reason in (Reason.URL_SCHEME_DENIED, Reason.URL_INVALID)


def work_on(work: Any, data: bytes) -> Any:
    """The parts that some work makes of the bytes of a row."""
    fetched = Fetched("image", data, None, 1, 0.0)
    return work(Row(0, (Request("image", "shard:0.npy#image@0+1"),)), (fetched,)).value.parts


def test_arrays_become_images(tmp_path: Path) -> None:
    """Pixels of the right size come as they are, others as Pillow resizes them; too few are damaged."""
    work = pickle.loads(
        pickle.dumps(stored_work(ShardSource(make_folder(tmp_path, "arrays")), ImageConfig(size=6, resize="fit")))
    )
    same = work_on(work, pixels(1).tobytes())["image"]
    np.testing.assert_array_equal(same, pixels(1), strict=True)
    same[0] = 0  # and are the caller's own
    smaller = dataclasses.replace(work, config=ImageConfig(size=3, resize="stretch", exact=True))
    wanted = np.asarray(Image.fromarray(pixels(1)).resize((3, 3)))
    np.testing.assert_array_equal(work_on(smaller, pixels(1).tobytes())["image"], wanted, strict=True)
    with pytest.raises(ItemError, match="71 bytes"):
        work_on(work, pixels(1).tobytes()[1:])


def brighter(image: np.ndarray, row: Row) -> np.ndarray:
    """A user's transform."""
    return image // 2 + row.index


def head(data: bytes, _: Row) -> dict[str, bytes]:
    """Another one."""
    return {"head": data[:4]}


def prepare() -> None:
    """What a user wants done first."""


def test_a_transform_of_stored_images(tmp_path: Path) -> None:
    """It gets the pixels of arrays as of files; without one, files get the ordinary work."""
    config, steps = ImageConfig(size=6, resize="fit"), Steps(transform_image=brighter)
    arrays = ShardSource(make_folder(tmp_path / "a", "arrays"))
    np.testing.assert_array_equal(
        work_on(stored_work(arrays, config, steps), pixels(1).tobytes())["image"], pixels(1) // 2, strict=True
    )
    files = ShardSource(make_folder(tmp_path / "f", "files"))
    assert stored_work(files, config, steps) == ImageTransformWork(config, brighter, as_array=True)
    assert stored_work(files, config) == ImageWork(config, as_array=True)
    assert stored_work(files, config, Steps(transform=head)) == TransformWork(head)
    assert stored_work(files, config, Steps(initializer=prepare)) == InitializedWork(ImageWork(config, True), prepare)


def nothing_of_use(image: Any, row: Row) -> Any:
    """A user's function of the pixels that gives neither an image nor parts."""
    return 7


def outlined(image: Any, row: Row) -> dict[str, Any]:
    """A user's function of the pixels that gives a part anew that is stored as well."""
    return {"image": image, "mask": image[:, :, 0] > 9}


def test_what_a_transform_returns_goes_before_what_is_stored(tmp_path: Path) -> None:
    """A part of the same name is replaced; others stay; and what is no sample is named as it is of files."""
    commit(tmp_path, 0, {0: {"image": pixels(3), "mask": np.arange(5), "bin": b"ab"}}, transform="module.function")
    source = ShardSource(tmp_path)
    (row,) = source.rows()
    (parts,) = fetch(tmp_path, [row]).values()
    fetched = tuple(part for part in parts if isinstance(part, Fetched))
    work = stored_work(source, ImageConfig(size=6, resize="none"), Steps(transform_image=outlined))
    sample = work(row, fetched).value
    assert isinstance(sample, Sample)
    assert (sorted(sample.parts), sample.parts["bin"]) == (["bin", "image", "mask"], b"ab")
    np.testing.assert_array_equal(sample.parts["mask"], pixels(3)[:, :, 0] > 9, strict=True)
    with pytest.raises(ItemError, match="expected an array or a mapping"):
        stored_work(source, ImageConfig(), Steps(transform_image=nothing_of_use))(row, fetched)


def test_functions_that_would_get_nothing(tmp_path: Path) -> None:
    """One of bytes needs a single file for each row, one of the pixels an image."""
    commit(tmp_path / "t", 0, {0: {"bin": b"ab", "mask": np.arange(3)}}, transform="module.function")
    commit(tmp_path / "p", 0, {0: MEMBERS}, caption_column=None, parts=PARTS)
    for source in (ShardSource(tmp_path / "t"), ShardSource(tmp_path / "p")):
        with pytest.raises(ConfigError, match="have no single file for each row"):
            stored_work(source, ImageConfig(), Steps(transform=head))
    with pytest.raises(ConfigError, match="are arrays; use transform_image"):
        stored_work(ShardSource(make_folder(tmp_path / "a", "arrays")), ImageConfig(), Steps(transform=head))
    with pytest.raises(ConfigError, match=r"the rows of .* have bin, mask"):
        stored_work(ShardSource(tmp_path / "t"), ImageConfig(), Steps(transform_image=brighter))


def test_stored_arrays_that_are_damaged(tmp_path: Path) -> None:
    """The row fails, and says which part it was."""
    commit(tmp_path, 0, {0: {"mask": np.arange(3)}}, transform="module.function")
    source = ShardSource(tmp_path)
    (row,) = source.rows()
    (whole,) = fetch(tmp_path, [row])[0]
    assert isinstance(whole, Fetched)
    work = stored_work(source, ImageConfig())
    np.testing.assert_array_equal(work(row, (whole,)).value.parts["mask"], np.arange(3), strict=True)  # type: ignore[union-attr]  # a sample
    for damaged in (whole.data[:-1], whole.data[:9], whole.data.replace(b"<i8", b"|O8")):
        with pytest.raises(ItemError, match="part mask: ") as error:
            work(row, (dataclasses.replace(whole, data=damaged),))
        assert error.value.reason is Reason.STORAGE_ERROR


def test_arrays_that_cannot_be_read(tmp_path: Path) -> None:
    """They are refused before anything begins."""
    source = ShardSource(make_folder(tmp_path, "arrays"))
    (tmp_path / "00000.npy").unlink()
    with pytest.raises(SourceError, match=r"the arrays of shard 00000 in .* cannot be read"):
        stored_work(source, ImageConfig())
