"""Claims and outcomes count only under their fence: statement by statement, without any process."""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec
import pytest

from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.errors import FencedError
from headrace.jobs.belt import stream_of
from headrace.jobs.claim import claim, claimed_by, return_queued
from headrace.jobs.model import Claim, Failure, Outcome
from headrace.jobs.settle import settle, settle_within
from headrace.relay.dispatch import Dispatcher
from headrace.relay.rescue import rescue_once
from headrace.tasks.outcome import handed_back, succeeded
from headrace.tasks.settler import Settler
from headrace.transaction import transaction
from tests.road import Road, entries_of

_PROCESS = """
    INSERT INTO processes (id, role, host, pid, queues, tasks, slots, expires_at)
    VALUES ($1, 'worker', 'here', 1, NULL, $2, 100, now() + make_interval(secs => $3))
"""


async def register(road: Road, *, lease_seconds: float = 60.0) -> UUID:
    """Put a worker on record that knows all tasks, and return its id."""
    worker = new_id()
    await road.driver.execute(_PROCESS, worker, sorted(road.registry.tasks), lease_seconds)
    return worker


async def release(road: Road) -> list[Claim]:
    """Release what is due, and return the entries as a worker reads them."""
    await Dispatcher(road.redis).run_once(road.driver)
    entries: list[Claim] = []
    async for key in road.redis.scan_iter(stream_of("*")):
        entries.extend(claim for _, claim in await entries_of(road.redis, key))
        await road.redis.delete(key)
    return entries


async def released(road: Road) -> tuple[UUID, Claim]:
    """Return a worker and the entry of one job released to it."""
    worker = await register(road)
    await road.enqueue(echo.call(1))
    (entry,) = await release(road)
    return worker, entry


async def claimed(road: Road) -> tuple[UUID, Claim]:
    """Return a worker and a job that it runs."""
    worker, entry = await released(road)
    (won,) = await claim(road.driver, [entry], worker)
    return worker, won


def failure(message: str) -> Failure:
    """Return some failure."""
    return Failure("failed", "ValueError", message, "", "")


async def test_claim_wins_once_when_an_entry_is_delivered_twice(road: Road) -> None:
    """A duplicate delivery, to the same worker or another, wins nothing."""
    worker, entry = await released(road)

    first = await claim(road.driver, [entry], worker)
    second = await claim(road.driver, [entry], worker)
    third = await claim(road.driver, [entry, entry], await register(road))

    assert (first, second, third) == ([entry], [], [])
    job = await road.job(entry.job_id)
    assert (job.state, job.attempt) == (JobState.RUNNING, 1)


async def test_claim_wins_nothing_when_the_job_was_released_again(road: Road) -> None:
    """An old entry that turns up late is stale."""
    worker, old = await released(road)
    await return_queued(road.driver, [old])
    (new,) = await release(road)

    assert new.fence > old.fence
    assert await claim(road.driver, [old], worker) == []
    assert await claim(road.driver, [new], worker) == [new]


async def test_claim_wins_nothing_when_the_job_was_cancelled_or_expired(road: Road) -> None:
    """A job that was stopped on the belt never runs."""
    worker, entry = await released(road)
    await road.driver.execute("UPDATE jobs SET expires_at = now() - interval '1 second'")
    expired = await claim(road.driver, [entry], worker)
    await road.driver.execute("UPDATE jobs SET expires_at = NULL, state = 'cancelled'")

    cancelled = await claim(road.driver, [entry], worker)

    assert expired == cancelled == []


async def test_outcome_counts_once(road: Road) -> None:
    """The second outcome of the same attempt is refused."""
    _, won = await claimed(road)

    first = await settle(road.driver, [succeeded(won, 1)])
    second = await settle(road.driver, [succeeded(won, 2)])

    assert (first, second) == ({won.key}, set())
    assert msgspec.json.decode((await road.job(won.job_id)).result) == 1


