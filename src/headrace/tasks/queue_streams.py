"""The queues in Redis: a worker's reader of their streams.

Owns the two connections of a worker to the belt. Reads have one of their own and are not cancelled at a shutdown: a
cancelled read strands its entries for as long as the dispatcher takes to notice. The belt may be emptied, restarted or
replaced: groups are made again at the next read. Never read more than was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from headrace.jobs.belt import GROUP, released_by, stream_of
from headrace.jobs.model import Claim
from headrace.streams.connection import command, open_commands, open_reader
from headrace.streams.ensure import ensure_group
from headrace.tasks.source import Place, Read

logger = structlog.get_logger(__name__)

_BLOCK_MILLISECONDS = 500
_MOMENT_SECONDS = 0.02
_PATIENCE_SECONDS = 5.0
"""How much longer than it should an answer may take: a store whose machine is gone says nothing for ever."""


class QueueStreams:
    """Streams of released jobs (see `source.Source`)."""

    def __init__(self, redis_url: str, consumer: str) -> None:
        """Read as `consumer`, a name that no other worker has."""
        self._reader = open_reader(redis_url)
        self._writer = open_commands(redis_url, connections=2)
        self._consumer = consumer
        self._busy_streams = 0
        self._grouped: set[str] = set()
        self.more_waits = False

    async def fetch(self, queues: Sequence[str], count: int) -> list[Read]:
        """Wait half a second for entries, and share `count` among the streams that had some lately."""
        try:
            await self._ensure_groups(queues)
            return await self._fetch(queues, max(1, count // (self._busy_streams or len(queues))))
        except (RedisError, OSError):
            self._grouped.clear()
            raise

    async def remove(self, places: Sequence[Place]) -> None:
        """Acknowledge entries and delete them, many in one round trip."""
        by_stream: dict[bytes, list[bytes]] = {}
        for stream, entry_id in places:
            by_stream.setdefault(stream, []).append(entry_id)
        async with self._writer.pipeline(transaction=False) as pipeline:
            for stream, ids in by_stream.items():
                pipeline.xack(stream, GROUP, *ids)
                pipeline.xdel(stream, *ids)
            await pipeline.execute(raise_on_error=False)

    async def aclose(self) -> None:
        """Close both connections."""
        await self._reader.aclose()
        await self._writer.aclose()

    async def _fetch(self, queues: Sequence[str], each: int) -> list[Read]:
        keys = [stream_of(queue) for queue in queues]
        try:
            async with asyncio.timeout(_BLOCK_MILLISECONDS / 1000 + _PATIENCE_SECONDS):
                reply: Any = await command(
                    self._reader, "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", each,
                    "BLOCK", _BLOCK_MILLISECONDS, "STREAMS", *keys, *(">" for _ in keys),
                )  # fmt: skip
        except ResponseError as error:
            logger.info("queues_made_anew", error=str(error))  # NOGROUP, UNBLOCKED, WRONGTYPE: the belt was replaced
            self._grouped.clear()
            await asyncio.sleep(_MOMENT_SECONDS)
            return []
        self._busy_streams = len(reply or ())
        self.more_waits = any(len(entries) == each for _, entries in reply or ())
        read: list[Read] = []
        unreadable: list[Place] = []
        for stream, entries in reply or ():
            for entry_id, fields in entries:
                try:
                    read.append((stream, entry_id, _claim_of(fields)))
                except (IndexError, msgspec.DecodeError) as error:
                    # Somebody else's entry, or another version's: the job, if it is one, is released again.
                    logger.warning(
                        "entry_not_readable", stream=stream.decode(), entry=entry_id.decode(), error=str(error)
                    )
                    unreadable.append((stream, entry_id))
        if unreadable:
            await self.remove(unreadable)
        return read

    async def _ensure_groups(self, queues: Sequence[str]) -> None:
        for queue in queues:
            if queue not in self._grouped:
                await ensure_group(self._writer, stream_of(queue), GROUP)
                self._grouped.add(queue)


def _claim_of(fields: Sequence[bytes] | None) -> Claim:
    return released_by((fields or [])[1])
