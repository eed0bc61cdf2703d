"""Dead deliveries: grouped by what went wrong, and tried again as a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from sqlalchemy import text

from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.jobs.cancel import cancel_job
from headrace.jobs.redrive import redrive_job
from headrace.subscribers.dead import Kind, dead_deliveries, dead_groups
from headrace.subscribers.redrive import Asked, Redriven, Selection, start_redrive
from tests import dead_letters
from tests.dead_letters import Letters, Lost, Packed, ship
from tests.integration.api_road import open_api
from tests.road import Road, eventually, running


@pytest.fixture
async def client(letters_road: Road) -> AsyncIterator[httpx.AsyncClient]:
    """The API over the same record."""
    async with open_api(letters_road.settings, dead_letters.application) as (opened, _):
        yield opened


async def redriven(road: Road, selection: Selection, *, dry_run: bool = False) -> Redriven:
    """Begin a redrive."""
    async with road.transaction() as tx:
        begun: Redriven = await start_redrive(tx, Asked(ship.name, selection, dry_run=dry_run))
        return begun


def job_of(redrive: Redriven) -> UUID:
    """Return the job of a redrive that was begun."""
    assert redrive.job_id is not None
    return redrive.job_id


def packed(count: int, customer: str = "ada") -> list[Packed | Lost]:
    """Return parcels."""
    return [Packed(customer, number) for number in range(count)]


async def listed(client: httpx.AsyncClient, path: str = "", **query: str | int) -> dict[str, Any]:
    """Ask for dead deliveries."""
    answer = await client.get(f"/v1/subscriptions/{ship.name}/dead{path}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_groups_tell_what_went_wrong_when_deliveries_died(letters: Letters, client: httpx.AsyncClient) -> None:
    """One group for a fault, whichever parcel it was; each with its count, its times and an example."""
    ids = await letters.die(packed(3))
    await letters.die([Lost("bob", 7)], ValueError("no address"))

    page = await listed(client)

    latest, first = page["items"]
    assert page["next_cursor"] is None
    assert (latest["count"], latest["error_type"], latest["message"]) == (1, "ValueError", "no address")
    assert (first["count"], first["error_type"], first["release"]) == (3, "OutOfStockError", "r1")
    assert first["first_at"] <= first["last_at"] <= latest["last_at"]
    assert first["example"]["event_id"] == str(ids[-1])
    assert (first["example"]["type"], first["example"]["subject"]) == ("letters.parcel.packed", "ada")
    assert first["example"]["attempts"] == 1


async def test_listings_have_pages_when_there_is_more(letters: Letters, client: httpx.AsyncClient) -> None:
    """Both go on where the page before ended, without loss or repetition."""
    await letters.die(packed(3))
    await letters.die(packed(1), ValueError("no address"))
    await letters.die(packed(1), KeyError("no postcode"))

    first = await listed(client, limit=2)
    rest = await listed(client, limit=2, cursor=first["next_cursor"])
    (three,) = rest["items"]
    items = await listed(client, f"/{three['fingerprint']}", limit=2, release="r1")
    last = await listed(client, f"/{three['fingerprint']}", limit=2, cursor=items["next_cursor"])

    assert [group["error_type"] for group in first["items"] + rest["items"]] == [
        "KeyError",
        "ValueError",
        "OutOfStockError",
    ]
    jobs = [one["job_id"] for one in items["items"] + last["items"]]
    assert jobs == sorted(jobs, reverse=True)
    assert len(set(jobs)) == 3
    assert (await listed(client, f"/{three['fingerprint']}", release="r2"))["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("GET", "/v1/subscriptions/nobody/dead", None, 404, None),
        ("GET", "/v1/subscriptions/nobody/dead/0123456789abcdef", None, 404, None),
        ("POST", "/v1/subscriptions/nobody/redrive", {}, 404, None),
        ("GET", "/v1/subscriptions/letters.ship/dead?cursor=eHg=", None, 422, "cursor"),
        ("GET", "/v1/subscriptions/letters.ship/dead?limit=0", None, 422, "limit"),
        ("POST", "/v1/subscriptions/letters.ship/redrive", {"rate_per_second": 0}, 422, "rate_per_second"),
        ("POST", "/v1/subscriptions/letters.ship/redrive", {"event_id": "x"}, 422, "event_id"),
        ("POST", "/v1/subscriptions/letters.ship/redrive", {"types": []}, 422, "types"),
        ("POST", "/v1/subscriptions/letters.ship/redrive", {"types": ["a b"]}, 422, "types.0"),
        ("POST", "/v1/subscriptions/letters.ship/redrive", {"all": True}, 422, "all"),
    ],
)
async def test_refused_when_the_request_is_wrong(  # noqa: PLR0913, PLR0917 - one argument for each part of the case
    client: httpx.AsyncClient, method: str, path: str, body: object, status: int, field: str | None
) -> None:
    """The problem names the field."""
    answer = await client.request(method, path, json=body)

    assert answer.status_code == status, answer.text
    assert field is None or field in [error["field"] for error in answer.json()["errors"]]


async def test_everything_is_tried_again_when_it_is_mended(
    letters: Letters, letters_road: Road, client: httpx.AsyncClient
) -> None:
    """Over the API, as a job with progress; each effect once."""
    await letters.die(packed(5))
    await letters.mend()

    async with running(letters_road):
        answer = await client.post(f"/v1/subscriptions/{ship.name}/redrive", headers={"Idempotency-Key": "again"})
        begun = answer.json()
        repeated = await client.post(f"/v1/subscriptions/{ship.name}/redrive", headers={"Idempotency-Key": "again"})
        job = await letters_road.finished(UUID(begun["job_id"]))
        await letters_road.all_finished()

    assert (answer.status_code, begun["count"], repeated.json()) == (202, 5, begun)
    assert (job.state, bytes(job.result), job.task) == (JobState.SUCCEEDED, b"5", "headrace.redrive")
    assert msgspec.json.decode(job.progress)["done"] == 5
    assert await letters.shipped() == [0, 1, 2, 3, 4]
    assert (await listed(client))["items"] == []


async def test_only_what_is_meant_is_tried_again_when_there_are_conditions(
    letters: Letters, letters_road: Road
) -> None:
    """By event, by type, by fingerprint and by release; a dry run only counts."""
    first, *_ = await letters.die(packed(2))
    await letters.die([Lost("bob", 10)])
    await letters.die([Packed("eve", 20)], ValueError("no address"))
    await letters.mend()
    async with letters_road.record.engine.connect() as connection:
        groups = await dead_groups(connection, ship.name, limit=10)
    (no_address,) = [group for group in groups if group.error_type == "ValueError"]

    counted = await redriven(letters_road, Selection(types=("*.packed",)), dry_run=True)
    nothing = await redriven(letters_road, Selection(release="r2"))
    async with running(letters_road):
        for selection in (
            Selection(event_id=first),
            Selection(types=("letters.parcel.lost",)),
            Selection(fingerprint=no_address.fingerprint, release="r1"),
        ):
            begun = await redriven(letters_road, selection)
            await letters_road.finished(job_of(begun))
        await letters_road.all_finished()

    assert (counted, nothing) == (Redriven(3, None), Redriven(0, None))
    assert await letters.shipped() == [0, 10, 20]
    assert await letters.dead() == 1


async def test_rest_is_left_alone_when_the_canary_dies(letters: Letters, letters_road: Road) -> None:
    """One delivery is tried, once; the redrive is dead and says why, and can be tried again."""
    await letters.die(packed(4))

    async with running(letters_road):
        begun = job_of(await redriven(letters_road, Selection(canary=True)))
        failed = await letters_road.finished(begun)
        tried = await letters_road.driver.fetch("SELECT attempt FROM jobs WHERE task = 'headrace.deliver' ORDER BY id")
        await letters.mend()
        async with letters_road.transaction() as tx:
            await redrive_job(tx, begun, attempts=1)
        succeeded = await letters_road.finished(begun)
        await letters_road.all_finished()

    assert failed.state is JobState.DEAD
    assert "canary" in failed.errors[-1].message
    assert [row["attempt"] for row in tried] == [2, 1, 1, 1]
    assert succeeded.state is JobState.SUCCEEDED
    assert await letters.shipped() == [0, 1, 2, 3]
    assert await letters.dead() == 0


async def test_rest_follows_when_the_canary_succeeds(letters: Letters, letters_road: Road) -> None:
    """The canary is the oldest, and the others begin when it has ended."""
    await letters.die(packed(4))
    await letters.mend()

    async with running(letters_road):
        begun = job_of(await redriven(letters_road, Selection(canary=True)))
        job = await letters_road.finished(begun)
        await letters_road.all_finished()

    ended = await letters_road.driver.fetch(
        "SELECT released_at, finished_at FROM jobs WHERE task = 'headrace.deliver' ORDER BY id"
    )
    assert bytes(job.result) == b"4"
    assert all(row["released_at"] >= ended[0]["finished_at"] for row in ended[1:])


async def test_redrive_ends_when_it_is_cancelled_and_goes_on_when_it_is_tried_again(
    letters: Letters, letters_road: Road
) -> None:
    """A paced one has begun some and not all; afterwards it does the rest, each once."""
    await letters.die(packed(8))
    await letters.mend()

    async with running(letters_road):
        begun = job_of(await redriven(letters_road, Selection(rate_per_second=4.0)))
        await eventually(lambda: some_shipped(letters))
        async with letters_road.transaction() as tx:
            await cancel_job(tx, begun)
        cancelled = await letters_road.finished(begun)
        left = await letters.dead()
        async with letters_road.transaction() as tx:
            await redrive_job(tx, begun, attempts=1)
        job = await letters_road.finished(begun)
        await letters_road.all_finished()

    assert cancelled.state is JobState.CANCELLED
    assert 0 < left < 8
    assert bytes(job.result) == b"8"
    assert await letters.shipped() == list(range(8))


async def test_what_dies_again_is_left_alone_when_the_redrive_goes_on(letters: Letters, letters_road: Road) -> None:
    """A redrive ends although everything it brings back dies at once."""
    await letters.die(packed(3))

    async with running(letters_road):
        begun = job_of(await redriven(letters_road, Selection(rate_per_second=20.0)))
        job = await letters_road.finished(begun)
        await letters_road.all_finished()

    attempts = await letters_road.driver.fetch("SELECT attempt FROM jobs WHERE task = 'headrace.deliver'")
    async with letters_road.record.engine.connect() as connection:
        (group,) = await dead_groups(connection, ship.name, limit=10)
    last = (await letters_road.job(group.example.job_id)).errors[-1]
    assert bytes(job.result) == b"3"
    assert (last.fingerprint, last.release) == (group.fingerprint, "r1")
    assert [row["attempt"] for row in attempts] == [2, 2, 2]
    assert (group.count, group.example.attempts) == (3, 2)


async def test_table_is_true_when_jobs_come_back_or_leave_by_other_ways(letters: Letters, letters_road: Road) -> None:
    """Retried one by one, cancelled, deleted: whoever does it, the groups follow."""
    await letters.die(packed(4))
    jobs = [row[0] for row in await letters_road.driver.fetch("SELECT id FROM jobs ORDER BY id")]

    async with letters_road.transaction() as tx:
        await redrive_job(tx, jobs[0], attempts=1)
    await letters_road.driver.execute("UPDATE jobs SET state = 'cancelled' WHERE id = $1", jobs[1])
    await letters_road.driver.execute("DELETE FROM jobs WHERE id = $1", jobs[2])

    assert await letters_road.driver.fetchval("SELECT job_id FROM dead_deliveries") == jobs[3]


async def test_death_has_a_group_when_no_exception_was_left(letters: Letters, letters_road: Road) -> None:
    """A worker that died, and a record of before, have their type to go by, whatever host and number they name."""
    await letters.die(packed(3))
    driver = letters_road.driver
    await driver.execute("UPDATE jobs SET state = 'pending'")
    await driver.execute("""
        UPDATE job_attempts SET fingerprint = NULL, release = NULL, outcome = 'lost', type = 'WorkerLost',
                                message = 'the worker host-' || job_id || ' died'
    """)
    await driver.execute("UPDATE jobs SET state = 'queued'")
    await driver.execute("UPDATE jobs SET state = 'running'")
    await driver.execute("UPDATE jobs SET state = 'dead', finished_at = now()")

    async with letters_road.record.engine.connect() as connection:
        (group,) = await dead_groups(connection, ship.name, limit=10)
        found = await dead_deliveries(connection, ship.name, Kind(group.fingerprint), limit=10)

    assert (group.count, group.release, group.error_type) == (3, None, "WorkerLost")
    assert len(found) == 3


async def test_groups_come_by_the_index_when_there_are_very_many(letters_road: Road) -> None:
    """A hundred thousand dead deliveries are not read as a table to be sorted."""
    driver = letters_road.driver
    await driver.execute("""
        INSERT INTO dead_deliveries
        SELECT gen_random_uuid(), 'letters.ship', lpad(to_hex(n % 7), 16, '0'), 'r1', gen_random_uuid(), 'a.b', now()
        FROM generate_series(1, 20000) AS n
    """)
    await driver.execute("ANALYZE dead_deliveries")
    grouped = """
        SELECT fingerprint, release, count(*), min(died_at), max(died_at) FROM dead_deliveries
        WHERE subscription = 'letters.ship' GROUP BY fingerprint, release
    """

    async with letters_road.record.engine.connect() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join((await connection.execute(text(f"EXPLAIN {grouped}"))).scalars())
        missing = await dead_deliveries(connection, ship.name, Kind("0" * 16), limit=10)

    assert "Index Only Scan using dead_deliveries_groups" in plan
    assert "Sort" not in plan
    assert missing == []


async def test_delivery_of_a_webhook_is_dead_under_its_subscription(letters_road: Road) -> None:
    """`webhook:<id>` has groups as any subscription has."""
    webhook, event_id, job_id = new_id(), new_id(), new_id()
    driver = letters_road.driver
    await driver.execute(
        "INSERT INTO webhook_deliveries (id, webhook_id, event_id) VALUES ($1, $2, $3)", job_id, webhook, event_id
    )
    await driver.execute(
        """
        INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent)
        VALUES ($1, 'headrace.webhook', '{}', 'headrace.webhooks', 'dead', 1, '', '')
        """,
        job_id,
    )

    async with letters_road.record.engine.connect() as connection:
        (group,) = await dead_groups(connection, f"webhook:{webhook}", limit=10)

    assert (group.example.job_id, group.example.event_id) == (job_id, event_id)


async def some_shipped(letters: Letters) -> bool:
    """Tell whether anything was shipped."""
    return bool(await letters.shipped())