async def test_outcome_of_a_zombie_is_refused_in_one_batch_with_its_successor(road: Road) -> None:
    """Two attempts of one job, settled together by one worker: only the rightful one counts, with its own error."""
    worker, zombie = await claimed(road)
    await settle(road.driver, [handed_back(zombie)])
    (entry,) = await release(road)
    (heir,) = await claim(road.driver, [entry], worker)
    late = Outcome(zombie.job_id, zombie.fence, JobState.DEAD, failure=failure("zombie"))
    right = Outcome(heir.job_id, heir.fence, JobState.RETRYING, delay_seconds=60, failure=failure("heir"))

    settled = await settle(road.driver, [late, right])

    job = await road.job(heir.job_id)
    assert settled == {heir.key}
    assert job.state is JobState.RETRYING
    assert [error.message for error in job.errors] == ["heir"]


async def test_handing_back_refunds_the_attempt_and_the_place(road: Road) -> None:
    """A job handed back is pending as before, in its old place of the queue."""
    _, won = await claimed(road)
    before = await road.job(won.job_id)

    await settle(road.driver, [handed_back(won)])

    after = await road.job(won.job_id)
    assert (after.state, after.attempt, after.run_at, after.errors) == (JobState.PENDING, 0, before.run_at, [])


@pytest.mark.parametrize("state", [JobState.RETRYING, JobState.PENDING, JobState.SCHEDULED])
async def test_outcome_ends_the_job_when_somebody_wants_it_cancelled(road: Road, state: JobState) -> None:
    """A job that is to be cancelled is not tried again, whatever its attempt came to."""
    _, won = await claimed(road)
    await road.driver.execute("UPDATE jobs SET cancel_requested_at = now()")

    await settle(road.driver, [Outcome(won.job_id, won.fence, state, delay_seconds=0)])

    job = await road.job(won.job_id)
    assert job.state is JobState.CANCELLED
    assert job.finished_at is not None


async def test_success_counts_when_the_cancellation_came_too_late(road: Road) -> None:
    """What has happened has happened."""
    _, won = await claimed(road)
    await road.driver.execute("UPDATE jobs SET cancel_requested_at = now()")

    await settle(road.driver, [succeeded(won, 1)])

    assert (await road.job(won.job_id)).state is JobState.SUCCEEDED


async def test_effects_are_rolled_back_when_the_fence_is_lost(road: Road) -> None:
    """The session's commit is refused together with the outcome."""
    _, won = await claimed(road)
    await settle(road.driver, [handed_back(won)])

    with pytest.raises(FencedError):
        async with transaction(road.record) as tx:
            await tx.enqueue(echo, "effect")
            await settle_within(tx, succeeded(won, 1))

    assert await road.driver.fetchval("SELECT count(*) FROM jobs") == 1


async def test_effects_are_rolled_back_when_settled_within_and_not_committed(road: Road) -> None:
    """The outcome is part of the session's transaction, even if it is the session's first statement."""
    _, won = await claimed(road)

    class OnPurposeError(Exception):
        pass

    with pytest.raises(OnPurposeError):
        async with transaction(road.record) as tx:
            await settle_within(tx, succeeded(won, 1))
            raise OnPurposeError

    assert (await road.job(won.job_id)).state is JobState.RUNNING


async def test_batch_settles_when_one_outcome_cannot_be_stored(road: Road) -> None:
    """The odd one is dead with the reason; its neighbours do not notice."""
    worker = await register(road)
    await road.enqueue(*(echo.call(n) for n in range(5)))
    entries = await claim(road.driver, await release(road), worker)
    outcomes = [succeeded(entry, n) for n, entry in enumerate(entries)]
    outcomes[2] = msgspec.structs.replace(outcomes[2], result="not json")
    settler = Settler(road.settings.database_url)
    running = asyncio.create_task(settler.run())

    async with asyncio.timeout(10):
        counted = await asyncio.gather(*(settler.settle(outcome) for outcome in outcomes))

    running.cancel()
    jobs = [await road.job(entry.job_id) for entry in entries]
    assert counted[:2] + counted[3:] == [True] * 4
    assert [job.state.value for job in jobs] == ["succeeded", "succeeded", "dead", "succeeded", "succeeded"]
    assert [error.outcome for error in jobs[2].errors] == ["rejected"]


