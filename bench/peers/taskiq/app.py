"""Taskiq as it comes, in its best settings: `taskiq worker app:broker --max-async-tasks 100 --no-parse`.

Owns the broker that Headrace is compared with. It reads a hundred entries at a time, begins its group at the start of
the stream (so that a backlog is there to be drained), keeps no time limit on results, and validates no arguments. Its
CLI uses uvloop where that is installed.
"""

from __future__ import annotations

import os

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

STREAM = "peer"
REDIS_URL = os.environ["BENCH_REDIS_URL"]

_results: RedisAsyncResultBackend[object] = RedisAsyncResultBackend(os.environ["BENCH_RESULTS_URL"])
broker = RedisStreamBroker(REDIS_URL, queue_name=STREAM, consumer_id="0", xread_count=100).with_result_backend(_results)


@broker.task("peer.echo")
async def echo(value: object) -> object:
    """Return the value."""
    return value
