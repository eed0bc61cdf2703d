"""Time and identity: the only two things a process may make up by itself.

Owns `now` (aware UTC) and `new_id` (UUIDv7, RFC 9562 section 5.7: 48 bits of Unix milliseconds, then random bits).
Ids made by one process within a millisecond are ordered too: the 12 bits of `rand_a` count up (RFC 9562 section 6.2,
method 1). Within `told_by`, as the testing kit uses it, `now` is what it is told; ids keep to the real time.
Never compare times of two machines to decide who owns something: the record's own clock decides that.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from uuid import UUID

_VERSION_AND_VARIANT = (0x7 << 76) | (0x2 << 62)
_COUNTER_LIMIT = 0x1000


_told: ContextVar[Callable[[], datetime] | None] = ContextVar("headrace_clock", default=None)


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    told = _told.get()
    return datetime.now(UTC) if told is None else told()


@contextmanager
def told_by(clock: Callable[[], datetime]) -> Iterator[None]:
    """Let `now` return what `clock` tells, in this block and in what it awaits or starts."""
    before = _told.set(clock)
    try:
        yield
    finally:
        _told.reset(before)


class IdSource:
    """Makes UUIDv7 ids that rise strictly within this process."""

    def __init__(self) -> None:
        self._milliseconds = 0
        self._counter = 0

    def new(self) -> UUID:
        """Return the next id; when a millisecond's 4,096 counts are used up, borrow from the next one."""
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds > self._milliseconds:
            self._milliseconds, self._counter = milliseconds, 0
        else:
            self._counter += 1
            if self._counter == _COUNTER_LIMIT:
                self._milliseconds, self._counter = self._milliseconds + 1, 0
        return UUID(
            int=(self._milliseconds << 80) | (self._counter << 64) | secrets.randbits(62) | _VERSION_AND_VARIANT
        )


new_id = IdSource().new
"""Return a new UUIDv7, larger than all that this process made before."""


def first_id_at(moment: datetime) -> UUID:
    """Return the smallest UUID that an id made at `moment` can have: the bound of a time range over ids.

    Before 1970 no id was made; the bound is the smallest of all.
    """
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80)


def time_of(identity: UUID) -> datetime:
    """Return when a UUIDv7 was made, to the millisecond."""
    return datetime.fromtimestamp((identity.int >> 80) / 1000, UTC)


def seconds_from_now(seconds: float) -> datetime:
    """Return the time `seconds` from now."""
    return now() + timedelta(seconds=seconds)