async def test_settler_ends_the_waiting_when_it_is_abandoned() -> None:
    """With PostgreSQL away, a stopping worker does not wait for ever."""
    settler = Settler("postgresql://postgres@127.0.0.1:1/none")
    running = asyncio.create_task(settler.run())
    waiting = asyncio.create_task(settler.settle(Outcome(new_id(), 1, JobState.SUCCEEDED)))
    await asyncio.sleep(0)

    settler.abandon()

    async with asyncio.timeout(5):
        assert await waiting is False
        assert await settler.settle(Outcome(new_id(), 1, JobState.SUCCEEDED)) is False
    running.cancel()


async def test_rescue_releases_the_jobs_of_a_dead_worker_only(road: Road) -> None:
    """The lease decides: an expired one, or none at all, loses its jobs, with the attempt on record as lost."""
    live, dead, gone = await register(road), await register(road, lease_seconds=-1), new_id()
    await road.enqueue(*(echo.call(n) for n in range(3)))
    entries = await release(road)
    for entry, worker in zip(entries, (live, dead, gone), strict=True):
        await claim(road.driver, [entry], worker)

    rescued = await rescue_once(road.record, lease_seconds=0.0)

    jobs = [await road.job(entry.job_id) for entry in entries]
    assert rescued == 2
    assert [job.state.value for job in jobs] == ["running", "pending", "pending"]
    assert [[error.outcome for error in job.errors] for job in jobs] == [[], ["lost"], ["lost"]]
    assert [job.attempt for job in jobs] == [1, 1, 1]


async def test_rescue_kills_no_zombie_twice_when_two_rescuers_meet(road: Road) -> None:
    """Relay and clock may rescue at the same time."""
    worker = await register(road, lease_seconds=60)
    await road.enqueue(*(echo.call(n) for n in range(50)))
    await claim(road.driver, await release(road), worker)
    await road.driver.execute("UPDATE processes SET expires_at = now() - interval '1 second'")

    rescued = await asyncio.gather(*(rescue_once(road.record, lease_seconds=0.0) for _ in range(4)))

    assert sum(rescued) == 50
    assert await road.driver.fetchval("SELECT count(*) FROM job_attempts") == 50


async def test_rescue_ends_the_job_when_no_attempt_is_left_or_it_is_to_be_cancelled(road: Road) -> None:
    """A poisonous job is dead after its attempts; a cancelled one is not run again to be cancelled then."""
    worker = await register(road)
    last, unwanted = await road.enqueue(echo.call(1), echo.call(2))
    await road.driver.execute("UPDATE jobs SET max_attempts = 1 WHERE id = $1", last)
    await claim(road.driver, await release(road), worker)
    await road.driver.execute("UPDATE jobs SET cancel_requested_at = now() WHERE id = $1", unwanted)
    await road.driver.execute("DELETE FROM processes")

    await rescue_once(road.record, lease_seconds=0.0)

    assert [(await road.job(job_id)).state.value for job_id in (last, unwanted)] == ["dead", "cancelled"]


async def test_rescue_waits_for_one_lease_after_an_outage(road: Road) -> None:
    """No connection is as old as a lease: PostgreSQL has just come back, and nobody has had the time to renew."""
    worker = await register(road, lease_seconds=-1)
    await road.enqueue(echo.call(1))
    await register(road)
    await claim(road.driver, await release(road), worker)

    rescued = await rescue_once(road.record, lease_seconds=3600.0)

    assert rescued == 0


async def test_claimed_by_lists_what_the_record_says_a_worker_runs(road: Road) -> None:
    """The list that a worker compares itself with."""
    worker, won = await claimed(road)

    (one,) = await claimed_by(road.driver, worker)

    assert (one.key, one.attempt, one.cancel_requested, one.long_ago) == (won.key, 1, False, False)
    assert await claimed_by(road.driver, new_id()) == []


async def test_settled_attempt_keeps_its_worker_and_error(road: Road) -> None:
    """An attempt that failed says when, where and why."""
    worker, won = await claimed(road)

    await settle(
        road.driver, [Outcome(won.job_id, won.fence, JobState.RETRYING, delay_seconds=5, failure=failure("why"))]
    )

    row = await road.driver.fetchrow("SELECT attempt, fence, worker_id, message, started_at <= at FROM job_attempts")
    assert tuple(row or ()) == (1, won.fence, worker, "why", True)
    job = await road.job(won.job_id)
    assert (job.state, job.run_at > job.created_at) == (JobState.RETRYING, True)
