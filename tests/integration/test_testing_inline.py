"""Inline: an application runs in a test, by a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from headrace.database.states import JobState
from headrace.errors import ConfigurationError
from headrace.jobs.call import Options
from headrace.jobs.retry import PermanentError
from headrace.jobs.workflow import Workflow
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.testing.inline import Inline, inline
from headrace.testing.observed import NotDrainedError
from headrace.testing.stores import Stores, open_stores
from tests.kit import (
    TABLES,
    Joined,
    Mailer,
    again,
    application,
    counts,
    double,
    greet,
    mourn,
    remind,
    square,
    total,
    welcome,
)
from tests.servers import PostgresServer

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def stores(postgres_server: PostgresServer) -> Iterator[Stores]:
    """The run's own PostgreSQL."""
    with open_stores(database_url=postgres_server.url_of("postgres")) as opened:
        yield opened


@pytest.fixture
def mailer() -> Mailer:
    """What was mailed."""
    return Mailer()


@pytest.fixture
async def headrace(stores: Stores, mailer: Mailer) -> AsyncIterator[Inline]:
    """The application `kit`, at noon."""
    async with inline(application, stores, at=NOON, providers={Mailer: mailer}) as opened:
        async with opened.transaction() as tx:
            for table in TABLES:
                await tx.connection.execute(text(table))
        yield opened


async def effects(headrace: Inline) -> list[tuple[str, datetime]]:
    """Return what was written, and when."""
    async with headrace.transaction() as tx:
        rows = await tx.connection.execute(text("SELECT what, at FROM kit_effects ORDER BY at, what"))
        return [(row.what, row.at) for row in rows]


async def joined(headrace: Inline) -> dict[str, int]:
    """Return what the projection has counted."""
    async with headrace.transaction() as tx:
        rows = await tx.connection.execute(text("SELECT name, joined FROM kit_counts"))
        return {row.name: row.joined for row in rows}


async def test_task_returns_its_result_at_the_virtual_time(headrace: Inline, mailer: Mailer) -> None:
    """Task, session and record agree what time it is, and the provider is the test's own."""
    outcome = await headrace.run(greet, "Ada")

    assert (outcome.state, outcome.result) == (JobState.SUCCEEDED, "Good morning, Ada, at 12:00")
    assert await effects(headrace) == [("Ada", NOON)]
    assert mailer.sent == ["Ada"]
    (job,) = await headrace.jobs(greet)
    assert {job.created_at, job.run_at, job.started_at, job.finished_at} == {NOON}


async def test_failed_attempt_is_made_again_when_its_delay_is_over(headrace: Inline, mailer: Mailer) -> None:
    """Without jitter: the first retry comes after exactly a minute, the second after two more."""
    headrace.fail(greet, ConnectionError("no route"), times=2)
    job_id = await headrace.enqueue(greet, "Ada")

    await headrace.advance(59)
    waiting = await headrace.outcome(job_id)
    await headrace.advance(1)
    second = await headrace.outcome(job_id)
    await headrace.advance(120)
    third = await headrace.outcome(job_id)

    assert (waiting.state, waiting.errors) == (JobState.RETRYING, ["ConnectionError: no route"])
    assert (second.state, len(second.errors)) == (JobState.RETRYING, 2)
    assert (third.state, third.attempt) == (JobState.SUCCEEDED, 3)
    assert await effects(headrace) == [("Ada", NOON + timedelta(seconds=180))]
    assert mailer.sent == ["Ada"]


async def test_job_is_dead_when_its_attempts_are_used_up_or_no_use(headrace: Inline) -> None:
    """`finish` lets as much time pass as that takes."""
    headrace.fail(greet, OSError("away"), times=3)
    used_up = await headrace.finish(await headrace.enqueue(greet, "Ada"))
    headrace.fail(greet, PermanentError("never"))
    no_use = await headrace.finish(await headrace.enqueue(greet, "Ada"))

    assert (used_up.state, used_up.attempt) == (JobState.DEAD, 3)
    assert (no_use.state, no_use.errors) == (JobState.DEAD, ["PermanentError: never"])
    assert headrace.now == NOON + timedelta(seconds=180)


async def test_event_is_followed_to_the_end_when_it_is_published(headrace: Inline) -> None:
    """Subscriber, projection, its jobs, and the one that is due in a day."""
    await headrace.publish(Joined("Ada"))
    await headrace.drain()

    assert await headrace.published(Joined) == [Joined("Ada")]
    assert await headrace.enqueued(greet) == [{"name": "Ada"}]
    assert [job.state for job in await headrace.jobs(remind)] == [JobState.SCHEDULED]
    assert await joined(headrace) == {"Ada": 1}

    await headrace.advance(days=1)
    (reminder, *_) = await headrace.jobs(remind, state=JobState.SUCCEEDED)
    assert reminder.finished_at == NOON + timedelta(days=1)


