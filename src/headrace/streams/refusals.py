"""What Redis says when it is there and takes no writes.

Owns the list: its memory is full (`noeviction`), it is a replica, its disk fails, it has too few replicas. Whoever
meets one of them waits and goes on, as with a Redis that is away; nothing was written. Never evict, and never try a
write again at once: what fills a Redis is not mended by asking.
"""

from __future__ import annotations

from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError

from headrace.streams.connection import AWAY

_WORDS = ("OOM", "READONLY", "MISCONF", "NOREPLICAS")


def is_refusal(error: BaseException) -> bool:
    """Tell whether Redis is away, or takes no writes for now; any other answer is a fault in what it was asked."""
    if isinstance(error, (*AWAY, OutOfMemoryError, ReadOnlyError, MasterDownError)):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(_WORDS)
