"""What hosts and answers reserve: headers, and robots.txt by RFC 9309."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.fetch.policy.optout import (
    ALLOW_ALL,
    MAX_PATTERNS,
    MAX_RULES,
    RESERVING,
    ROBOTS_BYTES,
    RobotsRules,
    reservation,
)
from penstock.fetch.policy.urls import check_url
from penstock.records import Reason


def found_in(*fields: tuple[str, str]) -> str | None:
    """The detail of what headers reserve."""
    error = reservation(lambda name: [value for field, value in fields if field.lower() == name.lower()])
    return None if error is None else error.detail


def tag(*values: str) -> str | None:
    detail = found_in(*(("x-robots-tag", value) for value in values))
    return None if detail is None else detail.removeprefix("X-Robots-Tag: ")


@pytest.mark.parametrize("directive", RESERVING)
def test_each_directive_reserves(directive: str) -> None:
    """In any case, among others, for all or for us."""
    for value in (directive, directive.upper(), f"nofollow , {directive}", f"penstock: {directive}", f"*:{directive}"):
        assert tag(value) == directive


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        (["all"], None),
        (["nofollow, noarchive"], None),
        (["noaim, xnoai, no-ai"], None),
        (["noarchive", "noai"], "noai"),
        (["nofollow noindex"], "noindex"),
        (["otherbot: noai, noindex"], None),
        (["otherbot: noai", "noindex"], "noindex"),
        (["otherbot: noai", "noindex, penstock: x"], "noindex"),
        (["otherbot: nofollow, Penstock: NoAI"], "noai"),
        (["Penstock/1.0 : noai"], "noai"),
        (["penstocker: noai"], None),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Tuesday, 25-Jun-30 15:00:00 PST, noai"], "noai"),
        (["max-snippet: 5, noai"], "noai"),
        (["max-image-preview: none"], None),
        (["otherbot: max-image-preview: large, noai"], None),
        (["penstock: max-snippet:0, noai"], "noai"),
        (["otherbot: nofollow, max-snippet: 0, noai"], None),
        ([",,:,noai:"], None),
        ([""], None),
    ],
)
def test_robots_tags(values: list[str], directive: str | None) -> None:
    """Another robot's prefix holds to its end; a directive with a value is no robot."""
    assert tag(*values) == directive


@pytest.mark.parametrize(
    ("value", "reserved"),
    [("1", True), (" 1 ", True), ("0", False), ("", False), ("true", False), ("1, 1", False), ("2", False)],
)
def test_only_one_reserves_mining(value: str, reserved: bool) -> None:
    """The protocol knows 1; everything else is as good as no header."""
    error = reservation(lambda name: [value] if name == "tdm-reservation" else [])
    assert (error is not None) == reserved
    assert error is None or error.reason is Reason.OPTOUT_TDM


@pytest.mark.parametrize(
    ("values", "reserved"),
    [
        (["train-ai=n"], True),
        (["search=y, train-ai=n"], True),
        (["Train-AI = N"], True),
        (['train-ai="n";q=1, search'], True),
        (["train-ai=y", "train-ai=n"], True),
        (["train-ai=n, train-ai=y"], False),
        (["train-ai=y"], False),
        (["train-ai"], False),
        (["train-ai=no"], False),
        (["search=n"], False),
        (["x-train-ai=n"], False),
        (["=n,,;"], False),
    ],
)
def test_content_usage(values: list[str], reserved: bool) -> None:
    """A dictionary, of whose equal names the last counts."""
    assert found_in(*(("content-usage", value) for value in values)) == (
        "Content-Usage: train-ai=n" if reserved else None
    )


HEADER_PIECES = st.lists(
    st.sampled_from([*RESERVING, "penstock", "otherbot", "train-ai", "=n", ":", ",", ";", " ", "1", "max-snippet"])
    | st.text(max_size=5)
).map("".join)


@given(st.lists(HEADER_PIECES | st.text()))
def test_any_headers_are_read(values: list[str]) -> None:
    """No header makes the reading fail, and what is found was there."""
    error = reservation(lambda name: values)
    if error is not None:
        assert error.reason.phase == "optout"
        last = error.detail.rpartition(" ")[2].partition("=")[0]
        assert any(last in value.lower() for value in values)


@given(st.sampled_from(RESERVING), st.lists(st.sampled_from(["nofollow", "max-snippet: 3", "noarchive", "all"])))
def test_company_changes_nothing(directive: str, others: list[str]) -> None:
    """A directive reserves wherever it stands among harmless ones."""
    for position in range(len(others) + 1):
        assert tag(", ".join([*others[:position], directive, *others[position:]])) == directive


def allows(robots: str | bytes, path: str = "/a/b.jpg") -> bool:
    data = robots if isinstance(robots, bytes) else robots.encode()
    return RobotsRules.parse(data).allows(check_url(f"https://host.example{path}").url)


