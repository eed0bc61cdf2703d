"""Taskiq as it comes, in its best settings: `taskiq worker bench.peer:broker`.

Owns the broker that Headrace is compared with. It reads a hundred entries at a time, begins its group at the start of
the stream (so that a backlog is there to be drained), keeps no time limit on results, and validates no arguments.
"""

from __future__ import annotations

import os

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

STREAM = "peer"
VARIABLE = "BENCH_REDIS_URL"

_url = os.environ.get(VARIABLE, "redis://127.0.0.1:6379/1")
_results: RedisAsyncResultBackend[object] = RedisAsyncResultBackend(_url)
broker = RedisStreamBroker(_url, queue_name=STREAM, consumer_id="0", xread_count=100).with_result_backend(_results)


@broker.task("peer.echo")
async def echo(value: object) -> object:
    """Return the value."""
    return value