async def test_snoozed_job_wakes_up_and_cancelled_one_does_not(headrace: Inline) -> None:
    """A snooze burns no attempt."""
    snoozed = await headrace.enqueue(remind, "Ada")
    cancelled = await headrace.run(remind, "nobody")
    await headrace.advance(hours=2.5)
    before = await headrace.outcome(snoozed)
    await headrace.run(greet, "Ada")
    after = await headrace.finish(snoozed)

    assert (cancelled.state, before.state) == (JobState.CANCELLED, JobState.SCHEDULED)
    assert (after.state, after.result, after.attempt) == (JobState.SUCCEEDED, "reminded", 1)
    assert headrace.now == NOON + timedelta(hours=3)


async def test_schedules_fire_at_their_moments_when_time_passes(headrace: Inline) -> None:
    """Two days: 48 hours of one schedule, two mornings of the other."""
    await headrace.advance(days=2)

    morning = datetime(2031, 5, 2, 8, 0, tzinfo=UTC)
    assert await effects(headrace) == [("everybody", morning), ("everybody", morning + timedelta(days=1))]
    assert len(await headrace.enqueued(remind)) == 48


async def test_job_expires_when_it_cannot_start_in_time(headrace: Inline) -> None:
    """The virtual clock decides that too."""
    options = Options(delay_seconds=600, expires_at=NOON + timedelta(seconds=300))
    job_id = await headrace.enqueue(greet.options(options), "Ada")

    outcome = await headrace.finish(job_id)

    assert (outcome.state, headrace.now) == (JobState.EXPIRED, NOON + timedelta(seconds=300))


async def test_nothing_becomes_due_when_only_real_time_passes(headrace: Inline) -> None:
    """The record's own clock would have released a job that is due in a millisecond."""
    job_id = await headrace.enqueue(greet.options(Options(delay_seconds=0.001)), "Ada")

    for _ in range(5):
        await headrace.drain()

    assert (await headrace.outcome(job_id)).state is JobState.SCHEDULED


async def test_priority_decides_when_several_are_due(headrace: Inline, mailer: Mailer) -> None:
    """One at a time, the highest first, then the oldest."""
    calls = [greet.options(Options(priority=p)).call(name) for name, p in [("a", 1), ("b", 5), ("c", 9), ("d", 5)]]
    await headrace.enqueue_calls(calls)

    await headrace.drain()

    assert mailer.sent == ["c", "b", "d", "a"]


async def test_crash_after_the_function_rolls_back_and_runs_again(headrace: Inline, mailer: Mailer) -> None:
    """The mail went out twice, as it would; the row is there once; the lost attempt is on record."""
    headrace.crash(greet)

    outcome = await headrace.run(greet, "Ada")

    assert (outcome.state, outcome.attempt) == (JobState.SUCCEEDED, 2)
    assert outcome.errors[0].startswith("WorkerLost")
    assert mailer.sent == ["Ada", "Ada"]
    assert await effects(headrace) == [("Ada", NOON)]


async def test_delivery_is_made_again_when_its_subscriber_fails_or_crashes(headrace: Inline) -> None:
    """A crash leaves the event; an error makes a job that tries again by the subscription's policy."""
    headrace.crash(welcome)
    await headrace.publish(Joined("Ada"))
    await headrace.drain()
    headrace.fail(welcome, ConnectionError("no route"))
    await headrace.publish(Joined("Bob"))
    await headrace.drain()
    before = await headrace.enqueued(greet)
    await headrace.advance(10)

    assert before == [{"name": "Ada"}]
    assert await headrace.enqueued(greet) == [{"name": "Ada"}, {"name": "Bob"}]


async def test_projection_is_tried_again_when_it_has_failed(headrace: Inline) -> None:
    """What is left says why until then."""
    headrace.fail(counts, ValueError("not now"))
    await headrace.publish(Joined("Ada"))
    await headrace.drain()
    left = await headrace.left()
    await headrace.advance(1)

    assert [one.why for one in left if one.what.startswith("kit.counts")] == ["ValueError('not now')"]
    assert await joined(headrace) == {"Ada": 1}


