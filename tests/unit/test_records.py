"""Rows of several parts: when a row fails, and what is told of its parts."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.records import Failure, Fetched, PartOutcome, Reason, Request, Row

REASONS = st.sampled_from([Reason.HTTP_NOT_FOUND, Reason.TIMEOUT_TOTAL, Reason.URL_MISSING, Reason.IMAGE_CORRUPT])


@st.composite
def ended_rows(draw: st.DrawFn) -> tuple[Row, tuple[Fetched | Failure, ...]]:
    """A row of groups of one or several requests, each fetched or failed."""
    requests: list[Request] = []
    for group in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        count, required = draw(st.integers(0, 3)), draw(st.booleans())
        names = [f"{group}.{number}" for number in range(count)] or [group]
        requests += [Request(name, "u", required=required) for name in names]
    reasons = [draw(st.none() | REASONS) for _ in requests]
    parts = tuple(
        Fetched(request.part, b"x", 200, 1, 0.1) if reason is None else Failure(reason, str(position), attempts=2)
        for position, (request, reason) in enumerate(zip(requests, reasons, strict=True))
    )
    return Row(0, tuple(requests)), parts


@given(ended_rows())
def test_a_row_fails_if_a_required_part_did_not_come(ended: tuple[Row, tuple[Fetched | Failure, ...]]) -> None:
    """It fails if and only if of some required group nothing came, or nothing at all; by the first failure of such a one."""
    row, parts = ended
    pairs = list(zip(row.requests, parts, strict=True))
    empty = [
        group
        for group in dict.fromkeys(request.group for request in row.requests)
        if not any(isinstance(part, Fetched) for request, part in pairs if request.group == group)
    ]
    required = {request.group for request in row.requests if request.required}
    nothing_came = len(empty) == len({request.group for request in row.requests})
    culprits = [group for group in empty if group in required or nothing_came]
    failure = row.failed_by(parts)
    assert (failure is not None) == bool(culprits)
    if failure is not None:
        first = next(part for request, part in pairs if request.group == culprits[0])
        assert isinstance(first, Failure)
        assert (failure.reason, failure.attempts) == (first.reason, first.attempts)
        assert failure.detail.endswith(first.detail)


@given(ended_rows())
def test_each_request_has_its_outcome(ended: tuple[Row, tuple[Fetched | Failure, ...]]) -> None:
    """A row of several requests tells of each of them; one of a single request has nothing to add to its own outcome."""
    row, parts = ended
    outcomes = row.part_outcomes(parts)
    if len(row.requests) == 1:
        assert outcomes == {}
        return
    for request, part in zip(row.requests, parts, strict=True):
        assert outcomes[request.part].reason == (part.reason if isinstance(part, Failure) else None)
        assert outcomes[request.part].attempts == part.attempts
    assert pickle.loads(pickle.dumps(outcomes)) == outcomes


def test_a_plain_row_fails_as_its_image_does() -> None:
    """Nothing is put in front of the detail where there is only one thing that can have failed."""
    failure = Failure(Reason.HTTP_NOT_FOUND, "HTTP 404")
    assert Row(0, (Request("image", "u"),)).failed_by((failure,)) is failure


def test_the_part_is_named() -> None:
    """Where there are several, the detail says which one it was."""
    row = Row(0, (Request("jpg", "u"), Request("views.0", "v")))
    parts = (Fetched("jpg", b"x", 200, 1, 0.1), Failure(Reason.URL_MISSING))
    failure = row.failed_by(parts)
    assert failure is not None
    assert failure.detail == "part views.0"


def test_each_request_needs_its_end() -> None:
    """A number of ends that is not the number of requests is a bug, and none that passes unseen."""
    with pytest.raises(ValueError, match="zip"):
        Row(0, (Request("a", "u"), Request("b", "u"))).failed_by((Failure(Reason.URL_MISSING),))


def test_group_of_a_request() -> None:
    """The name before the first dot."""
    assert [Request(name, "u").group for name in ("jpg", "views.0", "views.12")] == ["jpg", "views", "views"]


def test_outcome_of_a_download() -> None:
    """What the fetch knows of a part."""
    assert PartOutcome.of(Fetched("a", b"xyz", 200, 3, 0.1)) == PartOutcome(http_status=200, attempts=3, size=3)
    failure = Failure(Reason.HTTP_GONE, "HTTP 410", 410, 1)
    assert PartOutcome.of(failure) == PartOutcome(Reason.HTTP_GONE, "HTTP 410", 410, 1)
