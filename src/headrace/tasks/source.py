"""Where a worker's released jobs come from: the seam between the belt of jobs and what carries them.

Owns the contract. An entry only names a job; the claim on record decides who runs it, so a source may lose entries and
bring them twice. What it loses is released again, because the record says that it is queued. Never let a source decide
what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.jobs.model import Claim

Place = tuple[bytes, bytes]
"""Where an entry lies: the stream and the id."""

Read = tuple[bytes, bytes, Claim]
"""The place of an entry, and the released job that it names."""


class Source(Protocol):
    """Queues of released jobs, for one worker."""

    more_waits: bool
    """Whether the last fetch left something for the next one."""

    async def fetch(self, queues: Sequence[str], count: int) -> list[Read]:
        """Wait half a second for entries that no worker was given; return about `count` in all.

        Raises:
            redis.exceptions.RedisError: what carries them is away, or refuses.

        """
        ...

    async def remove(self, places: Sequence[Place]) -> None:
        """Take away entries that are settled."""
        ...

    async def aclose(self) -> None:
        """Let go of all connections."""
        ...
