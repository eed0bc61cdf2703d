"""Replays and rebuilds whose worker is killed: they go on where they were, and nothing is done twice."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from headrace.application import combine
from headrace.database.states import JobState
from headrace.subscribers.checkpoints import register
from headrace.subscribers.rebuild import AskedRebuild, start_rebuild
from headrace.subscribers.replay import Asked, Selection, start_replay
from headrace.transaction import transaction
from tests import replaying
from tests.job_processes import World, processes, settings_of

REGISTRY = combine([replaying.application])
KILLS = 1
EVENTS = 120


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A record with events that have their positions, which the projection has counted live."""
    settings = msgspec.structs.replace(settings_of(database_url, redis_url), applications="tests.replaying:application")
    async with processes(settings, tmp_path) as opened:
        await opened.rows("CREATE TABLE replayed (key text, number int, replay uuid, place bigserial)")
        await opened.rows("CREATE TABLE counted (key text PRIMARY KEY, things bigint NOT NULL, total bigint NOT NULL)")
        await register(opened.record.engine, REGISTRY.subscriptions.values())
        async with transaction(opened.record) as tx:
            for number in range(EVENTS):
                await tx.publish(replaying.Thing(f"k{number % 12}", number))
        opened.relay()
        placed = "SELECT 1 FROM lanes HAVING sum(head) = $1"
        await opened.eventually(lambda: opened.any_row(placed, EVENTS))
        await opened.rows(
            "UPDATE checkpoints c SET position = head FROM lanes l WHERE l.lane = c.lane AND subscription = $1",
            replaying.counted.name,
        )
        yield opened


async def kill_after(world: World, job_id: UUID, done: int) -> None:
    """Kill the worker that runs a job when it has dealt with so many events."""
    await world.eventually(
        lambda: world.any_row("SELECT 1 FROM replays WHERE job_id = $1 AND done >= $2", job_id, done)
    )
    os.kill(await world.runner_of(job_id), signal.SIGKILL)


async def test_replay_goes_on_where_it_was_when_its_worker_is_killed(world: World) -> None:
    """Each event has its effect once, in the order of its key, though workers die in the middle."""
    asked = Asked(replaying.noted.name, Selection(rate_per_second=120))
    async with transaction(world.record) as tx:
        begun = await start_replay(tx, REGISTRY.subscriptions, asked)
    assert begun.job_id is not None

    for kill in range(KILLS):
        world.worker()
        await kill_after(world, begun.job_id, 30 + 60 * kill)
    world.worker()
    job = await world.finished(begun.job_id)

    rows = await world.rows("SELECT key, array_agg(number ORDER BY place) FROM replayed GROUP BY key")
    assert (job.state, msgspec.json.decode(job.result)) == (JobState.SUCCEEDED, EVENTS)
    assert len(rows) == 12
    assert all(numbers == list(range(int(key[1:]), EVENTS, 12)) for key, numbers in rows)


async def test_rebuild_goes_on_where_it_was_when_its_worker_is_killed(world: World) -> None:
    """The new generation has counted each event once; nothing of the way there is left."""
    asked = AskedRebuild(replaying.counted.name, rate_per_second=120)
    async with transaction(world.record) as tx:
        begun = await start_rebuild(tx, REGISTRY.subscriptions, asked)
    assert begun.job_id is not None

    for kill in range(KILLS):
        world.worker()
        await kill_after(world, begun.job_id, 30 + 60 * kill)
    world.worker()
    job = await world.finished(begun.job_id)

    counted = {row[0]: (row[1], row[2]) for row in await world.rows("SELECT key, things, total FROM counted")}
    numbers = {f"k{key}": range(key, EVENTS, 12) for key in range(12)}
    assert (job.state, msgspec.json.decode(job.result)) == (JobState.SUCCEEDED, EVENTS)
    assert counted == {key: (len(found), sum(found)) for key, found in numbers.items()}
    assert await world.rows("SELECT 1 FROM pg_namespace WHERE nspname ~ '^headrace_shadow'") == []
