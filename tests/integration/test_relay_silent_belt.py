"""A Redis that takes connections and says nothing keeps no event from its position."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from headrace.clock import new_id
from headrace.leases import Leases
from headrace.loops import Stop
from headrace.relay.leader import Leadership
from headrace.relay.moving import move_events
from tests.integration.test_belt_survival import opened
from tests.lanes import Thing, eventually, heads, publish

SILENCE_SECONDS = 1.0
"""After so long a command gives up; five in a deployment."""

EVENTS = 5000


async def test_positions_are_given_when_the_belt_says_nothing(database_url: str, redis_url: str) -> None:
    """One look at a time waits for it in vain: trimming and announcing do not wait as well, batch after batch."""
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with opened(database_url, redis_url) as road:
        belt = Redis(port=port, socket_timeout=SILENCE_SECONDS, retry=Retry(NoBackoff(), 0))
        fence = (await Leases(road.record.engine, new_id(), seconds=60).take(["relay"]))["relay"]
        await publish(road.record, [Thing(f"k{number % 50}", number) for number in range(EVENTS)])

        async def placed() -> bool:
            return sum((await heads(road.driver)).values()) == EVENTS

        stop = Stop()
        moving = asyncio.create_task(move_events(Leadership(road.record, belt, road.settings, fence, stop)))
        await eventually(placed, within_seconds=12 * SILENCE_SECONDS)
        stop.set()
        await moving
        await belt.aclose()
    silent.close()
