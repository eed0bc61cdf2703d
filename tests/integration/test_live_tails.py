"""Events as they come, by server-sent events and WebSocket, over real sockets with a relay behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headrace.settings import Settings
from tests.live import Served, message, serving


@pytest.fixture
async def served(database_url: str, redis_url: str) -> AsyncIterator[Served]:
    """An API on a socket with a relay."""
    async with serving(Settings(database_url=database_url, redis_url=redis_url)) as opened:
        yield opened


async def test_events_come_as_cloudevents_when_they_are_published(served: Served) -> None:
    """By both ways, in the form of `GET /v1/events`."""
    async with served.tail(type="tests.*") as reader, served.socket(type="tests.thing.*") as socket:
        await served.publish(1, 2, 3)
        first = await reader.told()
        rest = await reader.numbers(2)
        messages = [await message(socket) for _ in range(3)]
    page = (await served.client.get("/v1/events")).json()["items"]

    assert first == ("message", page[2])
    assert rest == [2, 3]
    assert [one["data"]["number"] for one in messages] == [1, 2, 3]
    assert messages[-1].pop("last_event_id") == reader.last_event_id
    assert messages[-1] == page[0]
