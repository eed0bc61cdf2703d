"""The reasons why a job is not running: what each of them is called, and when it holds.

Owns the codes and the way from the facts of one moment to the reasons, all of them, each with a sentence for a person
and the details for a program. It reads nothing. Never guess: a reason appears only where the facts show its cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from headrace.database.states import FINISHED, JobState
from headrace.jobs.limits import LimitStanding
from headrace.jobs.parents import Parent

_SOON: Final = timedelta(minutes=1)
_MOST_NAMED: Final = 3


class Code(StrEnum):
    """Why a job is not running."""

    NOT_DUE = "not_due"
    WAITING_FOR_PARENTS = "waiting_for_parents"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKER = "no_worker"
    NO_RELAY = "no_relay"
    RATE_LIMITED = "rate_limited"
    CONCURRENCY_LIMIT = "concurrency_limit"
    CONCURRENCY_KEY_BUSY = "concurrency_key_busy"
    BEHIND_OTHERS = "behind_others"
    CANCEL_REQUESTED = "cancel_requested"
    EXPIRES_SOON = "expires_soon"
    FINISHED = "finished"


class InTheWay(msgspec.Struct, frozen=True):
    """A job that is in the way of another one."""

    id: UUID
    name: str | None = None
    """What a child calls this parent."""
    state: JobState | None = None


class LiveWorker(msgspec.Struct, frozen=True):
    """A worker process that is alive."""

    id: UUID
    host: str
    pid: int
    queues: list[str] | None
    """null for all."""
    slots: int
    knows_task: bool
    """Whether its code has the job's task."""

    def serves(self, queue: str) -> bool:
        """Tell whether it takes jobs of a queue."""
        return self.queues is None or queue in self.queues


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """One reason, what it means here, and its details as far as it has any."""

    code: Code
    message: str
    since: datetime | None = None
    until: datetime | None = None
    by: str | None = None
    """Who has paused the queue."""
    count: int | None = None
    """How many: jobs in flight, jobs that go first."""
    limit: int | None = None
    jobs: list[InTheWay] = []
    """The jobs in the way: parents, or holders of the concurrency key."""
    workers: list[LiveWorker] = []
    """The workers that are alive, none of which can take it."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the record says about a job and what is around it, at one moment."""

    now: datetime
    state: JobState
    queue: str
    task: str
    run_at: datetime
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    waits_for: int
    paused: bool
    paused_at: datetime | None
    paused_by: str | None
    relay_leads: bool
    relay_since: datetime | None
    """When the lease of the last leading relay ran out."""
    ahead: int
    limits: LimitStanding
    parents: Sequence[Parent]
    """Those that it still waits for."""
    workers: Sequence[LiveWorker]

    @property
    def waits(self) -> bool:
        """Whether the job is unfinished and not running."""
        return self.state not in FINISHED and self.state is not JobState.RUNNING

    @property
    def is_not_due(self) -> bool:
        """Whether its time has not come."""
        return self.state in {JobState.SCHEDULED, JobState.RETRYING} and self.run_at > self.now

    @property
    def able(self) -> list[LiveWorker]:
        """The live workers that serve its queue and know its task."""
        return [worker for worker in self.workers if worker.serves(self.queue) and worker.knows_task]


def reasons_of(facts: Facts) -> Iterator[Reason]:
    """Yield every reason that holds."""
    if facts.state in FINISHED:
        yield Reason(Code.FINISHED, f"the job is {facts.state}")
        return
    if facts.cancel_requested_at is not None:
        message = f"somebody wants it cancelled since {written(facts.cancel_requested_at)}, and its worker is told"
        yield Reason(Code.CANCEL_REQUESTED, message, since=facts.cancel_requested_at)
    if facts.state is JobState.RUNNING:
        return
    yield from _of_itself(facts)
    yield from _of_the_road(facts)
    if facts.state is JobState.PENDING:
        yield from _of_the_limits(facts)
    if facts.ahead and facts.state in {JobState.PENDING, JobState.QUEUED}:
        noun = "job goes" if facts.ahead == 1 else "jobs go"
        yield Reason(Code.BEHIND_OTHERS, f"{facts.ahead} {noun} first in the queue {facts.queue}", count=facts.ahead)
    if facts.expires_at is not None and facts.expires_at <= facts.now + _SOON:
        message = f"it is given up unless it starts by {written(facts.expires_at)}"
        yield Reason(Code.EXPIRES_SOON, message, until=facts.expires_at)


