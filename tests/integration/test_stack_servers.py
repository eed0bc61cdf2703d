"""The embedded servers, and the fixtures that are made of them."""

from __future__ import annotations

import asyncpg
import redis.asyncio


async def test_database_is_migrated_and_empty_when_a_test_asks_for_one(database_url: str) -> None:
    """A test gets a database of its own with every table and no job."""
    connection = await asyncpg.connect(database_url)

    jobs = await connection.fetchval("SELECT count(*) FROM jobs")
    await connection.execute("CREATE TABLE left_behind ()")
    await connection.close()

    assert jobs == 0


async def test_database_is_another_one_when_the_next_test_asks(database_url: str) -> None:
    """What one test did to its database is not seen by the next."""
    connection = await asyncpg.connect(database_url)

    left_behind = await connection.fetchval("SELECT to_regclass('left_behind')")
    await connection.close()

    assert left_behind is None


async def test_redis_is_empty_when_a_test_asks_for_one(redis_url: str) -> None:
    """A test gets an empty Redis database."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        keys = await client.dbsize()
        policy = await client.config_get("maxmemory-policy")

    assert keys == 0
    assert policy == {"maxmemory-policy": "noeviction"}
