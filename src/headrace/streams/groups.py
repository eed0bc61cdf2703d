"""Consumer groups on lanes: begin at a checkpoint, read, acknowledge.

Owns the commands by which a subscription reads. A group's place in Redis is only a convenience: the truth is the
checkpoint on record, and `rewind` makes a group equal to it, whatever was lost, added or read by a process that lost
its lease. Entries that a gone consumer had been given come again, because they lie behind the checkpoint. What somebody
else was given in this group's name is noticed when nothing more comes. Never create a group at `$`, and never read with
NOACK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace.streams.connection import command
from headrace.streams.names import entry_id, lane_key, position_of
from headrace.streams.transport import WAIT_SECONDS, Entry, GroupLostError, GroupTakenError


class RedisGroup:
    """One reader of a subscription's groups in Redis (see `transport.LaneGroup`)."""

    def __init__(self, redis: Redis, connection: Redis, group: str, consumer: str) -> None:
        """Read over `connection`, which comes from `open_reader` and is nobody else's; `redis` is the shared pool."""
        self._redis = redis
        self._connection = connection
        self._group = group
        self._consumer = consumer
        self._given: dict[int, int] = {}
        """The last position of each lane that this reader was given, or rewound to."""

    async def read(
        self, lanes: Sequence[int], *, count: int, wait_seconds: float = WAIT_SECONDS
    ) -> dict[int, list[Entry]]:
        """Wait for entries that nobody of the group was given; return those of each lane that has some.

        Raises:
            GroupLostError: a group or a stream is missing, another kind of key stands there, or what was to come was
                given to somebody else.
            redis.exceptions.ConnectionError: Redis is away.

        """
        keys = [lane_key(lane) for lane in lanes]
        try:
            reply: Any = await command(
                self._connection, "XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count,
                "BLOCK", max(int(wait_seconds * 1000), 1), "STREAMS", *keys, *(">" for _ in keys),
            )  # fmt: skip
        except ResponseError as error:
            raise GroupLostError(str(error)) from error
        if not reply:
            await self._look(lanes)
            return {}
        by_key = {key.encode(): lane for key, lane in zip(keys, lanes, strict=True)}
        read = {by_key[key]: _entries(raw) for key, raw in reply}
        for lane, entries in read.items():
            self._given[lane] = entries[-1].position
        return read

    async def rewind(self, lane: int, position: int) -> None:
        """Make the group's next entry on this lane the one after `position`, and forget every consumer of it.

        A missing group or stream is made. What a forgotten consumer had been given and not acknowledged comes again if
        it lies after `position`, and is done if it does not.
        """
        key = lane_key(lane)
        try:
            if not await self._made(key, position):
                for consumer in await self._redis.xinfo_consumers(key, self._group):
                    await self._redis.xgroup_delconsumer(key, self._group, consumer["name"])
                await command(self._redis, "XGROUP", "SETID", key, self._group, entry_id(position))
        except ResponseError as error:
            raise GroupLostError(str(error)) from error
        self._given[lane] = position

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

    async def _made(self, key: str, position: int) -> bool:
        """Make the group, and the stream, where it is missing; tell whether it was."""
        try:
            await command(self._redis, "XGROUP", "CREATE", key, self._group, entry_id(position), "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            return False
        return True

    async def _look(self, lanes: Sequence[int]) -> None:
        """Find out, when nothing comes, whether somebody else was given what was ours."""
        pipeline = self._redis.pipeline(transaction=False)
        for lane in lanes:
            pipeline.xinfo_groups(lane_key(lane))
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        for lane, reply in zip(lanes, replies, strict=True):
            position = self._delivered(reply)
            if position is not None and position > self._given.get(lane, position):
                message = f"the entries of lane {lane} up to {position} were given to somebody else"
                raise GroupTakenError(message)

    def _delivered(self, reply: list[dict[str, Any]] | Exception) -> int | None:
        """Return up to which position the group was given entries; None where it is missing: the next read says so."""
        if isinstance(reply, ResponseError):
            return None
        if isinstance(reply, Exception):
            raise reply
        mine = [group for group in reply if group["name"] in {self._group, self._group.encode()}]
        return position_of(mine[0]["last-delivered-id"]) if mine else None


def _entries(raw: Sequence[Sequence[Any]]) -> list[Entry]:
    """Return the entries of a reply: at once where all of them are a relay's, else one by one."""
    try:
        positions = b",".join(identity for identity, _ in raw).replace(b"-0,", b" ").removesuffix(b"-0").split()
        return list(map(Entry, map(int, positions), [fields[1] for _, fields in raw]))
    except (TypeError, ValueError, IndexError):  # a stranger's id, or a body that is gone
        return [_entry(identity, fields) for identity, fields in raw]


def _entry(identity: bytes, fields: Sequence[bytes] | None) -> Entry:
    return Entry(position_of(identity), fields[1] if fields and len(fields) > 1 else None)
