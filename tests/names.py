"""A name server whose answers change from question to question, as that of somebody who means harm.

Owns a real DNS server on loopback: for each name and type a list of answers, one after the other; the last one stays.
Names without an answer of a type have none; names that nobody wrote down do not exist. Nothing may be cached.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]
"""name -> type -> the answers in turn, each of several records."""


class NameServer(asyncio.DatagramProtocol):
    """Answers questions; `asked` counts them by name and type."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: Counter[tuple[str, str]] = Counter()
        self.silent = False
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        self._transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own is not derived from it
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        question = dns.message.from_wire(data)
        asked = question.question[0]
        name, kind = asked.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(asked.rdtype)
        turn = self.asked[name, kind]
        self.asked[name, kind] += 1
        if self.silent or self._transport is None:
            return
        answer = dns.message.make_response(question, recursion_available=True)
        if name not in self.zone:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        answer.answer = self._records(name, kind, turn)
        self._transport.sendto(answer.to_wire(), addr)

    def _records(self, name: str, kind: str, turn: int) -> list[dns.rrset.RRset]:
        """Return the records of this turn, with those of the name that it is another name of."""
        kinds = self.zone.get(name, {})
        found: list[dns.rrset.RRset] = []
        if aliases := kinds.get("CNAME"):
            alias = aliases[min(turn, len(aliases) - 1)]
            found = [dns.rrset.from_text(f"{name}.", 0, "IN", "CNAME", f"{alias[0]}.")]
            return found + self._records(alias[0], kind, turn)
        if turns := kinds.get(kind):
            found = [dns.rrset.from_text(f"{name}.", 0, "IN", kind, *turns[min(turn, len(turns) - 1)])]
        return found


@asynccontextmanager
async def running_names(zone: Zone) -> AsyncIterator[NameServer]:
    """Run a name server on a free port of loopback."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(zone), local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
