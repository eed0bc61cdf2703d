"""Other people's servers: a real HTTP server on loopback that keeps what it was sent and answers as it is told.

Owns the server, speaking HTTP/1.1 by hand so that it can misbehave: answer late, break off, say too much. Never answer
before the whole body is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec


@dataclass(frozen=True, slots=True)
class Call:
    """One request: names of headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, object]:
        """The CloudEvent that it carries."""
        decoded: dict[str, object] = msgspec.json.decode(self.body)
        return decoded

    @property
    def id(self) -> str:
        """Its `webhook-id`."""
        return self.headers["webhook-id"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered, and how long after the request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"thank you"
    after_seconds: float = 0.0
    when: asyncio.Event | None = None
    """Answered when this happens."""
    breaks_off: bool = False


Answer = Callable[[Call], Reply]


class Endpoint:
    """A server and what it was sent."""

    def __init__(self, port: int, answer: Answer) -> None:
        self.port = port
        self.answer = answer
        """May be set to another one at any time."""
        self.calls: list[Call] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        """The `webhook-id` of each call, in their order."""
        return [call.id for call in self.calls]


def always(status: int = 200, **headers: str) -> Answer:
    """Answer every call alike; `retry_after="3"` is the header `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _call: Reply(status, named)


@asynccontextmanager
async def endpoint(answer: Answer | None = None, *, port: int = 0) -> AsyncIterator[Endpoint]:
    """Run a server for the block; it answers 200 unless told otherwise."""
    opened = Endpoint(0, answer or always())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (call := await _read(reader)) is not None:
                opened.calls.append(call)
                reply = opened.answer(call)
                await asyncio.sleep(reply.after_seconds)
                if reply.when is not None:
                    await reply.when.wait()
                if reply.breaks_off:
                    break
                writer.write(_written(reply))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=512)
    opened.port = server.sockets[0].getsockname()[1]
    try:
        yield opened
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> Call | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(first.split(" ")[1], headers, body, time.time())


def _written(reply: Reply) -> bytes:
    headers = {"content-length": str(len(reply.body)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} As-Told", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body
