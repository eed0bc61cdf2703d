"""Children start, and hooks are told, when what they wait for has ended.

Owns the leader's loop over the endings of watched jobs. Whoever records such an ending rings a bell, which is answered
at once; because a bell may be lost, the loop looks ten times a second besides. What is due then is the dispatcher's.
A fault of the record ends the connection, and the loop begins anew with another one: an ending that was taken out and
not acted upon is there again. Never ring or read anything for jobs that nobody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec

from headrace.database.record import Bell
from headrace.jobs.call import Call, Options
from headrace.jobs.follow import CallOf, follow_endings
from headrace.loops import Pace, repeat
from headrace.relay.connection import connected
from headrace.relay.leader import Leadership, Part
from headrace.tasks.contract import Task

_PAUSE_SECONDS: Final = 0.1
_GATHER_SECONDS: Final = 0.004
"""After a look that found something: where much ends, one look at more of it costs less."""
_REBEGIN: Final = Pace(0.0, first_backoff_seconds=0.05, last_backoff_seconds=1.0)


def following(tasks: Mapping[str, Task[Any, Any]]) -> Part:
    """Return the part of a leader that acts upon endings; `tasks` are those that may be told of a death."""
    hooks = hooks_of(tasks)

    async def follow_jobs(leadership: Leadership) -> None:
        await repeat("follow_jobs", lambda: _follow(leadership, hooks), _REBEGIN, leadership.stop)

    return follow_jobs


def hooks_of(tasks: Mapping[str, Task[Any, Any]]) -> Mapping[str, CallOf]:
    """Return how each of these tasks is called when it is told of a death, under every name that it has had."""
    return {name: partial(_call_of, task) for task in tasks.values() for name in (*task.policy.aliases, task.name)}


def _call_of(task: Task[Any, Any], args: msgspec.Raw) -> Call:
    return task.call_encoded(args, Options())


async def _follow(leadership: Leadership, hooks: Mapping[str, CallOf]) -> None:
    async with connected(leadership) as connection:
        rung = asyncio.Event()
        await connection.add_listener(Bell.ENDINGS.value, lambda *_: rung.set())
        while not leadership.stop.is_set():
            rung.clear()
            if await follow_endings(connection, hooks, tell=lambda: leadership.record.wakeup.ring(Bell.JOBS)):
                await leadership.stop.wait(_GATHER_SECONDS)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await rung.wait()
