"""Redis dies, is emptied, and loses its connections under live tails: nothing is missed, twice, or out of order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from headrace.settings import Settings
from headrace.stack import readiness, redis
from headrace.stack.ports import free_port
from tests.live import Served, message, serving
from tests.processes.test_consume_stores import Server
from tests.servers import environment

pytestmark = pytest.mark.processes

ROUNDS: Final = 60


@pytest.fixture
async def belt(tmp_path: Path) -> AsyncIterator[tuple[Server, str]]:
    """A Redis that the test may kill."""
    server = redis.prepare(tmp_path / "belt", free_port())
    belt = Server(server.program(environment()), lambda: readiness.redis_answers(server.url()), tmp_path / "redis.log")
    await belt.start()
    yield belt, server.url()
    await belt.close()


async def test_tails_miss_nothing_when_redis_is_lost_in_the_middle(database_url: str, belt: tuple[Server, str]) -> None:
    """Flushed, its subscribers cut off, killed and started again, while events of several keys come."""
    server, url = belt
    settings = Settings(database_url=database_url, redis_url=url)
    async with serving(settings) as served, served.tail() as reader, served.socket() as socket:
        publishing = asyncio.create_task(_publish(served))
        told = await reader.numbers(ROUNDS)
        async with Redis.from_url(url) as client:
            await client.flushall()
        told += await reader.numbers(ROUNDS)
        async with Redis.from_url(url) as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]  # redis-py does not annotate it
        told += await reader.numbers(ROUNDS)
        await server.kill()
        told += await reader.numbers(ROUNDS)
        await server.start()
        told += await reader.numbers(ROUNDS)
        await publishing
        messages = [(await message(socket))["data"]["number"] for _ in told]

    for numbers in (told, messages):
        assert sorted(numbers) == list(range(5 * ROUNDS))
        for key in range(4):
            assert [number for number in numbers if number % 4 == key] == list(range(key, 5 * ROUNDS, 4))


async def _publish(served: Served) -> None:
    for number in range(5 * ROUNDS):
        await served.publish(number, key=f"k{number % 4}")
        await asyncio.sleep(0.005)
