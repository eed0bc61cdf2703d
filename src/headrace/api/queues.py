"""`/v1/queues` and `/v1/workers`: how the queues stand, what limits them, and who serves them.

Owns these routes. A paused queue takes jobs and releases none; what a worker has already been given it still runs. A
pause and a limit count from the moment of the answer.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, Router, get, post, put

from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_by_name, page_of
from headrace.cursors import id_of
from headrace.database.record import Bell
from headrace.jobs.limits import Limits, set_limits
from headrace.jobs.standing import QueueStanding, WorkerStanding, queue_standings, set_paused, workers
from headrace.transaction import Transaction


@get("/v1/queues", summary="List queues")
async def find_queues(
    request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[QueueStanding]:
    """Return the queues, by name."""
    async with door_of(request).record.engine.connect() as connection:
        found = await queue_standings(connection, await door_of(request).succeeded.counts(connection))
    return page_by_name(found, limit, cursor, lambda queue: queue.name)


@post("/v1/queues/{name:str}/pause", status_code=200, summary="Pause a queue")
async def pause(request: Request[Any, Any, Any], name: str) -> Response[QueueStanding]:
    """Release no further jobs of a queue to its workers."""
    return await _set(request, name, paused=True)


@post("/v1/queues/{name:str}/resume", status_code=200, summary="Resume a queue")
async def resume(request: Request[Any, Any, Any], name: str) -> Response[QueueStanding]:
    """Release the jobs of a queue again."""
    return await _set(request, name, paused=False)


@put("/v1/queues/{name:str}/limits", status_code=200, summary="Set the limits of a queue")
async def limit_queue(request: Request[Any, Any, Any], name: str, data: Limits) -> Response[QueueStanding]:
    """Replace the limits of a queue: one that is missing or null is lifted, so `{}` lifts all.

    They hold for all workers together. A queue that no job has used yet is made, so that its limits may be set before
    its first job.
    """

    async def work(tx: Transaction) -> Answer:
        await set_limits(tx, name, data)
        return Answer(200, await _standing(request, tx, name))

    return await once(request, work)


@get("/v1/workers", summary="List workers")
async def find_workers(
    request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[WorkerStanding]:
    """Return the worker processes, the newest first."""
    async with door_of(request).record.engine.connect() as connection:
        found = await workers(connection, limit=limit + 1, before=id_of(cursor))
    return page_of(found, limit, lambda worker: str(worker.id))


async def _set(request: Request[Any, Any, Any], name: str, *, paused: bool) -> Response[Any]:
    async def work(tx: Transaction) -> Answer:
        await set_paused(tx, name, paused=paused, by=request.user.name)
        tx.bells.add(Bell.JOBS)
        return Answer(200, await _standing(request, tx, name))

    return await once(request, work)


async def _standing(request: Request[Any, Any, Any], tx: Transaction, name: str) -> QueueStanding:
    succeeded = await door_of(request).succeeded.counts(tx.connection)
    (queue,) = [found for found in await queue_standings(tx.connection, succeeded) if found.name == name]
    return queue


queue_routes = Router(path="/", route_handlers=[find_queues, pause, resume, limit_queue, find_workers], tags=["Jobs"])
