"""The catalogue of what goes wrong on the way to an image, as data: where the server does it, and what Penstock makes of it.

For a test of your own::

    with ImageServer(count=1) as server:
        for fault in FAULTS:
            if not fault.needs:
                try_it(fault.url(server), fault.reason, fault.attempts(retries=2))

``python -m penstock.testing.faults`` prints the table that the guide shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote, quote_plus, urlsplit

from penstock.records import Reason, Retry
from penstock.testing.bad_images import BAD_IMAGES
from penstock.testing.behaviours import Robots
from penstock.testing.server import ImageServer

__all__ = ["FAULTS", "Certificate", "Fault", "table"]

Certificate = Literal["good", "expired", "unknown", "other host"]
"""What is wrong with the server's certificate: nothing, its time, who signed it, whose it is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them."""

    row: int
    """Number in the catalogue; several faults may share one."""
    name: str
    """Of this fault alone; fit for a host name."""
    place: str
    """A path of the server, or a port of it: ``{refused_url}/``. Braces stand for attributes of `ImageServer`, and
    ``{picture}`` for the name of a picture."""
    reason: Reason | None
    """Why there is no image at the end; None if there is one."""
    secure: bool = False
    """The URL's scheme is https, where the port's is not."""
    certificate: Certificate | None = None
    """The certificate that the server must have been started with."""
    robots: Robots | None = None
    """The `robots` that the server must have been started with, if robots.txt is to be asked for at all."""
    made: int | None = None
    """Attempts, where the reason alone does not tell them."""
    threads: Fault | None = None
    """The same, as the fetcher on threads sees it, where its HTTP client tells something else or nothing."""

    @property
    def needs(self) -> str:
        """What the server has to be started with; empty if nothing."""
        if self.certificate is not None:
            return f"certificate: {self.certificate}"
        return f"robots: {self.robots}" if self.robots is not None else ""

    def attempts(self, retries: int = 2) -> int:
        """Attempts that are made when `retries` further ones are allowed."""
        if self.made is not None:
            return self.made
        # What is for later was tried now as well: the attempts are those at robots.txt.
        further = {Retry.ONCE: 1, Retry.BACKOFF: retries, Retry.HOST: retries, Retry.LATER: retries}
        return 1 + min(further.get(self.reason.retry, 0) if self.reason else 0, retries)

    def url(self, server: ImageServer, host: str | None = None) -> str:
        """Where to find it.

        Args:
            server: Runs, and was started with what the fault needs.
            host: A name for the server's address, for who resolves names; by default the address.
        """
        place = self.place if self.place.startswith("{") else "{url}" + self.place
        url = place.format(picture=quote(server.pictures[0]), **vars(server))
        parts = urlsplit(url)
        port = f":{parts.port}"
        return parts._replace(
            scheme="https" if self.secure else parts.scheme, netloc=host + port if host else parts.netloc
        ).geturl()


def _differing(fault: Fault, by_threads: Reason | None) -> Fault:
    return replace(fault, threads=replace(fault, reason=by_threads))


def _redirect(name: str, url: str, reason: Reason | None, row: int = 37) -> Fault:
    return Fault(row, f"redirect-{name}", f"/redirect-to?url={quote_plus(url, safe='{}:/')}", reason)


def _status(row: int, reason: Reason, *statuses: int) -> tuple[Fault, ...]:
    return tuple(Fault(row, f"status-{status}", f"/status/{status}", reason) for status in statuses)


def _retry_after(name: str, status: int, text: str, reason: Reason, made: int | None = None) -> Fault:
    return Fault(35, f"retry-after-{name}", f"/status/{status}?retry_after={quote(text)}", reason, made=made)


def _length(name: str, text: str, reason: Reason) -> Fault:
    return Fault(48, f"length-{name}", f"/announce/{quote(text)}", reason)


def _field(row: int, name: str, text: str, reason: Reason | None) -> Fault:
    return Fault(row, name, f"/header/{{picture}}?{text}", reason)


