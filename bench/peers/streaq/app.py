"""streaQ in its best settings: `streaq run app:worker`.

Owns the worker: a hundred tasks at once and as many prefetched, uvloop, and no line of log for each task. Results stay
for the five minutes that streaQ keeps them by default.
"""

from __future__ import annotations

import os

from streaq import Worker

_AT_ONCE = 100
worker = Worker(
    redis_url=os.environ["BENCH_REDIS_URL"],
    queue_name="peer",
    concurrency=_AT_ONCE,
    prefetch=_AT_ONCE,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(silent=True)
async def echo(value: object) -> object:
    """Return the value."""
    return value
