"""Jobs enter the record with the caller's transaction, or not at all."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import cast

import msgspec
import pytest
from sqlalchemy import text
from taskiq.exceptions import SendTaskError

from headrace.clock import new_id, now
from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.errors import InvalidInputError
from headrace.events.registry import event
from headrace.jobs.call import Options
from headrace.transaction import Transaction, transaction
from tests import trial
from tests.road import Road, rolled_back

WRITE = text("INSERT INTO trial_effects (key, job_id, attempt) VALUES ('domain', :id, 0)")


@event("trial.order.placed", subject="order_id")
class OrderPlaced(msgspec.Struct, frozen=True):
    """An order was placed."""

    order_id: str


async def rows_of(road: Road) -> dict[str, int]:
    """Return how many rows the tables of a transaction have."""
    tables = ("jobs", "event_log", "outbox", "trial_effects")
    return {table: await road.driver.fetchval(f"SELECT count(*) FROM {table}") for table in tables}  # noqa: S608 - the names above


async def work(tx: Transaction) -> None:
    """Write a domain row, a job and an event."""
    await tx.connection.execute(WRITE, {"id": new_id()})
    await tx.enqueue(echo, 1)
    await tx.publish(OrderPlaced("o-1"))


async def test_everything_is_there_when_the_transaction_commits(road: Road) -> None:
    """Domain row, job and event commit together."""
    async with transaction(road.record) as tx:
        await work(tx)

    assert await rows_of(road) == {"jobs": 1, "event_log": 1, "outbox": 1, "trial_effects": 1}


async def test_nothing_is_there_when_the_transaction_rolls_back(road: Road) -> None:
    """A rolled-back transaction leaves no job, no event, no domain row."""
    await rolled_back(road, work)

    assert await rows_of(road) == {"jobs": 0, "event_log": 0, "outbox": 0, "trial_effects": 0}


async def test_nothing_is_there_when_the_transaction_is_cancelled(road: Road) -> None:
    """A client that goes away in the middle leaves nothing behind."""
    begun, never = asyncio.Event(), asyncio.Event()

    async def cut_off() -> None:
        async with transaction(road.record) as tx:
            await work(tx)
            begun.set()
            await never.wait()

    cutting = asyncio.create_task(cut_off())
    await begun.wait()
    cutting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cutting

    assert await rows_of(road) == {"jobs": 0, "event_log": 0, "outbox": 0, "trial_effects": 0}


async def test_nothing_is_there_when_only_the_driver_wrote(road: Road) -> None:
    """What goes past SQLAlchemy is inside the transaction too."""

    async def publish(tx: Transaction) -> None:
        await tx.publish(OrderPlaced("o-1"))

    await rolled_back(road, publish)

    assert (await rows_of(road))["event_log"] == 0


async def test_job_is_on_record_as_it_was_called(road: Road) -> None:
    """Every option arrives."""
    expires = now() + timedelta(hours=2)
    options = Options(
        queue="reports",
        priority=9,
        expires_at=expires,
        unique_key="u",
        concurrency_key="c",
        max_attempts=2,
        tags=("a", "b"),
    )

    async with transaction(road.record) as tx:
        job_id = await tx.enqueue(trial.add.options(options), 1, b=2)

    job = await road.job(job_id)
    assert (job.queue, job.priority, job.max_attempts, job.tags) == ("reports", 9, 2, ["a", "b"])
    assert (job.unique_key, job.concurrency_key, job.expires_at) == ("u", "c", expires)
    assert (job.state, job.attempt, msgspec.json.decode(job.args)) == (JobState.PENDING, 0, {"a": 1, "b": 2})
    assert len(job.trace_id) == 32


async def test_job_is_scheduled_when_it_has_a_delay_or_a_time(road: Road) -> None:
    """A delay counts from the record's own clock; a time that has passed is due."""
    tomorrow, yesterday = now() + timedelta(days=1), now() - timedelta(days=1)

    delayed, later, earlier = await road.enqueue(
        echo.options(Options(delay_seconds=60)).call(1),
        echo.options(Options(run_at=tomorrow)).call(2),
        echo.options(Options(run_at=yesterday)).call(3),
    )

    first = await road.job(delayed)
    assert first.state is JobState.SCHEDULED
    assert (first.run_at - first.created_at) == timedelta(seconds=60)
    assert (await road.job(later)).run_at == tomorrow
    assert (await road.job(earlier)).state is JobState.PENDING


