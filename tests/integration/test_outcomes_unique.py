"""A unique key that is held for a time: whoever asks for it, however many at once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import text

from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.errors import ConflictError
from headrace.jobs.call import Call, Options
from headrace.jobs.cancel import cancel_job
from headrace.jobs.prune import forget_jobs
from headrace.jobs.redrive import redrive_job
from headrace.transaction import transaction
from tests.road import Road, rolled_back

HOUR = 3600.0
MOVE = text("""
    UPDATE jobs SET state = CAST(:after AS job_state), finished_at = now()
    WHERE id = :id AND state = CAST(:before AS job_state)
""")


def held(key: str, value: int = 0, *, seconds: float = HOUR) -> Call:
    """Return a call whose key is held for a time."""
    return echo.options(Options(unique_key=key, unique_seconds=seconds)).call(value)


async def end(road: Road, job_id: UUID, state: JobState) -> None:
    """Move a job along to an end."""
    moves = ["queued", "running", state.value] if state in {JobState.SUCCEEDED, JobState.DEAD} else [state.value]
    for move in moves:
        await road.driver.execute("UPDATE jobs SET state = CAST($2::text AS job_state) WHERE id = $1", job_id, move)
    await road.driver.execute("UPDATE jobs SET finished_at = now() WHERE id = $1", job_id)


async def job_count(road: Road) -> int:
    """Return how many jobs there are."""
    return int(await road.driver.fetchval("SELECT count(*) FROM jobs"))


async def holder(road: Road, key: str) -> UUID | None:
    """Return the job that holds a key for a time."""
    found: UUID | None = await road.driver.fetchval("SELECT job_id FROM unique_keys WHERE key = $1", key)
    return found


async def test_key_is_held_when_the_first_job_has_succeeded(road: Road) -> None:
    """What was done within the time is not done again, and the answer is the job that did it."""
    (first,) = await road.enqueue(held("k"))
    await end(road, first, JobState.SUCCEEDED)

    assert await road.enqueue(held("k")) == [first]
    assert await job_count(road) == 1


async def test_key_is_free_when_its_time_is_over(road: Road) -> None:
    """The next period has a job of its own, which holds the key from then on."""
    (first,) = await road.enqueue(held("k"))
    await end(road, first, JobState.SUCCEEDED)
    await road.driver.execute("UPDATE unique_keys SET until = now() - interval '1 ms'")

    (second,) = await road.enqueue(held("k"))
    third = await road.enqueue(held("k"))

    assert second != first
    assert third == [second]


@pytest.mark.parametrize("state", [JobState.DEAD, JobState.CANCELLED, JobState.EXPIRED])
async def test_key_is_free_when_its_job_did_not_succeed(road: Road, state: JobState) -> None:
    """What was wanted has not been done: the next call makes a job that does it."""
    (first,) = await road.enqueue(held("k"))
    await end(road, first, state)

    (second,) = await road.enqueue(held("k"))

    assert second != first
    assert await holder(road, "k") == second


async def test_key_is_free_when_its_job_is_gone(road: Road) -> None:
    """A job that somebody has deleted cannot be an answer."""
    (first,) = await road.enqueue(held("k"))
    await road.driver.execute("DELETE FROM jobs")

    (second,) = await road.enqueue(held("k"))

    assert second != first
    assert (await road.job(second)).state is JobState.PENDING


async def test_key_is_another_when_the_task_is(road: Road) -> None:
    """Keys belong to tasks; a call without a time asks only for what is unfinished."""
    (first,) = await road.enqueue(held("k"))
    await end(road, first, JobState.SUCCEEDED)

    (without,) = await road.enqueue(echo.options(Options(unique_key="k")).call(1))

    assert without != first
    assert await road.enqueue(held("k")) == [first]


async def test_key_is_held_from_now_on_by_an_unfinished_job_that_was_there_before(road: Road) -> None:
    """The unfinished job is the answer, and stays it for the time that was asked for, also when it has finished."""
    (before,) = await road.enqueue(echo.options(Options(unique_key="k")).call(1))

    first = await road.enqueue(held("k"))
    await end(road, before, JobState.SUCCEEDED)
    second = await road.enqueue(held("k"))

    assert first == second == [before]


async def test_batch_gives_each_key_one_job(road: Road) -> None:
    """Calls with a key for a time, with a key and without one, in one batch: each gets what it would get alone."""
    (known,) = await road.enqueue(held("known"))
    await end(road, known, JobState.SUCCEEDED)
    plain = echo.options(Options(unique_key="mixed"))

    ids = await road.enqueue(
        held("known"), held("new"), echo.call(1), held("new"), plain.call(1), held("mixed"), held("known")
    )

    assert ids[0] == ids[6] == known
    assert ids[1] == ids[3]
    assert ids[4] == ids[5]
    assert len(set(ids)) == 4
    assert await holder(road, "mixed") == ids[4]
    assert await job_count(road) == 4


async def test_key_is_taken_once_when_many_want_it_at_once(road: Road) -> None:
    """Twenty transactions make one job, also while an expired row is taken over, and also where its job is dead."""
    first = await asyncio.gather(*(road.enqueue(held("k", n)) for n in range(20)))
    await end(road, first[0][0], JobState.DEAD)
    second = await asyncio.gather(*(road.enqueue(held("k", n)) for n in range(20)))
    await end(road, second[0][0], JobState.SUCCEEDED)
    await road.driver.execute("UPDATE unique_keys SET until = now() - interval '1 ms'")
    third = await asyncio.gather(*(road.enqueue(held("k", n)) for n in range(20)))

    assert [len({job_id for (job_id,) in ids}) for ids in (first, second, third)] == [1, 1, 1]
    assert await job_count(road) == 3


async def test_batches_do_not_wait_for_each_other_in_a_circle_when_they_want_the_same_keys(road: Road) -> None:
    """Two batches name the same keys in opposite orders, again and again."""
    keys = [str(n) for n in range(30)]

    for _ in range(5):
        one, other = await asyncio.gather(road.enqueue(*map(held, keys)), road.enqueue(*map(held, reversed(keys))))
        assert sorted(one) == sorted(other)

    assert await job_count(road) == len(keys)


async def test_second_waits_for_the_first_transaction_and_takes_the_key_when_it_rolls_back(road: Road) -> None:
    """A key that was taken in a transaction that failed was never taken."""
    taken, waiting = asyncio.Event(), asyncio.Event()

    async def second() -> list[UUID]:
        await taken.wait()
        waiting.set()
        return await road.enqueue(held("k", 2))

    asking = asyncio.create_task(second())

    async def first(tx: object) -> None:
        await tx.enqueue_calls([held("k", 1)])  # type: ignore[attr-defined]  # a Transaction
        taken.set()
        await waiting.wait()
        while not await road.driver.fetchval(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)

    await rolled_back(road, first)
    (job_id,) = await asking

    assert (await road.job(job_id)).state is JobState.PENDING
    assert await holder(road, "k") == job_id


async def test_redriven_job_gets_its_key_back(road: Road) -> None:
    """The dead job is tried again within its time: it is the answer again."""
    (first,) = await road.enqueue(held("k"))
    await end(road, first, JobState.DEAD)
    async with transaction(road.record) as tx:
        await redrive_job(tx, first, attempts=3)
    await end(road, first, JobState.SUCCEEDED)

    assert await road.enqueue(held("k")) == [first]


async def test_redrive_is_refused_when_another_job_holds_the_key_for_a_time(road: Road) -> None:
    """What another job has done meanwhile would be done twice."""
    (first,) = await road.enqueue(held("k"))
    await end(road, first, JobState.DEAD)
    (second,) = await road.enqueue(held("k"))
    await end(road, second, JobState.SUCCEEDED)

    with pytest.raises(ConflictError, match="holds the unique key"):
        async with transaction(road.record) as tx:
            await redrive_job(tx, first, attempts=3)

    assert await road.enqueue(held("k")) == [second]


async def test_redriven_job_takes_the_key_over_when_its_holder_was_cancelled(road: Road) -> None:
    """The key follows the one that will do the work."""
    (first,) = await road.enqueue(held("k"))
    await end(road, first, JobState.DEAD)
    (second,) = await road.enqueue(held("k"))
    async with transaction(road.record) as tx:
        await cancel_job(tx, second)

    async with transaction(road.record) as tx:
        await redrive_job(tx, first, attempts=3)

    assert await holder(road, "k") == first


async def test_job_stays_on_record_while_its_key_is_held(road: Road) -> None:
    """A retention that is shorter than the time of the key does not cut that time short."""
    job_id, other = await road.enqueue(held("k"), echo.call(1))
    for one in (job_id, other):
        await end(road, one, JobState.SUCCEEDED)
    await road.driver.execute("UPDATE jobs SET forget_at = now()")

    forgotten = await forget_jobs(road.record)

    assert forgotten == 1
    assert await road.enqueue(held("k")) == [job_id]


_OF_A_KEY = """
    SELECT unique_key, count(*) FROM jobs WHERE state NOT IN ('dead', 'cancelled', 'expired')
    GROUP BY unique_key HAVING count(*) > 1
