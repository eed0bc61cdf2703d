"""What waits and what is in flight, as the record says.

Owns the two questions that every pass of the dispatcher asks. Both hop over partial indexes, so that they cost as much
as there are queues with waiting jobs and jobs in flight, however many jobs wait: where nothing but their order says so,
they ask for the order of the index. They decide nothing: what they say may be old a moment later.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

# The queues in which something waits in line, or is parked, found by hopping from queue to queue over the indexes
# jobs_pending and jobs_parked; then what is in flight. A job on the belt may still name the worker it ran in before.
_DEMAND = """
    WITH RECURSIVE waiting(queue) AS (
        (SELECT queue FROM jobs WHERE state = 'pending' AND NOT parked ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT queue FROM jobs
                WHERE state = 'pending' AND NOT parked AND queue > waiting.queue ORDER BY queue LIMIT 1)
        FROM waiting WHERE waiting.queue IS NOT NULL),
    parked(queue) AS (
        (SELECT queue FROM jobs WHERE state = 'pending' AND parked ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT queue FROM jobs
                WHERE state = 'pending' AND parked AND queue > parked.queue ORDER BY queue LIMIT 1)
        FROM parked WHERE parked.queue IS NOT NULL)
    SELECT CASE WHEN (
               SELECT true FROM jobs WHERE jobs.queue = waiting.queue AND concurrency_key IS NOT NULL
                                   AND NOT parked AND state = 'pending'
               ORDER BY concurrency_key LIMIT 1)
           THEN 'keyed' ELSE 'waiting' END AS what, queue, NULL::uuid AS worker_id, NULL::bigint AS jobs
    FROM waiting WHERE queue IS NOT NULL
    UNION ALL
    SELECT 'parked', queue, NULL, NULL FROM parked WHERE queue IS NOT NULL
    UNION ALL
    SELECT 'in flight', queue, CASE WHEN state = 'running' THEN worker_id END AS runs_in, count(*)
    FROM jobs WHERE state IN ('queued', 'running') GROUP BY queue, runs_in
"""

_FRONTS = """
    SELECT given.queue, front.priority, count(*) AS jobs
    FROM unnest($1::text[]) AS given(queue)
    CROSS JOIN LATERAL (
        SELECT priority FROM jobs
        WHERE state = 'pending' AND NOT parked AND queue = given.queue AND run_at <= now() AND task = ANY($3::text[])
        ORDER BY priority DESC, run_at, id LIMIT $2) AS front
    GROUP BY given.queue, front.priority
"""

Front = dict[int, int]
"""Jobs by priority, of those at the front of a queue."""


class Demand(msgspec.Struct, frozen=True):
    """What waits and what is in flight."""

    waiting: list[str]
    """Queues with jobs in line."""
    keyed: set[str]
    """Those of them in which jobs with a concurrency key are in line."""
    parked: list[str]
    """Queues with parked jobs."""
    in_flight: dict[str, int]
    """Released and running jobs, by queue."""
    queued: dict[str, int]
    """The released ones of them, by queue."""
    running: dict[UUID, int]
    """The running ones, by worker."""


async def read_demand(connection: asyncpg.Connection[asyncpg.Record]) -> Demand:
    """Return what waits and what is in flight."""
    demand = Demand([], set(), [], {}, {}, {})
    for what, queue, worker_id, jobs in await connection.fetch(_DEMAND):
        match what:
            case "parked":
                demand.parked.append(queue)
            case "in flight":
                demand.in_flight[queue] = demand.in_flight.get(queue, 0) + jobs
                if worker_id is None:
                    demand.queued[queue] = jobs
                else:
                    demand.running[worker_id] = demand.running.get(worker_id, 0) + jobs
            case _:
                demand.waiting.append(queue)
                if what == "keyed":
                    demand.keyed.add(queue)
    return demand


async def read_fronts(
    connection: asyncpg.Connection[asyncpg.Record], queues: Sequence[str], depth: int, tasks: Sequence[str]
) -> dict[str, Front]:
    """Return the priorities of the first `depth` jobs of each queue that some worker knows."""
    fronts: dict[str, Front] = {}
    for queue, priority, jobs in await connection.fetch(_FRONTS, queues, depth, tasks):
        fronts.setdefault(queue, {})[priority] = jobs
    return fronts
