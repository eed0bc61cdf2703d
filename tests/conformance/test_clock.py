"""ARQ itself on a cluster and behind sentinels: its ticks come, also after the server that had its keys died."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from arq import cron
from arq.typing import WorkerCoroutine
from arq.worker import Worker

from headrace.cron.arq_redis import TAG, arq_redis
from headrace.cron.arq_settings import QUEUE
from tests.conformance.conftest import needs_server
from tests.topologies import Topology

pytestmark = needs_server
PATIENCE_SECONDS = 20.0


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_ticks_come_when_their_server_died(request: pytest.FixtureRequest, kind: str) -> None:
    """Every key that ARQ changes lies in one slot, and its client finds the new primary."""
    topology: Topology = request.getfixturevalue(kind)
    topology.mend()
    topology.empty()

    ticks = asyncio.run(_ticks_before_and_after(topology))

    assert min(ticks) > 0


async def _ticks_before_and_after(topology: Topology) -> tuple[int, int]:
    ticked = 0

    async def tick(_ctx: dict[Any, Any]) -> None:
        nonlocal ticked
        ticked += 1

    async def another() -> int:
        before = ticked
        async with asyncio.timeout(PATIENCE_SECONDS):
            while ticked == before:
                await asyncio.sleep(0.02)
        return ticked - before

    worker = Worker(
        redis_pool=arq_redis(topology.url),
        queue_name=QUEUE,
        cron_jobs=[cron(cast("WorkerCoroutine", tick), second=set(range(60)), unique=False)],
        handle_signals=False,
        poll_delay=0.1,
        keep_result=0,
    )
    working = asyncio.create_task(worker.main())
    try:
        first = await another()
        topology.primary(TAG).kill()
        return first, await another()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await worker.close()
