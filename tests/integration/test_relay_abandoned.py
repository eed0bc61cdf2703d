"""What an older version kept in Redis is taken away."""

from __future__ import annotations

from redis.asyncio import Redis

from headrace.relay.abandoned import remove_abandoned
from headrace.relay.process import stand_by
from headrace.streams.names import lane_key
from tests.conftest import MIGRATIONS
from tests.lanes import eventually, running, settings_of


async def test_old_keys_are_deleted_when_a_relay_begins_to_lead(database_url: str, redis_url: str) -> None:
    """The lanes and queues of before go, what is in use stays."""
    settings = settings_of(database_url, redis_url)
    async with Redis.from_url(redis_url) as redis:
        for key in ("headrace:lane:0", "headrace:lane:3", lane_key(0)):
            await redis.xadd(key, {"e": "x"}, id="1-0")

        async with running(lambda stop: stand_by(settings, stop, migrations=MIGRATIONS, parts=(remove_abandoned,))):

            async def is_gone() -> bool:
                return not await redis.exists("headrace:lane:0", "headrace:lane:3")

            await eventually(is_gone)

        assert await redis.exists(lane_key(0))
