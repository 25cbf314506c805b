"""Which URLs are fetched, and the exact bytes that are sent for them.

One parser for everything: the host that is judged here is the host that is connected to, because the text of a `Target`
is put together from the parts that were judged.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urljoin

import idna

from penstock.config import FetchConfig
from penstock.errors import ConfigError, ItemError
from penstock.records import Reason

__all__ = ["MAX_LENGTH", "MAX_REDIRECTS", "Target", "UrlRules", "check_url", "redirect"]

MAX_LENGTH = 8192
"""Longest URL in characters, before and after percent-encoding; what most servers accept at most."""

MAX_REDIRECTS = 5

DEFAULT_PORTS = {"http": 80, "https": 443}

# Ports that browsers refuse (fetch.spec.whatwg.org, "bad port"): other protocols live there, and a request could be
# made to speak them. A deny-list, since images do live on odd ports.
# fmt: off
DENIED_PORTS = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6379, 6566, 6665, 6666,
    6667, 6668, 6669, 6679, 6697, 10080,
})
# fmt: on

_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):[/\\]{2}([^/\\?#]*)([^?#]*)(\?[^#]*)?", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)
# What a URL without a scheme begins with: a host, perhaps a port, and then a path, a query or nothing.
_NO_SCHEME = re.compile(r"([^/\\?#:@\[\]]+)(?::\d*)?(?:[/\\?#]|$)")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
# The path and query sets of the WHATWG URL standard; an existing "%" stays as it is.
_PATH_UNSAFE = re.compile(r"[^!$%&\'()*+,\-./0-9:;=@A-Z\[\\\]_a-z|~]")
_QUERY_UNSAFE = re.compile(r"[^!$%&()*+,\-./0-9:;=?@A-Z\[\\\]^_`a-z{|}~]")


_AUTHORITIES = 16_384
"""Authorities whose parts are remembered, some MiB at most: lists name the same hosts again and again."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be fetched, or read from a storage."""

    url: str
    """As sent: ASCII, percent-encoded, without fragment. A storage's: as the source gave it."""
    scheme: str
    """``http`` or ``https``, or that of a storage which the user allows."""
    host: str
    """A-label or IP address, lower case, without brackets and trailing dot. A storage's: the bucket, or empty."""
    port: int
    """0 for a storage."""
    path: str
    """Path and query, as they stand in the request line; starts with a slash."""

    @property
    def stored(self) -> bool:
        """Whether it is read from a storage; everything below but `host_key` is for the others only."""
        return self.scheme not in DEFAULT_PORTS

    @property
    def host_key(self) -> str:
        """What requests are counted and held back by; a bucket never shares it with a host."""
        return f"{self.scheme}://{self.host}" if self.stored else self.host

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        return _shown(self.scheme, self.host, self.port)

    @property
    def origin(self) -> str:
        """Scheme, host and port: what one robots.txt holds for."""
        return f"{self.scheme}://{self.authority}"

    @property
    def robots(self) -> Target:
        """The origin's robots.txt.

        >>> check_url("https://example.com:8443/a.jpg").robots.url
        'https://example.com:8443/robots.txt'
        """
        return Target(f"{self.origin}/robots.txt", self.scheme, self.host, self.port, "/robots.txt")


@dataclass(frozen=True, slots=True)
class UrlRules:
    """What the options say about URLs; made once, for `check_url` runs for every row."""

    schemes: frozenset[str] = frozenset()
    """Of storages, beside http and https; such URLs are taken as they are."""
    deny_hosts: frozenset[str] = frozenset()
    """Spelt as `Target.host` is; each stands for all that is below it, too."""
    assume_https: bool = False

    @classmethod
    def of(cls, config: FetchConfig) -> Self:
        """The rules of the options; raises ConfigError if one of ``deny_hosts`` is no host."""
        deny_hosts = frozenset(_denied_host(name) for name in config.deny_hosts)
        return cls(frozenset(config.allow_scheme), deny_hosts, config.assume_https)

    def check_host(self, host: str) -> None:
        """Refuse a host that is denied, or is below one.

        Raises:
            ItemError: ``policy.denied``.
        """
        name = host
        while name:
            if name in self.deny_hosts:
                raise ItemError(Reason.POLICY_DENIED, host)
            name = name.partition(".")[2]


