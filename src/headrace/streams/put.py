"""Putting entries on a stream: any number of them in one command.

Owns the append to streams whose ids the server gives: the queues'. (A lane's entries have ids of their own: `append`.)
One script call with many payloads costs a third of as many XADDs in a pipeline, most of it in this process. All of the
payloads enter the stream, or none where the key is no stream. Never put an event on a lane from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from headrace.streams.connection import command

_PUT = """
for i = 2, #ARGV do redis.call('XADD', KEYS[1], '*', ARGV[1], ARGV[i]) end
return #ARGV - 1
"""
_DIGEST = hashlib.sha1(_PUT.encode(), usedforsecurity=False).hexdigest()


async def put(redis: Redis, key: str, field: bytes, payloads: Sequence[bytes]) -> None:
    """Append an entry with one field for each payload, in their order.

    Raises:
        redis.exceptions.RedisError: Redis is away or refuses; whether the entries are there is unknown.

    """
    try:
        await command(redis, "EVALSHA", _DIGEST, 1, key, field, *payloads)
    except NoScriptError:  # Redis was restarted: EVAL leaves the script there for the next time
        await command(redis, "EVAL", _PUT, 1, key, field, *payloads)
