"""A lane that is lost and comes back to the same process."""

from __future__ import annotations

import asyncio

import asyncpg

from headrace.database.record import open_record
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.lanes import Thing, consuming, eventually, publish, registered, relaying, settings_of, settled

NAME = "tests.stuck"
_TAKE_AWAY = "UPDATE leases SET holder = NULL, epoch = epoch + 1, expires_at = '-infinity' WHERE name LIKE 'sub:%'"


async def test_key_goes_on_when_its_lane_comes_back_while_a_worker_is_stuck_with_it(
    database_url: str, redis_url: str
) -> None:
    """What a worker began under the lost lease counts for nothing, and nothing waits for its end."""
    begun: list[int] = []

    @subscriber(NAME, Thing, timeout_seconds=None)
    async def stuck(delivery: Delivery, thing: Thing) -> None:
        del delivery
        begun.append(thing.number)
        if len(begun) == 1:
            await asyncio.Event().wait()

    settings = settings_of(database_url, redis_url)
    driver = await asyncpg.connect(database_url)
    async with open_record(settings) as record:
        await registered(record, stuck)
        async with relaying(settings), consuming(settings, stuck):
            await publish(record, [Thing("a", number) for number in range(5)])
            await eventually(lambda: _began(begun))
            await driver.execute(_TAKE_AWAY)
            await eventually(lambda: settled(driver, NAME, events=5))
    await driver.close()

    assert begun == [0, 0, 1, 2, 3, 4]


async def _began(begun: list[int]) -> bool:
    return bool(begun)
