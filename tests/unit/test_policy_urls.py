"""Which URLs are fetched, and what is sent for them."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import FetchConfig
from penstock.errors import ConfigError, ItemError
from penstock.fetch.policy.urls import MAX_LENGTH, MAX_REDIRECTS, UrlRules, check_url, redirect
from penstock.records import Reason


def reason_of(text: str | None, rules: UrlRules | None = None) -> Reason | None:
    try:
        check_url(text, rules or UrlRules())
    except ItemError as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, Reason.URL_MISSING),
        ("", Reason.URL_MISSING),
        (" \t\n", Reason.URL_MISSING),
        ("example.com/a.jpg", Reason.URL_INVALID),
        ("example.com:8080/a.jpg", Reason.URL_INVALID),
        ("localhost:8080/a.jpg", Reason.URL_INVALID),
        ("//host/x", Reason.URL_INVALID),
        ("nan", Reason.URL_INVALID),
        ("http:", Reason.URL_INVALID),
        ("http://", Reason.URL_INVALID),
        ("http:///path", Reason.URL_INVALID),
        ("http:path", Reason.URL_INVALID),
        ("http://:80/", Reason.URL_INVALID),
        ("file:///etc/passwd", Reason.URL_SCHEME_DENIED),
        ("ftp://host/x", Reason.URL_SCHEME_DENIED),
        ("data:image/png;base64,AAAA", Reason.URL_SCHEME_DENIED),
        ("gopher://host/", Reason.URL_SCHEME_DENIED),
        ("pipe:cat /etc/passwd", Reason.URL_SCHEME_DENIED),
        ("javascript:alert(1)", Reason.URL_SCHEME_DENIED),
        ("http://user:secret@host/", Reason.URL_CREDENTIALS),
        ("http://good@evil/", Reason.URL_CREDENTIALS),
        ("http://@host/", Reason.URL_CREDENTIALS),
        ("http://host/a\rb", Reason.URL_INVALID),
        ("http://host/a\nHost: evil", Reason.URL_INVALID),
        ("http://host\x00.evil/", Reason.URL_INVALID),
        ("http://host/a\tb", Reason.URL_INVALID),
        ("http://ho st/", Reason.URL_INVALID),
        ("http://host%2e/", Reason.URL_INVALID),
        ("http://a..b/", Reason.URL_INVALID),
        ("http://.a/", Reason.URL_INVALID),
        (f"http://{'a' * 64}.com/", Reason.URL_INVALID),
        (f"http://{'a.' * 127}com/", Reason.URL_INVALID),
        ("http://xn--a/", Reason.URL_INVALID),
        ("http://a\u2260b/", Reason.URL_INVALID),
        ("http://\udc80/", Reason.URL_INVALID),
        ("http://host/\udc80", Reason.URL_INVALID),
        ("http://[fe80::1%25eth0]/", Reason.URL_INVALID),
        ("http://[fe80::1/", Reason.URL_INVALID),
        ("http://fe80::1/", Reason.URL_PORT_DENIED),
        ("http://[::1]evil/", Reason.URL_INVALID),
        ("http://[]/", Reason.URL_INVALID),
        ("http://127.1/", Reason.URL_NONSTANDARD_IP),
        ("http://0x7f.1/", Reason.URL_NONSTANDARD_IP),
        ("http://2130706433/", Reason.URL_NONSTANDARD_IP),
        ("http://0177.0.0.1/", Reason.URL_NONSTANDARD_IP),
        ("http://0x7f000001/", Reason.URL_NONSTANDARD_IP),
        ("http://127.0.0.1./", Reason.URL_NONSTANDARD_IP),
        ("http://256.1.1.1/", Reason.URL_NONSTANDARD_IP),
        ("http://1.2.3.4.5/", Reason.URL_NONSTANDARD_IP),
        ("http://\uff11\uff12\uff17.0.0.1/", Reason.URL_NONSTANDARD_IP),
        ("http://127\u30020.0.1/", Reason.URL_NONSTANDARD_IP),
        ("filecache::s3://bucket/key", Reason.URL_INVALID),
        ("s3://bucket/key", Reason.URL_SCHEME_DENIED),
        ("http://host:0/", Reason.URL_PORT_DENIED),
        ("http://host:22/", Reason.URL_PORT_DENIED),
        ("http://host:25/", Reason.URL_PORT_DENIED),
        ("http://host:6379/", Reason.URL_PORT_DENIED),
        ("http://host:65536/", Reason.URL_PORT_DENIED),
        ("http://host:99999999999999999999/", Reason.URL_PORT_DENIED),
        ("http://host:-1/", Reason.URL_PORT_DENIED),
        ("http://host:http/", Reason.URL_PORT_DENIED),
        ("http://host:\u0661/", Reason.URL_PORT_DENIED),
        ("http://host/" + "a" * MAX_LENGTH, Reason.URL_TOO_LONG),
        ("http://host/" + "ü" * (MAX_LENGTH // 2), Reason.URL_TOO_LONG),
    ],
)
def test_refused(text: str | None, reason: Reason) -> None:
    """Each kind of bad URL has its reason."""
    assert reason_of(text) == reason


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://host", "http://host/"),
        ("  https://Host.Example:443/A?b#c ", "https://host.example/A?b"),
        ("http://host:8080?x", "http://host:8080/?x"),
        ("http://host:/x", "http://host/x"),
        ("http://host:00080/x", "http://host/x"),
        ("http://host/a b\u00fc.jpg", "http://host/a%20b%C3%BC.jpg"),
        ("http://host/%41%zz%", "http://host/%41%zz%"),
        ("http://host/a/../b//c/.", "http://host/a/../b//c/."),
        ("http://host/a?q='\"<>&u=http://x/?y", "http://host/a?q=%27%22%3C%3E&u=http://x/?y"),
        ("http://host/a{b}|[c]^`", "http://host/a%7Bb%7D|[c]%5E%60"),
        ("http:\\\\host\\a\\b", "http://host/a/b"),
        ("http://good\\@evil/", "http://good/@evil/"),
        ("http://b\u00fccher.example./", "http://xn--bcher-kva.example/"),
        ("http://stra\u00dfe.de/", "http://xn--strae-oqa.de/"),
        ("http://my_bucket-.s3.example/", "http://my_bucket-.s3.example/"),
        ("http://1.2.3.4:81/", "http://1.2.3.4:81/"),
        ("http://[2001:DB8:0::1]:81/x", "http://[2001:db8::1]:81/x"),
        ("http://example.c0m1/", "http://example.c0m1/"),
    ],
)
def test_sent(text: str, url: str) -> None:
    """Hosts are put into canonical form, paths and queries are encoded as browsers do, and otherwise left alone."""
    target = check_url(text)
    assert target.url == url
    assert check_url(url) == target


def test_parts_of_a_target() -> None:
    """The parts are those of the URL; only an unusual port is part of the Host header."""
    target = check_url("https://[::1]:8443/a?b#c")
    assert (target.scheme, target.host, target.port, target.path) == ("https", "::1", 8443, "/a?b")
    assert target.authority == "[::1]:8443"
    assert check_url("http://host:80/").authority == "host"
    assert target.origin == "https://[::1]:8443"
    assert target.robots == check_url("https://[::1]:8443/robots.txt")
    assert check_url("http://host:80/a").robots == check_url("http://host/robots.txt")
    assert not target.stored


def test_secrets_are_not_repeated() -> None:
    """The detail of refused credentials holds nothing of them."""
    with pytest.raises(ItemError) as caught:
        check_url("http://user:hunter2@host/")
    assert "hunter2" not in str(caught.value.failure())
    assert "user" not in caught.value.detail


URL_PIECES = st.lists(
    st.sampled_from(["http", "https", "://", "/", "\\", "@", ":", "[", "]", "%", "?", "#", ".", "host", "127.1", "::1"])
    | st.text(max_size=4)
    | st.integers(0, 70000).map(str),
    max_size=14,
).map("".join)


@given(URL_PIECES | st.text().map("http://{}".format))
def test_any_text_is_judged(text: str) -> None:
    """Any text is either refused by `ItemError` or becomes ASCII that other parsers split the same way, and is stable."""
    try:
        target = check_url(text)
    except ItemError:
        return
    assert target.url.isascii()
    assert target.url.isprintable()
    assert " " not in target.url
    assert check_url(target.url) == target
    parts = urlsplit(target.url)
    assert (parts.scheme, parts.hostname, parts.username) == (target.scheme, target.host, None)
    assert (parts.port or {"http": 80, "https": 443}[target.scheme]) == target.port


HOSTS = st.lists(
    st.sampled_from(
        [".", "0x", "0", "127", "255", "256", "1", "a", "f", "xn--", "-", "\u3002", "\uff11", "\u2460", "[", "]", ":"]
    )
    | st.integers(0, 2**32).map(str)
    | st.integers(0, 2**32).map(hex)
    | st.integers(0, 2**32).map("0{:o}".format)
    | st.ip_addresses().map(str),
    min_size=1,
    max_size=8,
).map("".join)


@given(HOSTS | HOSTS.map("[{}]".format))
def test_a_host_is_the_address_that_it_says(text: str) -> None:
    """What the C library or a browser takes for an IPv4 address is accepted only if everybody takes it for the same one."""
    try:
        host = check_url(f"http://{text}/").host
    except ItemError:
        return
    if ":" in host:
        assert str(ipaddress.IPv6Address(host)) == host
        return
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", host.rpartition(".")[2]):  # what browsers take for one
        assert str(ipaddress.IPv4Address(host)) == host == text
    try:
        packed = socket.inet_aton(host)
    except OSError:
        return
    assert packed == ipaddress.IPv4Address(host).packed


DENYING = UrlRules.of(FetchConfig(deny_hosts=("Example.org", "b\u00fccher.example", "8.8.8.8", "2001:DB8::1")))


@pytest.mark.parametrize(
    "text",
    [
        "http://example.org/a",
        "https://EXAMPLE.org.:8443/",
        "http://a.b.example.org/",
        "http://xn--bcher-kva.example/",
        "http://cdn.B\u00dcCHER.example/",
        "http://8.8.8.8/",
        "http://[2001:db8:0::1]/",
    ],
)
def test_denied_hosts(text: str) -> None:
    """A denied host stands for all below it, however it is spelt; as the end of a redirect as well."""
    assert reason_of(text, DENYING) is Reason.POLICY_DENIED
    assert reason_of(text) is None
    with pytest.raises(ItemError) as caught:
        redirect(BASE, text, 0, DENYING)
    assert caught.value.reason is Reason.POLICY_DENIED


@pytest.mark.parametrize(
    "text", ["http://myexample.org/", "http://org/", "http://example.org.evil/", "http://8.8.8.80/"]
)
def test_neighbours_of_denied_hosts(text: str) -> None:
    """Only whole labels count."""
    assert reason_of(text, DENYING) is None


@pytest.mark.parametrize("name", ["*.example.org", "https://example.org", "127.1", "a b", "::x"])
def test_a_denied_host_must_be_one(name: str) -> None:
    """What would never match is an error, not a silent hole."""
    with pytest.raises(ConfigError, match="--deny-hosts"):
        UrlRules.of(FetchConfig(deny_hosts=(name,)))


ASSUMING = UrlRules(assume_https=True)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("example.com/a.jpg", "https://example.com/a.jpg"),
        ("example.com", "https://example.com/"),
        ("example.com:8080/x?y", "https://example.com:8080/x?y"),
        ("//host/x", "https://host/x"),
        ("b\u00fccher.example?q", "https://xn--bcher-kva.example/?q"),
        ("8.8.8.8/x", "https://8.8.8.8/x"),
        ("http://example.com/a", "http://example.com/a"),
    ],
)
def test_https_can_be_assumed(text: str, url: str) -> None:
    """For what has no scheme and looks like a host, with or without a port."""
    assert check_url(text, ASSUMING).url == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nan", Reason.URL_INVALID),
        ("localhost:8080/x", Reason.URL_INVALID),
        ("/a/b.jpg", Reason.URL_INVALID),
        ("///a.com/b.jpg", Reason.URL_INVALID),
        ("127.1/x", Reason.URL_NONSTANDARD_IP),
        ("example.com:25/x", Reason.URL_PORT_DENIED),
        ("user:secret@example.com/x", Reason.URL_SCHEME_DENIED),
        ("//user:secret@example.com/x", Reason.URL_CREDENTIALS),
        ("data:image/png;base64,AA.A", Reason.URL_SCHEME_DENIED),
        ("file:///etc/hosts.txt", Reason.URL_SCHEME_DENIED),
        ("." * (MAX_LENGTH - 1) + "@", Reason.URL_INVALID),
    ],
)
def test_https_is_not_assumed_of_anything(text: str, reason: Reason) -> None:
    """The policy is the same; cells that say that there is nothing are no hosts."""
    assert reason_of(text, ASSUMING) is reason


def test_a_redirect_assumes_nothing() -> None:
    """A Location without a scheme is a path, or an error."""
    assert redirect(BASE, "other.example/x", 0, ASSUMING).url == "https://host.example/a/other.example/x"
    with pytest.raises(ItemError):
        redirect(BASE, "other.example:8080/x", 0, ASSUMING)


STORING = UrlRules.of(FetchConfig(allow_scheme=("s3", "file", "abfs"), deny_hosts=("private",)))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://Bucket/a b/\u00fc#1?x=%41.jpg", ("s3", "Bucket", "/a b/\u00fc#1?x=%41.jpg")),
        ("file:///tmp/a.jpg", ("file", "", "/tmp/a.jpg")),
        ("abfs://box@account.dfs.core.windows.net/a", ("abfs", "box@account.dfs.core.windows.net", "/a")),
        ("s3://bucket", ("s3", "bucket", "/")),
    ],
)
def test_stored_objects_are_named_as_given(text: str, parts: tuple[str, str, str]) -> None:
    """Keys of storages hold whatever they like; only the scheme is put into lower case, as fsspec wants it."""
    target = check_url(text, STORING)
    assert (target.scheme, target.host, target.path) == parts
    assert (target.url, target.port, target.stored) == (text, 0, True)
    assert check_url(text.replace("s3:", "S3:"), STORING) == target
    assert target.host_key == f"{target.scheme}://{target.host}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gs://bucket/a", Reason.URL_SCHEME_DENIED),
        ("s3:bucket/a", Reason.URL_INVALID),
        ("s3://bucket/a::http://169.254.169.254/", Reason.URL_INVALID),
        ("s3::http://host/", Reason.URL_INVALID),
        ("filecache::s3://bucket/a", Reason.URL_INVALID),
        ("s3://key:secret@bucket/a", Reason.URL_CREDENTIALS),
        ("s3://bucket/a\nb", Reason.URL_INVALID),
        ("s3://bucket/\x00", Reason.URL_INVALID),
        ("s3://bucket/" + "a" * MAX_LENGTH, Reason.URL_TOO_LONG),
        ("s3://private/a", Reason.POLICY_DENIED),
    ],
)
def test_stored_objects_are_judged(text: str, reason: Reason) -> None:
    """Other storages, chains of them, and secrets are refused."""
    assert reason_of(text, STORING) is reason


def test_no_redirect_leads_into_a_storage() -> None:
    """The list is the user's; the answer of a server is not."""
    for location in ("s3://bucket/a", "file:///etc/passwd"):
        with pytest.raises(ItemError) as caught:
            redirect(BASE, location, 0, STORING)
        assert caught.value.reason is Reason.URL_SCHEME_DENIED


