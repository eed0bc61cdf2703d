"""A redrive of a subscription that keeps order."""

from __future__ import annotations

from headrace.subscribers.redrive import Asked, Selection, start_redrive
from headrace.transaction import transaction
from tests.lanes import Thing
from tests.ordered import NAME, brittle, on_the_road, open_world


async def test_keys_go_on_in_their_order_when_their_dead_deliveries_are_redriven(
    database_url: str, redis_url: str
) -> None:
    """What waited behind each dead delivery follows it; a key that was never held is not touched."""
    keys = ("ada", "bob", "eve")
    async with open_world(database_url, redis_url, brittle) as world:
        for key in keys:
            await world.break_(key, 1)
        async with on_the_road(world, brittle):
            await world.publish(*(Thing(key, number) for number in (1, 2, 3) for key in (*keys, "free")))
            await world.until_handled("free", [1, 2, 3])
            await world.until_waiting(2 * len(keys))
            await world.mend()

            async with transaction(world.record) as tx:
                begun = await start_redrive(tx, Asked(NAME, Selection()))
            for key in keys:
                await world.until_handled(key, [1, 2, 3])
            await world.until_free()

        handled_of_free = await world.handled("free")

    assert begun.count == len(keys)
    assert handled_of_free == [1, 2, 3]