async def test_unique_key_gives_the_first_job_while_it_is_unfinished(road: Road) -> None:
    """A second call adds nothing, in another transaction, in the same one and in the same batch."""
    unique = echo.options(Options(unique_key="k"))

    (first,) = await road.enqueue(unique.call(1))
    again = await road.enqueue(unique.call(2), echo.call(3), unique.call(4))
    batch = await road.enqueue(*[echo.options(Options(unique_key="z")).call(n) for n in range(3)])

    assert again[0] == again[2] == first
    assert again[1] != first
    assert len(set(batch)) == 1
    assert (await rows_of(road))["jobs"] == 3


async def test_unique_key_is_free_when_its_job_is_finished(road: Road) -> None:
    """The key holds back only what is unfinished, and only for the same task."""
    unique = Options(unique_key="k")
    (first,) = await road.enqueue(echo.options(unique).call(1))
    await road.driver.execute("UPDATE jobs SET state = 'cancelled', finished_at = now()")

    (second,) = await road.enqueue(echo.options(unique).call(2))
    (other,) = await road.enqueue(trial.add.options(unique).call(2))

    assert len({first, second, other}) == 3


async def test_unique_key_is_given_once_when_many_want_it_together(road: Road) -> None:
    """Twenty transactions at once make one job, and all get its id."""
    unique = echo.options(Options(unique_key="k"))

    ids = await asyncio.gather(*(road.enqueue(unique.call(n)) for n in range(20)))

    assert len({job_id for (job_id,) in ids}) == 1
    assert (await rows_of(road))["jobs"] == 1


async def test_batch_of_ten_thousand_is_one_statement(road: Road) -> None:
    """A large batch commits as a whole, in its order, in seconds."""
    calls = [echo.call(n) for n in range(10_000)]
    begin = time.monotonic()

    ids = await road.enqueue(*calls)

    assert time.monotonic() - begin < 5.0
    assert len(set(ids)) == 10_000
    rows = await road.driver.fetch("SELECT id, args->'value' AS value FROM jobs ORDER BY id")
    assert [row["id"] for row in rows] == ids
    assert [int(row["value"]) for row in rows] == list(range(10_000))


async def test_batch_of_duplicates_does_not_ask_once_per_call(road: Road) -> None:
    """Two thousand calls of one unique key are answered in a few statements."""
    unique = echo.options(Options(unique_key="k"))
    (first,) = await road.enqueue(unique.call(0))
    begin = time.monotonic()

    ids = await road.enqueue(*(unique.call(n) for n in range(2_000)))

    assert set(ids) == {first}
    assert time.monotonic() - begin < 1.0


async def test_kiq_is_on_record_with_its_labels(road: Road) -> None:
    """Taskiq's own way to set options works."""
    sent = await trial.add.kicker().with_labels(priority=8, queue="q", delay_seconds=30).kiq(1, b=2)

    row = await road.driver.fetchrow("SELECT priority, queue, state FROM jobs WHERE id = $1", sent.task_id)
    assert tuple(row or ()) == (8, "q", "scheduled")


@pytest.mark.usefixtures("road")
async def test_kiq_gives_the_holder_when_the_unique_key_is_taken() -> None:
    """Who waits for the result waits for the job that exists."""
    kicker = trial.add.kicker().with_labels(unique_key="k")

    first, second = await kicker.kiq(1), await kicker.kiq(1)

    assert first.task_id == second.task_id


async def test_kiq_is_refused_when_the_arguments_do_not_fit(road: Road) -> None:
    """Nothing reaches the record, and the cause says what is wrong."""
    with pytest.raises(SendTaskError) as refused:
        await trial.add.kiq(cast("int", "one"))

    assert isinstance(refused.value.__cause__, InvalidInputError)
    assert (await rows_of(road))["jobs"] == 0


async def test_enqueue_leaves_the_transaction_whole_when_the_arguments_do_not_fit(road: Road) -> None:
    """A refused call is a Python error; the caller may go on and commit."""
    async with transaction(road.record) as tx:
        with pytest.raises(InvalidInputError):
            await tx.enqueue(trial.add, cast("int", "one"))
        await tx.enqueue(trial.add, 1)

    assert (await rows_of(road))["jobs"] == 1
