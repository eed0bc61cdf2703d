"""Connections to servers that may be hostile.

Owns the moment between a name and a connection: the name is looked up once, every address of the answer is held against
what is permitted, and the connection goes to one of exactly these addresses. One refused address refuses the whole
name: who answers with a public and a private address is trying. The certificate is checked against the name.
What arrives on a connection for one request is bounded in bytes, headers and interim answers included; the caller
bounds the time. Never connect to anything but an address that was permitted a moment ago.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

import httpcore

from headrace.webhooks.addresses import Address
from headrace.webhooks.names import LookUp, NameUnknownError

LARGEST_ANSWER: Final = 256 * 1024
"""Bytes that one request may bring in, everything counted."""

_MOST_ADDRESSES: Final = 64
_ADDRESSES_TRIED: Final = 4


class AddressRefusedError(Exception):
    """The name means an address that webhooks must not call."""


class AnswerTooLargeError(Exception):
    """More came in than one answer may have."""


class CertificateError(Exception):
    """The other side is not, by TLS, who it should be."""


class PermittedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for `httpcore`, to permitted addresses only."""

    def __init__(self, look_up: LookUp, permits: Callable[[Address], bool]) -> None:
        self._look_up = look_up
        self._permits = permits
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to `host`, by whichever of its addresses answers first in their order.

        Raises:
            AddressRefusedError: any of them is not permitted; nothing was connected.
            NameUnknownError: there is none.

        """
        addresses = (await self._permitted(host))[:_ADDRESSES_TRIED]
        each = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                stream = await self._sockets.connect_tcp(str(address), port, each, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            return _BoundedStream(stream)
        return _BoundedStream(
            await self._sockets.connect_tcp(str(addresses[-1]), port, each, local_address, socket_options)
        )

    async def sleep(self, seconds: float) -> None:
        """Wait, for `httpcore`."""
        await self._sockets.sleep(seconds)

    async def _permitted(self, host: str) -> Sequence[Address]:
        literal = _literal(host)
        addresses = (literal,) if literal else await self._look_up(host)
        if not addresses:
            message = f"the name {host} has no address"
            raise NameUnknownError(message)
        if len(addresses) > _MOST_ADDRESSES:
            message = f"the name {host} has {len(addresses)} addresses: more than anybody needs"
            raise AddressRefusedError(message)
        if not all(self._permits(address) for address in addresses):
            # which one is not said: whoever makes webhooks could ask for the names of our own network
            message = f"{host} is, or has, an address that is not of the public Internet"
            raise AddressRefusedError(message)
        return addresses


class _BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that ends where more than `LARGEST_ANSWER` comes in after the last of ours went out."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._received = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        part = await self._stream.read(max_bytes, timeout)
        self._received += len(part)
        if self._received > LARGEST_ANSWER:
            message = f"the answer is larger than {LARGEST_ANSWER} bytes"
            raise AnswerTooLargeError(message)
        return part

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's signature
        self._received = 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except httpcore.ConnectError as error:
            message = f"TLS failed: {error}"
            raise CertificateError(message) from error

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's signature
        return self._stream.get_extra_info(info)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