"""


async def test_key_is_never_held_by_two_whatever_happens_at_once(road: Road) -> None:
    """Calls, ends, cancels and retries of three keys by ten hands: of a key at most one job is under way or done."""
    chance = random.Random(20261121)  # noqa: S311 - a test that is the same each time
    known: list[UUID] = []

    async def one_of_many(number: int) -> None:
        for _ in range(30):
            key, action = chance.choice("abc"), chance.choice(["call", "call", "end", "cancel", "retry"])
            job_id = chance.choice(known) if known else None
            if action == "call" or job_id is None:
                known.extend(await road.enqueue(held(key, number)))
                continue
            with suppress(ConflictError):
                await act(road, job_id, action, dead=chance.random() < 0.97)

    await asyncio.gather(*(one_of_many(number) for number in range(10)))

    assert await road.driver.fetch(_OF_A_KEY) == []
    assert await job_count(road) > 3


async def act(road: Road, job_id: UUID, action: str, *, dead: bool) -> None:
    """Do something to a job, where its state allows it."""
    async with transaction(road.record) as tx:
        match action:
            case "end":
                for before, after in (("pending", "queued"), ("queued", "running"), ("running", "over")):
                    state = after if after != "over" else "dead" if dead else "succeeded"
                    await tx.connection.execute(MOVE, {"id": job_id, "before": before, "after": state})
            case "cancel":
                await cancel_job(tx, job_id)
            case _:
                await redrive_job(tx, job_id, attempts=3)
