"""`/v1/jobs/{id}/retry`: a stopped job is tried again, with other arguments where somebody mends them.

Owns the route. New arguments are checked against the task as those of a new job are, and the answer names what is wrong
with them; those of before stay on record. Never take arguments for a task that this code does not know.
"""

from __future__ import annotations

from typing import Annotated, Any, NoReturn
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, post

from headrace.api.bodies import decode
from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.api.job_requests import require_small
from headrace.errors import FieldError, InvalidInputError
from headrace.jobs.call import Options
from headrace.jobs.queries import Job, jobs_by_ids
from headrace.jobs.redrive import Changes, redrive_job, task_of
from headrace.jobs.retry import Retry
from headrace.tasks.contract import Task
from headrace.transaction import Transaction

_UNDECLARED = Retry()
"""The policy of tasks that no application declares, such as the delivery of an event."""


class RetryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job has otherwise than before when it is tried again."""

    args: Annotated[
        dict[str, Any] | None, msgspec.Meta(description="all of them, as the task takes them; as before if missing")
    ] = None
    max_attempts: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1000)] | None,
        msgspec.Meta(description="how many more attempts; as its task declares, though at most as before, if missing"),
    ] = None


@post("/{job_id:uuid}/retry", status_code=202, summary="Retry a job")
async def retry(request: Request[Any, Any, Any], job_id: UUID, data: RetryRequest | None = None) -> Response[Job]:
    """Make a dead, cancelled or expired job pending again; its attempts count on.

    The body may be missing. Other arguments are kept beside those of before, which stay in `former_args`.
    """
    tasks = door_of(request).registry.names
    wanted = data or RetryRequest()

    async def work(tx: Transaction) -> Answer:
        name = await task_of(tx, job_id)
        task = tasks.get(name)
        changes = Changes(_checked(name, task, wanted.args), wanted.max_attempts)
        policy = task.policy.retry if task else _UNDECLARED
        await redrive_job(tx, job_id, attempts=policy.max_attempts, changes=changes)
        (job,) = await jobs_by_ids(tx.connection, [job_id])
        return Answer(202, job)

    return await once(request, work)


def _checked(name: str, task: Task[Any, Any] | None, args: dict[str, Any] | None) -> msgspec.Raw | None:
    if args is None:
        return None
    if task is None:
        _refuse(f"no application of this API declares the task {name}: its arguments cannot be checked")
    encoded = msgspec.json.encode(args)
    require_small(encoded, at="args")
    fitting = decode(encoded, task.args_type, at="args")
    return task.call_encoded(msgspec.Raw(msgspec.json.encode(fitting)), Options()).args


def _refuse(message: str) -> NoReturn:
    raise InvalidInputError(message, (FieldError("args", message),))


retrying_routes = Router(path="/v1/jobs", route_handlers=[retry], tags=["Jobs"])
