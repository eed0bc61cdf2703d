"""Celery in its best settings: `celery --app app worker`.

Owns the application: acknowledgement after the run, broker and results in Redis, and what Celery's chapters
"Optimizing" and "Configuration" advise for many short tasks: a high prefetch multiplier, no rate limits, no events, and
on the command line no gossip, no mingle and no heartbeat.
"""

from __future__ import annotations

import os

from celery import Celery

app = Celery("peer", broker=os.environ["BENCH_REDIS_URL"], backend=os.environ["BENCH_RESULTS_URL"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="peer.echo")
def echo(value: object) -> object:
    """Return the value."""
    return value
