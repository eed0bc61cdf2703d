"""Replay to one subscription, on the real road: which events, once each, in order, beside everything else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
from sqlalchemy import text

from headrace.application import Application
from headrace.clock import now
from headrace.database.record import Record
from headrace.database.states import JobState
from headrace.events.listing import subscription_named
from headrace.jobs.queries import Job, job_by_id
from headrace.jobs.retry import Retry
from headrace.resources import Resources, open_resources, registry_of
from headrace.settings import Settings
from headrace.subscribers.contract import Subscription, projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.testing.working import working
from headrace.transaction import Transaction, transaction
from tests.integration.api_road import KEY, open_api
from tests.lanes import (
    Forgotten,
    Thing,
    consuming,
    eventually,
    plant,
    publish,
    relaying,
    settings_of,
    settled,
)
from tests.road import relaying as dispatching

NAME = "tests.notes"
UNLUCKY = 13
_NOTE = text("INSERT INTO notes (key, number, replay, given) VALUES (:key, :number, :replay, :given)")
TABLE = """
    CREATE TABLE notes (
        key text, number int, replay uuid, given text, at timestamptz DEFAULT clock_timestamp())
"""
FAST = Retry(max_attempts=3, first_delay_seconds=0.01, max_delay_seconds=0.02)


async def _note(delivery: Delivery, thing: Thing) -> None:
    tx = await delivery.begin()
    row = {"key": thing.key, "number": thing.number, "replay": delivery.replay, "given": delivery.idempotency_key}
    await tx.connection.execute(_NOTE, row)


@subscriber(NAME, "tests.thing.*", retry=FAST)
async def notes(delivery: Delivery, thing: Thing | Forgotten) -> None:
    """Note each thing through the session."""
    if isinstance(thing, Thing):
        await _note(delivery, thing)


@subscriber("tests.choosy", Thing, where={"number": [{"numeric": [">=", 6]}]})
async def choosy(delivery: Delivery, thing: Thing) -> None:
    """Note some things."""
    await _note(delivery, thing)


@subscriber("tests.fragile", Thing, retry=FAST)
async def fragile(delivery: Delivery, thing: Thing) -> None:
    """Fail for good in a replay, with one number."""
    if delivery.replay is not None and thing.number == UNLUCKY:
        raise ConnectionError
    await _note(delivery, thing)


@subscriber("tests.orderly", Thing, ordered=True, retry=Retry(max_attempts=1))
async def orderly(delivery: Delivery, thing: Thing) -> None:
    """Fail in a replay, with one number, until that is mended."""
    tx = await delivery.begin()
    mended = (await tx.connection.execute(text("SELECT count(*) FROM notes WHERE key = 'mended'"))).scalar_one()
    if delivery.replay is not None and thing.number == UNLUCKY and not mended:
        raise ConnectionError
    await _note(delivery, thing)


@projection("tests.folded", Thing)
async def folded(tx: Transaction, events: object) -> None:
    """Fold nothing."""
    del tx, events


SUBSCRIPTIONS = (notes, choosy, fragile, orderly, folded)
APPLICATION = Application(
    name="tests", events=(Thing, Forgotten), subscriptions=SUBSCRIPTIONS, migrations="storefront.migrations"
)


@dataclass(frozen=True, slots=True)
class Road:
    """An API, and the stores behind it."""

    settings: Settings
    resources: Resources
    client: httpx.AsyncClient
    driver: asyncpg.Connection[asyncpg.Record]

    @property
    def record(self) -> Record:
        """The record."""
        return self.resources.record

    async def live(self, *things: Thing | Forgotten, to: Subscription = notes) -> None:
        """Publish things and have them handled live."""
        async with relaying(self.settings), consuming(self.settings, to):
            await publish(self.record, things)
            heads = await self.driver.fetchval("SELECT sum(head) + (SELECT count(*) FROM outbox) FROM lanes")
            await eventually(lambda: settled(self.driver, to.name, events=int(heads)))

    async def plant(self, *things: Thing | Forgotten) -> None:
        """Put things on record that live traffic has passed."""
        await plant(self.record, self.driver, things)

    async def ask(self, name: str = NAME, **body: object) -> httpx.Response:
        """Ask for a replay."""
        return await self.client.post(f"/v1/subscriptions/{name}/replay", json=body)

    async def replayed(self, name: str = NAME, **body: object) -> tuple[int, Job]:
        """Ask for a replay and wait for its end."""
        answer = await self.ask(name, **body)
        assert answer.status_code == 202, answer.text
        job_id = UUID(answer.json()["job_id"])
        async with self.at_work():
            await eventually(lambda: self.is_finished(job_id))
        return answer.json()["count"], await job_by_id(self.record, job_id)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Run a dispatcher and a worker."""
        async with dispatching(self.settings), working(self.resources, seconds=15):
            yield

    async def is_finished(self, job_id: UUID) -> bool:
        """Tell whether a job has ended."""
        return (await job_by_id(self.record, job_id)).finished_at is not None

    async def noted(self, *, replay: bool = True) -> list[tuple[str, int]]:
        """Return what was noted, in order, in replays or live."""
        rows = await self.driver.fetch("SELECT key, number FROM notes WHERE (replay IS NULL) <> $1 ORDER BY at", replay)
        return [tuple(row) for row in rows]


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """The road with its table of notes; nothing runs yet."""
    settings = msgspec.structs.replace(settings_of(database_url, redis_url), api_key=KEY)
    async with AsyncExitStack() as stack:
        driver = await asyncpg.connect(database_url)
        stack.push_async_callback(driver.close)
        await driver.execute(TABLE)
        resources = await stack.enter_async_context(open_resources(settings, registry_of([APPLICATION])))
        client, _ = await stack.enter_async_context(open_api(settings, APPLICATION))
        yield Road(settings, resources, client, driver)


