"""Who holds the lanes is named, and one that is gone from the code can be forgotten."""

from __future__ import annotations

import pytest

from headrace.errors import ConflictError, NotFoundError
from headrace.events.holders import list_holders
from headrace.events.listing import list_subscriptions
from headrace.relay.gone_groups import remove_gone_groups
from headrace.streams.names import lane_key
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.forgetting import forget
from headrace.transaction import transaction
from tests.integration.commands import headrace
from tests.lanes import Thing, consuming, eventually, publish, registered, relaying, settings_of
from tests.road import Road


@subscriber("tests.gone", Thing)
async def gone(delivery: Delivery, thing: Thing) -> None:
    """Be in the code no more."""
    del delivery, thing


@subscriber("tests.there", Thing)
async def there(delivery: Delivery, thing: Thing) -> None:
    """Be in the code."""
    del delivery, thing


@pytest.fixture
async def held(road: Road) -> Road:
    """A record with ten events on two lanes, of which `tests.there` has passed three and `tests.gone` none."""
    await registered(road.record, gone, there)
    await road.driver.execute("UPDATE lanes SET head = 5 WHERE lane < 2")
    await road.driver.execute("UPDATE checkpoints SET position = 3 WHERE lane = 0 AND subscription = 'tests.there'")
    await road.driver.execute("UPDATE checkpoints SET position = 1 WHERE lane = 1 AND subscription = 'tests.gone'")
    return road


async def test_holder_is_named_when_lanes_wait_for_it(held: Road) -> None:
    """Each is told what it alone holds: up to the next slowest, or to the end of the lane."""
    async with held.record.engine.connect() as connection:
        holders = await list_holders(connection)
    listed = await list_subscriptions(held.record, limit=10)

    assert [(one.name, one.holds_trimming, one.lag, one.declared) for one in holders] == [
        ("tests.gone", 3, 9, False),
        ("tests.there", 1, 7, False),
    ]
    assert {one.name: one.holds_trimming for one in listed} == {"tests.gone": 3, "tests.there": 1}


async def test_command_names_the_holders_when_it_is_asked(held: Road) -> None:
    """For people and for programs."""
    plain = await headrace(held, "subscriptions", "holders")
    told = await headrace(held, "subscriptions", "holders", "--json")

    assert plain.out.splitlines()[1].split()[:7] == ["tests.gone", "subscriber", "nobody", "runs", "it", "3", "9"]
    assert [one["name"] for one in told.json["items"]] == ["tests.gone", "tests.there"]


async def test_subscription_leaves_the_record_when_it_is_forgotten(held: Road) -> None:
    """It holds nothing any more; its checkpoints and leases are gone with it."""
    await held.driver.execute("INSERT INTO leases (name) VALUES ('sub:tests.gone:0'), ('sub:tests.gone.too:0')")

    ended = await headrace(held, "subscriptions", "forget", "tests.gone", "--yes")
    again = await headrace(held, "subscriptions", "forget", "tests.gone", "--yes")

    assert ended.out == "the subscription tests.gone is forgotten; it had 9 events to pass\n"
    assert (again.code, again.err) == (1, "headrace: there is no subscription tests.gone\n")
    left = await held.driver.fetch("SELECT DISTINCT subscription FROM checkpoints")
    assert [row["subscription"] for row in left] == ["tests.there"]
    assert [row["name"] for row in await held.driver.fetch("SELECT name FROM leases")] == ["sub:tests.gone.too:0"]


async def test_subscription_is_kept_when_a_process_runs_it(road: Road) -> None:
    """To forget it would lose events; who runs it is said."""
    settings = settings_of(road.settings.database_url, road.settings.redis_url)
    async with consuming(settings, there):
        await eventually(lambda: _lives(road))

        with pytest.raises(ConflictError, match=r"tests\.there is run by .*, process \d+"):
            await _forget(road, there.name)


async def test_nothing_is_forgotten_when_nobody_has_the_name(road: Road) -> None:
    """A typing error forgets nothing."""
    with pytest.raises(NotFoundError):
        await _forget(road, "nobody")


async def test_entries_leave_when_their_last_holder_is_forgotten(road: Road) -> None:
    """Nobody holds any more what one that is gone from the code had held."""
    settings = settings_of(road.settings.database_url, road.settings.redis_url)
    await registered(road.record, gone, there)
    async with relaying(settings), consuming(settings, there):
        await publish(road.record, [Thing("a", number) for number in range(5)])
        await eventually(lambda: _held(road, 5))

        await _forget(road, gone.name)

        await eventually(lambda: _held(road, 0))


async def test_group_leaves_redis_when_its_subscription_is_gone(road: Road) -> None:
    """Groups do not pile up; one whose subscription is on record stays."""
    await registered(road.record, there)
    for name in (gone.name, there.name):
        await road.redis.xgroup_create(lane_key(0), name, id="0", mkstream=True)

    removed = await remove_gone_groups(road.driver, road.redis)

    assert removed == 1
    assert [group["name"] for group in await road.redis.xinfo_groups(lane_key(0))] == [there.name.encode()]


async def _lives(road: Road) -> bool:
    return bool(await road.driver.fetchval("SELECT count(*) FROM processes WHERE role = 'consume'"))


async def _held(road: Road, events: int) -> bool:
    async with road.record.engine.connect() as connection:
        return sum(one.holds_trimming for one in await list_holders(connection)) == events


async def _forget(road: Road, name: str) -> None:
    async with transaction(road.record) as tx:
        await forget(tx, name)
