"""Jobs that wait for others: workflows, chains, and batches with a job that follows them.

Owns the value `Workflow` and the insertion of jobs together with the links between them (`job_parents`). All of it
enters the record in the caller's transaction, or nothing does. A child is `scheduled` with a count of the parents it
waits for; `headrace.jobs.follow` lowers the count when they end. A unique key is refused here: it might name a job that
is somebody else's, with other children.
Never link jobs that are on record already: a parent may end before its child is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.clock import new_id
from headrace.errors import FieldError
from headrace.jobs.call import Call
from headrace.jobs.graph import MOST_STEPS, refuse, require_graph
from headrace.jobs.insert import NewJob, insert_new_jobs
from headrace.jobs.parents import Needs

_LINK: Final = text("""
    INSERT INTO job_parents (child_id, parent_id, name, needs)
    SELECT *, CAST(:needs AS text)
    FROM unnest(CAST(:children AS uuid[]), CAST(:parents AS uuid[]), CAST(:names AS text[]))
""")


class Workflow:
    """Jobs by name, each with the names of those whose success it waits for; start it with `tx.start`.

    Example:
        >>> workflow = (
        ...     Workflow()
        ...     .add("fetch", fetch.call(url))
        ...     .add("resize", resize.call(300), after=["fetch"])
        ...     .add("notify", notify.call("it is there"), after=["fetch", "resize"])
        ... )
        >>> ids = await tx.start(workflow)

    """

    def __init__(self) -> None:
        self._calls: dict[str, Call] = {}
        self._after: dict[str, tuple[str, ...]] = {}

    def add(self, name: str, call: Call, *, after: Iterable[str] = ()) -> Workflow:
        """Add a job and return this workflow; its parents may be added later.

        Raises:
            InvalidInputError: the name is taken.

        """
        if name in self._calls:
            refuse([FieldError(f"jobs.{name}", "this name is taken")])
        self._calls[name] = call
        self._after[name] = (after,) if isinstance(after, str) else tuple(after)
        return self

    @property
    def calls(self) -> Mapping[str, Call]:
        """The calls, by name."""
        return self._calls

    def linked(self) -> Linked:
        """Return the jobs with ids and the links between them.

        Raises:
            InvalidInputError: a name, a parent or a call is wrong, or jobs wait for each other.

        """
        require_graph(self._after)
        _refuse_unique_keys(self._calls)
        ids = {name: new_id() for name in self._calls}
        links = [Link(ids[name], ids[parent], parent) for name, parents in self._after.items() for parent in parents]
        first = {name: ids[parents[0]] for name, parents in self._after.items() if parents}
        calls = [_below(call, first.get(name)) for name, call in self._calls.items()]
        return Linked(ids, calls, links, Needs.SUCCEEDED)


def chain(*calls: Call) -> Workflow:
    """Return a workflow in which each job waits for the one before; they are called `1`, `2` and so on."""
    workflow = Workflow()
    for place, call in enumerate(calls, start=1):
        workflow.add(str(place), call, after=[str(place - 1)] if place > 1 else ())
    return workflow


class Batch(msgspec.Struct, frozen=True):
    """A batch on record."""

    ids: list[UUID]
    """The jobs, in the order of their calls."""
    then_id: UUID
    """The job that runs when all of them have finished."""


class Link(msgspec.Struct, frozen=True):
    """A child waits for a parent, which it knows by a name."""

    child: UUID
    parent: UUID
    name: str


class Linked(msgspec.Struct, frozen=True):
    """Jobs that are to enter the record together, by name and in the same order, with the links between them."""

    ids: dict[str, UUID]
    calls: list[Call]
    links: list[Link]
    needs: Needs


def followed_by(calls: Sequence[Call], then: Call) -> Linked:
    """Return calls, named by their places from 0, with a job that follows the end of all; of none it follows at once.

    Raises:
        InvalidInputError: there are too many, or one has a unique key.

    """
    if len(calls) > MOST_STEPS:
        refuse([FieldError("jobs", f"a batch that a job follows has at most {MOST_STEPS} jobs")])
    named = {str(place): call for place, call in enumerate(calls)}
    _refuse_unique_keys(named)
    _refuse_unique_keys({"then": then}, at="")
    parents = {name: new_id() for name in named}
    then_id = new_id()
    links = [Link(then_id, parent, name) for name, parent in parents.items()]
    last = _below(then, parents.get("0"))
    return Linked(parents | {"then": then_id}, [*calls, last], links, Needs.FINISHED)


async def insert_linked(connection: AsyncConnection, linked: Linked, traceparent: str) -> None:
    """Insert jobs and their links in the caller's transaction, in two statements whatever their number."""
    waits_for = Counter(link.child for link in linked.links)
    watched = {link.parent for link in linked.links}
    jobs = [
        NewJob(job_id, call, traceparent, waits_for=waits_for[job_id], watched=job_id in watched)
        for job_id, call in zip(linked.ids.values(), linked.calls, strict=True)
    ]
    await insert_new_jobs(connection, jobs)
    if linked.links:
        columns = {
            "children": [link.child for link in linked.links],
            "parents": [link.parent for link in linked.links],
            "names": [link.name for link in linked.links],
        }
        await connection.execute(_LINK, columns | {"needs": linked.needs.value})


def _below(call: Call, parent_id: UUID | None) -> Call:
    return call if parent_id is None else msgspec.structs.replace(call, parent_id=parent_id)


def _refuse_unique_keys(calls: Mapping[str, Call], *, at: str = "jobs.") -> None:
    message = "a job that others wait for, or that waits for others, has no unique key"
    wrong = [
        FieldError(f"{at}{name}.unique_key", message) for name, call in calls.items() if call.unique_key is not None
    ]
    if wrong:
        refuse(wrong)
