"""Drained: an application runs on the real stores, in a test."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text

from headrace.database.states import JobState
from headrace.jobs.call import Options
from headrace.testing.drained import Drained, drained
from headrace.testing.observed import NotDrainedError
from headrace.testing.stores import Stores, open_stores
from tests.kit import TABLES, Joined, Mailer, application, double, greet, remind
from tests.servers import PostgresServer, RedisServer


@pytest.fixture(scope="module")
def stores(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Stores]:
    """The run's own servers."""
    with open_stores(database_url=postgres_server.url_of("postgres"), redis_url=redis_server.url_of(0)) as opened:
        yield opened


@pytest.fixture
def mailer() -> Mailer:
    """What was mailed."""
    return Mailer()


@pytest.fixture(params=[True, False], ids=["redis", "in_process"])
async def headrace(request: pytest.FixtureRequest, stores: Stores, mailer: Mailer) -> AsyncIterator[Drained]:
    """The application `kit` at work, with Redis and without."""
    async with drained(application, stores, providers={Mailer: mailer}, redis=request.param) as opened:
        async with opened.transaction() as tx:
            for table in TABLES:
                await tx.connection.execute(text(table))
        yield opened


async def test_event_is_followed_to_the_end_when_it_is_drained(headrace: Drained, mailer: Mailer) -> None:
    """What is due in a day is not waited for."""
    await headrace.publish(*(Joined(f"customer {number}") for number in range(20)))

    await headrace.drain()

    assert len(mailer.sent) == 20
    assert {job.state for job in await headrace.jobs(greet)} == {JobState.SUCCEEDED}
    assert {job.state for job in await headrace.jobs(remind)} == {JobState.SCHEDULED}
    async with headrace.transaction() as tx:
        assert (await tx.connection.execute(text("SELECT sum(joined) FROM kit_counts"))).scalar_one() == 20


async def test_delays_are_cut_short_when_asked_for(headrace: Drained) -> None:
    """The reminder of tomorrow comes now, and a second round of drains finds nothing."""
    await headrace.publish(Joined("Ada"))

    await headrace.drain(delayed=True)

    assert {job.state for job in await headrace.jobs()} == {JobState.SUCCEEDED}


async def test_drain_names_what_is_left_and_why(headrace: Drained) -> None:
    """The error of a test that waits in vain says what to look at."""
    async with headrace.transaction() as tx:
        await tx.connection.execute(text("INSERT INTO queues (name, paused) VALUES ('mail', true)"))
    await headrace.enqueue(greet.options(Options(queue="mail")), "Ada")

    with pytest.raises(NotDrainedError, match=r"of kit\.greet is pending: the queue mail is paused") as raised:
        await headrace.drain(0.3)

    assert len(raised.value.left) == 1


async def test_job_is_waited_for_when_it_is_run(headrace: Drained) -> None:
    """`run` returns the outcome; one that does not end in time is named."""
    assert (await headrace.run(double, 4)).result == 8

    late = await headrace.enqueue(double.options(Options(delay_seconds=60)), 4)
    with pytest.raises(NotDrainedError, match=f"the job {late} is scheduled"):
        await headrace.finish(late, 0.1)


async def test_logging_is_the_tests_own_when_a_worker_runs(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """A worker process takes logging over; within a test it must not."""
    async with drained(application, stores) as headrace:
        await headrace.run(double, 4)
        logging.getLogger("shop").warning("seen")

    assert "seen" in caplog.messages
