"""The states of a job, and which may follow which.

Owns the one transition table. The database enforces the same set with a trigger, which also keeps every move with its
time (the view `job_transitions`); every statement that moves a job names the state it comes from. Never move a job by
its id alone: another process may have moved it already.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is on its road."""

    SCHEDULED = "scheduled"
    """Waits for its `run_at`, or for its parents."""
    PENDING = "pending"
    """Due; waits until the dispatcher releases it to the belt."""
    QUEUED = "queued"
    """On the belt; waits for a worker's claim."""
    RUNNING = "running"
    """Claimed by a worker."""
    RETRYING = "retrying"
    """An attempt failed; waits for the next one's `run_at`."""
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.SCHEDULED: frozenset({JobState.PENDING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.PENDING: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PENDING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.RETRYING, JobState.PENDING, JobState.SCHEDULED, JobState.DEAD, JobState.CANCELLED}
    ),
    JobState.RETRYING: frozenset({JobState.PENDING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.DEAD: frozenset({JobState.PENDING, JobState.SCHEDULED, JobState.CANCELLED}),
    JobState.CANCELLED: frozenset({JobState.PENDING, JobState.SCHEDULED}),
    JobState.EXPIRED: frozenset({JobState.PENDING, JobState.SCHEDULED, JobState.CANCELLED}),
}

FINISHED = frozenset({JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED, JobState.EXPIRED})
UNSTARTED = frozenset({JobState.SCHEDULED, JobState.PENDING, JobState.QUEUED, JobState.RETRYING})
REDRIVABLE = frozenset({JobState.DEAD, JobState.CANCELLED, JobState.EXPIRED})
