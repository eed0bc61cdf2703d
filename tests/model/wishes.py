"""What producers and operators wish in the state machine: what hypothesis draws from, and how it is said in a call.

Owns the ranges. They are narrow on purpose: two queues, two keys of each kind and a few hours meet each other often.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from hypothesis import strategies as st

from headrace.clock import now
from headrace.jobs.call import Options
from tests.model.job import Limits, Wish

HOUR: Final = 3600.0
QUEUES: Final = ("left", "right")
QUEUE: Final = st.sampled_from(QUEUES)
PICKS: Final = st.integers(0, 1_000_000)
HOURS: Final = st.integers(0, 2)
_EXPIRES: Final = st.sampled_from([None, None, 1, 2])
WISHES: Final = st.one_of(
    st.builds(Wish, queue=QUEUE),
    st.builds(Wish, queue=QUEUE, priority=st.sampled_from([0, 9]), max_attempts=st.integers(1, 3)),
    st.builds(Wish, queue=QUEUE, delay=HOURS, expires=_EXPIRES),
    st.builds(Wish, queue=QUEUE, concurrency_key=st.sampled_from(["busy", "idle"])),
    st.builds(
        Wish,
        queue=QUEUE,
        expires=_EXPIRES,
        unique_key=st.sampled_from(["one", "two"]),
        unique_for=st.sampled_from([None, 1, 2]),
    ),
)
LIMITS: Final = st.one_of(
    st.just(Limits()),
    st.just(Limits(paused=True)),
    st.builds(Limits, concurrency=st.integers(1, 3)),
    st.builds(Limits, rate=st.integers(1, 3)),
)


def options_of(wish: Wish) -> Options:
    """Return the options of a call."""
    return Options(
        queue=wish.queue,
        priority=wish.priority,
        delay_seconds=wish.delay * HOUR,
        expires_at=None if wish.expires is None else now() + timedelta(hours=wish.expires),
        unique_key=wish.unique_key,
        unique_seconds=None if wish.unique_for is None else wish.unique_for * HOUR,
        concurrency_key=wish.concurrency_key,
        max_attempts=wish.max_attempts,
    )
