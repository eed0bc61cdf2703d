"""A failed delivery, tried again as a job."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from headrace.clock import new_id, now
from headrace.database.record import Record, open_record
from headrace.database.states import JobState
from headrace.events.model import RecordedEvent
from headrace.events.queries import DeliveryState, deliveries_of, event_by_id, recorded_event
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.retry import Retry
from headrace.providers import Providers
from headrace.settings import Settings
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.failures import DELIVER, Failure, become_job
from headrace.subscribers.redelivery import Redelivery
from headrace.tasks.execution import Execution
from tests.lanes import Forgotten, Thing, publish, registered

_DUE = "UPDATE jobs SET state = 'pending' WHERE state = 'retrying'"
_RELEASE = "UPDATE jobs SET state = 'queued' WHERE state = 'pending'"
_CLAIM = """
    UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, started_at = now()
    RETURNING id, fence, attempt, max_attempts, task, queue, args::text, traceparent, created_at
"""


async def claimed(driver: asyncpg.Connection[asyncpg.Record]) -> Claim:
    """Take the one waiting job, as the dispatcher and a worker would."""
    await driver.execute(_DUE)
    await driver.execute(_RELEASE)
    row = await driver.fetchrow(_CLAIM)
    assert row is not None
    return Claim(*row)


@subscriber("tests.flaky", Thing, retry=Retry(max_attempts=3, first_delay_seconds=5.0, on=(ConnectionError,)))
async def flaky(delivery: Delivery, thing: Thing) -> None:
    """Note which attempt it is; fail the attempts before the one that the thing names."""
    tx = await delivery.begin()
    await tx.connection.execute(text("INSERT INTO notes VALUES (:attempt)"), {"attempt": delivery.attempt})
    if delivery.attempt < thing.number:
        raise ConnectionError
    assert delivery.idempotency_key == f"tests.flaky:{delivery.event.id}"


class Road:
    """What a failed delivery goes through, one step after the other."""

    def __init__(self, record: Record, driver: asyncpg.Connection[asyncpg.Record]) -> None:
        self.record, self.driver = record, driver
        tasks = {DELIVER: Redelivery({flaky.name: flaky})}
        self._execution = Execution(tasks, record, Providers({}))

    async def failed(self, thing: Thing, error: Exception | None = None) -> RecordedEvent:
        """Publish an event whose live attempt fails."""
        await publish(self.record, [thing])
        identity = await self.driver.fetchval("SELECT id FROM event_log")
        async with self.record.engine.connect() as connection:
            event = await recorded_event(connection, identity)
        assert event is not None
        await become_job(self.record, flaky, event, Failure(error or ConnectionError("live")))
        return event

    async def attempt(self) -> Outcome | None:
        """Run the job once."""
        return await self._execution.execute(await claimed(self.driver))

    async def notes(self) -> list[int]:
        """Return the attempts whose effects are there."""
        return [row["attempt"] for row in await self.driver.fetch("SELECT attempt FROM notes")]


@pytest.fixture
async def road(database_url: str) -> AsyncIterator[Road]:
    """A record with the subscription and a table for its notes."""
    driver = await asyncpg.connect(database_url)
    await driver.execute("CREATE TABLE notes (attempt int)")
    async with open_record(Settings(database_url=database_url)) as record:
        await registered(record, flaky)
        yield Road(record, driver)
    await driver.close()


async def test_effects_commit_with_the_outcome_when_the_second_attempt_succeeds(road: Road) -> None:
    """The job's first run is attempt 2; its writes, its inbox entry and its success are one transaction."""
    event = await road.failed(Thing("a", 2))

    outcome = await road.attempt()

    (status,) = await deliveries_of(road.record, await event_by_id(road.record, event.id))
    assert outcome is None
    assert await road.notes() == [2]
    assert (status.state, status.attempts) == (DeliveryState.HANDLED, 2)
    assert await road.driver.fetchval("SELECT event_id FROM inbox") == event.id


async def test_next_attempt_waits_as_the_subscription_says_when_it_fails_again(road: Road) -> None:
    """The delay and the number of attempts are the subscription's; nothing of the failed attempt stays."""
    await road.failed(Thing("a", 9))

    second = await road.attempt()
    third = await road.attempt()

    assert second is not None
    assert third is not None
    assert (second.state, third.state) == (JobState.RETRYING, JobState.DEAD)
    assert second.delay_seconds is not None
    assert second.delay_seconds <= 10.0
    assert await road.notes() == []


async def test_nothing_is_done_twice_when_a_late_live_attempt_was_first(road: Road) -> None:
    """A delivery that is in the inbox already has no second effect, and its job succeeds."""
    event = await road.failed(Thing("a", 1))
    await road.driver.execute("INSERT INTO inbox (subscription, event_id) VALUES ($1, $2)", flaky.name, event.id)

    await road.attempt()

    assert await road.notes() == []


async def test_there_is_one_job_when_a_delivery_fails_twice(road: Road) -> None:
    """A consumer that died after recording the failure, and whose successor fails too, makes no second job."""
    event = await road.failed(Thing("a", 2))

    await become_job(road.record, flaky, event, Failure(ConnectionError("again")))

    assert await road.driver.fetchval("SELECT count(*) FROM jobs") == 1


async def test_delivery_is_dead_when_the_policy_does_not_allow_the_error(road: Road) -> None:
    """An error that the subscription does not retry makes a dead job of one attempt."""
    await road.failed(Thing("a", 2), ValueError("not worth it"))

    job = await road.driver.fetchrow("SELECT state, attempt, finished_at FROM jobs")

    assert job is not None
    assert (job["state"], job["attempt"]) == ("dead", 1)
    assert job["finished_at"] is not None


async def test_job_is_dead_with_the_reason_when_the_event_is_gone(road: Road) -> None:
    """An event that retention has dropped cannot be delivered any more."""
    await road.failed(Thing("a", 2))
    await road.driver.execute("DELETE FROM event_log")

    outcome = await road.attempt()

    assert outcome is not None
    assert outcome.state is JobState.DEAD
    assert outcome.failure is not None
    assert "no longer on record" in outcome.failure.message


async def test_job_waits_when_this_worker_does_not_know_the_subscription(road: Road) -> None:
    """In the middle of a deploy an older worker gives the job back for another attempt."""
    await road.failed(Thing("a", 2))
    claim = await claimed(road.driver)

    outcome = await Execution({DELIVER: Redelivery({})}, road.record, Providers({})).execute(claim)

    assert outcome is not None
    assert outcome.state is JobState.RETRYING


async def test_event_is_found_when_the_relay_has_not_placed_it(road: Road) -> None:
    """The record gives an event without a position, and nothing for an unknown id."""
    await publish(road.record, [Forgotten("a")])
    identity = await road.driver.fetchval("SELECT id FROM event_log")

    async with road.record.engine.connect() as connection:
        found = await recorded_event(connection, identity)
        missing = await recorded_event(connection, new_id())

    assert found is not None
    assert (found.position, found.created_at <= now()) == (0, True)
    assert missing is None
