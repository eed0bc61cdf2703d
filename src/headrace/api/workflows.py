"""`/v1/workflows`: start jobs that wait for one another; and who waits for whom.

Owns the route that starts a workflow and the two that list a job's parents and children. A workflow is on record whole
when it is answered, or not at all. What is wrong with it is named by the job's own name, `jobs.b.args.order_id`: a
decoder does not say which value of an object it disliked, so a refused body is looked at once more, job by job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, get, post

from headrace.api.bodies import StrictRequest, decode
from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.job_requests import JobRequests, StepRequest
from headrace.api.jobs import BATCH_BYTES
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_of
from headrace.cursors import id_of
from headrace.errors import InvalidInputError
from headrace.jobs.parents import Child, Parent, children_of, parents_of
from headrace.jobs.queries import job_by_id
from headrace.jobs.workflow import Workflow
from headrace.transaction import Transaction


class WorkflowIds(msgspec.Struct, frozen=True):
    """The ids of a workflow's jobs."""

    ids: dict[str, UUID]
    """By name."""


class _Named(msgspec.Struct, frozen=True):
    """A workflow, of which only the names are read."""

    jobs: dict[str, msgspec.Raw]


class WorkflowCall(StrictRequest):
    """A request whose body is a workflow; what is wrong with it is told with the name of the job."""

    async def json(self) -> Any:  # noqa: ANN401 - the type that the handler declares
        """Return the decoded body.

        Raises:
            ClientException: it is not JSON (400), or is said to be something else (415).
            InvalidInputError: it is JSON of another shape (422).

        """
        try:
            return await super().json()
        except InvalidInputError:
            named = _names_of(await self.body())
            for name, job in named.items():
                decode(bytes(job), door_of(self).requests.step, at=f"jobs.{name}")
            raise  # every job is sound: what is around them is not


def _names_of(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=_Named).jobs
    except msgspec.ValidationError:
        return {}


if TYPE_CHECKING:

    class WorkflowBody(msgspec.Struct, frozen=True):
        """Jobs by name; the API declares them as the union of all tasks."""

        jobs: dict[str, StepRequest]


@post(
    "/v1/workflows",
    status_code=202,
    request_class=WorkflowCall,
    request_max_body_size=BATCH_BYTES,
    opt={"scope": "jobs:write"},
    summary="Start jobs that wait for one another, all or nothing",
)
async def start_workflow(request: Request[Any, Any, Any], data: WorkflowBody) -> Response[WorkflowIds]:
    """Put up to 10,000 jobs on record in one transaction; each starts when those that it names have succeeded.

    A dead or expired parent leaves its children waiting until it is retried; a cancelled one takes them along. The
    `delay_seconds` of a child counts from its last parent's success. No job of a workflow has a `unique_key`: repeat
    the request with an `Idempotency-Key` instead.
    """
    door = door_of(request)
    workflow = Workflow()
    for name, step in data.jobs.items():
        workflow.add(name, door.requests.call_of(step, at=f"jobs.{name}"), after=step.after)
    linked = workflow.linked()
    await door.queues.ensure({call.queue for call in linked.calls})

    async def work(tx: Transaction) -> Answer:
        return Answer(202, WorkflowIds(await tx.start(workflow)))

    return await once(request, work)


@get("/v1/jobs/{job_id:uuid}/parents", summary="List the parents of a job")
async def find_parents(
    request: Request[Any, Any, Any], job_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Parent]:
    """Return the jobs that a job waits for, or has waited for, in the order in which they were given."""
    record = door_of(request).record
    await job_by_id(record, job_id)
    async with record.engine.connect() as connection:
        found = await parents_of(connection, job_id, limit=limit + 1, after=id_of(cursor))
    return page_of(found, limit, lambda parent: str(parent.id))


@get("/v1/jobs/{job_id:uuid}/children", summary="List the children of a job")
async def find_children(
    request: Request[Any, Any, Any], job_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Child]:
    """Return the jobs that wait for a job, or have waited for it, in the order in which they were given."""
    record = door_of(request).record
    await job_by_id(record, job_id)
    async with record.engine.connect() as connection:
        found = await children_of(connection, job_id, limit=limit + 1, after=id_of(cursor))
    return page_of(found, limit, lambda child: str(child.id))


def workflow_routes(requests: JobRequests) -> Router:
    """Return the routes of workflows; their bodies are the unions of the declared tasks."""
    return Router(
        path="/",
        route_handlers=[start_workflow, find_parents, find_children],
        tags=["Jobs"],
        signature_namespace={"WorkflowBody": requests.workflow},
    )
