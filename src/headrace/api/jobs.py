"""`/v1/jobs`: make, look at, wait for, explain and cancel jobs.

Owns the routes of jobs. A job is answered with 202 when it is committed, never before. A request without an
`Idempotency-Key` and without a unique key shares its commit with those that arrive at the same time.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.params import QueryParameter

from headrace.api.answers import header_of, json_answer
from headrace.api.door import Door, door_of
from headrace.api.idempotency import Answer, once
from headrace.api.job_requests import JobRequest, JobRequests
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page
from headrace.clock import new_id
from headrace.cursors import cursor_of, id_of
from headrace.database.states import FINISHED, JobState
from headrace.jobs.call import Call
from headrace.jobs.cancel import cancel_job
from headrace.jobs.explain import Explanation, explain_job
from headrace.jobs.insert import NewJob, Placed
from headrace.jobs.queries import Job, JobFilter, job_by_id, jobs_by_ids, page_of_jobs
from headrace.telemetry.propagation import trace_id_of
from headrace.telemetry.spans import enqueue, enqueued
from headrace.transaction import Transaction

if TYPE_CHECKING:
    JobBody = JobRequest

BATCH_BYTES = 16 * 1024 * 1024
_JSON_NULL = msgspec.Raw(b"null")
_WaitSeconds = Annotated[
    float, QueryParameter(ge=0, le=60, description="how long to wait for the job's end before answering")
]
_StateFilter = Annotated[JobState | None, QueryParameter(name="state")]


class JobIds(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ids of new jobs, in the order of the request."""

    ids: list[UUID]
    then_id: UUID | None = None
    """The job that runs when all of these have finished, where there is one."""


class JobBatch(msgspec.Struct, frozen=True):
    """Many jobs, all or nothing; the API declares `jobs` as the union of all tasks."""

    jobs: list[JobRequest]
    then: JobRequest | None = None


@post("/", status_code=202, summary="Enqueue a job")
async def create_job(request: Request[Any, Any, Any], data: JobBody) -> Response[Job]:
    """Put a job on record and answer with it."""
    door = door_of(request)
    call = door.requests.call_of(data)
    await door.queues.ensure((call.queue,))
    if call.unique_key is None and header_of(request.scope, b"idempotency-key") is None:
        job = await _put(door, call)
        return json_answer(job, status=202, headers={"Location": f"/v1/jobs/{job.id}"})

    async def work(tx: Transaction) -> Answer:
        ids = await tx.enqueue_calls([call])
        (job,) = await jobs_by_ids(tx.connection, ids)
        return Answer(202, job, {"Location": f"/v1/jobs/{job.id}"})

    return await once(request, work)


@post("/batch", status_code=202, request_max_body_size=BATCH_BYTES, summary="Enqueue many jobs, all or nothing")
async def create_jobs(request: Request[Any, Any, Any], data: JobBatch) -> Response[JobIds]:
    """Put up to 10,000 jobs on record in one transaction; `then` names one that runs when all of them have finished.

    It runs once, whatever their end, and can read how each has ended, with its result. With `then`, none of the jobs
    has a `unique_key`.
    """
    door = door_of(request)
    calls = [door.requests.call_of(one, at=f"jobs.{place}") for place, one in enumerate(data.jobs)]
    then = None if data.then is None else door.requests.call_of(data.then, at="then")
    await door.queues.ensure({call.queue for call in (*calls, *([then] if then else []))})

    async def work(tx: Transaction) -> Answer:
        if then is not None:
            batch = await tx.enqueue_batch(calls, then=then)
            return Answer(202, JobIds(batch.ids, batch.then_id))
        # in the order of their keys: two batches that insert the same ones in another order would deadlock
        order = sorted(range(len(calls)), key=lambda place: (calls[place].unique_key or "", calls[place].task, place))
        ids = await tx.enqueue_calls([calls[place] for place in order])
        placed = dict(zip(order, ids, strict=True))
        return Answer(202, JobIds([placed[place] for place in range(len(calls))]))

    return await once(request, work)


@get("/", summary="List jobs")
async def find_jobs(  # noqa: PLR0913, PLR0917 - one argument for each filter of the contract
    request: Request[Any, Any, Any],
    job_state: _StateFilter = None,
    task: str | None = None,
    queue: str | None = None,
    tag: str | None = None,
    trace_id: str | None = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Job]:
    """Return jobs that meet every given condition, newest first.

    A page by task or queue, or of succeeded jobs, looks through 20,000 jobs at most: it may hold fewer than `limit`,
    even none, and yet have a `next_cursor`.
    """
    chosen = JobFilter(state=job_state, task=task, queue=queue, tag=tag, trace_id=trace_id)
    found, after = await page_of_jobs(door_of(request).record, chosen, limit=limit, before=id_of(cursor))
    return Page(found, None if after is None else cursor_of(str(after)))


@get("/{job_id:uuid}", summary="Get a job")
async def get_job(request: Request[Any, Any, Any], job_id: UUID, wait_seconds: _WaitSeconds = 0.0) -> Job:
    """Return a job; with `wait_seconds` as soon as it is finished."""
    door = door_of(request)
    job = await job_by_id(door.record, job_id)
    if not wait_seconds or job.state in FINISHED:
        return job
    await door.endings.wait(job_id, wait_seconds)
    return await job_by_id(door.record, job_id)


@get("/{job_id:uuid}/explain", summary="Why a job is not running")
async def explain(request: Request[Any, Any, Any], job_id: UUID) -> Explanation:
    """Return what keeps a job from running at this moment."""
    return await explain_job(door_of(request).record, job_id)


@post("/{job_id:uuid}/cancel", status_code=202, summary="Cancel a job")
async def cancel(request: Request[Any, Any, Any], job_id: UUID) -> Response[Job]:
    """Cancel a job: one that waits never runs, one that runs is ended by its worker; a finished one is a conflict."""

    async def work(tx: Transaction) -> Answer:
        await cancel_job(tx, job_id)
        (job,) = await jobs_by_ids(tx.connection, [job_id])
        return Answer(202, job)

    return await once(request, work)


async def _put(door: Door, call: Call) -> Job:
    new = [new_id()]
    with enqueue([call]) as span:
        job = NewJob(new[0], call, span.traceparent)
        placed = await door.intake.put(job)
        enqueued(span, new)
    return _as_job(job, placed)


def _as_job(new: NewJob, placed: Placed) -> Job:
    call = new.call
    return Job(
        id=new.id,
        task=call.task,
        args=call.args,
        queue=call.queue,
        state=placed.state,
        priority=call.priority,
        attempt=0,
        max_attempts=call.max_attempts,
        created_at=placed.created_at,
        run_at=placed.run_at,
        started_at=None,
        finished_at=None,
        expires_at=call.expires_at and call.expires_at.astimezone(UTC),
        progress=_JSON_NULL,
        result=_JSON_NULL,
        errors=[],
        former_args=[],
        tags=list(call.tags),
        unique_key=call.unique_key,
        concurrency_key=call.concurrency_key,
        parent_id=call.parent_id,
        trace_id=trace_id_of(new.traceparent),
    )


def job_routes(requests: JobRequests) -> Router:
    """Return the routes of jobs; their bodies are the unions of the declared tasks."""
    return Router(
        path="/v1/jobs",
        route_handlers=[create_job, create_jobs, find_jobs, get_job, explain, cancel],
        tags=["Jobs"],
        signature_namespace={"JobBody": requests.one, "JobBatch": requests.many},
    )
