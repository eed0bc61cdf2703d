"""`/v1/tasks`: which tasks there are, and what each of them takes.

Owns the listing of the declared tasks with the JSON Schema of their arguments and results.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Router, get

from headrace.api.door import door_of
from headrace.api.job_requests import offered
from headrace.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page_by_name
from headrace.tasks.contract import Task


class RetryShown(msgspec.Struct, frozen=True):
    """When a failed attempt is tried again."""

    max_attempts: int
    first_delay_seconds: float
    max_delay_seconds: float
    max_losses: int
    """At how many lost workers a job is quarantined."""
    on: list[str]
    """The exceptions that are tried again."""
    never: list[str]
    """Those that are not, although `on` names a base class of theirs."""


class TaskShown(msgspec.Struct, frozen=True):
    """A declared task."""

    name: str
    queue: str
    description: str
    args_schema: dict[str, Any]
    result_schema: dict[str, Any]
    retry: RetryShown
    timeout_seconds: float | None
    aliases: list[str]
    """Names that it had before: jobs on record under them are its own."""
    on_dead: str | None
    """The task that is told when one of its jobs is dead."""
    retention_seconds: float | None
    """How long after its end a job leaves the record; null for the retention of all."""


@get("/", summary="List tasks")
async def find_tasks(
    request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[TaskShown]:
    """Return the declared tasks, by name."""
    page = page_by_name(offered(door_of(request).registry.tasks).values(), limit, cursor, lambda task: task.name)
    return Page([_shown(task) for task in page.items], page.next_cursor)


def schema_of(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any type that a task declares
    """Return the JSON Schema of a type; what msgspec does not know is any value."""
    return msgspec.json.schema(kind, schema_hook=lambda _: {"description": "any JSON"})


def _shown(task: Task[Any, Any]) -> TaskShown:
    retry = task.policy.retry
    return TaskShown(
        name=task.name,
        queue=task.policy.queue,
        description=task.description,
        args_schema=schema_of(task.args_type),
        result_schema=schema_of(Any if task.return_type is None else task.return_type),
        retry=RetryShown(
            max_attempts=retry.max_attempts,
            first_delay_seconds=retry.first_delay_seconds,
            max_delay_seconds=retry.max_delay_seconds,
            max_losses=retry.max_losses,
            on=[error.__qualname__ for error in retry.on],
            never=[error.__qualname__ for error in retry.never],
        ),
        timeout_seconds=task.policy.timeout_seconds,
        aliases=list(task.policy.aliases),
        on_dead=task.policy.on_dead,
        retention_seconds=task.policy.retention_seconds,
    )


task_routes = Router(path="/v1/tasks", route_handlers=[find_tasks], tags=["Jobs"])