WEB_ONLY = UrlRules()
"""What holds if the options say nothing."""


def check_url(text: str | None, rules: UrlRules = WEB_ONLY) -> Target:
    """The target that a cell of the source stands for.

    >>> check_url("HTTP://Bücher.example/a b.jpg?q=ü#top").url
    'http://xn--bcher-kva.example/a%20b.jpg?q=%C3%BC'

    Raises:
        ItemError: with one of the ``url.*`` reasons or ``policy.denied``. Its detail never repeats a user name or
            password.
    """
    text = text.strip() if isinstance(text, str) else ""
    if not text:
        raise ItemError(Reason.URL_MISSING)
    if len(text) > MAX_LENGTH:
        raise ItemError(Reason.URL_TOO_LONG, f"{len(text)} characters")
    if _CONTROL.search(text):
        raise ItemError(Reason.URL_INVALID, "control character")
    if rules.schemes and text.partition(":")[0].lower() in rules.schemes:
        target = _stored(text)
    else:
        target = _sent(_with_scheme(text) if rules.assume_https else text)
    if rules.deny_hosts:
        rules.check_host(target.host)
    return target


def _stored(text: str) -> Target:
    """The target of a storage's URL, which has no rules in common but that the bucket comes first."""
    scheme, _, rest = text.partition(":")
    if not rest.startswith("//"):
        raise ItemError(Reason.URL_INVALID, "no // after the scheme")
    if "::" in rest:  # fsspec would take it for two storages, one inside the other
        raise ItemError(Reason.URL_INVALID, "chained URL")
    host, _, path = rest[2:].partition("/")
    if ":" in host.rpartition("@")[0]:  # "container@account" is how Azure names a place
        raise ItemError(Reason.URL_CREDENTIALS)
    scheme = scheme.lower()
    return Target(f"{scheme}:{rest}", scheme, host, 0, f"/{path}")


def _with_scheme(text: str) -> str:
    """The text with ``https:`` before it, if it has no scheme and looks like a URL all the same."""
    if text.startswith("//"):
        return f"https:{text}"
    match = _NO_SCHEME.match(text)
    return f"https://{text}" if match and "." in match[1] else text  # "nan" and "none" are no hosts


def _sent(text: str) -> Target:
    """The target of a URL that is asked for by HTTP."""
    scheme, authority, path, query = _split(text)
    host, port, origin = _authority(authority, scheme)
    path = _encode(_PATH_UNSAFE, path.replace("\\", "/") or "/") + _encode(_QUERY_UNSAFE, query)
    url = origin + path
    if len(url) > MAX_LENGTH:
        raise ItemError(Reason.URL_TOO_LONG, f"{len(url)} characters when percent-encoded")
    return Target(url, scheme, host, port, path)


def redirect(target: Target, location: str | None, hops: int, rules: UrlRules = WEB_ONLY) -> Target:
    """Where the answer of `target`, after `hops` earlier redirects, sends the request; under the full policy.

    No redirect leads into a storage, whatever the rules say: the list is the user's, the answer is not.

    Raises:
        ItemError: ``http.redirect_limit``, ``http.redirect_invalid`` (no Location), ``policy.denied``, or a ``url.*``
            reason.
    """
    if not location or not location.strip():
        raise ItemError(Reason.HTTP_REDIRECT_INVALID, "no Location")
    if hops >= MAX_REDIRECTS:
        raise ItemError(Reason.HTTP_REDIRECT_LIMIT, f"more than {MAX_REDIRECTS}")
    location = location.strip()
    if len(location) > MAX_LENGTH:
        raise ItemError(Reason.URL_TOO_LONG, f"Location of {len(location)} characters")
    if _CONTROL.search(location):  # urljoin would drop some of them silently
        raise ItemError(Reason.URL_INVALID, "control character in Location")
    try:
        joined = urljoin(target.url, location.replace("\\", "/"))
    except ValueError as error:
        raise ItemError(Reason.URL_INVALID, f"Location: {error}") from None
    return check_url(joined, UrlRules(deny_hosts=rules.deny_hosts))


