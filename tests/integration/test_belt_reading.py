"""What a worker reads when several queues have jobs: no more than it can start, and never at the cost of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.clock import new_id
from headrace.diagnostics import echo
from headrace.jobs.call import Options
from headrace.relay.dispatch import Dispatcher
from headrace.tasks.belt import Belt, Delivery
from headrace.tasks.queue_streams import QueueStreams
from tests.road import BOUND_SECONDS, Road, eventually

QUEUES = ("first", "second", "third")
_PROCESS = """
    INSERT INTO processes (id, role, host, pid, tasks, slots, expires_at)
    VALUES ($1, 'worker', 'here', 1, $2, 1000, now() + interval '1 minute')
"""


@asynccontextmanager
async def reading(road: Road, *, slots: int) -> AsyncIterator[Belt]:
    """Run the belt of a worker for the block; nobody runs what it wins."""
    worker = new_id()
    await road.driver.execute(_PROCESS, worker, sorted(road.registry.tasks))
    belt = Belt(
        QueueStreams(road.settings.redis_url, str(worker)), road.settings.database_url, worker_id=worker, slots=slots
    )
    belt.serve(QUEUES)
    read = asyncio.create_task(belt.read())
    try:
        yield belt
    finally:
        belt.stop()
        async with asyncio.timeout(BOUND_SECONDS):
            await read
        await belt.close()


async def release(road: Road, *queues: str, each: int) -> None:
    """Put that many jobs on each queue's stream."""
    for queue in queues:
        await road.enqueue(*(echo.options(Options(queue=queue)).call(n) for n in range(each)))
    await Dispatcher(road.redis).run_once(road.driver)


async def win(belt: Belt, number: int) -> list[Delivery]:
    """Wait until the worker has won that many."""
    won: list[Delivery] = []
    async with asyncio.timeout(BOUND_SECONDS):
        while len(won) < number:
            won += await belt.next()
    return won


async def test_all_slots_go_to_one_queue_when_only_that_one_has_jobs(road: Road) -> None:
    """The slots are not divided among queues in which nothing waits."""
    async with reading(road, slots=9) as belt:
        await release(road, "second", each=30)

        won = await win(belt, 9)

        assert {delivery.claim.queue for delivery in won} == {"second"}
        assert await road.counts() == {"running": 9, "queued": 21}


async def test_surplus_is_given_back_when_several_queues_answer_at_once(road: Road) -> None:
    """What was read and cannot start waits for whoever has a slot, not for this worker."""
    async with reading(road, slots=8) as belt:
        await release(road, "first", each=8)
        held = await win(belt, 8)
        await release(road, *QUEUES, each=8)

        for delivery in held:
            belt.done(delivery)
        again = await win(belt, 8)

        async def given_back() -> bool:
            return (await road.counts()).get("pending", 0) == 16

        assert {delivery.claim.queue for delivery in again} <= set(QUEUES)
        await eventually(given_back)
