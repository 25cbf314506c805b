"""``--dedup``: which rows repeat what an earlier one asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import FetchConfig
from penstock.duplicates import find_duplicates
from penstock.errors import ItemError
from penstock.fetch.policy.urls import UrlRules, check_url
from penstock.records import Reason, Request, Row
from penstock.source import open_source

RULES = UrlRules.of(FetchConfig())

SPELLINGS = (
    "http://example.com/{}",
    "HTTP://Example.COM:80/{}",
    "http://example.com/{}#top",
    "http://example.com/x/../{}",
    "http://example.com/../././{}",
)
OTHERS = ("https://example.com/{}", "http://example.com:8080/{}", "http://example.com/{}?", "http://example.org/{}")
UNUSABLE = (None, "", "ftp://example.com/{}", "http://")


def rows_of(urls: list[str | None]) -> list[Row]:
    return [Row(index, (Request("image", url),)) for index, url in enumerate(urls)]


def one_after_the_other(urls: list[str | None]) -> list[int]:
    """The definition, slowly."""
    seen: set[str] = set()
    duplicates = []
    for index, url in enumerate(urls):
        try:
            target = check_url(url, RULES).url
        except ItemError:
            continue
        target = target.replace("/x/..", "").replace("/../././", "/")
        if target in seen:
            duplicates.append(index)
        seen.add(target)
    return duplicates


@given(
    st.lists(
        st.builds(
            lambda spelling, number: spelling and spelling.format(number),
            st.sampled_from(SPELLINGS + OTHERS + UNUSABLE),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_every_row_but_the_first_with_its_url(urls: list[str | None]) -> None:
    """Whatever the list, the positions are those that a set of the URLs seen so far gives."""
    found = find_duplicates(rows_of(urls), RULES)
    assert found.dtype == np.int64
    assert found.tolist() == one_after_the_other(urls)


def test_spellings() -> None:
    """What is sent decides, not how it was written."""
    same = [spelling.format(1) for spelling in SPELLINGS]
    others = [other.format(1) for other in OTHERS]
    assert find_duplicates(rows_of([*same, *others]), RULES).tolist() == [1, 2, 3, 4]
    folders = ["http://example.com/a/", "http://example.com/a/b/..", "http://example.com/a/.", "http://example.com/a"]
    assert find_duplicates(rows_of([*folders, "http://example.com/a?q=/../b"]), RULES).tolist() == [1, 2]
    assert find_duplicates(rows_of(["http://example.com/..", "http://example.com/."]), RULES).tolist() == [1]
    assert find_duplicates(rows_of([None, None, "", "http://", "http://"]), RULES).tolist() == []


def marked(row: Row) -> Row:
    return dataclasses.replace(row, requests=(Request("image", row.url, Reason.POLICY_DUPLICATE),))


@pytest.mark.parametrize("positions", [[], [0], [2, 3, 7], list(range(10))])
def test_marked_rows(tmp_path: Path, positions: list[int]) -> None:
    """The rows at the positions are refused, in every slice and in every process that opens the list; the others are not."""
    listing = tmp_path / "urls.txt"
    listing.write_text("".join(f"http://example.com/{number}\n" for number in range(10)))
    np.save(tmp_path / "duplicates.npy", np.array(positions, np.int64))
    source = open_source(listing)
    plain = list(source.rows())
    source.leave_out(tmp_path / "duplicates.npy")
    assert source.spec is not None
    for opened in (source, source.spec.open()):
        for start, stop in ((0, None), (0, 3), (3, 8), (9, None), (2, 4)):
            expected = [marked(row) if row.index in positions else row for row in plain[start:stop]]
            assert list(opened.rows(start, stop)) == expected


def test_rows_of_several_parts_are_compared_as_wholes() -> None:
    """A duplicate asks for the same URLs, each for the same part; a part that cannot be fetched is equal to its like."""

    def row(index: int, **urls: str | None) -> Row:
        return Row(index, tuple(Request(part, url) for part, url in urls.items()))

    a, b = "http://example.com/a", "http://example.com/b"
    asked: list[dict[str, str | None]] = [
        {"jpg": a, "txt": b},
        {"jpg": b, "txt": a},
        {"jpg": a, "txt": None},
        {"jpg": a, "txt": f"{b}#top"},  # as the first
        {"jpg": a, "txt": ""},
        {"jpg": a, "txt": None},  # as the third
        {"jpg": None, "txt": None},
        {"jpg": None, "txt": None},  # fails with a reason of its own, as the one before
    ]
    rows = [row(index, **urls) for index, urls in enumerate(asked)]
    assert find_duplicates(rows, RULES).tolist() == [3, 5]
