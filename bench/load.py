"""The load: HTTP/1.1 over keep-alive connections, from a process of its own that costs little.

Owns the sending and the timing of requests that were encoded before. Each connection sends its next request when the
answer to the last one is there. `python -m bench.load` reads one `Load` as msgpack from standard input and writes one
`Taken` to standard output. Anything but the expected status stops the run: a rate of failures is no rate.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

from bench.stage import Stage

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


class Load(msgspec.Struct, frozen=True):
    """Requests to send, as they go over the wire; `repeat` sends the one request that often."""

    port: int
    requests: list[bytes]
    status: int
    repeat: int = 1
    connections: int = 32
    keep_bodies: bool = False


class Taken(msgspec.Struct, frozen=True):
    """How long it took, and the seconds that each request waited for its answer."""

    seconds: float
    waits: list[float]
    bodies: list[bytes]

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.waits) / self.seconds

    def percentile_milliseconds(self, share: float) -> float:
        """Return the wait that this share of the requests did not exceed."""
        return 1e3 * sorted(self.waits)[min(len(self.waits) - 1, int(share * len(self.waits)))]


def request(method: str, path: str, *, body: bytes = b"", key: str = "") -> bytes:
    """Return a request as it goes over the wire."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send(stage: Stage, load: Load) -> Taken:
    """Send a load from a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=stage.environment(),
    )
    answer, _ = await process.communicate(msgspec.msgpack.encode(load))
    assert process.returncode == 0, "the load could not be sent"
    return msgspec.msgpack.decode(answer, type=Taken)


class _Connection(asyncio.Protocol):
    """One connection that sends until nothing is left to send."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(_HEAD_END)
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        at = head.find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        body_at = head_end + len(_HEAD_END)
        if len(self._buffer) < body_at + length:
            return
        self._run.answered(head, self._buffer[body_at:], time.perf_counter() - self._sent_at)
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.closed(exc)

    def _next(self) -> None:
        following = self._run.take()
        if following is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(following)


class _Run:
    """What is left to send, and what came back."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._expected = f"http/1.1 {load.status} ".encode()
        self._left = iter(load.requests * load.repeat)
        self._open = load.connections
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits: list[float] = []
        self._bodies: list[bytes] = []

    async def all(self) -> Taken:
        began_at = time.perf_counter()
        loop = asyncio.get_running_loop()
        for _ in range(self._load.connections):
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._load.port)
        await self._done
        return Taken(time.perf_counter() - began_at, self._waits, self._bodies)

    def take(self) -> bytes | None:
        return next(self._left, None)

    def answered(self, head: bytes, body: bytes, seconds: float) -> None:
        if not head.startswith(self._expected):
            sys.exit(f"expected {self._load.status}: {head.decode()} {body.decode()}")
        self._waits.append(seconds)
        if self._load.keep_bodies:
            self._bodies.append(body)

    def closed(self, error: Exception | None) -> None:
        self._open -= 1
        if error is not None:
            sys.exit(f"a connection broke: {error!r}")
        if self._open == 0:
            self._done.set_result(None)


async def _main() -> None:
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.msgpack.encode(await _Run(load).all()))


if __name__ == "__main__":
    uvloop.run(_main())
