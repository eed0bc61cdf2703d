"""One leader of several relays, and leases with their epochs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.record import Record, open_record
from headrace.leases import Leases
from headrace.loops import Stop
from headrace.relay.leader import Ground, Leader, Leadership
from headrace.settings import Settings
from headrace.streams.connection import open_commands
from tests.lanes import eventually

NAMES = ("one", "two")


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """The record of this test."""
    async with open_record(Settings(database_url=database_url)) as record:
        yield record


async def test_lease_has_one_holder_when_many_ask(record: Record) -> None:
    """Of eight that ask at once, one gets it."""
    asked = [Leases(record.engine, new_id(), seconds=60) for _ in range(8)]

    taken = await asyncio.gather(*(leases.take(["one"]) for leases in asked))

    assert sum(map(len, taken)) == 1


async def test_epoch_rises_when_the_holder_changes(record: Record) -> None:
    """Each new holder has a larger epoch, and the old one can neither renew nor release."""
    old, new = Leases(record.engine, new_id(), seconds=0.0), Leases(record.engine, new_id(), seconds=60)
    before = await old.take(NAMES)

    after = await new.take(NAMES)
    kept = await old.renew(before)
    await old.release(before)

    assert kept == set()
    assert [after[name].epoch - before[name].epoch for name in NAMES] == [1, 1]
    assert await new.renew(after) == set(NAMES)


async def test_lease_is_free_when_it_was_released(record: Record) -> None:
    """Nobody needs to wait for a lease that was given back."""
    leases = Leases(record.engine, new_id(), seconds=60)
    await leases.release(await leases.take(["one"]))

    taken = await Leases(record.engine, new_id(), seconds=60).take(["one"])

    assert set(taken) == {"one"}


async def test_epoch_rises_when_the_same_holder_takes_anew(record: Record) -> None:
    """A holder that lost track of its lease does not write under the old epoch by accident."""
    leases = Leases(record.engine, new_id(), seconds=60)
    first = await leases.take(["one"])

    second = await leases.take(["one"])

    assert second["one"].epoch == first["one"].epoch + 1


class Part:
    """A part that notes when it leads."""

    def __init__(self) -> None:
        self.leads = False
        self.epochs: list[int] = []

    async def __call__(self, leadership: Leadership) -> None:
        """Lead until told to stop."""
        self.leads = True
        self.epochs.append(leadership.fence.epoch)
        try:
            await leadership.stop.wait()
        finally:
            self.leads = False


async def test_standby_leads_when_the_leader_stops(record: Record, database_url: str, redis_url: str) -> None:
    """A leader that stops in order is followed within a second, under a larger epoch, and never are there two."""
    redis = open_commands(redis_url)
    ground = Ground(record, redis, Settings(database_url=database_url, lease_seconds=30.0))
    parts, stops = [Part(), Part()], [Stop(), Stop()]
    leaders = [Leader(ground, Leases(record.engine, new_id(), seconds=30.0), [part]) for part in parts]
    running = [asyncio.create_task(leader.run(stop)) for leader, stop in zip(leaders, stops, strict=True)]
    await eventually(lambda: _lead(parts, 1))
    first = next(place for place, part in enumerate(parts) if part.leads)

    stops[first].set()
    await running[first]
    took = await eventually(lambda: _lead(parts, 1))

    assert took < 2.0
    assert parts[1 - first].epochs[0] > parts[first].epochs[0]
    stops[1 - first].set()
    await running[1 - first]
    await redis.aclose()


async def test_leader_steps_down_when_its_lease_is_taken(record: Record, database_url: str, redis_url: str) -> None:
    """A leader whose lease somebody else has got stops its parts."""
    redis = open_commands(redis_url)
    part, stop = Part(), Stop()
    ground = Ground(record, redis, Settings(database_url=database_url, lease_seconds=0.5))
    running = asyncio.create_task(Leader(ground, Leases(record.engine, new_id(), seconds=0.5), [part]).run(stop))
    await eventually(lambda: _lead([part], 1))

    async with record.engine.begin() as connection:
        await connection.execute(
            text("UPDATE leases SET epoch = epoch + 1, holder = :id, expires_at = now() + interval '1 hour'"),
            {"id": new_id()},
        )

    await eventually(lambda: _lead([part], 0), within_seconds=2.0)
    stop.set()
    await running
    await redis.aclose()


async def _lead(parts: list[Part], count: int) -> bool:
    return sum(part.leads for part in parts) == count
