"""What ARQ's command line reads: `arq workers.cron.WorkerSettings`.

Owns the wiring of the clock's functions to ARQ's cron, for ARQ 0.25 and 0.28 alike. ARQ's own protection against double
ticks is not used: it has failed, and the ledger decides. Its messages are msgpack, because ARQ's default, pickle, runs
whatever code somebody puts into Redis. Never put work here: a tick enqueues, it does not do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast
from urllib.parse import unquote

import msgspec
from arq import cron
from arq.connections import ArqRedis, RedisSettings
from arq.cron import CronJob
from arq.typing import WorkerCoroutine

from headrace.application import Registry
from headrace.cron.arq_redis import TAG, arq_redis
from headrace.cron.process import TICK_SECONDS, UPKEEP_SECONDS, Clock, Context
from headrace.settings import Settings

QUEUE: Final = f"headrace:{TAG}:clock"
"""The clocks' own queue: another user of ARQ in the same Redis takes no tick away."""

_JUST_AFTER: Final = 20_000
"""Microseconds after the full second: the record's clock may be a little behind this machine's."""

_FOR_EVER: Final = 1_000_000_000

ClockFunction = Callable[[Context], Awaitable[None]]


@dataclass(frozen=True)
class ArqSettings:
    """The arguments of ARQ's Worker that differ from its defaults; ARQ reads the instance's `__dict__`."""

    redis_settings: RedisSettings | None
    redis_pool: ArqRedis | None
    """One of the two."""
    cron_jobs: Sequence[CronJob]
    on_startup: ClockFunction
    on_shutdown: ClockFunction
    job_serializer: Callable[[dict[str, Any]], bytes]
    job_deserializer: Callable[[bytes], dict[str, Any]]
    queue_name: str = QUEUE
    poll_delay: float = 0.1
    """Seconds between two looks at the queue: what a tick may be late."""
    max_jobs: int = 10
    keep_result: float = 0
    log_results: bool = False
    job_completion_wait: int = 3
    """Seconds that a step under way has to end, at SIGTERM."""
    health_check_interval: float = 10
    """Seconds; `arq --check workers.cron.WorkerSettings` asks for it."""


def arq_settings(settings: Settings, registry: Registry) -> ArqSettings:
    """Build what ARQ runs the clock by; opens nothing."""
    clock = Clock(settings, registry)
    client = arq_redis(settings.redis_url)
    if client is not None:
        client.job_serializer, client.job_deserializer = _encode, msgspec.msgpack.decode
    return ArqSettings(
        redis_settings=_redis_settings(settings.redis_url) if client is None else None,
        redis_pool=client,
        cron_jobs=(
            _cron(clock.tick, seconds=range(60), timeout_seconds=TICK_SECONDS + 1),
            _cron(clock.rescue, seconds=range(5, 60, 10), timeout_seconds=TICK_SECONDS + 1),
            _cron(clock.make_partitions, minutes={13}, seconds={31}, timeout_seconds=UPKEEP_SECONDS, at_start=True),
            _cron(clock.forget, seconds={43}, timeout_seconds=UPKEEP_SECONDS),
            _cron(clock.prune, minutes=range(7, 60, 10), seconds={37}, timeout_seconds=UPKEEP_SECONDS),
        ),
        on_startup=clock.start,
        on_shutdown=clock.stop,
        job_serializer=_encode,
        job_deserializer=msgspec.msgpack.decode,
    )


def _cron(
    function: ClockFunction,
    *,
    timeout_seconds: float,
    seconds: Sequence[int] | set[int],
    minutes: Sequence[int] | set[int] | None = None,
    at_start: bool = False,
) -> CronJob:
    """Call a function of the clock at these seconds of these minutes, or of every minute."""
    return cron(
        cast("WorkerCoroutine", function),
        name=function.__name__,
        minute=None if minutes is None else set(minutes),
        second=set(seconds),
        microsecond=_JUST_AFTER,
        run_at_startup=at_start,
        unique=False,
        timeout=timeout_seconds,
        max_tries=5,
    )


def _redis_settings(redis_url: str) -> RedisSettings:
    """Read the URL as redis-py does, and wait for a Redis that is away at the start."""
    given = RedisSettings.from_dsn(redis_url)
    return replace(
        given,
        username=unquote(given.username) if given.username else None,
        password=unquote(given.password) if given.password else None,
        conn_retries=_FOR_EVER,
    )


def _encode(message: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode(message, enc_hook=repr)  # an exception is only ever shown
