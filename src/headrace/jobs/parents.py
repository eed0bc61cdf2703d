"""Who waits for whom, as the record says it.

Owns what can be asked about the links between jobs: the parents of a job and whether they still hold it up, its
children, and how its parents ended, for the child that works with their results. Reads never lock. A link leaves the
record together with the child; a parent that has left before it is not shown.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.database.states import JobState
from headrace.jobs.retry import PermanentError

T = TypeVar("T")

# Ids rise in the order in which the jobs were given, so this is the order of the workflow or the batch.
_PARENTS: Final = text("""
    SELECT l.name, j.id, j.task, j.state, l.needs, l.satisfied_at IS NOT NULL AS satisfied
    FROM job_parents l JOIN jobs j ON j.id = l.parent_id
    WHERE l.child_id = :job AND (l.satisfied_at IS NULL OR NOT CAST(:awaited AS boolean))
      AND (CAST(:after AS uuid) IS NULL OR l.parent_id > :after)
    ORDER BY l.parent_id LIMIT :limit
""")

_CHILDREN: Final = text("""
    SELECT j.id, j.task, j.state, j.waits_for
    FROM job_parents l JOIN jobs j ON j.id = l.child_id
    WHERE l.parent_id = :job AND (CAST(:after AS uuid) IS NULL OR l.child_id > :after)
    ORDER BY l.child_id LIMIT :limit
""")

_RESULTS: Final = text("""
    SELECT l.name, j.state, CAST(j.result AS text) AS result
    FROM job_parents l JOIN jobs j ON j.id = l.parent_id
    WHERE l.child_id = :job AND (CAST(:name AS text) IS NULL OR l.name = :name)
    ORDER BY l.parent_id
""")

_STATES: Final = text("""
    SELECT l.name, j.state FROM job_parents l JOIN jobs j ON j.id = l.parent_id
    WHERE l.child_id = :job ORDER BY l.parent_id
""")


class NoResultError(PermanentError):
    """A parent has no result that the child could use, and no further attempt would find one."""


class Needs(StrEnum):
    """What a child waits for."""

    SUCCEEDED = "succeeded"
    """The parent's success; anything else leaves the child waiting, and a cancellation cancels it."""
    FINISHED = "finished"
    """The parent's end, whatever it is."""


class Parent(msgspec.Struct, frozen=True):
    """A job that another one waits for, or has waited for."""

    name: str
    """What the child calls it: its name in the workflow, its place in the batch."""
    id: UUID
    task: str
    state: JobState
    needs: Needs
    """What the child waits for: the parent's success, or its end."""
    satisfied: bool
    """Whether this parent holds up the child no longer."""


class Child(msgspec.Struct, frozen=True):
    """A job that waits for another one, or has waited for it."""

    id: UUID
    task: str
    state: JobState
    waits_for: int
    """For how many parents it waits still."""


async def parents_of(
    connection: AsyncConnection,
    job_id: UUID,
    *,
    awaited: bool = False,
    limit: int = 10_000,
    after: UUID | None = None,
) -> list[Parent]:
    """Return the parents of a job, in the order in which they were made, those made after the job `after`.

    Args:
        connection: any.
        job_id: the child.
        awaited: only those that still hold it up.
        limit: how many at most.
        after: the last one of the page before.

    """
    given = {"job": job_id, "awaited": awaited, "limit": limit, "after": after}
    rows = await connection.execute(_PARENTS, given)
    return [Parent(row.name, row.id, row.task, JobState(row.state), Needs(row.needs), row.satisfied) for row in rows]


async def children_of(
    connection: AsyncConnection, job_id: UUID, *, limit: int, after: UUID | None = None
) -> list[Child]:
    """Return the children of a job, in the order in which they were made, those made after the job `after`."""
    rows = await connection.execute(_CHILDREN, {"job": job_id, "limit": limit, "after": after})
    return [Child(row.id, row.task, JobState(row.state), row.waits_for) for row in rows]


async def results_of_parents(connection: AsyncConnection, job_id: UUID) -> dict[str, Any]:
    """Return the results of the parents that have succeeded, by name, decoded from JSON."""
    rows = await connection.execute(_RESULTS, {"job": job_id, "name": None})
    return {
        row.name: None if row.result is None else msgspec.json.decode(row.result)
        for row in rows
        if row.state == JobState.SUCCEEDED
    }


async def result_of_parent(connection: AsyncConnection, job_id: UUID, name: str, kind: type[T]) -> T:
    """Return the result of one parent, decoded into a type.

    Raises:
        NoResultError: no parent has this name, it has not succeeded, or its result is of another type.

    """
    row = (await connection.execute(_RESULTS, {"job": job_id, "name": name})).one_or_none()
    if row is None:
        message = f"the job {job_id} has no parent {name}"
        raise NoResultError(message)
    if row.state != JobState.SUCCEEDED:
        message = f"the parent {name} is {row.state}: it has no result"
        raise NoResultError(message)
    try:
        return msgspec.json.decode(row.result or b"null", type=kind)
    except msgspec.ValidationError as error:
        message = f"the result of the parent {name} does not fit: {error}"
        raise NoResultError(message) from error


async def states_of_parents(connection: AsyncConnection, job_id: UUID) -> dict[str, JobState]:
    """Return the state of each parent, by name."""
    return {row.name: JobState(row.state) for row in await connection.execute(_STATES, {"job": job_id})}