async def test_endless_work_is_named_when_there_is_no_end(headrace: Inline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that enqueues itself without a delay ends the test, with its name."""
    monkeypatch.setattr("headrace.testing.inline.MOST_STEPS", 20)
    await headrace.enqueue(again)

    with pytest.raises(NotDrainedError, match=r"lately of kit\.again"):
        await headrace.drain()


async def test_kiq_goes_through_the_record_and_is_unbound_after(stores: Stores, mailer: Mailer) -> None:
    """Taskiq's own way to send works in the block, and not beyond."""
    before = greet.broker

    async with inline(application, stores, providers={Mailer: mailer}) as headrace:
        await greet.kiq("Ada")
        assert await headrace.enqueued(greet) == [{"name": "Ada"}]

    assert greet.broker is before


async def test_time_does_not_go_back(headrace: Inline) -> None:
    """Nor is a moment without a zone a moment."""
    with pytest.raises(ValueError, match="cannot go back"):
        await headrace.advance(-1)


async def test_children_run_when_their_parents_have_succeeded(headrace: Inline) -> None:
    """One parent fails at first: the child waits for its retry, and gets both results."""
    headrace.fail(double, ConnectionError("no route"))
    workflow = Workflow().add("two", double.call(1)).add("four", double.call(2))
    workflow.add("sum", total.call(), after=["two", "four"])
    async with headrace.transaction() as tx:
        ids = await tx.start(workflow)

    await headrace.drain()
    waiting = await headrace.left()
    outcome = await headrace.finish(ids["sum"])

    assert any("kit.sum" in one.what for one in waiting)
    assert (outcome.state, outcome.result, headrace.now) == (JobState.SUCCEEDED, 6, NOON + timedelta(seconds=1))


async def test_hook_is_told_when_a_job_is_dead(headrace: Inline) -> None:
    """By a job of its own, in the same drain."""
    headrace.fail(double, PermanentError("never"))

    outcome = await headrace.run(double, 1)

    (told,) = await headrace.jobs(mourn)
    assert outcome.state is JobState.DEAD
    assert (await headrace.outcome(told)).result == "kit.double: PermanentError: never"


async def test_plain_functions_run_in_their_places(headrace: Inline) -> None:
    """A thread can be made to crash; into a process no fault reaches, and the test is told so."""
    headrace.crash(double)
    in_thread = await headrace.run(double, 21)
    in_process = await headrace.run(square, 6)

    assert (in_thread.result, in_thread.attempt, in_process.result) == (42, 2, 36)
    with pytest.raises(ConfigurationError, match="runs in a process of its own"):
        headrace.fail(square, ValueError("no"))


async def test_paused_queue_keeps_its_jobs_until_it_goes_on(headrace: Inline) -> None:
    """What is left says why."""
    async with headrace.transaction() as tx:
        await tx.connection.execute(text("UPDATE queues SET paused = true WHERE name = 'default'"))
    job_id = await headrace.enqueue(greet, "Ada")
    await headrace.drain()
    (left,) = await headrace.left()
    async with headrace.transaction() as tx:
        await tx.connection.execute(text("UPDATE queues SET paused = false"))

    assert "paused" in left.why
    assert (await headrace.finish(job_id)).state is JobState.SUCCEEDED


async def test_time_passes_for_others_when_one_job_is_held_up(headrace: Inline, mailer: Mailer) -> None:
    """What waits in a paused queue hides no due moment of another one."""
    async with headrace.transaction() as tx:
        await tx.connection.execute(text("INSERT INTO queues (name, paused) VALUES ('held', true)"))
    await headrace.enqueue(greet.options(Options(queue="held")), "held")
    await headrace.enqueue(greet.options(Options(delay_seconds=60)), "later")

    await headrace.advance(60)

    assert mailer.sent == ["later"]


async def test_rate_of_a_queue_follows_the_virtual_clock(headrace: Inline, mailer: Mailer) -> None:
    """Two a minute: five mails take two minutes."""
    async with headrace.transaction() as tx:
        await tx.connection.execute(text("UPDATE queues SET rate_limit = 2, rate_per_seconds = 60"))
    await headrace.enqueue_calls([greet.call(name) for name in "abcde"])

    sent: list[str] = []
    for _ in range(3):
        await headrace.advance(0 if not sent else 60.01)
        sent.append("".join(mailer.sent))

    assert sent == ["ab", "abcd", "abcde"]


async def test_one_key_at_a_time_and_every_key_gets_its_turn(headrace: Inline, mailer: Mailer) -> None:
    """Concurrency keys park nothing for good."""
    keyed = [greet.options(Options(concurrency_key=name)).call(name) for name in "aabab"]
    await headrace.enqueue_calls(keyed)

    await headrace.drain()

    assert sorted(mailer.sent) == ["a", "a", "a", "b", "b"]


async def test_delivery_that_comes_again_is_refused(headrace: Inline) -> None:
    """The inbox keeps what the subscriber writes from happening twice."""
    await headrace.publish(Joined("Ada"), Joined("Bob"))
    await headrace.drain()

    await headrace.redeliver()

    assert await headrace.enqueued(greet) == [{"name": "Ada"}, {"name": "Bob"}]


async def test_everything_is_finished_when_time_enough_has_passed(headrace: Inline) -> None:
    """Retries, the reminder of tomorrow, and what a schedule makes meanwhile."""
    headrace.fail(greet, ConnectionError("no route"), times=2)
    await headrace.publish(Joined("Ada"))

    await headrace.finish_all()

    assert await headrace.unfinished() == []
    assert headrace.now == NOON + timedelta(days=1)


async def test_moment_without_a_zone_is_refused(stores: Stores) -> None:
    """Nobody knows what it would be on record."""
    with pytest.raises(ConfigurationError, match="give it a time zone"):
        async with inline(application, stores, at=datetime(2031, 5, 1)):  # noqa: DTZ001 - what is refused
            pass


async def test_job_that_nothing_will_finish_is_named(headrace: Inline) -> None:
    """A task that the application does not list is the newcomer's first mistake."""

    @task("kit.forgotten")
    async def forgotten(run: Run) -> None:
        """Is in no application."""

    job_id = await headrace.enqueue(forgotten)

    with pytest.raises(NotDrainedError, match=r"knows the task kit\.forgotten"):
        await headrace.finish(job_id)
