"""`POST /v1/jobs/retry` and `/cancel`: many jobs at once, by a filter.

Owns these two routes. All jobs that match when the request begins are changed, in portions that commit one by one; the
answer tells how many. One such request works at a time in a process, so that it never takes the connections of the
others. A repeat under the same `Idempotency-Key` gets the first count again, and after a crash in the middle does the
rest.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, post

from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.database.states import JobState
from headrace.jobs.bulk import Change, cancelling, change_matching, require_narrow, retrying
from headrace.jobs.queries import JobFilter
from headrace.transaction import Transaction

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class WhichJobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs are meant: those that meet every given condition, of which there must be one."""

    state: JobState | None = None
    task: _Text | None = None
    queue: _Text | None = None
    tag: _Text | None = None


class JobCount(msgspec.Struct, frozen=True):
    """How many jobs were changed."""

    count: int


@post("/retry", status_code=202, summary="Retry many jobs, by a filter")
async def retry_many(request: Request[Any, Any, Any], data: WhichJobs) -> Response[JobCount]:
    """Make the dead, cancelled and expired jobs that match pending again; their attempts count on.

    A job whose unique key is taken by now stays as it is and is not counted. Without a condition, or with a state that
    cannot be retried, the answer is 422.
    """
    tasks = door_of(request).registry.names
    attempts = {name: task.policy.retry.max_attempts for name, task in tasks.items()}
    return await _change(request, data, retrying(attempts))


@post("/cancel", status_code=202, summary="Cancel many jobs, by a filter")
async def cancel_many(request: Request[Any, Any, Any], data: WhichJobs) -> Response[JobCount]:
    """Cancel the unfinished jobs that match: those that wait never run, those that run are ended by their workers.

    Without a condition, or with the state of a finished job, the answer is 422.
    """
    return await _change(request, data, cancelling())


async def _change(request: Request[Any, Any, Any], which: WhichJobs, change: Change) -> Response[Any]:
    door = door_of(request)
    chosen = JobFilter(state=which.state, task=which.task, queue=which.queue, tag=which.tag)
    require_narrow(chosen, change)

    async def work(tx: Transaction) -> Answer:
        return Answer(202, JobCount(await change_matching(door.record, tx, chosen, change)))

    async with door.bulk:
        return await once(request, work)


bulk_routes = Router(path="/v1/jobs", route_handlers=[retry_many, cancel_many], tags=["Jobs"])
