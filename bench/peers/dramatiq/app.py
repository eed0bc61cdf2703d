"""Dramatiq: `dramatiq app --processes 1 --threads 32`.

Owns the broker and its one actor. Messages and results lie in Redis; the middleware is what Dramatiq brings by default,
and `Results`, which `BENCH_NO_RESULTS` leaves out: storing them takes it more than half of its rate.
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["BENCH_REDIS_URL"])
if "BENCH_NO_RESULTS" not in os.environ:
    broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_RESULTS_URL"]), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def echo(value: object) -> object:
    """Return the value."""
    return value
