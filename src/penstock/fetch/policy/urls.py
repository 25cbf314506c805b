"""Which URLs are fetched, and the exact bytes that are sent for them.

One parser for everything: the host that is judged here is the host that is connected to, because the text of a `Target`
is put together from the parts that were judged.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urljoin

import idna

from penstock.errors import ItemError
from penstock.records import Reason

__all__ = ["MAX_LENGTH", "MAX_REDIRECTS", "Target", "check_url", "redirect"]

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
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
# The path and query sets of the WHATWG URL standard; an existing "%" stays as it is.
_PATH_UNSAFE = re.compile(r"[^!$%&\'()*+,\-./0-9:;=@A-Z\[\\\]_a-z|~]")
_QUERY_UNSAFE = re.compile(r"[^!$%&()*+,\-./0-9:;=?@A-Z\[\\\]^_`a-z{|}~]")


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be fetched."""

    url: str
    """As sent: ASCII, percent-encoded, without fragment."""
    scheme: str
    """``http`` or ``https``."""
    host: str
    """A-label or IP address, lower case, without brackets and trailing dot."""
    port: int
    path: str
    """Path and query, as they stand in the request line; starts with a slash."""

    @property
    def host_key(self) -> str:
        """What requests are counted and held back by."""
        return self.host

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(text: str | None) -> Target:
    """The target that a cell of the source stands for.

    >>> check_url("HTTP://Bücher.example/a b.jpg?q=ü#top").url
    'http://xn--bcher-kva.example/a%20b.jpg?q=%C3%BC'

    Raises:
        ItemError: with one of the ``url.*`` reasons. Its detail never repeats a user name or password.
    """
    text = text.strip() if isinstance(text, str) else ""
    if not text:
        raise ItemError(Reason.URL_MISSING)
    if len(text) > MAX_LENGTH:
        raise ItemError(Reason.URL_TOO_LONG, f"{len(text)} characters")
    if _CONTROL.search(text):
        raise ItemError(Reason.URL_INVALID, "control character")
    scheme, authority, path, query = _split(text)
    host, port = _authority(authority, scheme)
    path = _encode(_PATH_UNSAFE, path.replace("\\", "/") or "/") + _encode(_QUERY_UNSAFE, query)
    shown = f"[{host}]" if ":" in host else host
    suffix = "" if port == DEFAULT_PORTS[scheme] else f":{port}"
    url = f"{scheme}://{shown}{suffix}{path}"
    if len(url) > MAX_LENGTH:
        raise ItemError(Reason.URL_TOO_LONG, f"{len(url)} characters when percent-encoded")
    return Target(url, scheme, host, port, path)


def redirect(target: Target, location: str | None, hops: int) -> Target:
    """Where the answer of `target`, after `hops` earlier redirects, sends the request; under the full policy.

    Raises:
        ItemError: ``http.redirect_limit``, ``http.redirect_invalid`` (no Location), or a ``url.*`` reason.
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
    return check_url(joined)


def _split(text: str) -> tuple[str, str, str, str]:
    """Scheme, authority, path and query (with its question mark), as they stand in the text."""
    parts = _PARTS.match(text)
    scheme = _SCHEME.match(text)
    name = scheme[1].lower() if scheme else ""
    # "host:8080/x" and "C:/x" look like a scheme too; only what is followed by // or known as one is called so
    if parts is None and (not name or text[len(name) + 1 : len(name) + 2].isdigit() or "." in name):
        raise ItemError(Reason.URL_INVALID, "no scheme")
    if name not in DEFAULT_PORTS:
        raise ItemError(Reason.URL_SCHEME_DENIED, f"{name[:20]}:")
    if parts is None:
        raise ItemError(Reason.URL_INVALID, "no host")
    return name, parts[2], parts[3], parts[4] or ""


def _authority(text: str, scheme: str) -> tuple[str, int]:
    if "@" in text:
        raise ItemError(Reason.URL_CREDENTIALS)
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ItemError(Reason.URL_INVALID, "host")
    return _host(match[1]), _port(match[2], scheme)


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
