"""Compare-and-append: a batch enters a lane's stream only at the position it belongs to.

Owns the two scripts that write to a lane, and the one way in which entries leave it. `append` writes only where the
stream's last id is the position before the batch, and otherwise says where the stream ends; so an event is never twice
in a stream, a lost tail is noticed at the next append, and a relay that woke up late can only write what belongs there
anyway. `rebase` makes a stream that is missing, foreign or not a stream begin after a position, without its groups:
their owners make them anew at their checkpoints. `trim` takes its bound from the record, never from Redis, whose own
idea of what is pending may be older or gone. Never write to a lane by any other way; never cap a stream by length, and
never XDEL: either would take what some group has yet to handle, or leave holes that a replica cannot load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from headrace.streams.names import entry_id, lane_key, position_of
from headrace.streams.transport import FULL, WRONG_TYPE, Batch

_TRIMMED_AT_ONCE = 100_000
"""Left alone Redis trims 10,000 at a time: a lane whose traffic is faster would grow for as long as it lasts."""

_LAST_ID = """
local function last_id(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return '0-0' end
  if kind ~= 'stream' then return 'wrong' end
  local facts = redis.call('XINFO', 'STREAM', key)
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then return facts[i + 1] end
  end
end
"""


_Call = tuple[int, tuple[bytes | str | int, ...]]
"""A lane, and the script's arguments for it."""


class _Script(msgspec.Struct, frozen=True):
    text: str
    digest: str


def _script(body: str) -> _Script:
    text = _LAST_ID + body
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_APPEND = _script("""
local last = last_id(KEYS[1])
local before = tonumber(ARGV[1])
if last ~= string.format('%.0f-0', before) then return last end
for i = 2, #ARGV do
  redis.call('XADD', KEYS[1], string.format('%.0f-0', before + i - 1), 'e', ARGV[i])
end
return string.format('%.0f-0', before + #ARGV - 1)
""")

_REBASE = _script("""
if last_id(KEYS[1]) ~= '0-0' then redis.call('DEL', KEYS[1]) end
redis.call('XGROUP', 'CREATE', KEYS[1], '\\0rebase', '0', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], '\\0rebase')
if ARGV[1] ~= '0-0' then redis.call('XSETID', KEYS[1], ARGV[1]) end
return ARGV[1]
""")


class RedisWriter:
    """The relay's side of lanes in Redis (see `transport.LaneWriter`), several lanes in one round trip."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def append(self, batches: Sequence[Batch]) -> dict[int, int]:
        """Append each batch where it belongs, and return where each lane's stream ends now.

        Raises:
            redis.exceptions.ConnectionError: Redis is away; what was written is unknown, the next append tells.

        """
        calls: list[_Call] = [(batch.lane, (batch.before, *batch.payloads)) for batch in batches]
        replies = await self._run(_APPEND, calls)
        return {batch.lane: _end(reply) for batch, reply in zip(batches, replies, strict=True)}

    async def rebase(self, lane: int, position: int) -> None:
        """Make the lane's stream one that ends, empty, at `position`; one that was never used keeps its groups."""
        for reply in await self._run(_REBASE, [(lane, (entry_id(position),))]):
            if isinstance(reply, Exception):
                raise reply

    async def trim(self, acknowledged: Mapping[int, int]) -> int:
        """Remove the entries up to and including the acknowledged position of each lane, by whole nodes of a stream."""
        pipeline = self._redis.pipeline(transaction=False)
        for lane, position in acknowledged.items():
            pipeline.execute_command(
                "XTRIM", lane_key(lane), "MINID", "~", entry_id(position + 1), "LIMIT", _TRIMMED_AT_ONCE
            )
        removed = 0
        for reply in await pipeline.execute(raise_on_error=False):
            if isinstance(reply, int):
                removed += reply
            elif isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                raise reply
        return removed

    async def _run(self, script: _Script, calls: Sequence[_Call]) -> list[bytes | Exception]:
        replies = await self._send(script, calls)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # Redis was restarted; what of this pipeline ran by now finds its own work done and does nothing
            await self._redis.script_load(script.text)
            replies = await self._send(script, calls)
        return replies

    async def _send(self, script: _Script, calls: Sequence[_Call]) -> list[bytes | Exception]:
        pipeline = self._redis.pipeline(transaction=False)
        for lane, arguments in calls:
            pipeline.execute_command("EVALSHA", script.digest, 1, lane_key(lane), *arguments)
        replies: list[bytes | Exception] = await pipeline.execute(raise_on_error=False)
        return replies


def _end(reply: bytes | Exception) -> int:
    if isinstance(reply, OutOfMemoryError):
        return FULL  # refused before the first write of the script, so nothing of the batch is there
    if isinstance(reply, Exception):
        raise reply
    return WRONG_TYPE if reply == b"wrong" else position_of(reply)