def by_key(noted: list[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the numbers of each key in their order."""
    found: dict[str, list[int]] = {}
    for key, number in noted:
        found.setdefault(key, []).append(number)
    return found


async def test_all_events_come_again_in_order_when_nothing_is_chosen(road: Road) -> None:
    """Each event is given once more, by key in order; live effects and live states stay as they were."""
    await road.live(*(Thing(f"k{number % 5}", number) for number in range(40)))

    count, job = await road.replayed()

    assert (count, job.state, msgspec.json.decode(job.result)) == (40, JobState.SUCCEEDED, 40)
    assert job.progress is not None
    assert msgspec.json.decode(job.progress) == {"done": 40, "total": 40, "note": ""}
    assert by_key(await road.noted()) == by_key(await road.noted(replay=False))
    assert len(await road.noted(replay=False)) == 40


async def test_each_replay_has_keys_of_its_own_when_there_are_several(road: Road) -> None:
    """The same event has another idempotency key live and in each replay, and its effects in each."""
    await road.live(Thing("a", 1))

    await road.replayed()
    await road.replayed()

    rows = await road.driver.fetch("SELECT replay, given FROM notes")
    assert len({row["given"] for row in rows}) == 3
    assert all(row["replay"] is None or str(row["replay"]) in row["given"] for row in rows)


COUNTS: Final[tuple[tuple[str, Mapping[str, Any], int], ...]] = (
    (NAME, {"types": ["tests.*.forgotten"]}, 1),
    (NAME, {"types": ["tests.thing.happened", "tests.thing.forgotten"]}, 11),
    (NAME, {"types": ["orders.*"]}, 0),
    (NAME, {"from_position": 1}, 11),
    (NAME, {"from_position": 1_000_000}, 0),
    (NAME, {"from_position": {"0": 1, "1": 1, "2": 1, "3": 1}}, 11),
    ("tests.choosy", {}, 4),
)


async def test_count_is_that_of_what_is_meant_when_something_is_chosen(road: Road) -> None:
    """Types, positions and the subscription's own filter decide; a dry run says so and begins nothing."""
    await road.plant(*(Thing(f"k{number}", number) for number in range(10)), Forgotten("k1"))

    answers = [await road.ask(name, dry_run=True, **body) for name, body, _ in COUNTS]

    assert [answer.status_code for answer in answers] == [202] * len(COUNTS)
    assert [answer.json() for answer in answers] == [{"count": count, "job_id": None} for _, _, count in COUNTS]
    assert await road.driver.fetchval("SELECT count(*) FROM jobs") == 0
    assert await road.driver.fetchval("SELECT count(*) FROM replays") == 0


async def test_events_of_a_time_come_again_when_it_is_given(road: Road) -> None:
    """What was recorded from a time on and before another is meant, to the microsecond."""
    await road.plant(*(Thing("a", number) for number in range(6)))
    times = [row[0] for row in await road.driver.fetch("SELECT created_at FROM event_log ORDER BY id")]

    await road.replayed(from_time=times[2].isoformat(), to_time=times[5].isoformat())
    later = await road.ask(from_time=(now() + timedelta(hours=1)).isoformat(), dry_run=True)

    assert await road.noted() == [("a", 2), ("a", 3), ("a", 4)]
    assert later.json()["count"] == 0


async def test_positions_are_those_of_the_named_lanes_when_an_object_is_given(road: Road) -> None:
    """Only the named lanes are replayed, each from its position on, which is included."""
    await road.plant(*(Thing("a", number) for number in range(5)))
    lane = await road.driver.fetchval("SELECT lane FROM lane_log LIMIT 1")

    await road.replayed(from_position={str(lane): 4})
    other = await road.ask(from_position={str((lane + 1) % 4): 0}, dry_run=True)

    assert await road.noted() == [("a", 3), ("a", 4)]
    assert other.json()["count"] == 0


REFUSED: Final[tuple[tuple[Mapping[str, Any], str], ...]] = (
    ({"from_time": "2026-01-01T00:00:00Z", "from_position": 1}, "from_position"),
    ({"from_time": "yesterday"}, "from_time"),
    ({"from_time": "2026-01-01T00:00:00"}, "from_time"),
    ({"from_time": "2026-01-02T00:00:00Z", "to_time": "2026-01-01T00:00:00Z"}, "to_time"),
    ({"from_position": {"9": 1}}, "from_position.9"),
    ({"from_position": {}}, "from_position"),
    ({"from_position": -1}, "from_position"),
    ({"types": ["Orders.*"]}, "types.0"),
    ({"types": []}, "types"),
    ({"rate_per_second": 0}, "rate_per_second"),
    ({"until": 1}, "until"),
)


async def test_request_is_refused_with_its_field_when_it_cannot_be_meant(road: Road) -> None:
    """What is malformed, or excludes itself, is 422 and names the field."""
    answers = [await road.ask(**body) for body, _ in REFUSED]

    assert [answer.status_code for answer in answers] == [422] * len(REFUSED)
    assert [answer.json()["errors"][0]["field"] for answer in answers] == [field for _, field in REFUSED]


OUT_OF_BOUNDS: Final = (
    {"from_time": "0001-01-01T00:00:00Z"},
    {"to_time": "9999-12-31T23:59:59Z"},
    {"to_time": "9999-12-31T23:59:59-01:00"},
)


async def test_bounds_are_told_when_a_time_lies_beyond_them(road: Road) -> None:
    """It is well written, so the answer does not say otherwise."""
    answers = [await road.ask(**body) for body in OUT_OF_BOUNDS]

    told = [answer.json()["errors"][0] for answer in answers]
    assert {one["message"] for one in told} == {"this must lie between the years 1970 and 9999"}
    assert [one["field"] for one in told] == ["from_time", "to_time", "to_time"]


async def test_unknown_subscriptions_and_projections_are_refused(road: Road) -> None:
    """A name that nobody has is 404; what would count twice, or has no code any more, is 409 with the reason."""
    await road.driver.execute("INSERT INTO subscriptions (name, kind, types) VALUES ('tests.gone', 'subscriber', '{}')")

    unknown, gone, counted = await road.ask("nobody"), await road.ask("tests.gone"), await road.ask("tests.folded")

    assert (unknown.status_code, gone.status_code, counted.status_code) == (404, 409, 409)
    assert "rebuild" in counted.json()["detail"]


async def test_failing_deliveries_become_jobs_of_their_own_when_replayed(road: Road) -> None:
    """They are retried and dead as live ones are, hold nothing up, and change nothing of the live delivery."""
    await road.live(*(Thing("a", number) for number in range(UNLUCKY - 2, UNLUCKY + 3)), to=fragile)
    event_id = await road.driver.fetchval("SELECT id FROM event_log WHERE data ->> 'number' = '13'")

    _, job = await road.replayed("tests.fragile")
    async with road.at_work():
        await eventually(lambda: _is_dead(road))

    shown = (await road.client.get(f"/v1/events/{event_id}")).json()
    live = next(one for one in shown["deliveries"] if one["subscription"] == "tests.fragile")
    (replayed,) = [one for one in shown["replays"] if one["subscription"] == "tests.fragile"]
    assert job.state is JobState.SUCCEEDED
    assert [number for _, number in await road.noted()] == [11, 12, 14, 15]
    assert (live["state"], live["job_id"]) == ("handled", None)
    assert (replayed["state"], replayed["attempts"], replayed["replay"]) == ("dead", 3, str(job.id))
    async with road.record.engine.connect() as connection:
        assert (await subscription_named(connection, "tests.fragile")).dead == 1


async def test_later_events_of_a_key_wait_behind_a_dead_one_when_the_subscription_is_ordered(road: Road) -> None:
    """Other keys go on; when the dead delivery is retried and succeeds, those behind it follow in order."""
    await road.plant(*(Thing("ab"[number % 2], number) for number in range(UNLUCKY - 2, UNLUCKY + 6)))

    _, job = await road.replayed("tests.orderly")
    async with dispatching(road.settings), working(road.resources, seconds=15):
        during = by_key(await road.noted())
        await road.driver.execute("INSERT INTO notes (key) VALUES ('mended')")
        dead = await road.driver.fetchval("SELECT id FROM jobs WHERE state = 'dead'")
        await road.client.post(f"/v1/jobs/{dead}/retry")
        await eventually(lambda: _noted_at_least(road, 8))

    assert job.state is JobState.SUCCEEDED
    assert during == {"a": [12, 14, 16, 18], "b": [11]}
    assert by_key(await road.noted())["b"] == [11, 13, 15, 17]


async def _is_dead(road: Road) -> bool:
    found = await road.driver.fetchval("SELECT state::text FROM jobs WHERE task = 'headrace.deliver'")
    return bool(found == "dead")


async def test_replay_goes_on_where_it_was_when_it_was_cancelled_and_retried(road: Road) -> None:
    """A cancel ends it within a second; its retry repeats nothing that was done through a session."""
    await road.plant(*(Thing(f"k{number}", number) for number in range(30)))
    job_id = UUID((await road.ask(rate_per_second=10)).json()["job_id"])

    async with road.at_work():
        await eventually(lambda: _noted_at_least(road, 3))
        began = now()
        await road.client.post(f"/v1/jobs/{job_id}/cancel")
        await eventually(lambda: road.is_finished(job_id))
        cancelled, took = await job_by_id(road.record, job_id), (now() - began).total_seconds()
        await road.driver.execute("UPDATE jobs SET args = args - 'rate_per_second' WHERE id = $1", job_id)
        await road.client.post(f"/v1/jobs/{job_id}/retry")
        await eventually(lambda: road.is_finished(job_id))

    assert (cancelled.state, took < 1.0) == (JobState.CANCELLED, True)
    assert (await job_by_id(road.record, job_id)).state is JobState.SUCCEEDED
    assert sorted(number for _, number in await road.noted()) == list(range(30))


async def _noted_at_least(road: Road, number: int) -> bool:
    return len(await road.noted()) >= number


async def test_replay_waits_while_its_subscription_is_paused(road: Road) -> None:
    """Nothing is handled by who rests; when it goes on, so does the replay."""
    await road.plant(Thing("a", 1))
    await road.client.post(f"/v1/subscriptions/{NAME}/pause")
    job_id = UUID((await road.ask()).json()["job_id"])

    async with road.at_work():
        await eventually(lambda: _is_snoozing(road, job_id))
        during = await road.noted()
        await road.client.post(f"/v1/subscriptions/{NAME}/resume")
        await eventually(lambda: road.is_finished(job_id))

    assert during == []
    assert await road.noted() == [("a", 1)]


async def _is_snoozing(road: Road, job_id: UUID) -> bool:
    return (await job_by_id(road.record, job_id)).state is JobState.SCHEDULED


async def test_answer_is_the_first_one_when_the_request_is_repeated(road: Road) -> None:
    """One idempotency key is one replay."""
    await road.plant(Thing("a", 1))
    headers = {"Idempotency-Key": "again"}
    path = f"/v1/subscriptions/{NAME}/replay"

    first = await road.client.post(path, json={}, headers=headers)
    second = await road.client.post(path, json={}, headers=headers)

    assert first.json() == second.json()
    assert await road.driver.fetchval("SELECT count(*) FROM replays") == 1


async def test_late_run_moves_nothing_when_another_has_the_place(road: Road) -> None:
    """A worker that was paused and wakes up late is refused by the fence of the place."""
    await road.plant(*(Thing("a", number) for number in range(4)))
    job_id = UUID((await road.ask()).json()["job_id"])
    await road.driver.execute("UPDATE replays SET fence = 1000 WHERE job_id = $1", job_id)

    async with road.at_work():
        await eventually(lambda: _has_run(road, job_id))

    assert await road.noted() == []
    assert await road.driver.fetchval("SELECT done FROM replays WHERE job_id = $1", job_id) == 0


async def _has_run(road: Road, job_id: UUID) -> bool:
    fence = await road.driver.fetchval("SELECT fence FROM jobs WHERE id = $1 AND started_at IS NOT NULL", job_id)
    return bool(fence == 1)


async def test_replay_reads_generation_by_generation_when_the_number_of_lanes_has_changed(road: Road) -> None:
    """A key that changed its lane comes in order: what it had on the old lane first."""
    await road.plant(*(Thing("a", number) for number in range(3)))
    lane, head = await road.driver.fetchrow("SELECT lane, head FROM lanes WHERE head > 0")
    other = (lane - 1) % 4 if lane else 3
    await road.driver.execute(
        "UPDATE lane_stretches SET upto = (SELECT head FROM lanes l WHERE l.lane = lane_stretches.lane)"
    )
    await road.driver.execute("INSERT INTO lane_stretches (generation, lane, after) SELECT 2, lane, head FROM lanes")
    async with transaction(road.record) as tx:
        for number in range(3, 6):
            await tx.publish(Thing("a", number))
    await road.driver.execute(
        "WITH o AS (DELETE FROM outbox RETURNING seq, event_id)"
        " INSERT INTO lane_log SELECT $1, row_number() OVER (ORDER BY seq), event_id FROM o",
        other,
    )
    await road.driver.execute("UPDATE lanes SET head = 3 WHERE lane = $1", other)

    await road.replayed()

    assert head == 3
    assert await road.noted() == [("a", number) for number in range(6)]
