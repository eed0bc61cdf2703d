"""A projection's next generation: grown beside live traffic, equal to what live traffic makes, switched at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
from sqlalchemy import text

from headrace.application import Application
from headrace.clock import new_id
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.events.model import RecordedEvent
from headrace.jobs.queries import Job, job_by_id
from headrace.relay.moving import move_events
from headrace.relay.process import stand_by
from headrace.resources import Resources, open_resources, registry_of
from headrace.settings import Settings
from headrace.subscribers.contract import Subscription, projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.process import consume
from headrace.subscribers.shadow import sweep_shadows
from headrace.testing.working import working
from headrace.transaction import Transaction, transaction
from storefront.events import OrderConfirmed
from storefront.reactions.analytics import count_confirmed_orders
from storefront.reactions.analytics import tally as sales_of
from tests.integration.api_road import KEY, open_api
from tests.lanes import Forgotten, Thing, consuming, eventually, plant, publish, relaying, running, settings_of, settled
from tests.road import MIGRATIONS, PARTS

NAME = "tests.tally"
TABLES = """
    CREATE TABLE tally (
        key text NOT NULL PRIMARY KEY, things bigint NOT NULL, last int, place bigserial,
        id bigint GENERATED ALWAYS AS IDENTITY) WITH (fillfactor = 60);
    CREATE INDEX tally_by_last ON tally (last DESC) WHERE last > 1;
    COMMENT ON TABLE tally IS 'things by key';
    CREATE TABLE tests_other (key text)
"""
_ADD = text("""
    INSERT INTO tally (key, things, last)
    SELECT key, count(*), max(number) FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(key text, number int)
    GROUP BY key ORDER BY key
    ON CONFLICT (key) DO UPDATE SET things = tally.things + excluded.things, last = greatest(tally.last, excluded.last)
""")
_ADD_SUM = text("""
    INSERT INTO tally (key, things, last, total)
    SELECT key, count(*), max(number), sum(number)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(key text, number int) GROUP BY key ORDER BY key
    ON CONFLICT (key) DO UPDATE SET things = tally.things + excluded.things,
        last = greatest(tally.last, excluded.last), total = tally.total + excluded.total
""")


_TRIGGER = """
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER told AFTER INSERT ON tally FOR EACH ROW EXECUTE FUNCTION f()
"""


def _rows(events: Sequence[RecordedEvent]) -> dict[str, str]:
    return {"rows": f"[{','.join(event.data for event in events)}]"}


@projection(NAME, Thing, tables=("tally",))
async def tally(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Count things by key, and keep the largest number."""
    await tx.connection.execute(_ADD, _rows(events))