def _robots(row: int, kind: Robots, reason: Reason | None, made: int | None = None) -> Fault:
    return Fault(row, f"robots-{kind}", "/image/{picture}", reason, robots=kind, made=made)


def _certificate(name: str, certificate: Certificate, reason: Reason | None) -> Fault:
    return Fault(28, f"certificate-{name}", "/image/{picture}", reason, certificate=certificate)


_CONNECTION = (
    Fault(23, "refused", "{refused_url}/", Reason.CONNECT_REFUSED),
    Fault(24, "blackhole", "{blackhole_url}/", Reason.CONNECT_TIMEOUT),
    Fault(26, "reset-at-connect", "{reset_url}/", Reason.CONNECT_RESET),
    Fault(26, "reset-in-handshake", "{reset_url}/", Reason.CONNECT_RESET, secure=True),
    Fault(26, "no-answer", "/no-answer", Reason.CONNECT_RESET),
    Fault(26, "reset-before-head", "/reset-before-head", Reason.CONNECT_RESET),
    Fault(26, "reset-in-head", "/reset-in-head", Reason.CONNECT_RESET),
    Fault(27, "silent-handshake", "{silent_url}/", Reason.TLS_TIMEOUT, secure=True),
    _certificate("good", "good", None),
    _certificate("expired", "expired", Reason.TLS_CERTIFICATE),
    _certificate("unknown", "unknown", Reason.TLS_CERTIFICATE),
    _certificate("other-host", "other host", Reason.TLS_CERTIFICATE),
    Fault(29, "plain-on-tls", "{plain_on_tls_url}/", Reason.TLS_PROTOCOL),
)

_STATUS = (
    *_status(31, Reason.HTTP_NOT_FOUND, 404),
    *_status(31, Reason.HTTP_GONE, 410),
    *_status(31, Reason.HTTP_LEGAL, 451),
    *_status(32, Reason.HTTP_FORBIDDEN, 401, 402, 403, 407),
    *_status(33, Reason.HTTP_CLIENT_ERROR, 400, 405, 406, 414, 416, 418),
    *_status(34, Reason.HTTP_SERVER_ERROR, 408, 425, 500, 502, 503, 504, 522, 524),
    *_status(35, Reason.HTTP_RATE_LIMITED, 429),
    _retry_after("zero", 429, "0", Reason.HTTP_RATE_LIMITED),
    _retry_after("unavailable", 503, "0", Reason.HTTP_RATE_LIMITED),
    _retry_after("past", 503, "Thu, 01 Jan 1970 00:01:00 GMT", Reason.HTTP_RATE_LIMITED),
    _retry_after("future", 429, "Fri, 31 Dec 2100 23:59:59 GMT", Reason.HTTP_RATE_LIMITED, made=1),
    _retry_after("day", 429, "86400", Reason.HTTP_RATE_LIMITED, made=1),
    _retry_after("negative", 429, "-1", Reason.HTTP_RATE_LIMITED),
    _retry_after("nan", 429, "NaN", Reason.HTTP_RATE_LIMITED),
    _retry_after("infinite", 429, "1e400", Reason.HTTP_RATE_LIMITED),
    _retry_after("garbage", 503, "soon", Reason.HTTP_SERVER_ERROR),
    *_status(38, Reason.HTTP_REDIRECT_INVALID, 300, 302, 304),
    Fault(40, "empty", "/empty", Reason.BODY_EMPTY),
    *_status(41, Reason.HTTP_UNEXPECTED, 204, 206),
)

