"""What every run knows of itself, wherever its function runs.

Owns the facts of the attempt that a task may read; they are those of the claim and never change.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from headrace.jobs.model import Claim


class RunFacts:
    """Which attempt of which job this is."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    @property
    def job_id(self) -> UUID:
        """The job's id, the same at every attempt."""
        return self._claim.job_id

    @property
    def task(self) -> str:
        """The task's name."""
        return self._claim.task

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self._claim.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts the job has in all."""
        return self._claim.max_attempts

    @property
    def fence(self) -> int:
        """Rises with every release of the job: of two runs, the one with the larger fence is the rightful one."""
        return self._claim.fence

    @property
    def idempotency_key(self) -> str:
        """A key for effects outside PostgreSQL, the same at every attempt."""
        return str(self._claim.job_id)

    @property
    def traceparent(self) -> str:
        """The W3C trace context that the job was created in."""
        return self._claim.traceparent

    @property
    def created_at(self) -> datetime:
        """When the job was created."""
        return self._claim.created_at
