"""FastStream on Redis Streams, as its documentation has it: `faststream run app:app`.

Owns one consumer of one group, acknowledged, with a pydantic body: message by message, or, where `BENCH_BATCH` is set,
in its batch mode of that many. uvloop and hiredis are there, no line is logged for a message.
"""

from __future__ import annotations

import os

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from pydantic import BaseModel
from tally import Tally

STREAM = "peer"
_GROUP = os.environ.get("BENCH_GROUP", "first")
_BATCH = int(os.environ.get("BENCH_BATCH", "0"))

broker = RedisBroker(os.environ["BENCH_REDIS_URL"])
app = FastStream(broker)
tally = Tally()


class Ticked(BaseModel):
    """Something happened."""

    number: int
    text: str


if _BATCH:

    @broker.subscriber(stream=StreamSub(STREAM, group=_GROUP, consumer="1", batch=True, max_records=_BATCH))
    async def many(ticks: list[Ticked]) -> None:
        """Count a batch."""
        tally(len(ticks))

else:

    @broker.subscriber(stream=StreamSub(STREAM, group=_GROUP, consumer="1", max_records=100))
    async def one(tick: Ticked) -> None:
        """Count one."""
        del tick
        tally()
