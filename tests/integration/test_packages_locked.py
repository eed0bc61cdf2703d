"""The locked environment: packages that do not declare to fit together, and do.

arq 0.28 declares redis<6 and taskiq-redis 1.2 declares redis>=8; the lock overrides the former. What is shown here is
that all three import in one process and that ARQ's clock does its work on that redis.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import pytest
import taskiq_redis
from arq import cron
from arq.connections import RedisSettings
from arq.worker import Worker


def test_the_designed_versions_are_there_when_the_lock_is_installed() -> None:
    """No resolver has fallen back to a release of years ago."""
    assert version("arq").startswith("0.28.")
    assert version("taskiq").startswith("0.13.")
    assert version("taskiq-redis").startswith("1.2.")
    assert version("redis").startswith("8.")
    assert version("sqlalchemy").startswith("2.0.")
    assert taskiq_redis.RedisStreamBroker is not None


@pytest.mark.filterwarnings("ignore:.*retry_on_timeout.*:DeprecationWarning", "ignore:Call to deprecated close.*")
async def test_a_cron_function_of_arq_runs_when_redis_is_8(redis_url: str) -> None:
    """ARQ 0.28 ticks every second on a client that it does not declare to support."""
    ticks = asyncio.Queue[str]()

    async def tick(ctx: dict[Any, Any], *_: object, **__: object) -> None:
        ticks.put_nowait(ctx["job_id"])

    worker = Worker(
        cron_jobs=[cron(tick, name="tick", second=set(range(60)))],
        redis_settings=RedisSettings.from_dsn(redis_url),
        handle_signals=False,
        poll_delay=0.05,
    )
    running = asyncio.create_task(worker.async_run())

    async with asyncio.timeout(10):
        first = await ticks.get()
        second = await ticks.get()
    running.cancel()
    with suppress(asyncio.CancelledError):  # arq cancels the tick that is under way and lets it pass here
        await worker.close()

    assert first != second
