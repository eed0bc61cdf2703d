"""The application `outcomes`: tasks that say how they ended in each way there is.

Owns its table of effects, which `tests.trial` makes, and nothing else. Processes load it as
`HEADRACE_APPLICATIONS=tests.outcomes:application`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from uuid import UUID

from sqlalchemy import text

from headrace.application import Application
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.tasks.contract import task
from headrace.tasks.run import Run

_WRITE = text("INSERT INTO trial_effects (key, job_id, attempt) VALUES (:key, :job_id, :attempt)")
_COUNT = text("SELECT count(*) FROM trial_effects WHERE job_id = :job_id")


async def _write(run: Run, key: str) -> None:
    tx = await run.begin()
    await tx.connection.execute(_WRITE, {"key": key, "job_id": run.job_id, "attempt": run.attempt})


@task("outcomes.told")
async def told(run: Run, job_id: UUID, task: str, error: str) -> str:
    """Take note of a death."""
    await _write(run, f"{task}: {error}")
    return str(job_id)


@task("outcomes.snooze")
async def snooze(run: Run, times: int, seconds: float = 0.01) -> int | Snooze:
    """Write, and snooze until that many effects have committed."""
    await _write(run, "snooze")
    written: int = (await (await run.begin()).connection.execute(_COUNT, {"job_id": run.job_id})).scalar_one()
    return Snooze(seconds) if written <= times else written


@task("outcomes.snooze_raised")
async def snooze_raised(run: Run, seconds: float = 3600.0) -> None:
    """Write, and raise a snooze."""
    await _write(run, "raised")
    raise Snooze(seconds)


@task("outcomes.cancel")
async def cancel(run: Run, reason: str, *, raised: bool = False) -> str | Cancel:
    """Write, and end the job."""
    await _write(run, "cancel")
    if raised:
        raise Cancel(reason)
    return Cancel(reason)


@task("outcomes.resultless", result=False, retention_seconds=60.0)
async def resultless(run: Run) -> str:
    """Return what nobody keeps."""
    del run
    return "x" * 300_000


@task("outcomes.wait", aliases=("outcomes.nap",), retry=Retry(max_attempts=3, first_delay_seconds=3600.0))
async def wait(run: Run, seconds: float) -> float:
    """Wait."""
    del run
    await asyncio.sleep(seconds)
    return seconds


@task("outcomes.poison", retry=Retry(max_attempts=10), on_dead=told, retention_seconds=60.0)
async def poison(run: Run, signals: int = 1) -> int:
    """Kill the own process, in the first attempts."""
    if run.attempt <= signals:
        os.kill(os.getpid(), signal.SIGKILL)
    return run.attempt


@task("outcomes.tough", retry=Retry(max_attempts=10, max_losses=5))
async def tough(run: Run) -> int:
    """Be allowed five losses."""
    return run.attempt


application = Application(
    name="outcomes",
    tasks=(told, snooze, snooze_raised, cancel, resultless, wait, poison, tough),
    migrations="storefront.migrations",  # what the tests' databases have
)
