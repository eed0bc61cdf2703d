"""A server that does to its callers whatever the test says.

Owns real TCP servers on loopback that answer a request with a function of the test's: slowly, endlessly, wrongly or
well. `requests` are the heads and bodies that came in, in turn; `connections` counts who connected at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Answer: yes\r\n\r\nok"


class Server:
    """Answers each request by `reply`, and hangs up afterwards unless `keeps`."""

    def __init__(self, reply: Reply, *, keeps: bool = False) -> None:
        self.reply = reply
        self.keeps = keeps
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                self.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
                await self.reply(writer)
                if not self.keeps:
                    break
        writer.close()


def saying(answer: bytes) -> Reply:
    """Return the reply that is these bytes."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return reply


def dripping(start: bytes, drop: bytes, *, pause_seconds: float) -> Reply:
    """Return the reply that never ends: `drop` after `drop`."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return reply


@asynccontextmanager
async def running(
    reply: Reply, *, host: str = "127.0.0.1", port: int = 0, keeps: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Run a server on an address of loopback."""
    server = Server(reply, keeps=keeps)
    listening = await asyncio.start_server(server.serve, host, port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
