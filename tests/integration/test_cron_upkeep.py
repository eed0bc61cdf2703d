"""What the clock keeps in order: old rows leave, needed ones stay, nobody waits."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID, uuid4

from sqlalchemy import text

from headrace.clock import first_id_at, now
from headrace.cron.upkeep import make_partitions, prune, rescue
from headrace.database.record import Record
from headrace.events.prune import prune_events
from headrace.jobs.prune import forget_jobs, prune_jobs
from headrace.settings import Settings
from headrace.stack import readiness
from tests.clock import rows

TODAY = now().date()
KEPT_FROM = now() - timedelta(days=30)


async def count(record: Record, table: str) -> int:
    """Return how many rows a table has."""
    ((number,),) = await rows(record, f"SELECT count(*) FROM {table}")  # noqa: S608 - our own name
    return int(number)


def id_of(days_ago: float) -> UUID:
    """Return an id as one made that many days ago, different each time."""
    return UUID(int=first_id_at(now() - timedelta(days=days_ago)).int | uuid4().int % (1 << 60))


async def add_job(
    record: Record, *, days_ago: float, state: str = "succeeded", finished_ago: float | None = None
) -> UUID:
    """Put a job on record that was made so long ago, with one attempt that failed."""
    identity = id_of(days_ago)
    ago = days_ago if finished_ago is None else finished_ago
    finished_at = now() - timedelta(days=ago) if state in {"succeeded", "dead", "cancelled", "expired"} else None
    await rows(
        record,
        "INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent, finished_at) "
        "VALUES (:id, 't', '{}', 'q', CAST(:state AS job_state), 1, '', '', :finished_at)",
        id=identity,
        state=state,
        finished_at=finished_at,
    )
    await rows(
        record,
        "INSERT INTO job_attempts (job_id, attempt, fence, outcome, type, message, traceback, trace_id) "
        "VALUES (:id, 1, 1, 'failed', 'E', 'm', '', '')",
        id=identity,
    )
    return identity


async def moved(record: Record, identity: UUID, *states: str) -> None:
    """Move a job as the product does, so that the record notices."""
    move = text("""
        UPDATE jobs SET state = CAST(:state AS job_state), finished_at = CASE WHEN :state <> 'pending' THEN now() END
        WHERE id = :id
    """)
    async with record.engine.begin() as connection:
        for state in states:
            await connection.execute(move, {"id": identity, "state": state})


async def add_event(record: Record, *, days_ago: int, position: int) -> UUID:
    """Put an event of lane 0 on record as it is when everybody has handled it."""
    identity = id_of(days_ago)
    day = (now() - timedelta(days=days_ago)).date()
    await make_day(record, day)
    values = {"id": identity, "key": str(identity), "position": position}
    await rows(
        record,
        "INSERT INTO event_log (id, type, version, source, source_id, slot, time, data, trace_id, traceparent) "
        "VALUES (:id, 'a.b', 1, 's', :key, 0, now(), '{}', '', '')",
        **values,
    )
    await rows(record, "INSERT INTO lane_log (lane, position, event_id) VALUES (0, :position, :id)", **values)
    await rows(record, "INSERT INTO event_keys (source, source_id, event_id) VALUES ('s', :key, :id)", **values)
    await rows(record, "INSERT INTO inbox (subscription, event_id) VALUES ('reader', :id)", **values)
    return identity


async def make_day(record: Record, day: date) -> None:
    """Make the partitions of a day that has passed."""
    start = datetime.combine(day, time(), UTC)
    low, high = first_id_at(start), first_id_at(start + timedelta(days=1))
    for table in ("event_log", "inbox"):
        await rows(
            record,
            f"CREATE TABLE IF NOT EXISTS {table}_{day:%Y%m%d} PARTITION OF {table} "
            f"FOR VALUES FROM ('{low}') TO ('{high}')",
        )


async def subscribed(record: Record, *, position: int) -> None:
    """Put a subscription on record that has handled lane 0 up to this position."""
    await rows(record, "INSERT INTO subscriptions (name, kind, types) VALUES ('reader', 'subscriber', '{a.b}')")
    await rows(
        record,
        "INSERT INTO checkpoints (subscription, lane, position) VALUES ('reader', 0, :position)",
        position=position,
    )


async def test_old_finished_jobs_leave_when_they_are_pruned(record: Record) -> None:
    """Only what finished before the retention goes, with its attempts; what is unfinished stays however old it is."""
    for state in ("succeeded", "dead", "cancelled", "expired"):
        await add_job(record, days_ago=40, state=state)
    kept = {
        await add_job(record, days_ago=40, state="running"),
        await add_job(record, days_ago=40, state="scheduled"),
        await add_job(record, days_ago=40, state="retrying"),
        await add_job(record, days_ago=40, finished_ago=1),
        await add_job(record, days_ago=1),
    }

    pruned = await prune_jobs(record, KEPT_FROM, batch=2)

    left = {identity for (identity,) in await rows(record, "SELECT id FROM jobs")}
    attempts = {identity for (identity,) in await rows(record, "SELECT job_id FROM job_attempts")}
    assert pruned == 4
    assert left == kept
    assert attempts == kept


async def test_jobs_leave_at_a_time_of_their_own_when_they_have_one(record: Record) -> None:
    """The time counts from the end, whichever that is; a retried job stays, and the retention of all is not its own."""
    ended = [await add_job(record, days_ago=0, state="running") for _ in range(3)]
    for state, identity in zip(("succeeded", "dead", "cancelled"), ended, strict=True):
        await rows(record, "UPDATE jobs SET retention_seconds = 0 WHERE id = :id", id=identity)
        await moved(record, identity, state)
    retried, kept = await add_job(record, days_ago=40, state="running"), await add_job(record, days_ago=40)
    await rows(record, "UPDATE jobs SET retention_seconds = 0 WHERE id = :id", id=retried)
    await moved(record, retried, "dead", "pending")
    await rows(record, "UPDATE jobs SET retention_seconds = 1e9 WHERE id = :id", id=kept)

    forgotten = await forget_jobs(record, batch=2)
    pruned = await prune_jobs(record, KEPT_FROM)

    left = {identity for (identity,) in await rows(record, "SELECT id FROM jobs")}
    assert (forgotten, pruned) == (3, 0)
    assert left == {retried, kept}


async def test_parents_stay_when_a_child_may_read_their_result(record: Record) -> None:
    """A parent goes when its children have succeeded or are gone, and what is kept beside a job goes with it."""
    parent, child = await add_job(record, days_ago=41), await add_job(record, days_ago=40, state="running")
    edge = "INSERT INTO job_parents (child_id, parent_id, name, needs) VALUES (:child, :parent, 'a', 'succeeded')"
    await rows(record, edge, child=child, parent=parent)
    await rows(record, "UPDATE jobs SET watched = true WHERE id = :id", id=parent)
    await rows(record, "INSERT INTO job_moves (job_id, at, state) VALUES (:id, now(), 'pending')", id=parent)

    early = await prune_jobs(record, KEPT_FROM)
    await rows(record, "UPDATE jobs SET state = 'dead', finished_at = now() - interval '39 days'")
    child_first = await prune_jobs(record, KEPT_FROM)  # a dead child might be tried again
    then_parent = await prune_jobs(record, KEPT_FROM)

    assert (early, child_first, then_parent) == (0, 1, 1)
    assert await rows(record, "SELECT job_id FROM job_moves") == []
    assert await rows(record, "SELECT child_id FROM job_parents") == []


async def test_nobody_waits_when_a_job_is_in_somebodys_hands(record: Record) -> None:
    """A row that another transaction holds is passed over, and goes the next time."""
    held, free = await add_job(record, days_ago=41, state="dead"), await add_job(record, days_ago=40)
    async with record.engine.begin() as connection:
        await connection.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": held})

        async with asyncio.timeout(5):
            pruned = await prune_jobs(record, KEPT_FROM)

    left = [identity for (identity,) in await rows(record, "SELECT id FROM jobs")]
    assert pruned == 1
    assert left == [held]
    assert free not in left
    assert await prune_jobs(record, KEPT_FROM) == 1


async def test_two_clocks_share_the_work_when_both_prune(record: Record) -> None:
    """Each old job is deleted once, by one of them."""
    for _ in range(20):
        await add_job(record, days_ago=40)

    pruned = await asyncio.gather(*(prune_jobs(record, KEPT_FROM, batch=3) for _ in range(4)))
    pruned.append(await prune_jobs(record, KEPT_FROM))

    assert sum(pruned) == 20


async def test_old_days_leave_when_everybody_has_handled_them(record: Record) -> None:
    """The partitions of both tables are dropped, and positions, keys and deliveries of their events go too."""
    await add_event(record, days_ago=40, position=1)
    await add_event(record, days_ago=32, position=2)
    recent = await add_event(record, days_ago=2, position=3)
    await subscribed(record, position=3)

    dropped = await prune_events(record, KEPT_FROM)

    assert dropped == 4
    assert [identity for (identity,) in await rows(record, "SELECT id FROM event_log")] == [recent]
    assert [await count(record, table) for table in ("lane_log", "event_keys", "inbox")] == [1, 1, 1]


async def test_a_day_stays_when_a_subscription_has_not_handled_it(record: Record) -> None:
    """Retention does not break the promise: what comes before the oldest unhandled event goes, the rest waits."""
    await add_event(record, days_ago=40, position=1)
    await add_event(record, days_ago=35, position=2)
    await add_event(record, days_ago=33, position=3)
    await subscribed(record, position=1)

    dropped = await prune_events(record, KEPT_FROM)

    assert dropped == 2
    assert await count(record, "event_log") == 2


async def test_a_day_stays_when_a_delivery_of_it_can_be_retried(record: Record) -> None:
    """A dead delivery keeps its event until its job has left."""
    event = await add_event(record, days_ago=40, position=1)
    job = await add_job(record, days_ago=40, state="dead", finished_ago=5)
    await rows(
        record, "INSERT INTO deliveries (subscription, event_id, job_id) VALUES ('reader', :e, :j)", e=event, j=job
    )
    await subscribed(record, position=1)

    kept = await prune_events(record, KEPT_FROM)
    await rows(record, "DELETE FROM jobs")
    gone = await prune_events(record, KEPT_FROM)

    assert (kept, gone) == (0, 2)
    assert await count(record, "deliveries") == 0


async def test_a_day_stays_when_its_events_have_no_position_yet(record: Record) -> None:
    """No relay ran for a month: nothing is lost by that."""
    event = await add_event(record, days_ago=40, position=1)
    await rows(record, "DELETE FROM lane_log")
    await rows(record, "INSERT INTO outbox (slot, event_id) VALUES (0, :event)", event=event)

    assert await prune_events(record, KEPT_FROM) == 0


async def test_the_readers_come_first_when_they_hold_the_log(record: Record) -> None:
    """Dropping waits half a second at most, then leaves the day to the next time, and writers go on."""
    await add_event(record, days_ago=40, position=1)
    await subscribed(record, position=1)
    async with record.engine.begin() as connection:
        await connection.execute(text("SELECT count(*) FROM event_log"))

        async with asyncio.timeout(5):
            dropped = await prune_events(record, KEPT_FROM)

    assert dropped == 0
    assert await prune_events(record, KEPT_FROM) == 2


async def test_events_of_the_default_partition_leave_when_their_time_is_over(record: Record) -> None:
    """A day whose partition was never made is pruned row by row."""
    old = id_of(40)
    await rows(
        record,
        "INSERT INTO event_log (id, type, version, source, source_id, slot, time, data, trace_id, traceparent) "
        "VALUES (:id, 'a.b', 1, 's', 'k', 0, now(), '{}', '', '')",
        id=old,
    )

    await prune_events(record, KEPT_FROM)

    assert await count(record, "event_log") == 0


async def test_the_small_tables_are_pruned_when_upkeep_runs(record: Record) -> None:
    """Keys older than a day, ledger rows and moves older than the retention, processes dead for a day go."""
    await rows(
        record,
        "INSERT INTO idempotency_keys (principal, key, request_hash, status, headers, body, created_at) VALUES "
        "('p', 'old', '', 200, '{}', '', now() - interval '25 hours'), ('p', 'new', '', 200, '{}', '', now())",
    )
    await rows(
        record,
        "INSERT INTO schedule_runs (schedule, due_at, outcome, job_id) VALUES "
        "('s', now() - interval '40 days', 'fired', gen_random_uuid()), "
        "('s', now() - interval '39 days', 'fired', gen_random_uuid()), "
        "('s', now() - interval '38 days', 'skipped', NULL), ('s', now() - interval '1 day', 'skipped', NULL)",
    )
    await rows(
        record,
        "INSERT INTO processes (id, role, host, pid, expires_at) VALUES "
        "(gen_random_uuid(), 'worker', 'h', 1, now() - interval '2 days'), "
        "(gen_random_uuid(), 'worker', 'h', 2, now() - interval '2 hours')",
    )
    await rows(
        record,
        "INSERT INTO job_moves (job_id, state, at) VALUES "
        "(gen_random_uuid(), 'running', now() - interval '40 days'), (gen_random_uuid(), 'scheduled', now())",
    )
    await add_job(record, days_ago=40)

    await prune(record, Settings())

    assert await rows(record, "SELECT state FROM job_moves") == [("scheduled",)]
    assert await rows(record, "SELECT key FROM idempotency_keys") == [("new",)]
    assert await rows(record, "SELECT outcome FROM schedule_runs ORDER BY due_at") == [
        ("fired",), ("skipped",), ("skipped",),
    ]  # fmt: skip
    assert await rows(record, "SELECT pid FROM processes") == [(2,)]
    assert await count(record, "jobs") == 0


async def test_the_partitions_of_the_week_are_there_when_many_clocks_make_them(record: Record) -> None:
    """They are made once, whoever comes first, and what the default partition had caught moves in."""
    tomorrow = f"event_log_{TODAY + timedelta(days=1):%Y%m%d}"
    await rows(record, f"DROP TABLE {tomorrow}")
    caught = id_of(-1)
    await rows(
        record,
        "INSERT INTO event_log (id, type, version, source, source_id, slot, time, data, trace_id, traceparent) "
        "VALUES (:id, 'a.b', 1, 's', 'k', 0, now(), '{}', '', '')",
        id=caught,
    )

    await asyncio.gather(*(make_partitions(record) for _ in range(5)))

    assert await rows(record, f"SELECT id FROM {tomorrow}") == [(caught,)]  # noqa: S608 - our own name


async def test_the_job_of_a_dead_worker_waits_again_when_the_clock_looks(record: Record) -> None:
    """The clock is a second hand for the relay's rescue."""
    job = await add_job(record, days_ago=0, state="running")
    await rows(record, "UPDATE jobs SET worker_id = gen_random_uuid(), attempt = 1, max_attempts = 3, fence = 2")

    async def rescued() -> bool:
        await rescue(record, Settings(lease_seconds=0.5))
        return await rows(record, "SELECT id FROM jobs WHERE state = 'pending'") == [(job,)]

    assert await readiness.until(rescued, 10)


async def test_work_done_stays_as_long_as_its_job_may_be_retried(record: Record) -> None:
    """What is older than the retention leaves with its job, not before; younger work stays without one."""
    dead = await add_job(record, days_ago=60, state="dead", finished_ago=1)
    for key, job_id, days in (("retriable", dead, 60), ("gone", uuid4(), 60), ("young", uuid4(), 1)):
        await rows(
            record,
            "INSERT INTO processed_work (scope, key, job_id, created_at) VALUES ('s', :key, :job_id, :created_at)",
            key=key,
            job_id=job_id,
            created_at=now() - timedelta(days=days),
        )

    await prune(record, Settings(retention_days=30))

    assert await rows(record, "SELECT key FROM processed_work ORDER BY key") == [("retriable",), ("young",)]
