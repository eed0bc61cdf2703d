"""What the URL of a webhook says, read strictly and in one way only.

Owns the one reader of these URLs: what is checked when a webhook is made is, part by part, what is connected to later.
Refused with the reason: schemes other than http and https, a user or password, a fragment, characters that some reader
would skip, and every spelling of an IPv4 address but four decimal numbers (`127.1`, `0x7f000001`, `2130706433` and
`0177.0.0.1` all mean 127.0.0.1 to somebody). Names outside ASCII become what a browser makes of them (UTS 46); one
trailing dot is dropped. Never hand a URL to another library as text.
Source of the ports: https://fetch.spec.whatwg.org/#port-blocking
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import idna
import msgspec

from headrace.errors import FieldError, InvalidInputError

LONGEST_URL: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST_NAME: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNPRINTED: Final = re.compile(r"[\x00-\x20\x7f\\\u0085\u00a0\u2028\u2029]")
_REST: Final = re.compile(r"[!-~]*")  # ASCII that can be seen
_NETLOC: Final = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:[0-9]*)?")
OTHER_PROTOCOLS: Final = frozenset(
    {1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110}
    | {
        111,
        113,
        115,
        117,
        119,
        123,
        135,
        137,
        139,
        143,
        161,
        179,
        389,
        427,
        465,
        512,
        513,
        514,
        515,
        526,
        530,
        531,
        532,
    }
    | {540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061}
    | {6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080}
)
"""Ports that no browser sends a request to, because something else listens there."""


class Target(msgspec.Struct, frozen=True):
    """What a URL names: `host` in ASCII and lower case, `address` where it is a literal, `rest` = path and query."""

    scheme: str
    host: str
    port: int
    rest: str
    address: IPv4Address | IPv6Address | None = None

    @property
    def origin(self) -> str:
        """Return the URL without path and query, which may be secret: what spans and logs may show."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return f"{self.scheme}://{host}:{self.port}"


def read_target(url: str, *, field: str = "url") -> Target:
    """Read `url`.

    Raises:
        InvalidInputError: a webhook cannot have it; the message says why, for `field`.

    """
    try:
        return _read(url)
    except ValueError as error:
        message = str(error)
        raise InvalidInputError(message, (FieldError(field, message),)) from error


def _read(url: str) -> Target:
    if len(url) > LONGEST_URL:
        message = f"the URL is longer than {LONGEST_URL} characters"
        raise ValueError(message)
    if _UNPRINTED.search(url):
        message = "the URL has a space, a backslash or a control character in it"
        raise ValueError(message)
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        message = "the URL must begin with https:// or http://"
        raise ValueError(message)
    _refuse_extras(url, parts)
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _REST.fullmatch(rest):
        message = "path and query must be ASCII: write other characters as %XX"
        raise ValueError(message)
    host, address = _host(parts)
    return Target(parts.scheme, host, _port(parts), rest, address)


def _refuse_extras(url: str, parts: SplitResult) -> None:
    if "@" in parts.netloc:
        message = "the URL must not carry a user or password: they would stand in the record"
        raise ValueError(message)
    if "#" in url:
        message = "the URL must not have a fragment (#…): it is never sent"
        raise ValueError(message)


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError as error:
        message = "the port must be a number from 1 to 65535"
        raise ValueError(message) from error
    if port is None:
        return _PORTS[parts.scheme]
    if port == 0:
        message = "the port must be a number from 1 to 65535"
        raise ValueError(message)
    return port


def _host(parts: SplitResult) -> tuple[str, IPv4Address | IPv6Address | None]:
    written = parts.hostname or ""
    if not written or "%" in written or not _NETLOC.fullmatch(parts.netloc):
        message = "the URL names no host"
        raise ValueError(message)
    if parts.netloc.startswith("["):
        return _literal_6(written)
    name = _ascii(written).removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _literal_4(name)
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        message = f"{written!r} is not the name of a host"
        raise ValueError(message)
    return name, None


def _literal_6(written: str) -> tuple[str, IPv6Address]:
    try:
        address = IPv6Address(written)
    except AddressValueError as error:
        message = f"{written!r} is not an IPv6 address"
        raise ValueError(message) from error
    if address.scope_id is not None:
        message = "an IPv6 address with a zone is an address of this machine's own network"
        raise ValueError(message)
    return str(address), address


def _literal_4(name: str) -> tuple[str, IPv4Address]:
    try:
        address = IPv4Address(name)
    except AddressValueError as error:
        message = "an IPv4 address must be written as four decimal numbers"
        raise ValueError(message) from error
    return str(address), address


def _ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        return idna.encode(host, uts46=True, transitional=False).decode().lower()
    except (idna.IDNAError, UnicodeError) as error:
        message = f"{host!r} is not the name of a host"
        raise ValueError(message) from error
