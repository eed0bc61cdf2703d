"""A bare loop over one consumer group: `python -m bench.loop`.

Owns the least that a consumer of a stream can do with redis-py: read a hundred entries, decode each into the same typed
value that a subscriber gets, do nothing with it, acknowledge the hundred in one command. No order, no record, no
failure: what Headrace does on top is measured against it.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import uvloop
from redis.asyncio import Redis

from bench.grouped import Ticked
from bench.peers.tally import Tally
from headrace.events.registry import event_type_of
from headrace.streams.payload import Wanted

STREAM = "bare"
FIELD = b"e"
_COUNT = 100


async def _loop(group: str) -> None:
    redis = Redis.from_url(os.environ["HEADRACE_REDIS_URL"], protocol=2, socket_timeout=None)
    tally, wanted = Tally(), Wanted([event_type_of(Ticked).type])
    decode = msgspec.json.Decoder(Ticked).decode
    while True:
        reply: Any = await redis.xreadgroup(group, "1", {STREAM: ">"}, count=_COUNT, block=1000)
        for _, entries in reply or ():
            for _, fields in entries:
                event = wanted.read(fields[FIELD])
                if event is not None:
                    decode(event.data)
            await redis.xack(STREAM, group, *(identity for identity, _ in entries))
            tally(len(entries))


if __name__ == "__main__":
    uvloop.run(_loop(os.environ["BENCH_GROUP"]))