@pytest.mark.parametrize(
    ("robots", "path", "allowed"),
    [
        ("", "/", True),
        ("User-agent: *\nDisallow: /", "/", False),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
        ("User-agent: *\nDisallow:", "/", True),
        ("Disallow: /", "/", True),  # of nobody's group
        # the group
        ("USER-AGENT: PenStock\nDISALLOW: /", "/", False),
        ("User-agent: penstock/2.0 (+https://host.example)\nDisallow: /", "/", False),
        ("User-agent: penstock*\nDisallow: /", "/", False),
        ("User-agent: pen\nDisallow: /", "/", True),
        ("User-agent: penstocker\nDisallow: /", "/", True),
        ("User-agent: otherbot\nDisallow: /", "/", True),
        ("User-agent: *bot\nDisallow: /", "/", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: penstock\nDisallow: /x", "/a", True),
        ("User-agent: penstock\nDisallow:\n\nUser-agent: *\nDisallow: /", "/a", True),
        ("User-agent: penstock\nUser-agent: otherbot\nDisallow: /", "/a", False),
        (
            "User-agent: penstock\nDisallow: /a\nUser-agent: x\nDisallow: /\nUser-agent: penstock\nDisallow: /b",
            "/b",
            False,
        ),
        (
            "User-agent: penstock\nDisallow: /a\nUser-agent: x\nDisallow: /\nUser-agent: penstock\nDisallow: /b",
            "/a",
            False,
        ),
        (
            "User-agent: penstock\nDisallow: /a\nUser-agent: x\nDisallow: /\nUser-agent: penstock\nDisallow: /b",
            "/c",
            True,
        ),
        ("User-agent: penstock\nSitemap: /s\n\n# x\nUser-agent: otherbot\nDisallow: /", "/a", False),
        ("User-agent: otherbot\nCrawl-delay: 3\nUser-agent: penstock\nDisallow: /", "/a", False),
        # the longest match
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b.jpg", True),
        ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/c.jpg", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),
        ("User-agent: *\nAllow: /a\nDisallow: /a*.jpg", "/a/b.jpg", False),
        # patterns
        ("User-agent: *\nDisallow: /*.jpg$", "/a/b.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$", "/a/b.jpg?x", True),
        ("User-agent: *\nDisallow: /a*b*.jpg", "/a/x/b/c.jpg", False),
        ("User-agent: *\nDisallow: /a$", "/a/b", True),
        ("User-agent: *\nDisallow: /*?q=", "/x?q=1", False),
        ("User-agent: *\nDisallow: /A", "/a", True),
        ("User-agent: *\nDisallow: /b\u00fc", "/b\u00fc.jpg", False),
        ("User-agent: *\nDisallow: /%62%C3%BC", "/b\u00fc.jpg", False),
        ("User-agent: *\nDisallow: /a%2Fb", "/a/b.jpg", True),
        # the text
        ("\ufeffUser-agent: *\nDisallow: /", "/", False),
        ("User-agent: *\rDisallow: /", "/", False),
        ("User-agent: *\r\nDisallow: /a", "/a", False),
        ("  user-agent :*  # all\n\n  disallow :/a # b", "/a", False),
        ("User-agent *\nDisallow /a", "/a", False),
        ("useragent: *\ndissalow: /a", "/a", False),
        (b"\xff\xfe junk\xc3\nUser-agent: *\nDisallow: /a", "/a", False),
        (b"User-agent: *\nDisallow: /\xfc\nDisallow: /a", "/a", False),
        ("<html><body>User-agent: *<br>Disallow: /</body></html>", "/", True),
    ],
)
def test_robots(robots: str | bytes, path: str, allowed: bool) -> None:
    """Groups, matches, patterns and texts as RFC 9309 has them, and as they are written in practice."""
    assert allows(robots, path) == allowed


@pytest.mark.parametrize(
    ("line", "delay"),
    [
        ("Crawl-delay: 2", 2.0),
        ("crawl-delay: 0.5", 0.5),
        ("Crawl-delay: -1", 0.0),
        ("Crawl-delay: nan", 0.0),
        ("Crawl-delay: 1e999", 0.0),
        ("Crawl-delay: soon", 0.0),
        ("Request-rate: 2/10", 5.0),
        ("Request-rate: 1/1m", 60.0),
        (f"Request-rate: 1/{'9' * 4000}", 86_400.0),
        (f"Request-rate: {'9' * 4000}/1", 0.0),
        ("Request-rate: 0/1", 0.0),
        ("Crawl-delay: 3\nRequest-rate: 1/2", 3.0),
    ],
)
def test_delays(line: str, delay: float) -> None:
    """Seconds between requests; nonsense is none. A delay alone forbids nothing."""
    rules = RobotsRules.parse(f"User-agent: *\n{line}".encode())
    assert rules.delay == delay
    assert rules.allows("https://host.example/")
    assert RobotsRules.parse(f"User-agent: otherbot\n{line}".encode()) is ALLOW_ALL


@pytest.mark.parametrize(
    "robots",
    [
        "",
        "User-agent: *\nDisallow:\nAllow: /\nSitemap: https://host.example/s.xml",
        "User-agent: *\nDisallow :",
        "User-agent: otherbot\nDisallow: /",
        "User-agent: *\nDisallow: /\nUser-agent: penstock\nAllow: /a",
        "<!doctype html><title>404</title>",
    ],
)
def test_what_says_nothing_to_us_is_not_kept(robots: str) -> None:
    """Such hosts share one object."""
    assert RobotsRules.parse(robots.encode()) is ALLOW_ALL


ROBOTS_PIECES = st.lists(
    st.sampled_from(["User-agent: *\n", "User-agent: penstock\n", "Disallow: ", "Allow: ", "Crawl-delay: ", "\r", "\n"])
    | st.sampled_from(["/", "*", "$", "a", "%", "%41", "%zz", ":", "#", "Request-rate: ", "1/0", "\ufeff", "\u2028"])
    | st.text(max_size=5)
).map(lambda pieces: "".join(pieces).encode(errors="replace"))


@given(st.binary() | ROBOTS_PIECES, st.text(max_size=20))
def test_any_bytes_are_rules(data: bytes, path: str) -> None:
    """No file makes the reading fail, nor the judging of a URL; delays are sane; robots.txt itself is allowed."""
    rules = RobotsRules.parse(data)
    assert 0 <= rules.delay < math.inf
    target = check_url("https://host.example/" + path.encode(errors="replace").hex(" "))
    assert rules.allows(target.url) in (True, False)
    assert rules.allows(target.robots.url)


@given(st.lists(st.text("ab/*$", max_size=6), max_size=6), st.text("ab/", max_size=8))
def test_patterns_mean_what_the_rfc_says(patterns: list[str], path: str) -> None:
    """Without Allow, a URL is forbidden if and only if one of the patterns matches its beginning."""
    import re

    patterns = [f"/{pattern.replace('$', '')}{'$' * pattern.endswith('$')}" for pattern in patterns]
    robots = "\n".join(["User-agent: *", *(f"Disallow: {pattern}" for pattern in patterns)])
    expressions = [re.escape(p).replace(r"\*", ".*").replace(r"\$", r"\Z") for p in patterns]
    assert allows(robots, f"/{path}") == (not any(re.match(e, f"/{path}") for e in expressions))


def filled(line: str, room: int = ROBOTS_BYTES) -> str:
    """As many numbered lines as there is room for."""
    return "\n".join(line.format(number) for number in range(room // (len(line.format(10**6)) + 1)))


@pytest.mark.parametrize(
    "robots",
    [
        filled("User-agent: a{}", ROBOTS_BYTES // 2) + "\n" + filled("Disallow: /{}", ROBOTS_BYTES // 3),
        filled("User-agent: *"),
        "User-agent: *\nd" + "isal" * 100_000 + "\n",
        "User-agent" + " :" * 200_000 + "\n",
        "User-agent: *\ndisallow" + " :" * 200_000 + "\n",
        "User-agent: *\nAllow: /" + "*a" * 200_000 + "\n",
    ],
    ids=["agents times rules", "agents", "long word", "long agent", "long rule", "long pattern"],
)
def test_hostile_files_are_read(robots: str) -> None:
    """Neither time nor memory that grows with the square of a file: with 512 KiB this would not come to an end."""
    assert RobotsRules.parse(robots.encode()).allows("https://host.example/" + "a" * 8000)


@pytest.mark.parametrize(("line", "most"), [("Disallow: /*a{}", MAX_PATTERNS), ("Disallow: /x{}", MAX_RULES)])
def test_more_rules_than_can_be_read_forbid_everything(line: str, most: int) -> None:
    """Each rule would cost each URL its time."""
    rules = [line.format(number) for number in range(most + 1)]
    assert allows("\n".join(["User-agent: *", *rules[:-1]]), "/b")
    assert not allows("\n".join(["User-agent: *", *rules]), "/b")
    assert allows("\n".join(["User-agent: otherbot", *rules]), "/b")


def test_a_cut_file_ends_with_its_last_whole_line() -> None:
    """Half a path would forbid more than was meant."""
    robots = b"User-agent: *\nDisallow: /b\n".ljust(ROBOTS_BYTES - 12, b"#") + b"\nDisallow: /a/deep/path"
    assert RobotsRules.parse(robots) == RobotsRules.parse(robots[:ROBOTS_BYTES])
    assert allows(robots, "/")
    assert not allows(robots, "/b")
