"""When a server that was just started answers.

Owns the waiting: a question asked again and again until it is answered, or the time is up, or the server has ended.
Never sleep for a fixed time instead of asking.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import asyncpg
import redis.exceptions

from headrace.streams.connection import open_commands

_PAUSE_SECONDS = 0.03


async def postgres_answers(url: str) -> bool:
    """Tell whether PostgreSQL answers a query."""
    try:
        connection = await asyncpg.connect(url, timeout=2)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        return False
    try:
        return bool(await connection.fetchval("SELECT 1") == 1)
    finally:
        await connection.close()


async def redis_answers(url: str) -> bool:
    """Tell whether Redis answers, and is not still reading its file."""
    async with contextlib.aclosing(open_commands(url, connections=1)) as client:
        try:
            return bool(await client.ping())
        except (redis.exceptions.RedisError, OSError):
            return False


async def until(question: Callable[[], Awaitable[bool]], timeout_seconds: float) -> bool:
    """Ask until the answer is yes; tell whether it was, within the time."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while not await question():  # noqa: ASYNC110 - the other process cannot set an event of ours
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        return False
    return True
