"""What the tests of the clock share: a task to be called, registries of schedules, and questions to the record.

Owns nothing that runs. Never wait here: the tests do, for conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from headrace.application import Application, Registry, combine
from headrace.database.record import Record
from headrace.jobs.schedule import Schedule
from headrace.tasks.contract import task
from headrace.tasks.run import Run


@task("clock.work", queue="slow", priority=7)
async def work(run: Run, note: str) -> None:
    """Do nothing."""


def registry_of(*schedules: Schedule) -> Registry:
    """Return a registry of one application with these schedules."""
    return combine([Application(name="clock", tasks=(work,), schedules=schedules)])


async def rows(record: Record, statement: str, **parameters: Any) -> Sequence[Any]:  # noqa: ANN401 - columns of many types
    """Run a statement, commit, and return its rows; a job may get into any state."""
    async with record.engine.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = 'replica'"))
        result = await connection.execute(text(statement), parameters)
        return result.all() if result.returns_rows else []
