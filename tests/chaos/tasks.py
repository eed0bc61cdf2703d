"""The application `chaos`: tasks that write down what they do.

Owns the tasks of the chaos run and the table of their effects, which `prepare` makes. Each task first notes in the
ledger that its run began. What it writes through its session has a key and no constraint: a second effect must be
visible, not refused. Processes load it as `HEADRACE_APPLICATIONS=tests.chaos.tasks:application`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy import text

from headrace.application import Application
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.tasks.sync_run import SyncRun, ThreadRun
from tests.chaos.ledger import note_begin, note_effect

_PATIENT: Final = Retry(max_attempts=50, first_delay_seconds=0.1, max_delay_seconds=1.0, on=(ValueError,))
"""So many attempts that only a quarantine ends a job whose workers die."""
_BRIEF: Final = Retry(max_attempts=3, first_delay_seconds=0.1, max_delay_seconds=1.0)
_TABLE: Final = """
    CREATE TABLE chaos_effects (key text NOT NULL, job_id uuid NOT NULL, child_id uuid)
"""
_WRITE: Final = text("INSERT INTO chaos_effects (key, job_id, child_id) VALUES (:key, :job_id, :child_id)")


@task("chaos.work", retry=_PATIENT)
async def work(run: Run, ledger: str, seconds: float, fail_first: int = 0) -> int:
    """Work for a while, fail the first attempts, then have an effect outside PostgreSQL."""
    note_begin(run, ledger)
    await asyncio.sleep(seconds)
    _fail_first(run, fail_first)
    note_effect(run, ledger)
    return run.attempt


@task("chaos.write", retry=_PATIENT)
async def write(run: Run, ledger: str, key: str, seconds: float, fail_first: int = 0) -> int:
    """Write an effect through the session, hold it open for a while, and fail the first attempts after that."""
    note_begin(run, ledger)
    await _write(run, key)
    await asyncio.sleep(seconds)
    _fail_first(run, fail_first)
    return run.attempt


@task("chaos.follow", retry=_PATIENT)
async def follow(run: Run, ledger: str, key: str, seconds: float) -> UUID:
    """Write an effect and enqueue a job in one transaction."""
    note_begin(run, ledger)
    tx = await run.begin()
    child = await tx.enqueue(write, ledger, child_of(key), seconds)
    await _write(run, key, child)
    await asyncio.sleep(seconds)
    return child


@task("chaos.told", retry=_PATIENT)
async def told(run: Run, job_id: UUID, task: str, error: str) -> None:
    """Write down a death, as the hook of the tasks that always fail."""
    del task, error
    await _write(run, about_death_of(job_id))


@task("chaos.fail", retry=_BRIEF, on_dead=told)
async def fail(run: Run, ledger: str, key: str) -> None:
    """Write an effect through the session, and fail."""
    note_begin(run, ledger)
    await _write(run, key)
    message = "as always"
    raise ValueError(message)


@task("chaos.poison", retry=_PATIENT)
async def poison(run: Run, ledger: str) -> None:
    """Kill the worker."""
    note_begin(run, ledger)
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()


@task("chaos.snooze", retry=_PATIENT)
async def snooze(run: Run, ledger: str, key: str, seconds: float) -> int | Snooze:
    """Wish to be run later, the first time; write an effect then."""
    note_begin(run, ledger)
    if run.fence == 1:
        return Snooze(seconds)
    await _write(run, key)
    return run.attempt


@task("chaos.give_up", retry=_PATIENT)
async def give_up(run: Run, ledger: str) -> Cancel:
    """Find that there is nothing to do any more."""
    note_begin(run, ledger)
    return Cancel("no need")


@task("chaos.in_thread", retry=_PATIENT)
def in_thread(run: ThreadRun, ledger: str, seconds: float) -> int:
    """Work in a thread."""
    return _plainly(run, ledger, seconds)


@task("chaos.in_process", retry=_PATIENT, runs_in="process")
def in_process(run: SyncRun, ledger: str, seconds: float) -> int:
    """Work in a process of its own."""
    return _plainly(run, ledger, seconds)


application = Application(
    name="chaos",
    tasks=(work, write, follow, told, fail, poison, snooze, give_up, in_thread, in_process),
    migrations="storefront.migrations",
)


def about_death_of(job_id: UUID) -> str:
    """Return the key of the effect that the hook of a dead job makes."""
    return f"told-{job_id}"


def child_of(key: str) -> str:
    """Return the key of the effect that the job enqueued by `follow` makes."""
    return f"{key}/child"


async def prepare(database_url: str) -> None:
    """Make the table of effects."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_TABLE)
    finally:
        await connection.close()


async def _write(run: Run, key: str, child: UUID | None = None) -> None:
    tx = await run.begin()
    await tx.connection.execute(_WRITE, {"key": key, "job_id": run.job_id, "child_id": child})


def _plainly(run: SyncRun, ledger: str, seconds: float) -> int:
    note_begin(run, ledger)
    time.sleep(seconds)
    note_effect(run, ledger)
    return run.attempt


def _fail_first(run: Run, attempts: int) -> None:
    if run.attempt <= attempts:
        message = f"attempt {run.attempt} fails, as asked"
        raise ValueError(message)
