"""What a host's name means right now: all of its addresses, asked from the name servers without a thread per question.

Owns the one lookup of a connection. The answer holds every address that the name has, of IPv4 and IPv6, at the end of
its aliases; /etc/hosts and /etc/resolv.conf count as they do elsewhere. A name that nobody knows, and a name server
that does not answer in time, are `NameUnknownError`: worth another attempt later, because names come and go.
Never look a name up a second time for the same connection: whoever owns the name may answer otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import aiodns

LookUp = Callable[[str], Awaitable[Sequence[IPv4Address | IPv6Address]]]

_QUESTION_SECONDS: Final = 2.0
_TRIES: Final = 2


class NameUnknownError(Exception):
    """The name has no address right now, or nobody said which."""


@asynccontextmanager
async def open_names(nameservers: Sequence[str] = (), *, port: int = 53) -> AsyncIterator[LookUp]:
    """Provide the lookup of this process; `nameservers` are the system's where none are given."""
    resolver = aiodns.DNSResolver(
        nameservers or None, timeout=_QUESTION_SECONDS, tries=_TRIES, udp_port=port, tcp_port=port
    )

    async def look_up(name: str) -> Sequence[IPv4Address | IPv6Address]:
        try:
            found = await resolver.getaddrinfo(name)
        except aiodns.error.DNSError as error:
            message = f"the name {name} has no address: {error.args[-1]}"
            raise NameUnknownError(message) from error
        return tuple(dict.fromkeys(ip_address(node.addr[0].decode()) for node in found.nodes))

    try:
        yield look_up
    finally:
        await resolver.close()