RULES = st.sampled_from([DENYING, ASSUMING, STORING])


@given(URL_PIECES | URL_PIECES.map("s3://{}".format), RULES)
def test_rules_only_ever_judge(text: str, rules: UrlRules) -> None:
    """Under any rules any text is refused by `ItemError` or becomes a stable target, and web targets stay the same."""
    try:
        target = check_url(text, rules)
    except ItemError:
        return
    assert check_url(target.url, rules) == target
    if not target.stored:
        assert check_url(target.url) == target


BASE = check_url("https://host.example/a/b.jpg?x=1")


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/c", "https://host.example/c"),
        ("c d", "https://host.example/a/c%20d"),
        ("../c", "https://host.example/c"),
        ("?y", "https://host.example/a/b.jpg?y"),
        ("//other.example/x", "https://other.example/x"),
        ("http://plain.example/", "http://plain.example/"),
        ("\\c", "https://host.example/c"),
    ],
)
def test_redirects_are_joined(location: str, url: str) -> None:
    """A Location may be relative."""
    assert redirect(BASE, location, 0).url == url


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (None, Reason.HTTP_REDIRECT_INVALID),
        (" ", Reason.HTTP_REDIRECT_INVALID),
        ("file:///etc/passwd", Reason.URL_SCHEME_DENIED),
        ("ftp://host/", Reason.URL_SCHEME_DENIED),
        ("http://u:p@host/", Reason.URL_CREDENTIALS),
        ("http://127.1/", Reason.URL_NONSTANDARD_IP),
        ("http://host:25/", Reason.URL_PORT_DENIED),
        ("/a\r\nX: y", Reason.URL_INVALID),
        ("http://[::1/", Reason.URL_INVALID),
        ("/" + "a" * MAX_LENGTH, Reason.URL_TOO_LONG),
    ],
)
def test_redirects_are_judged(location: str | None, reason: Reason) -> None:
    """The full policy holds for each hop."""
    with pytest.raises(ItemError) as caught:
        redirect(BASE, location, 0)
    assert caught.value.reason == reason


def test_redirects_have_a_limit() -> None:
    """The hop after the last one allowed is refused."""
    assert redirect(BASE, "/x", MAX_REDIRECTS - 1).path == "/x"
    with pytest.raises(ItemError) as caught:
        redirect(BASE, "/x", MAX_REDIRECTS)
    assert caught.value.reason == Reason.HTTP_REDIRECT_LIMIT