_REDIRECTS = (
    Fault(36, "redirects-enough", "/redirect/5/{picture}", None),
    Fault(36, "redirects-too-many", "/redirect/6/{picture}", Reason.HTTP_REDIRECT_LIMIT),
    Fault(36, "redirect-loop", "/redirect-loop", Reason.HTTP_REDIRECT_LIMIT),
    _redirect("file", "file:///etc/passwd", Reason.URL_SCHEME_DENIED),
    _redirect("metadata", "http://169.254.169.254/latest/", Reason.SSRF_BLOCKED),
    _redirect("private", "http://10.0.0.1/", Reason.SSRF_BLOCKED),
    _redirect("private-ipv6", "http://[::ffff:10.0.0.1]/", Reason.SSRF_BLOCKED),
    _redirect("disguised", "http://2130706433/", Reason.URL_NONSTANDARD_IP),
    _redirect("port", "http://127.0.0.1:22/", Reason.URL_PORT_DENIED),
    _redirect("credentials", "http://user:secret@127.0.0.1/", Reason.URL_CREDENTIALS),
    _redirect("control", "/image/\t{picture}", Reason.URL_INVALID),
    _redirect("line-break", "/image/{picture}\r\nX-Injected: 1", None),
    _redirect("long", "/image/" + "x " * 2500, Reason.URL_TOO_LONG),  # its spaces become %20 where it leads
    Fault(39, "downgrade", "/redirect-to?url={plain_url}/image/{picture}", None, certificate="good"),
)

_BODIES = (
    Fault(42, "page", "/html", Reason.CONTENT_NOT_IMAGE),
    Fault(42, "json", "/text/%7B%22error%22:%22gone%22%7D", Reason.CONTENT_NOT_IMAGE),
    _field(44, "wrong-type", "Content-Type=text/html", None),
    _field(44, "no-type", "Content-Type=", None),
    Fault(45, "short", "/short/{picture}", Reason.BODY_TRUNCATED),
    Fault(45, "truncated", "/truncated/{picture}", Reason.IMAGE_TRUNCATED),
    Fault(46, "two-lengths", "/two-lengths/{picture}", Reason.HTTP_PROTOCOL_ERROR),
    Fault(46, "length-and-chunked", "/length-and-chunked/{picture}", Reason.HTTP_PROTOCOL_ERROR),
    _differing(Fault(46, "surplus", "/surplus/{picture}", Reason.HTTP_PROTOCOL_ERROR), Reason.IMAGE_TRUNCATED),
    Fault(47, "chunked", "/chunked/{picture}", None),
    _differing(
        Fault(47, "bad-chunk-size", "/bad-chunk-size/{picture}", Reason.HTTP_PROTOCOL_ERROR), Reason.BODY_TRUNCATED
    ),
    Fault(47, "unfinished-chunks", "/unfinished-chunks/{picture}", Reason.BODY_TRUNCATED),
    _differing(
        Fault(47, "chunk-extension", "/chunk-extension?size=1000000", Reason.CONTENT_NOT_IMAGE),
        Reason.HTTP_PROTOCOL_ERROR,
    ),
    _length("huge", "10000000000", Reason.BODY_TOO_LARGE),
    _length("absurd", "1" + "0" * 30, Reason.HTTP_PROTOCOL_ERROR),
    _length("negative", "-5", Reason.HTTP_PROTOCOL_ERROR),
    _length("signed", "+5", Reason.HTTP_PROTOCOL_ERROR),
    _length("garbage", "many", Reason.HTTP_PROTOCOL_ERROR),
    _length("hexadecimal", "0x10", Reason.HTTP_PROTOCOL_ERROR),
    _length("fraction", "1.5", Reason.HTTP_PROTOCOL_ERROR),
    Fault(49, "endless", "/endless", Reason.BODY_TOO_LARGE),
    Fault(49, "endless-chunks", "/endless-chunks", Reason.BODY_TOO_LARGE),
    Fault(50, "drip-head", "/drip-head/0.1/{picture}", Reason.TIMEOUT_IDLE),
    Fault(50, "drip", "/drip/20/{picture}", Reason.TIMEOUT_LOW_SPEED),
    Fault(51, "silent", "/silent", Reason.TIMEOUT_IDLE),
    Fault(51, "stall", "/stall/{picture}", Reason.TIMEOUT_IDLE),
    Fault(57, "reset", "/reset/{picture}", Reason.BODY_RESET),
)