def _split(text: str) -> tuple[str, str, str, str]:
    """Scheme, authority, path and query (with its question mark), as they stand in the text."""
    parts = _PARTS.match(text)
    if parts is None:
        raise _misfit(text)
    scheme = parts[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise ItemError(Reason.URL_SCHEME_DENIED, f"{scheme[:20]}:")
    return scheme, parts[2], parts[3], parts[4] or ""


def _misfit(text: str) -> ItemError:
    """Why a text without ``scheme://`` at its beginning is refused."""
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    follows = text[len(scheme) + 1 : len(scheme) + 2]
    # "host:8080/x" and "C:/x" look like a scheme too
    if not scheme or follows.isdigit() or "." in scheme:
        return ItemError(Reason.URL_INVALID, "no scheme")
    if follows == ":":
        return ItemError(Reason.URL_INVALID, "chained URL")
    if scheme not in DEFAULT_PORTS:
        return ItemError(Reason.URL_SCHEME_DENIED, f"{scheme[:20]}:")
    return ItemError(Reason.URL_INVALID, "no host")


@functools.lru_cache(_AUTHORITIES)
def _authority(text: str, scheme: str) -> tuple[str, int, str]:
    """Host, port, and what the URL begins with."""
    if "@" in text:
        raise ItemError(Reason.URL_CREDENTIALS)
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ItemError(Reason.URL_INVALID, "host")
    host, port = _host(match[1]), _port(match[2], scheme)
    return host, port, f"{scheme}://{_shown(scheme, host, port)}"


def _shown(scheme: str, host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == DEFAULT_PORTS[scheme] else f"{name}:{port}"


def _port(text: str | None, scheme: str) -> int:
    if not text:
        return DEFAULT_PORTS[scheme]
    port = int(text) if text.isascii() and text.isdigit() and len(text.lstrip("0")) <= 5 else 0
    if port > 65535 or port in DENIED_PORTS:
        raise ItemError(Reason.URL_PORT_DENIED, f"port {text[:20]}")
    return port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    host = text.lower()
    try:
        host = host if host.isascii() else idna.uts46_remap(host)
    except idna.IDNAError as error:
        raise ItemError(Reason.URL_INVALID, f"host: {error}") from None
    labels = host.removesuffix(".").split(".")
    if _NUMERIC.fullmatch(labels[-1]):  # what inet_aton and browsers take for an IPv4 address
        if text.isascii() and _IPV4.fullmatch(text):
            return text
        raise ItemError(Reason.URL_NONSTANDARD_IP, host[:60])
    host = ".".join(map(_label, labels))
    if len(host) > 253:
        raise ItemError(Reason.URL_INVALID, "host longer than 253 characters")
    return host


def _denied_host(name: str) -> str:
    """One of ``deny_hosts``, as the hosts of targets are spelt."""
    try:
        return _host(f"[{name}]" if ":" in name else name)
    except ItemError as error:
        raise ConfigError(f"--deny-hosts {name!r}: expected a host such as example.org ({error.detail})") from None


def _label(label: str) -> str:
    """The A-label of one label of a host."""
    if not label:
        raise ItemError(Reason.URL_INVALID, "no host, or an empty label in it")
    # Underscores and outer hyphens are no host names by the letter, and in use all the same.
    if label.isascii() and not label.startswith("xn--"):
        if _LABEL.fullmatch(label):
            return label
        raise ItemError(Reason.URL_INVALID, f"host: label {label[:63]!r}")
    try:
        return idna.alabel(label).decode()
    except UnicodeError as error:  # IDNAError is one
        raise ItemError(Reason.URL_INVALID, f"host: {error}") from None


def _ipv6(text: str) -> str:
    if "%" in text:
        raise ItemError(Reason.URL_INVALID, "IPv6 address with a zone")
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ItemError(Reason.URL_INVALID, "IPv6 address") from None


def _encode(unsafe: re.Pattern[str], text: str) -> str:
    try:
        return unsafe.sub(_percent, text)
    except UnicodeEncodeError:
        raise ItemError(Reason.URL_INVALID, "unpaired surrogate") from None


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())