def written(moment: datetime) -> str:
    """Return a time as messages write it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _of_itself(facts: Facts) -> Iterator[Reason]:
    if facts.is_not_due:
        what = "its next attempt" if facts.state is JobState.RETRYING else "it"
        yield Reason(Code.NOT_DUE, f"{what} is due at {written(facts.run_at)}", until=facts.run_at)
    if facts.waits_for:
        named = [f"{parent.name} ({parent.id}, {parent.state})" for parent in facts.parents[:_MOST_NAMED]]
        more = facts.waits_for - len(named)
        message = f"it waits for its parents {', '.join(named)}" + (f" and {more} more" if more > 0 else "")
        jobs = [InTheWay(parent.id, parent.name, parent.state) for parent in facts.parents]
        yield Reason(Code.WAITING_FOR_PARENTS, message, count=facts.waits_for, jobs=jobs)


def _of_the_road(facts: Facts) -> Iterator[Reason]:
    if facts.paused and facts.state is not JobState.QUEUED:
        since = f" since {written(facts.paused_at)}" if facts.paused_at else ""
        by = f", by {facts.paused_by}" if facts.paused_by else ""
        message = f"the queue {facts.queue} is paused{since}{by}"
        yield Reason(Code.QUEUE_PAUSED, message, since=facts.paused_at, by=facts.paused_by)
    if not facts.relay_leads and facts.state is not JobState.QUEUED:
        since = f" since {written(facts.relay_since)}" if facts.relay_since else ""
        yield Reason(Code.NO_RELAY, f"no relay leads{since}: jobs are not released", since=facts.relay_since)
    if not facts.able:
        yield Reason(Code.NO_WORKER, _nobody(facts), workers=list(facts.workers))
    elif facts.state is JobState.PENDING and facts.run_at > facts.now:
        again = f"it is offered again at {written(facts.run_at)}"
        message = f"a worker that does not know the task {facts.task} has given it back: {again}"
        yield Reason(Code.NO_WORKER, message, until=facts.run_at)


def _nobody(facts: Facts) -> str:
    if not facts.workers:
        return "no worker is alive"
    serving = [worker for worker in facts.workers if worker.serves(facts.queue)]
    if serving:
        return f"none of the {len(serving)} live workers that serve the queue {facts.queue} knows the task {facts.task}"
    served = sorted({queue for worker in facts.workers for queue in worker.queues or ()})
    return f"no live worker serves the queue {facts.queue}: they serve {', '.join(served)}"


def _of_the_limits(facts: Facts) -> Iterator[Reason]:
    limits = facts.limits
    if limits.next_at is not None and limits.rate is not None:
        message = (
            f"the queue {facts.queue} starts {limits.rate.limit} jobs within {limits.rate.per_seconds:g} s at most"
        )
        until = f"{message}: the next one at {written(limits.next_at)}"
        yield Reason(Code.RATE_LIMITED, until, until=limits.next_at, limit=limits.rate.limit)
    if limits.queue_is_full:
        message = f"the queue {facts.queue} is at its limit: {limits.in_flight} of {limits.concurrency} are under way"
        yield Reason(Code.CONCURRENCY_LIMIT, message, count=limits.in_flight, limit=limits.concurrency)
    if limits.key_is_busy:
        named = ", ".join(str(holder) for holder in limits.holders[:_MOST_NAMED])
        yield Reason(
            Code.CONCURRENCY_KEY_BUSY,
            f"its concurrency key is held by {named}",
            count=len(limits.holders),
            limit=limits.key_limit,
            jobs=[InTheWay(holder) for holder in limits.holders],
        )
