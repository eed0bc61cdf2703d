"""Consumer groups on lanes: begin at a checkpoint, read, acknowledge.

Owns the commands by which a subscription reads. A group's place in Redis is only a convenience: the truth is the
checkpoint on record, and `rewind` makes a group equal to it, whatever was lost, added or read by a process that lost
its lease. Entries that a gone consumer had been given come again, because they lie behind the checkpoint. Never create
a group at `$`, and never read with NOACK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace.streams.connection import command
from headrace.streams.names import entry_id, lane_key, position_of

BLOCK_MILLISECONDS = 1000


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a lane; `payload` is None where its body is no longer in the stream."""

    position: int
    payload: bytes | None


class GroupLostError(Exception):
    """The group, or the stream below it, is not there: rewind, and read again."""


class Reader:
    """Reads the lanes of one subscription over a connection of its own."""

    def __init__(self, redis: Redis, group: str, consumer: str) -> None:
        """Read for `group`; `redis` comes from `open_reader`, and no two processes may have the same `consumer`."""
        self._redis = redis
        self._group = group
        self._consumer = consumer

    async def read(
        self, lanes: Sequence[int], *, count: int, block_milliseconds: int = BLOCK_MILLISECONDS
    ) -> dict[int, list[Entry]]:
        """Wait for entries that nobody of the group was given; return those of each lane that has some.

        Args:
            lanes: the lanes to read, at least one.
            count: how many entries of a lane at most.
            block_milliseconds: how long to wait for the first entry.

        Raises:
            GroupLostError: a group or a stream is missing, or another kind of key stands there.
            redis.exceptions.ConnectionError: Redis is away.

        """
        keys = [lane_key(lane) for lane in lanes]
        try:
            reply: Any = await command(
                self._redis, "XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count,
                "BLOCK", block_milliseconds, "STREAMS", *keys, *(">" for _ in keys),
            )  # fmt: skip
        except ResponseError as error:
            raise GroupLostError(str(error)) from error
        by_key = {key.encode(): lane for key, lane in zip(keys, lanes, strict=True)}
        return {by_key[key]: [_entry(raw) for raw in entries] for key, entries in reply or ()}


class Groups:
    """Keeps the groups of one subscription in order, over the shared pool."""

    def __init__(self, redis: Redis, group: str) -> None:
        self._redis = redis
        self._group = group

    async def rewind(self, lane: int, position: int) -> None:
        """Make the group's next entry on this lane the one after `position`, and forget every consumer of it.

        A missing group or stream is made. What a forgotten consumer had been given and not acknowledged comes again if
        it lies after `position`, and is done if it does not.
        """
        key = lane_key(lane)
        try:
            await command(self._redis, "XGROUP", "CREATE", key, self._group, entry_id(position), "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise GroupLostError(str(error)) from error
        else:
            return
        try:
            for consumer in await self._redis.xinfo_consumers(key, self._group):
                await self._redis.xgroup_delconsumer(key, self._group, consumer["name"])
            await command(self._redis, "XGROUP", "SETID", key, self._group, entry_id(position))
        except ResponseError as error:
            raise GroupLostError(str(error)) from error

    async def acknowledge(self, handled: Mapping[int, Sequence[int]]) -> None:
        """Acknowledge the handled positions of each lane, one command per lane in one round trip.

        A group that is missing by now is no error: the checkpoint says the same.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for lane, positions in handled.items():
            pipeline.execute_command("XACK", lane_key(lane), self._group, *map(entry_id, positions))
        for reply in await pipeline.execute(raise_on_error=False):
            if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                raise reply

    async def delivered(self, lanes: Sequence[int]) -> dict[int, int | None]:
        """Return up to which position each lane's group was given entries; None where group or stream is missing."""
        pipeline = self._redis.pipeline(transaction=False)
        for lane in lanes:
            pipeline.xinfo_groups(lane_key(lane))
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return {lane: self._delivered(reply) for lane, reply in zip(lanes, replies, strict=True)}

    def _delivered(self, reply: list[dict[str, Any]] | Exception) -> int | None:
        if isinstance(reply, ResponseError):
            return None
        if isinstance(reply, Exception):
            raise reply
        mine = [group for group in reply if group["name"] in {self._group, self._group.encode()}]
        return position_of(mine[0]["last-delivered-id"]) if mine else None


def _entry(raw: Sequence[Any]) -> Entry:
    identity, fields = raw
    return Entry(position_of(identity), fields[1] if fields and len(fields) > 1 else None)
