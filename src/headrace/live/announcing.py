"""Announcing: the relay tells live tails what has got its position.

Owns the channel, the form of an announcement, and when there is any: only while somebody listens, which Redis is asked
each second while events come. Whoever misses an announcement sees it by the next position and reads the record, so an
announcement may be lost, late or too large to be sent whole. Never let a failure here reach the relay, and never do
anything here for an event that nobody listens to.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.belt import PREFIX
from headrace.events.model import RecordedEvent
from headrace.streams.payload import encode

logger = structlog.get_logger(__name__)

ASK_SECONDS: Final = 1.0
_MOST_BYTES: Final = 1024 * 1024
"""Of the events in one announcement; Redis drops subscribers that have far more than this to read."""

Placed = Mapping[int, Sequence[tuple[int, RecordedEvent | None]]]


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """Events of a lane at the positions after `before`, up to `last`; without payloads, look them up on record."""

    lane: int
    before: int
    last: int
    payloads: Sequence[bytes]


_encode = msgspec.msgpack.Encoder().encode
read_announcements = msgspec.msgpack.Decoder(list[Announcement]).decode
"""Read what came on the channel."""


def channel_of(redis: Redis) -> str:
    """Return the channel of the deployment: channels are shared by all databases of a server."""
    return f"{PREFIX}live:{redis.connection_pool.connection_kwargs.get('db') or 0}"


class Announcer:
    """Announces events to who listens."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._channel = channel_of(redis)
        self._ask_at = 0.0
        self._heard = False

    async def announce(self, placed: Placed) -> None:
        """Tell of events that have got these positions, if there are any and somebody listens; never fails."""
        if not placed:
            return
        try:
            if time.monotonic() >= self._ask_at:
                await self._ask()
            if self._heard:
                await self._redis.publish(self._channel, _encode(_announcements(placed)))
        except (RedisError, OSError) as error:  # the record has it all; who listens reads it there
            logger.debug("not_announced", error=repr(error))
            self._heard = False

    async def _ask(self) -> None:
        self._ask_at = time.monotonic() + ASK_SECONDS
        ((_, listeners),) = await self._redis.pubsub_numsub(self._channel)
        self._heard = listeners > 0


def _announcements(placed: Placed) -> list[Announcement]:
    weight = sum(len(event.data) for events in placed.values() for _, event in events if event is not None)
    return [
        Announcement(
            lane,
            before=events[0][0] - 1,
            last=events[-1][0],
            payloads=[] if weight > _MOST_BYTES else [encode(event) for _, event in events],
        )
        for lane, events in placed.items()
    ]