@projection(NAME, Thing, tables=("tally",))
async def summing(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Do the same, and add the numbers up: the code of a later release."""
    await tx.connection.execute(_ADD_SUM, _rows(events))


@projection(NAME, Thing, tables=("tally",))
async def meddling(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Write to a table that it does not name."""
    await tx.connection.execute(_ADD, _rows(events))
    await tx.connection.execute(text("INSERT INTO tests_other VALUES ('x')"))


@projection(NAME, Thing, tables=("tally",))
async def addressing(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Name its table with a schema."""
    await tx.connection.execute(text("UPDATE public.tally SET last = :number"), {"number": len(events)})


@projection(NAME, Thing, tables=("tally",))
async def publishing(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Publish events, which a projection should leave to others."""
    await tx.publish(Forgotten(str(len(events))))


@projection("tests.tableless", Thing)
async def tableless(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Name no tables."""
    del tx, events


@subscriber("tests.heard", Thing)
async def heard(delivery: Delivery, thing: Thing) -> None:
    """Do nothing."""
    del delivery, thing


@dataclass(frozen=True, slots=True)
class Road:
    """An API on the record of a release of the projection."""

    settings: Settings
    resources: Resources
    client: httpx.AsyncClient
    driver: asyncpg.Connection[asyncpg.Record]

    @property
    def record(self) -> Record:
        """The record."""
        return self.resources.record

    async def live(self, release: Subscription, things: Sequence[Thing]) -> None:
        """Publish things and have them applied live."""
        async with relaying(self.settings), consuming(self.settings, release):
            await publish(self.record, things)
            await eventually(self.is_settled)

    async def is_settled(self) -> bool:
        """Tell whether live traffic has applied everything."""
        heads = await self.driver.fetchval("SELECT sum(head) + (SELECT count(*) FROM outbox) FROM lanes")
        return await settled(self.driver, NAME, events=int(heads))

    async def ask(self, name: str = NAME, **body: object) -> httpx.Response:
        """Ask for a rebuild."""
        return await self.client.post(f"/v1/subscriptions/{name}/rebuild", json=body)

    async def rebuilt(self, **body: object) -> Job:
        """Ask for a rebuild and wait for its end."""
        answer = await self.ask(NAME, **body)
        assert answer.status_code == 202, answer.text
        return await self.ended(UUID(answer.json()["job_id"]))

    async def ended(self, job_id: UUID) -> Job:
        """Wait for the end of a job, with a worker at work."""
        async with self.at_work():
            await eventually(lambda: self.is_finished(job_id))
        return await job_by_id(self.record, job_id)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Run a relay that leads, and a worker."""
        relay = running(lambda stop: stand_by(self.settings, stop, migrations=MIGRATIONS, parts=(move_events, *PARTS)))
        async with relay, working(self.resources, seconds=15):
            yield

    async def is_finished(self, job_id: UUID) -> bool:
        """Tell whether a job has ended."""
        return (await job_by_id(self.record, job_id)).finished_at is not None

    async def rows(self, columns: str = "key, things, last") -> list[tuple[Any, ...]]:
        """Return the rows of the table."""
        query = f"SELECT {columns} FROM tally ORDER BY key"  # noqa: S608 - columns of the test
        return [tuple(row) for row in await self.driver.fetch(query)]

    async def shadows(self) -> int:
        """Return how many schemas there are of generations that have not taken their place."""
        return int(await self.driver.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^headrace_shadow'"))


@asynccontextmanager
async def released(
    database_url: str,
    redis_url: str,
    *subscriptions: Subscription,
    events: tuple[type[msgspec.Struct], ...] = (Thing, Forgotten),
) -> AsyncIterator[Road]:
    """Have a release with these subscriptions on the record."""
    settings = msgspec.structs.replace(settings_of(database_url, redis_url), api_key=KEY)
    application = Application(
        name="tests", events=events, subscriptions=subscriptions, migrations="storefront.migrations"
    )
    async with AsyncExitStack() as stack:
        driver = await asyncpg.connect(database_url)
        stack.push_async_callback(driver.close)
        resources = await stack.enter_async_context(open_resources(settings, registry_of([application])))
        client, _ = await stack.enter_async_context(open_api(settings, application))
        yield Road(settings, resources, client, driver)


@pytest.fixture
async def tables(database_url: str) -> None:
    """The tables of the projection."""
    driver = await asyncpg.connect(database_url)
    await driver.execute(TABLES)
    await driver.close()


@pytest.fixture
async def road(database_url: str, redis_url: str, tables: None) -> AsyncIterator[Road]:
    """The road of a release that is as it should be."""
    del tables
    async with released(database_url, redis_url, tally, tableless, heard) as opened:
        yield opened


def things(count: int, first: int = 0) -> list[Thing]:
    """Return things of seven keys."""
    return [Thing(f"k{number % 7}", number) for number in range(first, first + count)]


def counted(published: Sequence[Thing]) -> list[tuple[str, int, int, int]]:
    """Return what the table must hold after these things."""
    numbers: dict[str, list[int]] = {}
    for thing in published:
        numbers.setdefault(thing.key, []).append(thing.number)
    return [(key, len(found), max(found), sum(found)) for key, found in sorted(numbers.items())]


async def test_new_generation_has_what_new_code_makes_of_old_events_while_live_traffic_goes_on(
    database_url: str, redis_url: str, tables: None
) -> None:
    """A column is added and the code filled in later: the rebuild makes it true of all events, those of now too."""
    del tables
    async with released(database_url, redis_url, tally) as before:
        await before.live(tally, things(60))
    async with released(database_url, redis_url, summing) as road:
        await road.driver.execute("ALTER TABLE tally ADD COLUMN total bigint NOT NULL DEFAULT 0")
        async with road.at_work(), consuming(road.settings, summing):
            await publish(road.record, things(20, first=60))
            publishing_on = asyncio.create_task(publish(road.record, things(120, first=80)))
            job_id = UUID((await road.ask(rate_per_second=100)).json()["job_id"])
            await eventually(lambda: road.is_finished(job_id))
            await publishing_on
            await publish(road.record, things(10, first=200))
            await eventually(road.is_settled)

        assert (await job_by_id(road.record, job_id)).state is JobState.SUCCEEDED
        assert await road.rows("key, things, last, total") == counted(things(210))
        assert await road.shadows() == 0
        assert await road.driver.fetchval("SELECT generation FROM subscriptions WHERE name = $1", NAME) == 2


async def test_rebuilt_table_is_the_live_one_to_every_statement(road: Road) -> None:
    """Columns, keys, indexes by their names, sequences, storage, comment and privileges are those of before."""
    await road.driver.execute("DO $$ BEGIN CREATE ROLE tests_reader; EXCEPTION WHEN duplicate_object THEN END $$")
    await road.driver.execute("GRANT SELECT ON tally TO tests_reader")
    await road.live(tally, things(30))
    before, shape = await road.rows(), await shape_of(road)
    oid = await road.driver.fetchval("SELECT 'tally'::regclass::oid")

    job = await road.rebuilt()

    assert job.state is JobState.SUCCEEDED, job.errors
    assert await road.rows() == before
    assert await shape_of(road) == shape
    assert await road.driver.fetchval("SELECT 'tally'::regclass::oid") != oid
    await road.live(tally, things(7, first=30))
    assert [row[1] for row in await road.rows()] == [count for _, count, _, _ in counted(things(37))]
    assert await road.driver.fetchval("SELECT count(DISTINCT id) = 7 AND count(DISTINCT place) = 7 FROM tally")
    assert (await road.rebuilt()).state is JobState.SUCCEEDED


async def shape_of(road: Road) -> list[Any]:
    """Return what hangs on the table."""
    return [
        *await road.driver.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'tally' ORDER BY 1"),
        *await road.driver.fetch("SELECT conname FROM pg_constraint WHERE conrelid = 'tally'::regclass ORDER BY 1"),
        *await road.driver.fetch("SELECT reloptions, relacl::text FROM pg_class WHERE oid = 'tally'::regclass"),
        *await road.driver.fetch("SELECT obj_description('tally'::regclass, 'pg_class')"),
        *await road.driver.fetch(
            "SELECT pg_get_serial_sequence('tally', 'place'), pg_get_serial_sequence('tally', 'id')"
        ),
    ]


HANGING: Final = (
    ("CREATE TABLE child (key text REFERENCES tally)", "DROP TABLE child", "foreign key"),
    ("CREATE VIEW shown AS SELECT * FROM tally", "DROP VIEW shown", "view"),
    (_TRIGGER, "DROP TRIGGER told ON tally", "trigger"),
    ("ALTER TABLE tally ENABLE ROW LEVEL SECURITY", "ALTER TABLE tally DISABLE ROW LEVEL SECURITY", "row security"),
    ("GRANT SELECT (key) ON tally TO PUBLIC", "REVOKE SELECT (key) ON tally FROM PUBLIC", "column"),
    ("ALTER TABLE tally RENAME TO gone", "ALTER TABLE gone RENAME TO tally", "no table"),
    ("UPDATE lanes SET head = 1 WHERE lane = 2", "UPDATE lanes SET head = 0 WHERE lane = 2", "retention"),
)


async def test_rebuild_is_refused_with_the_reason_when_something_would_be_lost(road: Road) -> None:
    """What hangs on the table and would stay behind is named; nothing is begun."""
    details = []
    for change, undo, _ in HANGING:
        await road.driver.execute(change)
        details.append((await road.ask()).json().get("detail", ""))
        await road.driver.execute(undo)

    assert [reason for (_, _, reason), detail in zip(HANGING, details, strict=True) if reason not in detail] == []
    assert await road.driver.fetchval("SELECT count(*) FROM jobs") == 0


async def test_rebuild_is_refused_when_there_are_no_tables_to_rebuild(road: Road) -> None:
    """A subscriber has none, a projection may not have named them, and nobody is nobody."""
    answers = [await road.ask(name) for name in ("tests.heard", "tests.tableless", "tests.nobody")]

    assert [answer.status_code for answer in answers] == [409, 409, 404]
    assert "tables=" in answers[1].json()["detail"]


async def test_what_retention_has_left_is_enough_when_that_is_accepted(road: Road) -> None:
    """The new tables know less than the old ones, as was asked for."""
    await plant(road.record, road.driver, things(8))
    await road.driver.execute("DELETE FROM lane_log WHERE position = 1")
    left = await road.driver.fetchval("SELECT count(*) FROM lane_log")

    job = await road.rebuilt(accept_pruned=True)

    assert job.state is JobState.SUCCEEDED
    assert sum(row[1] for row in await road.rows()) == left


async def test_answer_is_the_job_under_way_when_there_is_one(road: Road) -> None:
    """Two rebuilds of one projection would get into each other's way; a dry run begins none."""
    await plant(road.record, road.driver, things(5))

    dry, first, second = await road.ask(dry_run=True), await road.ask(), await road.ask()

    assert dry.json() == {"count": 5, "job_id": None}
    assert first.json() == second.json()
    assert await road.driver.fetchval("SELECT count(*) FROM replays") == 1


async def test_rebuild_is_dead_with_the_reason_when_the_projection_writes_elsewhere(
    database_url: str, redis_url: str, tables: None
) -> None:
    """What is no table of its next generation would be written to a second time: nothing of it is committed."""
    del tables
    async with released(database_url, redis_url, tally) as road:
        await road.live(tally, things(5))
        before = await state_of(road)
    for release, named in ((meddling, "tests_other"), (addressing, "tally"), (publishing, "event_log")):
        async with released(database_url, redis_url, release) as road:
            job = await road.rebuilt()

            assert job.state is JobState.DEAD
            assert named in job.errors[-1].message
            assert await state_of(road) == before
            assert await sweep_shadows(road.record) == 1
            assert await road.shadows() == 0


async def state_of(road: Road) -> list[Any]:
    """Return what the tables hold, and how many events there are."""
    others = await road.driver.fetchrow("SELECT (SELECT count(*) FROM tests_other), (SELECT count(*) FROM event_log)")
    return [*await road.rows(), *others]


async def test_nothing_is_left_when_a_rebuild_is_cancelled(road: Road) -> None:
    """The half-made generation goes; the present one stays; a retry of the job begins anew and succeeds."""
    await road.live(tally, things(40))
    before = await road.rows()
    job_id = UUID((await road.ask(rate_per_second=20)).json()["job_id"])

    async with road.at_work():
        await eventually(lambda: _has_applied(road, job_id))
        await road.client.post(f"/v1/jobs/{job_id}/cancel")
        await eventually(lambda: road.is_finished(job_id))
        left, cancelled = await road.shadows(), await job_by_id(road.record, job_id)
        await road.driver.execute("UPDATE jobs SET args = args - 'rate_per_second' WHERE id = $1", job_id)
        await road.client.post(f"/v1/jobs/{job_id}/retry")
        await eventually(lambda: road.is_finished(job_id))

    assert (cancelled.state, left) == (JobState.CANCELLED, 0)
    assert (await job_by_id(road.record, job_id)).state is JobState.SUCCEEDED
    assert await road.rows() == before


async def _has_applied(road: Road, job_id: UUID) -> bool:
    return bool(await road.driver.fetchval("SELECT done > 0 FROM replays WHERE job_id = $1", job_id))


async def test_rebuild_starts_over_when_the_table_changes_meanwhile(road: Road) -> None:
    """A migration in the middle is not undone by the switch: the next generation has its column, too."""
    await road.live(tally, things(40))
    before = await road.rows()
    job_id = UUID((await road.ask(rate_per_second=60)).json()["job_id"])

    async with road.at_work():
        await eventually(lambda: _has_applied(road, job_id))
        await road.driver.execute("ALTER TABLE tally ADD COLUMN note text DEFAULT 'new'")
        await eventually(lambda: road.is_finished(job_id))

    assert (await job_by_id(road.record, job_id)).state is JobState.SUCCEEDED
    assert await road.rows("key, things, last, note") == [(*row, "new") for row in before]


async def test_switch_waits_for_who_reads_the_table(road: Road) -> None:
    """A long read is not broken off, and live traffic is not held up for long by the wait."""
    await plant(road.record, road.driver, things(10))
    reader = await asyncpg.connect(road.settings.database_url)
    job_id = UUID((await road.ask()).json()["job_id"])

    async with road.at_work():
        async with reader.transaction():
            await reader.fetch("SELECT * FROM tally")
            await eventually(lambda: _waits(road))
        await eventually(lambda: road.is_finished(job_id))

    await reader.close()
    assert (await job_by_id(road.record, job_id)).state is JobState.SUCCEEDED


async def _waits(road: Road) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tally'::regclass"
    return bool(await road.driver.fetchval(waiting))


async def test_transaction_of_a_reader_sees_one_generation_or_the_other(road: Road) -> None:
    """While it is rebuilt, the table never looks empty or half full."""
    await road.live(tally, things(70))
    job_id = UUID((await road.ask()).json()["job_id"])
    seen = set()

    async with road.at_work():
        while not await road.is_finished(job_id):
            async with transaction(road.record) as tx:
                seen.add((await tx.connection.execute(text("SELECT sum(things) FROM tally"))).scalar_one())

    assert seen == {70}


async def test_sales_of_the_storefront_are_the_live_ones_when_rebuilt_under_traffic(
    database_url: str, redis_url: str
) -> None:
    """Orders are confirmed before, during and after the rebuild: each counts once, in the old table and the new."""
    orders = [_confirmed(number) for number in range(90)]
    async with released(database_url, redis_url, count_confirmed_orders, events=(OrderConfirmed,)) as road:
        name = count_confirmed_orders.name
        async with road.at_work(), consuming_of(road, count_confirmed_orders):
            await publish(road.record, orders[:30])
            job_id = UUID((await road.ask(name, rate_per_second=40)).json()["job_id"])
            await publish(road.record, orders[30:60])
            await eventually(lambda: road.is_finished(job_id))
            await publish(road.record, orders[60:])
            await eventually(lambda: settled(road.driver, name, events=len(orders)))

        rows = await road.driver.fetch("SELECT day, orders, revenue_cents, currency FROM storefront_sales")
        assert (await job_by_id(road.record, job_id)).state is JobState.SUCCEEDED
        assert sorted(tuple(row) for row in rows) == sorted(
            (one.day, one.orders, one.revenue_cents, one.currency) for one in sales_of(orders)
        )


def _confirmed(number: int) -> OrderConfirmed:
    return OrderConfirmed(
        order_id=new_id(),
        actor="tests",
        confirmed_at=datetime(2026, 1, 1 + number % 3, tzinfo=UTC),
        currency=("CHF", "EUR")[number % 2],
        total_cents=100 + number,
    )


@asynccontextmanager
async def consuming_of(road: Road, subscription: Subscription) -> AsyncIterator[None]:
    """Run a consumer of one subscription of the storefront."""
    application = Application(
        name="shop", events=(OrderConfirmed,), subscriptions=(subscription,), migrations="storefront.migrations"
    )
    async with running(lambda stop: consume(road.settings, registry_of([application]), stop)):
        yield
