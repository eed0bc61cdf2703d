"""A job is watched by server-sent events, over a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
import msgspec
from sqlalchemy import event

from headrace.api.door import Door, open_door
from headrace.api.process import _config, _listen, _Server
from headrace.clock import new_id
from headrace.diagnostics import count, echo, sleep
from headrace.jobs.cancel import cancel_job
from headrace.transaction import transaction
from tests.integration.api_road import HEADERS, KEY
from tests.road import Road, eventually, relaying, working

Told = tuple[str, Any]


@asynccontextmanager
async def serving(road: Road, redis_url: str | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """Serve the API on a free port."""
    chosen = {"api_key": KEY, "port": 0, "shutdown_seconds": 1.0, "redis_url": redis_url or road.settings.redis_url}
    settings = msgspec.structs.replace(road.settings, **chosen)
    listener = _listen(settings)
    async with open_door(settings, road.registry, road.record) as door:
        server = _Server(_config(settings, door))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=20) as client:
                yield client, door
        finally:
            door.release()
            server.should_exit = True
            await running


async def told(client: httpx.AsyncClient, job_id: UUID) -> list[Told]:
    """Watch a job to the end of the stream, and return its events."""
    events: list[Told] = []
    async with client.stream("GET", f"/v1/jobs/{job_id}/stream") as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                events.append((value, None))
            elif name == "data":
                events[-1] = (events[-1][0], msgspec.json.decode(value))
    return events


def states(events: list[Told]) -> list[str]:
    """Return the states that were told."""
    return [value["state"] for kind, value in events if kind == "state"]


def progress(events: list[Told]) -> list[int]:
    """Return how far it was each time."""
    return [value["done"] for kind, value in events if kind == "progress"]


async def test_states_and_progress_are_told_live_when_a_job_runs(road: Road) -> None:
    """The job at once, each state, more values than the record gets, the last one, the end."""
    (job_id,) = await road.enqueue(count.call(30, 0.05))
    async with serving(road) as (client, _):
        watching = asyncio.create_task(told(client, job_id))
        async with relaying(road.settings), working(road):
            events = await watching

    assert events[0][0] == "state"
    assert states(events)[0] == "pending"
    assert states(events)[-2:] == ["running", "succeeded"]
    assert len(progress(events)) > 10
    assert progress(events) == sorted(progress(events))
    assert events[-1][1]["progress"] == {"done": 30, "total": 30, "note": "counted to 30"}


async def test_record_is_enough_when_redis_is_away(road: Road) -> None:
    """Progress twice a second instead of live; states as ever."""
    async with relaying(road.settings), working(road), serving(road, "redis://127.0.0.1:1/0") as (client, _):
        (job_id,) = await road.enqueue(count.call(20, 0.1))
        events = await told(client, job_id)

    assert states(events)[-1] == "succeeded"
    assert 2 <= len(progress(events)) <= 8


async def test_stream_has_one_event_when_the_job_is_finished(road: Road) -> None:
    """What is over is told once."""
    async with relaying(road.settings), working(road), serving(road) as (client, _):
        (job_id,) = await road.enqueue(echo.call("done"))
        await road.finished(job_id)
        events = await told(client, job_id)
        head = await client.head(f"/v1/jobs/{job_id}/stream")

    assert [(kind, value["state"], value["result"]) for kind, value in events] == [("state", "succeeded", "done")]
    assert (head.status_code, head.content) == (200, b"")


async def test_head_is_answered_at_once_when_the_job_is_not_finished(road: Road) -> None:
    """Nobody would read what comes."""
    async with serving(road) as (client, door):
        (job_id,) = await road.enqueue(sleep.call(60))
        answer = await client.head(f"/v1/jobs/{job_id}/stream")

        assert answer.status_code == 200
        assert len(door.watches) == 0


async def test_unknown_job_is_not_found(road: Road) -> None:
    """Before the stream begins."""
    async with serving(road) as (client, _):
        answer = await client.get(f"/v1/jobs/{new_id()}/stream")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_watcher_is_forgotten_when_its_client_goes_away(road: Road) -> None:
    """Its watch ends with its connection."""
    async with serving(road) as (client, door):
        (job_id,) = await road.enqueue(sleep.call(60))
        watching = asyncio.create_task(told(client, job_id))
        await eventually(lambda: _watched_by(door, 1))

        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await eventually(lambda: _watched_by(door, 0), 5)


async def _watched_by(door: Door, number: int) -> bool:
    return len(door.watches) == number


async def test_stream_ends_when_the_process_does(road: Road) -> None:
    """A stopping API waits for no watcher."""
    async with serving(road) as (client, door):
        (job_id,) = await road.enqueue(sleep.call(60))
        watching = asyncio.create_task(told(client, job_id))
        await eventually(lambda: _watched_by(door, 1))
        begin = time.monotonic()

        door.watches.release()
        events = await watching

    assert states(events) == ["pending"]
    assert time.monotonic() - begin < 1.0


async def test_many_watchers_cost_one_query(road: Road) -> None:
    """Thirty watchers of three jobs: ten looks a second, not three hundred; each is told."""
    async with serving(road) as (client, door):
        ids = await road.enqueue(*(sleep.call(60) for _ in range(3)))
        watching = [asyncio.create_task(told(client, ids[place % 3])) for place in range(30)]
        await eventually(lambda: _watched_by(door, 30))
        looks: list[str] = []
        event.listen(
            road.record.engine.sync_engine,
            "before_cursor_execute",
            lambda *arguments: looks.append(arguments[2]),
        )
        begin = time.monotonic()
        await asyncio.sleep(1.0)
        seen, took = len([look for look in looks if "FROM jobs" in look]), time.monotonic() - begin
        async with transaction(road.record) as tx:
            for job_id in ids:
                await cancel_job(tx, job_id)
        events = await asyncio.gather(*watching)

    assert seen <= took * 12
    assert [states(one) for one in events] == [["pending", "cancelled"]] * 30


async def test_stream_is_described(road: Road) -> None:
    """OpenAPI names its media type and its events."""
    async with serving(road) as (client, _):
        document = (await client.get("/openapi.json")).json()

    answer = document["paths"]["/v1/jobs/{job_id}/stream"]["get"]["responses"]["200"]
    assert list(answer["content"]) == ["text/event-stream"]
    assert "progress" in answer["description"]
