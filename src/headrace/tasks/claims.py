"""Claims with an expiry, in Redis: who may have an effect that PostgreSQL knows nothing of.

Owns the keys `headrace:{belt}:claim:…` and their three scripts. A claim is `doing`, with the job and the fence that
hold it, then `done`; either leaves by itself when its time is up. A later run of the same job takes over what an
earlier one was doing: that one is dead, or fenced off. Another job's claim is respected. Redis may lose a claim at any
time (a restart forgets a second, FLUSHALL all of them), and then the effect may happen again: never let one guard what
must not happen twice, and never count on a claim to be exclusive after its time.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from uuid import UUID

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from headrace import belt
from headrace.errors import UnavailableError
from headrace.settings import Settings
from headrace.streams.connection import AWAY, command, open_commands

PREFIX: Final = f"{belt.PREFIX}claim:"

_TAKE: Final = """
local held = redis.call('GET', KEYS[1])
if held then
  local state, job, fence = string.match(held, '^(%a+) (%S+) (%d+)$')
  if state == 'done' then return -1 end
  if job ~= ARGV[1] or tonumber(fence) >= tonumber(ARGV[2]) then return redis.call('PTTL', KEYS[1]) end
end
redis.call('SET', KEYS[1], 'doing ' .. ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 0
"""
_FINISH: Final = """
local held = redis.call('GET', KEYS[1])
if held and held ~= 'doing ' .. ARGV[1] .. ' ' .. ARGV[2] then return 0 end
redis.call('SET', KEYS[1], 'done ' .. ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 1
"""
_LET_GO: Final = """
if redis.call('GET', KEYS[1]) ~= 'doing ' .. ARGV[1] .. ' ' .. ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class Standing(Enum):
    """How a run stands with what it wanted to claim."""

    MINE = auto()
    """This run holds the claim: the effect is its to make."""
    DONE = auto()
    """The effect was made before."""


class Busy(msgspec.Struct, frozen=True):
    """Another job holds the claim, for so long at most."""

    seconds: float


class Holder(msgspec.Struct, frozen=True):
    """Who claims: a run of a job."""

    job_id: UUID
    fence: int


class ClaimStore(ABC):
    """Where claims are kept."""

    @abstractmethod
    async def take(self, key: str, holder: Holder, seconds: float) -> Standing | Busy:
        """Take the claim of a key where it is free, or an earlier run of the same job left it."""

    @abstractmethod
    async def finish(self, key: str, holder: Holder, seconds: float) -> None:
        """Say that the effect was made, for that long; nothing where somebody else has the claim by now."""

    @abstractmethod
    async def let_go(self, key: str, holder: Holder) -> None:
        """Give back what is still this holder's: the effect was not made."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a process provides to its tasks under this name."""

    store: ClaimStore


class RedisClaims(ClaimStore):
    """Claims in Redis; the caller owns the client."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def take(self, key: str, holder: Holder, seconds: float) -> Standing | Busy:
        """Take a claim.

        Raises:
            UnavailableError: Redis is away: nobody knows whose the claim is.

        """
        answer = await self._call(_TAKE, key, holder, seconds)
        if answer == 0:
            return Standing.MINE
        return Standing.DONE if answer == -1 else Busy(max(answer, 1) / 1000)

    async def finish(self, key: str, holder: Holder, seconds: float) -> None:
        """Say that the effect was made.

        Raises:
            UnavailableError: Redis is away.

        """
        await self._call(_FINISH, key, holder, seconds)

    async def let_go(self, key: str, holder: Holder) -> None:
        """Give a claim back.

        Raises:
            UnavailableError: Redis is away.

        """
        await self._call(_LET_GO, key, holder, 0)

    async def _call(self, script: str, key: str, holder: Holder, seconds: float) -> int:
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        parts = (1, PREFIX + key, str(holder.job_id), holder.fence, max(1, round(seconds * 1000)))
        try:
            try:
                return int(await command(self._redis, "EVALSHA", digest, *parts))
            except NoScriptError:
                return int(await command(self._redis, "EVAL", script, *parts))
        except AWAY as error:
            message = f"Redis does not answer: the claim of {key} cannot be decided"
            raise UnavailableError(message) from error


@asynccontextmanager
async def open_claims(settings: Settings) -> AsyncIterator[Claims]:
    """Provide the claims of a process; it connects to Redis when a task first asks for one."""
    redis = open_commands(settings.redis_url)
    try:
        yield Claims(RedisClaims(redis))
    finally:
        await redis.aclose()
