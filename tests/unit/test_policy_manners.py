"""What is learnt of hosts: width, patience, and when to leave them alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.fetch.policy import manners
from penstock.fetch.policy.manners import DEAD, LEAST, LONGEST_REST, PATIENCE, REST, Manners


def widths(host: Manners, *events: str) -> list[int]:
    """The limit after each event."""
    seen = []
    for event in events:
        host.succeeded("h", 0) if event == "+" else host.overloaded("h")
        seen.append(host.limit("h"))
    return seen


def test_a_host_begins_narrow_and_doubles_each_round() -> None:
    """As many successes as are allowed at a time double it, up to --per-host."""
    host = Manners(16)
    assert host.limit("h") == LEAST == 2
    rounds = []
    while host.limit("h") < 16:
        for _ in range(host.limit("h")):
            host.succeeded("h", 0)
        rounds.append(host.limit("h"))
    assert rounds == [4, 8, 16]
    host.succeeded("h", 0)
    assert host.limit("h") == 16


def test_trouble_halves_once_for_what_was_under_way() -> None:
    """A burst of failures is one message, not eight; afterwards the host is trusted slowly."""
    host = Manners(8)
    widths(host, *"+" * 8)
    assert widths(host, *"-" * 9) == [4] * 9
    assert widths(host, "-") == [LEAST]
    assert widths(host, *"+" * (PATIENCE + 1))[-1] == LEAST + 1


def test_less_than_two_is_what_the_user_wants() -> None:
    """--per-host 1 is kept, whatever happens."""
    host = Manners(1)
    assert {host.limit("h"), *widths(host, *"++--++")} == {1}


def test_a_dead_host_is_left_alone_and_probed() -> None:
    """After five attempts without an answer nothing is asked for a minute, then one at a time; an answer ends it."""
    host = Manners(8)
    for attempt in range(DEAD):
        assert not host.is_given_up("h", 0)
        host.unanswered("h", 0, 0)
        assert host.is_given_up("h", 0) == (attempt == DEAD - 1)
    host.unanswered("h", 0, 1)  # one that was under way
    assert host.is_given_up("h", REST - 1)
    assert not host.is_given_up("h", REST)
    assert host.limit("h") == 1
    host.unanswered("h", REST, REST)
    assert host.is_given_up("h", 3 * REST - 1)
    host.answered("h", 0)
    assert not host.is_given_up("h", REST)
    assert host.limit("h") == LEAST


def test_rests_grow_to_a_bound() -> None:
    """A host that stays dead is asked every quarter of an hour."""
    host, now = Manners(8), 0.0
    for _ in range(20):
        for _ in range(DEAD):
            host.unanswered("h", now, now)
        now += LONGEST_REST
        assert not host.is_given_up("h", now)


def test_an_answer_in_between_keeps_a_host() -> None:
    """Only attempts in a row count."""
    host = Manners(8)
    for _ in range(3 * DEAD):
        for _ in range(DEAD - 1):
            host.unanswered("h", 1, 1)
        host.answered("h", 0)
    assert not host.is_given_up("h", 0)


def test_slow_requests_of_a_host_that_answers_others_are_no_sign_of_death() -> None:
    """Time-outs may end all at once, whatever was answered while they lasted."""
    host = Manners(8)
    host.answered("h", 5)
    for _ in range(3 * DEAD):
        host.unanswered("h", 1, 11)
    assert not host.is_given_up("h", 11)
    for _ in range(DEAD):
        host.unanswered("h", 6, 16)
    assert host.is_given_up("h", 16)


def test_an_outage_is_forgiven() -> None:
    """What our own network did is no host's fault."""
    host = Manners(8)
    for _ in range(DEAD):
        host.unanswered("h", 1, 1)
    host.forgive()
    assert not host.is_given_up("h", 0)


def test_a_paced_host_is_asked_one_at_a_time() -> None:
    """A Crawl-delay leaves no room for several."""
    host = Manners(8)
    assert host.delay("h") == 0
    host.pace("h", 2.5)
    assert (host.delay("h"), host.limit("h")) == (2.5, 1)


def test_hosts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of any number of hosts takes bounded memory."""
    monkeypatch.setattr(manners, "MAX_HOSTS", 3)
    hosts = Manners(8)
    for name in "abcd":
        hosts.succeeded(name, 0)
    assert [hosts.limit(name) for name in "abcd"] == [LEAST, 3, 3, 3]


@given(st.lists(st.sampled_from(["succeeded", "overloaded", "unanswered", "answered"])), st.integers(1, 64))
def test_the_limit_stays_within_its_bounds(events: list[str], per_host: int) -> None:
    """Whatever happens: never more than asked for, never none."""
    host = Manners(per_host)
    for event in events:
        if event == "unanswered":
            host.unanswered("h", 1, 1)
        else:
            getattr(host, event)(*(("h",) if event == "overloaded" else ("h", 0)))
        assert 1 <= host.limit("h") <= per_host