_HEADS = (
    Fault(52, "many-headers", "/many-headers?count=100000", Reason.HTTP_PROTOCOL_ERROR),
    Fault(52, "long-header", "/long-header?size=1000000", Reason.HTTP_PROTOCOL_ERROR),
    Fault(52, "garbage", "/garbage", Reason.HTTP_PROTOCOL_ERROR),
    Fault(53, "interim-100", "/interim/100", Reason.TIMEOUT_IDLE),
    _differing(Fault(53, "interim-103", "/interim/103", Reason.TIMEOUT_IDLE), Reason.HTTP_PROTOCOL_ERROR),
    Fault(54, "gzip", "/gzip/{picture}", None),
    Fault(54, "deflate", "/encoded/deflate/{picture}", None),
    Fault(54, "gzip-bomb", "/gzip-bomb?size=1000000000", Reason.BODY_TOO_LARGE),
    Fault(55, "coding-lie", "/claimed/gzip/{picture}", None),
    Fault(55, "coding-lie-br", "/claimed/br/{picture}", None),
    Fault(55, "coding-br", "/encoded/br/{picture}", Reason.HTTP_ENCODING),
    Fault(55, "coding-unknown", "/encoded/rot13/{picture}", Reason.HTTP_ENCODING),
    Fault(55, "coding-cut", "/cut-gzip/{picture}", Reason.HTTP_ENCODING),
    Fault(55, "coding-stacked", "/stacked/20/{picture}", Reason.HTTP_ENCODING),
    Fault(56, "race", "/race/{picture}", None),
    Fault(59, "cookies", "/cookies/50/{picture}", None),
    _field(61, "noai", "X-Robots-Tag=noai", Reason.OPTOUT_HEADER),
    _field(61, "noimageai", "X-Robots-Tag=all&X-Robots-Tag=nofollow,+noimageai", Reason.OPTOUT_HEADER),
    _field(61, "noindex-for-others", "X-Robots-Tag=otherbot:+noindex", None),
    _field(61, "content-usage", "Content-Usage=train-ai%3Dn", Reason.OPTOUT_HEADER),
    _field(61, "tdm-reservation", "tdm-reservation=1", Reason.OPTOUT_TDM),
    _field(61, "tdm-no-reservation", "tdm-reservation=0", None),
    _robots(61, "forbid", Reason.OPTOUT_ROBOTS, made=0),
    _robots(61, "redirect", Reason.OPTOUT_ROBOTS, made=0),
    _robots(61, "allow", None),
    _robots(61, "none", None),
    _robots(61, "huge", None),
    _robots(61, "garbage", None),
    _robots(62, "error", Reason.OPTOUT_ROBOTS_UNREACHABLE),
    _robots(62, "slow", Reason.OPTOUT_ROBOTS_UNREACHABLE),
)

_IMAGES = tuple(
    Fault(bad.row, bad.name.replace(".", "-"), f"/bad/{bad.name}", bad.expected) for bad in BAD_IMAGES.values()
)

FAULTS: tuple[Fault, ...] = tuple(
    sorted((*_CONNECTION, *_STATUS, *_REDIRECTS, *_BODIES, *_HEADS, *_IMAGES), key=lambda fault: fault.row)
)
"""All of them, in the order of the catalogue."""


def table() -> str:
    """A row of Markdown for each fault."""
    lines = ["| # | fault | where | server needs | reason | attempts |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {fault.row} | {fault.name} | {_shown(fault)} | {fault.needs} | {_ending(fault)} | {fault.attempts()} |"
        for fault in FAULTS
    ]
    return "\n".join(lines) + "\n"


def _ending(fault: Fault) -> str:
    ending = f"`{fault.reason.value}`" if fault.reason else "an image"
    return ending if fault.threads is None else f"{ending}; by threads {_ending(fault.threads)}"


def _shown(fault: Fault) -> str:
    place = fault.place.replace("{picture}", "NAME")
    short = place if len(place) < 60 else place[:59] + "…"
    return f"`{'https: ' if fault.secure else ''}{short}`"


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201 - what it is for
