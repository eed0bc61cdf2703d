"""Compare-and-append: a batch enters a lane's stream only at the position it belongs to.

Owns the two scripts that write to a lane. `append` writes only where the stream's last id is the position before the
batch, and otherwise says where the stream ends; so an event is never twice in a stream, a lost tail is noticed at the
next append, and a relay that woke up late can only write what belongs there anyway. `rebase` makes a stream that is
missing, foreign or not a stream begin after a position, without its groups: their owners make them anew at their
checkpoints. Each call names one key, as Redis Cluster wants it. Never write to a lane by any other way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from headrace.streams.names import entry_id, lane_key, position_of

WRONG_TYPE = -1
"""Where a stream ends that is none: another kind of key stands in its place."""

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
_ENDS = _script("return last_id(KEYS[1])")


class Batch(msgspec.Struct, frozen=True):
    """Entries that follow one another on a lane: the first has the position after `before`."""

    lane: int
    before: int
    payloads: Sequence[bytes]

    @property
    def last(self) -> int:
        """The position of the last entry."""
        return self.before + len(self.payloads)


class LaneWriter:
    """Writes to the streams of lanes, several lanes in one round trip."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def append(self, batches: Sequence[Batch]) -> dict[int, int]:
        """Append each batch where it belongs; return where each lane's stream ends now.

        A lane that ends at its batch's `last` has it. Any other answer means that nothing was written to that lane:
        `WRONG_TYPE`, or the position at which the stream really ends.

        Raises:
            redis.exceptions.ConnectionError: Redis is away; what was written is unknown, the next append tells.

        """
        calls: list[_Call] = [(batch.lane, (batch.before, *batch.payloads)) for batch in batches]
        return await self._run(_APPEND, calls)

    async def rebase(self, lane: int, position: int) -> None:
        """Make the lane's stream one that ends, empty, at `position`; one that was never used keeps its groups."""
        await self._run(_REBASE, [(lane, (entry_id(position),))])

    async def ends(self, lanes: Sequence[int]) -> dict[int, int]:
        """Return where the stream of each lane ends: 0 where it is missing, `WRONG_TYPE` where it is none."""
        return await self._run(_ENDS, [(lane, ()) for lane in lanes])

    async def _run(self, script: _Script, calls: Sequence[_Call]) -> dict[int, int]:
        replies = await self._send(script, calls)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # Redis was restarted; what of this pipeline ran by now finds its own work done and does nothing
            await self._redis.script_load(script.text)
            replies = await self._send(script, calls)
        return {lane: _end(reply) for (lane, _), reply in zip(calls, replies, strict=True)}

    async def _send(self, script: _Script, calls: Sequence[_Call]) -> list[bytes | Exception]:
        pipeline = self._redis.pipeline(transaction=False)
        for lane, arguments in calls:
            pipeline.execute_command("EVALSHA", script.digest, 1, lane_key(lane), *arguments)
        replies: list[bytes | Exception] = await pipeline.execute(raise_on_error=False)
        return replies


def _end(reply: bytes | Exception) -> int:
    if isinstance(reply, Exception):
        raise reply
    return WRONG_TYPE if reply == b"wrong" else position_of(reply)
