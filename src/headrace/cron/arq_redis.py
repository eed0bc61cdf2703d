"""ARQ's Redis where there is more than one server: a cluster, or a primary that sentinels name.

Owns the names that keep ARQ on one node of a cluster. ARQ changes several keys in one transaction, and one of them,
`arq:abort`, bears no hash tag: so that very name is the tag of all others, and the whole of ARQ lies in its slot. The
connections find the primary as those of the belt do, and wait for it for as long as it takes. A single server is left
to ARQ itself. Never give ARQ's keys another tag.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss
from arq.jobs import Job
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff

from headrace.streams.address import Topology, address_of
from headrace.streams.connection import pool_of

TAG: Final = f"{{{abort_jobs_ss}}}"
_CONNECTIONS: Final = 10


class OneSlotArqRedis(ArqRedis):
    """ARQ's client, whose jobs all lie in one slot."""

    async def enqueue_job(
        self,
        function: str,
        *args: Any,  # noqa: ANN401 - a job's arguments
        _job_id: str | None = None,
        **options: Any,  # noqa: ANN401 - ARQ's options, and the job's arguments
    ) -> Job | None:
        """Enqueue a job under an id that bears the tag."""
        return await super().enqueue_job(function, *args, _job_id=_job_id or f"{TAG}{uuid4().hex}", **options)


def arq_redis(redis_url: str) -> ArqRedis | None:
    """Return ARQ's client, not connected yet; None where a single server stands at the URL."""
    if address_of(redis_url).topology is Topology.SERVER:
        return None
    client = OneSlotArqRedis(pool_of(redis_url, connections=_CONNECTIONS, key=TAG))
    client.set_retry(Retry(EqualJitterBackoff(cap=1.0, base=0.05), retries=-1))
    return client
