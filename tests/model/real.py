"""The real side of the state machine: the product's own statements on a real PostgreSQL and Redis.

Owns the way from a step to the statements that it is made of. What the machine needs besides is done to the record
from outside: a worker is a row, its death is a lease in the past, and time passes by moving the times on record. Never
answers from memory: what it returns is what the statements said.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.errors import ConflictError
from headrace.jobs.belt import stream_of
from headrace.jobs.call import Options
from headrace.jobs.cancel import cancel_job
from headrace.jobs.claim import claim
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.redrive import redrive_job
from headrace.jobs.settle import settle
from headrace.relay.belt_upkeep import return_lost
from headrace.relay.dispatch import Dispatcher, expire_jobs
from headrace.relay.rescue import rescue_once
from headrace.transaction import transaction
from tests.model.job import Limits
from tests.road import Road, entries_of

_START_ANEW: Final = """
    TRUNCATE jobs, job_attempts, job_moves, job_parents, unique_keys, queue_starts, queues, processes, trial_effects
"""
_REGISTER: Final = """
    INSERT INTO processes (id, role, host, pid, queues, tasks, slots, expires_at)
    VALUES ($1, 'worker', 'here', 1, NULL, $2, $3, now() + interval '1 year')
"""
_FORGET: Final = "UPDATE processes SET expires_at = now() - interval '1 second'"
_AGE: Final = (
    """
    UPDATE jobs SET run_at = run_at - $1::interval, expires_at = expires_at - $1::interval,
                    released_at = released_at - $1::interval
    """,
    "UPDATE unique_keys SET until = until - $1::interval",
    "UPDATE queue_starts SET at = at - $1::interval",
)
_LIMIT: Final = """
    INSERT INTO queues (name, paused, concurrency, rate_limit, rate_per_seconds)
    VALUES ($1, $2, $3, $4::integer, CASE WHEN $4::integer IS NOT NULL THEN 3600 END)
    ON CONFLICT (name) DO UPDATE SET (paused, concurrency, rate_limit, rate_per_seconds) =
        (EXCLUDED.paused, EXCLUDED.concurrency, EXCLUDED.rate_limit, EXCLUDED.rate_per_seconds)
"""
_STAND: Final = """
    SELECT id, state::text, attempt, max_attempts, fence, lost,
           (SELECT count(*) FROM job_attempts WHERE job_id = jobs.id)
    FROM jobs
"""


HOUR_SECONDS = 3600.0


class Real:
    """The record and the belt, driven step by step."""

    def __init__(self, road: Road, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._road, self._run = road, run

    def start_anew(self) -> None:
        """Empty the stores."""
        self._run(self._road.driver.execute(_START_ANEW))
        self._run(self._emptied())

    def register(self, slots: int) -> UUID:
        """Put a worker on record that knows every task and serves every queue."""
        worker = new_id()
        self._run(self._road.driver.execute(_REGISTER, worker, sorted(self._road.registry.tasks), slots))
        return worker

    def enqueue(self, options: Options, job_id: UUID) -> UUID:
        """Enqueue, and return the id that the producer gets."""

        async def enqueued() -> UUID:
            async with transaction(self._road.record) as tx:
                (given,) = await tx.enqueue_calls([echo.options(options).call(1)], ids=[job_id])
            return given

        given: UUID = self._run(enqueued())
        return given

    def dispatch(self) -> list[Claim]:
        """Release as a relay that has just begun to lead does, until nothing is left to; return what the belt got."""
        entries: list[Claim] = self._run(self._released())
        return entries

    def claim(self, entry: Claim, worker: UUID) -> bool:
        """Claim, and tell whether it was won."""
        return bool(self._run(claim(self._road.driver, [entry], worker)))

    def settle(self, outcome: Outcome) -> bool:
        """Settle, and tell whether the outcome counted."""
        return bool(self._run(settle(self._road.driver, [outcome])))

    def lose_workers(self) -> None:
        """Let every lease run out, and rescue twice, as relay and clock may."""
        self._run(self._road.driver.execute(_FORGET))
        for _ in range(2):
            self._run(rescue_once(self._road.record, lease_seconds=0.0, apart_seconds=HOUR_SECONDS))

    def cancel(self, job_id: UUID) -> JobState | None:
        """Cancel, and return the state; None where it was refused."""

        async def cancelled() -> JobState | None:
            try:
                async with transaction(self._road.record) as tx:
                    return await cancel_job(tx, job_id)
            except ConflictError:
                return None

        state: JobState | None = self._run(cancelled())
        return state

    def redrive(self, job_id: UUID, attempts: int) -> bool:
        """Give a job another chance, and tell whether it was granted."""

        async def redriven() -> bool:
            try:
                async with transaction(self._road.record) as tx:
                    await redrive_job(tx, job_id, attempts=attempts)
            except ConflictError:
                return False
            return True

        return bool(self._run(redriven()))

    def expire(self) -> None:
        """Give up what has not started in time."""
        self._run(expire_jobs(self._road.driver))

    def return_lost(self) -> None:
        """Notice that the belt is empty, as it is here after every release."""
        self._run(return_lost(self._road.driver, self._road.redis))

    def pass_time(self, hours: int) -> None:
        """Move the times on record into the past."""
        for statement in _AGE:
            self._run(self._road.driver.execute(statement, timedelta(hours=hours)))

    def limit(self, queue: str, limits: Limits) -> None:
        """Set the limits of a queue."""
        self._run(self._road.driver.execute(_LIMIT, queue, limits.paused, limits.concurrency, limits.rate))

    def stand(self) -> set[tuple[Any, ...]]:
        """Return every job as it is on record: id, state, attempt, max_attempts, fence, lost, attempts on record."""
        return {tuple(row) for row in self._run(self._road.driver.fetch(_STAND))}

    async def _emptied(self) -> None:
        await self._road.redis.flushdb()

    async def _released(self) -> list[Claim]:
        dispatcher = Dispatcher(self._road.redis)
        while await dispatcher.run_once(self._road.driver) > 0:
            pass
        entries: list[Claim] = []
        async for key in self._road.redis.scan_iter(stream_of("*")):
            entries.extend(entry for _, entry in await entries_of(self._road.redis, key))
            await self._road.redis.delete(key)
        return sorted(entries, key=lambda entry: entry.job_id)
