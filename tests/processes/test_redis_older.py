"""Redis is replaced by a replica that was behind: what it lacks comes from the record, in order, nothing twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from headrace.database.mends import Mend
from headrace.stack.ports import free_port
from headrace.streams.connection import command
from tests.integration.test_belt_survival import notes, opened
from tests.lanes import consuming, eventually, relaying, settings_of
from tests.own_stores import own_redis

pytestmark = pytest.mark.processes

_CHUNK = 65536


class Switch:
    """The address of Redis, which leads to the one or the other server, as after a failover."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self._open: set[asyncio.StreamWriter] = set()

    def turn(self, target: int) -> None:
        """Lead to another server; what is connected is cut."""
        self.target = target
        for writer in self._open:
            writer.close()

    async def lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes."""
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._open |= {writer, far_writer}
            await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))
        writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def switched(target: int) -> AsyncIterator[Switch]:
    """Run a switch for the block."""
    switch = Switch(target)
    server = await asyncio.start_server(switch.lead, "127.0.0.1", switch.port)
    try:
        yield switch
    finally:
        switch.turn(switch.target)
        server.close()


async def test_each_event_is_handled_once_when_a_replica_that_was_behind_is_promoted(
    tmp_path: Path, database_url: str
) -> None:
    """Acknowledged writes are lost in the failover, groups and entries; nobody is told, and all goes on by itself."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    async with (
        own_redis(tmp_path / "first") as first,
        own_redis(tmp_path / "second") as second,
        Redis.from_url(second.url) as replica,
        switched(_port(first.url)) as switch,
        opened(database_url, f"redis://127.0.0.1:{switch.port}/0") as road,
    ):
        await command(replica, "REPLICAOF", "127.0.0.1", _port(first.url))
        await eventually(lambda: _follows(replica))
        settings = settings_of(database_url, road.settings.redis_url)
        async with relaying(settings), consuming(settings, notes):
            await road.publish(rounds=3)
            await road.settled()
            await eventually(lambda: _has_all(first.url, replica))
            await command(replica, "REPLICAOF", "NO", "ONE")
            await road.publish(rounds=5)
            await road.settled()

            first.end(signal.SIGKILL)
            switch.turn(_port(second.url))
            await eventually(lambda: road.mended(Mend.STREAM_BEHIND))
            await road.publish(rounds=3)
            await road.settled()

        await road.expect_each_once()


def _port(url: str) -> int:
    return urlsplit(url).port or 0


async def _follows(replica: Redis) -> bool:
    return (await replica.info("replication")).get("master_link_status") == "up"


async def _has_all(first: str, replica: Redis) -> bool:
    """Tell whether the replica has come to where the primary is."""
    async with Redis.from_url(first) as primary:
        there = (await primary.info("replication"))["master_repl_offset"]
    return bool((await replica.info("replication")).get("slave_repl_offset", 0) >= there)
