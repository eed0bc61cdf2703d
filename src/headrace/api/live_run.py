"""A live tail from its first frame to its last, whatever carries it.

Owns what SSE and WebSocket share: the frames go out as fast as the client reads, the client's going away ends the tail,
and so does the record's where the tail is read from it (the client comes back with the last id that it has). Whatever
happens, the listener is left and no task stays behind. There is one task more than the server's own for each client,
and nothing else that waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog
from litestar.types import Receive

from headrace.database.away import DRIVER_ERRORS
from headrace.live.frames import Frame, Notice
from headrace.live.listener import End, Listener
from headrace.live.tailing import Tail

logger = structlog.get_logger(__name__)

_TOLD: Final[Mapping[End | None, str]] = {
    End.SLOW: "nothing of what was sent was read for some seconds: resume after the last event that you have",
    End.REVOKED: "the key is no longer valid",
}
"""What a client is told of an end that it cannot know the reason of."""

_GONE: Final = frozenset({"http.disconnect", "websocket.disconnect"})


async def run_tail(tail: Tail, receive: Receive, write: Callable[[Sequence[Frame]], Awaitable[None]]) -> End | None:
    """Write the frames of a tail until it ends, and leave it; return why, None where the record went away."""
    watching = asyncio.create_task(_watch(receive, tail.listener))
    try:
        while frames := await tail.next():
            tail.listener.writing_since = time.monotonic()
            await write(frames)
            tail.listener.writing_since = None
        end = tail.listener.end
        if end in _TOLD:
            await write((Notice("dropped", str(end), _TOLD[end]),))
    except DRIVER_ERRORS as error:
        logger.debug("tail_broken_off", error=repr(error))
        return None
    else:
        return end
    finally:
        tail.leave()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(receive: Receive, listener: Listener) -> None:
    while (await receive())["type"] not in _GONE:
        pass
    listener.close(End.LEFT)
