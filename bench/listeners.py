"""Listeners: what ten thousand live tails of one API process take, and how soon one of them is shown its event.

Owns the measurement: half of them by server-sent events and half by WebSocket, each on a subject of its own, nearly all
of which stay silent. Memory is that of the API process with them minus that without, after they have rested; latency is
from the return of a commit in this process to the bytes of the event in this process, while all are connected. In the
end one event goes to all of them.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from secrets import token_bytes
from urllib.parse import urlencode

import msgspec
import psutil

from bench import heard
from bench.stage import Stage, connected, resident_bytes
from headrace.database.record import Record, open_record
from headrace.settings import Settings
from headrace.stack.ports import free_port
from headrace.transaction import transaction

APPLICATIONS = "storefront.application:application,bench.heard:application"
KEY = "listeners"
_AT_ONCE = 200
_LIVELY = 100
"""Listeners whose subject has events."""
_WARM = 20
_PATIENCE_SECONDS = 120.0
_REST_SECONDS = 5.0
_PAUSE_SECONDS = (0.01, 0.04)
_PING, _PONG = b"\x89\x04", b"\x8a\x84\x00\x00\x00\x00"
"""How the server's frame begins, and the answer to it but for the four bytes that it brought."""
_REGISTERED = "SELECT count(DISTINCT role) FROM processes WHERE expires_at > now()"


class Listened(msgspec.Struct, frozen=True):
    """What was measured with that many listeners."""

    listeners: int
    opened_seconds: float
    bytes_each: float
    milliseconds: list[float]
    """From commit to one listener."""
    everybody_seconds: float
    """Until one event has reached all of them."""
    idle_share: float
    """Of one processor, while nothing happens but keep-alives."""


class Client(asyncio.Protocol):
    """A connection that counts its events and remembers when the last one came."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.events = 0
        self.at = 0
        self.heard = asyncio.Event()
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count events, and answer pings."""
        now = time.time_ns()
        if not self.ready.done():
            assert data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), data
            self.ready.set_result(None)
        if data.startswith(_PING):
            self.transport.write(_PONG + data[len(_PING) : len(_PING) + 4])
        if events := data.count(b'"specversion"'):
            self.events += events
            self.at = now
            self.heard.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to who waits for the beginning."""
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionResetError())


async def measure_listeners(stage: Stage, *, listeners: int, events: int) -> Listened:
    """Open the listeners, let them rest, and publish to some of them, then to all."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = free_port()
    environment = stage.environment(HEADRACE_APPLICATIONS=APPLICATIONS, HEADRACE_PORT=str(port), HEADRACE_API_KEY=KEY)
    settings = Settings(database_url=stage.database_url, redis_url=stage.redis_url)
    with (
        stage.running("relay", "headrace.cli", "relay", environment=environment),
        stage.running("api", "headrace.cli", "api", environment=environment) as api,
    ):
        async with connected(stage) as connection, asyncio.timeout(_PATIENCE_SECONDS):
            while await connection.fetchval(_REGISTERED) < 2:
                await asyncio.sleep(0.1)
        async with open_record(settings) as record, opened_tails(port, 2):
            await asyncio.sleep(_REST_SECONDS)
            before = resident_bytes(api)
            began = time.monotonic()
            async with opened_tails(port, listeners) as clients:
                opened = time.monotonic() - began
                idle = await _idle_share(api)
                each = (resident_bytes(api) - before) / listeners
                taken = await latency(record, clients, events)
            async with opened_tails(port, listeners, alike=True) as clients:
                everybody = await _everybody(record, clients)
    return Listened(listeners, opened, each, taken, everybody, idle)


async def _idle_share(api: psutil.Process) -> float:
    before, began = sum(api.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(_REST_SECONDS * 3)
    return (sum(api.cpu_times()[:2]) - before) / (time.monotonic() - began)


async def latency(record: Record, clients: list[Client], events: int) -> list[float]:
    """Publish to one listener after the other; return how long each event took from its commit, in milliseconds."""
    found = []
    for number in range(_WARM + events):
        client = clients[number % min(_LIVELY, len(clients))]
        client.heard.clear()
        async with transaction(record) as tx:
            await tx.publish(heard.Ticked(number % _LIVELY))
        committed = time.time_ns()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await client.heard.wait()
        found.append((client.at - committed) / 1e6)
        await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - spreads the load, keeps no secret
    return found[_WARM:]


async def _everybody(record: Record, clients: list[Client]) -> float:
    before = {client: client.events for client in clients}
    async with transaction(record) as tx:
        await tx.publish(heard.Ticked(0))
    committed = time.monotonic()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while any(client.events == events for client, events in before.items()):
            await asyncio.sleep(0.01)
    return time.monotonic() - committed


@asynccontextmanager
async def opened_tails(port: int, count: int, *, alike: bool = False) -> AsyncIterator[list[Client]]:
    """Open that many tails, every other one a WebSocket; unless they are alike, each on a subject of its own."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    async with AsyncExitStack() as stack:
        for first in range(0, count, _AT_ONCE):
            made = []
            for number in range(first, min(count, first + _AT_ONCE)):
                client = Client(_request(port, None if alike else str(number), socket=number % 2 == 1))
                await loop.create_connection(partial(_same, client), "127.0.0.1", port)
                stack.callback(client.transport.abort)
                made.append(client)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await asyncio.gather(*(client.ready for client in made))
            clients += made
        yield clients


def _same(client: Client) -> Client:
    return client


def _request(port: int, subject: str | None, *, socket: bool) -> bytes:
    lines = [f"Host: 127.0.0.1:{port}", f"Authorization: Bearer {KEY}"]
    if socket:
        key = b64encode(token_bytes(16)).decode()
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    path = "/v1/live" if socket else "/v1/events/stream"
    query = urlencode({"type": "bench.*"} | ({} if subject is None else {"subject": subject}))
    return "\r\n".join([f"GET {path}?{query} HTTP/1.1", *lines, "", ""]).encode()
