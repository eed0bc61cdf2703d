"""Live tails for tests: an API on a real socket with a relay behind it, and clients that read events and messages.

Owns what the tests of tails share: `Served`, which publishes and opens tails, and `Reader`, a client of server-sent
events that remembers the last id as a browser does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from headrace import diagnostics
from headrace.api.door import Door, open_door
from headrace.api.process import _config, _listen, _Server
from headrace.application import combine
from headrace.database.record import open_record
from headrace.settings import Settings
from tests import lanes
from tests.lanes import Thing, publish, registry_of

KEY: Final = "operator-key"
HEADERS: Final = {"Authorization": f"Bearer {KEY}"}
WAIT_SECONDS: Final = 10.0


@dataclass
class Reader:
    """Server-sent events as they come; `last_event_id` is what a browser would send when it comes back."""

    answer: httpx.Response
    last_event_id: str = ""
    _lines: AsyncIterator[str] = field(init=False)

    def __post_init__(self) -> None:
        """Begin to read lines."""
        self._lines = self.answer.aiter_lines()

    async def block(self) -> dict[str, str]:
        """Return the next block, whatever it is; nothing where the stream has ended."""
        found: dict[str, str] = {}
        async with asyncio.timeout(WAIT_SECONDS):
            async for line in self._lines:
                if not line:
                    break
                name, _, value = line.partition(":")
                found[name] = value.removeprefix(" ")
        self.last_event_id = found.get("id", self.last_event_id)
        return found

    async def told(self) -> tuple[str, Any]:
        """Return the kind and the data of the next block with data."""
        while "data" not in (block := await self.block()):
            assert block, "the stream has ended"
        return block.get("event", "message"), msgspec.json.decode(block["data"])

    async def numbers(self, count: int) -> list[int]:
        """Return the numbers of the next events."""
        return [(await self.told())[1]["data"]["number"] for _ in range(count)]


@dataclass(frozen=True)
class Served:
    """An API on a socket."""

    client: httpx.AsyncClient
    door: Door
    url: str
    stop: asyncio.Event

    async def publish(self, *numbers: int, key: str = "a") -> None:
        """Publish a thing for each number."""
        await publish(self.door.record, [Thing(key, number) for number in numbers])

    @asynccontextmanager
    async def tail(self, after: str | None = None, **query: Any) -> AsyncIterator[Reader]:  # noqa: ANN401 - parameters
        """Open a stream that has begun."""
        headers = {} if after is None else {"Last-Event-ID": after}
        async with self.client.stream("GET", "/v1/events/stream", params=query, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            reader = Reader(answer)
            await reader.block()
            yield reader

    def socket(
        self,
        headers: dict[str, str] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        subprotocols: Sequence[str] = (),
    ) -> connect:
        """Open a WebSocket."""
        url = self.url.replace("http", "ws", 1) + "/v1/live?" + urlencode(query or {}, doseq=True)
        return connect(
            url,
            additional_headers=HEADERS if headers is None else headers,
            subprotocols=[Subprotocol(one) for one in subprotocols] or None,
            max_size=None,
        )


async def message(socket: ClientConnection) -> Any:  # noqa: ANN401 - any JSON
    """Return the next message of a WebSocket."""
    async with asyncio.timeout(WAIT_SECONDS):
        return msgspec.json.decode(await socket.recv())


@asynccontextmanager
async def serving(settings: Settings, *, relay: bool = True) -> AsyncIterator[Served]:
    """Serve the API on a free port, with a relay."""
    chosen = {"api_key": KEY, "port": 0, "shutdown_seconds": 5.0, "lease_seconds": 1.0}
    settings = msgspec.structs.replace(settings, **chosen)
    listener = _listen(settings)
    stop = asyncio.Event()
    registry = combine([diagnostics.application, *registry_of().applications])
    async with open_record(settings) as record, open_door(settings, registry, record) as door:
        server = _Server(_config(settings, door))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        limits = httpx.Limits(max_connections=1000)
        client = httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=WAIT_SECONDS, limits=limits)
        try:
            async with client:
                if relay:
                    async with lanes.relaying(settings):
                        yield Served(client, door, url, stop)
                else:
                    yield Served(client, door, url, stop)
        finally:
            door.release()
            server.should_exit = True
            await running
