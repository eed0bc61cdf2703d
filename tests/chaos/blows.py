"""Blows: what may happen to a deployment, and the plan of a run; drawn from the seed before anything starts.

Owns the kinds and their shares, for a run of jobs and for one of events. A blow that lasts does not hold up the next
one, so that they overlap as they please. Near the end of a run nothing begins any more.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

LONG_PAUSE_SECONDS: Final = 60.0
_QUIET_END: Final = 0.08
"""The last part of a run, in which nothing begins."""


class Kind(StrEnum):
    """What may happen."""

    WORKER_KILLED = "worker: SIGKILL"
    WORKER_STOPPED = "worker: SIGSTOP for up to four leases"
    WORKER_STOPPED_LONG = "worker: SIGSTOP for 60 s"
    WORKER_ENDED = "worker: SIGTERM of its manager"
    RELAY_KILLED = "relay: SIGKILL of the leader"
    RELAY_STOPPED = "relay: SIGSTOP of the leader for up to four leases"
    API_KILLED = "API: SIGKILL"
    REDIS_EMPTIED = "Redis: FLUSHALL"
    REDIS_KILLED = "Redis: SIGKILL and restart"
    REDIS_STOPPED = "Redis: SIGSTOP"
    REDIS_LOST = "Redis: SIGKILL and restart without its disk"
    REDIS_OLDER = "Redis: replaced by a copy that is seconds older"
    LANE_DELETED = "Redis: the stream of one lane deleted"
    LANE_REPLACED = "Redis: another kind of key in place of a stream"
    GROUP_DESTROYED = "Redis: a group destroyed"
    CONSUMER_KILLED = "consumer: SIGKILL"
    CONSUMER_STOPPED = "consumer: SIGSTOP for up to four leases"
    CONSUMER_ENDED = "consumer: SIGTERM, and another one"
    POSTGRES_CRASHED = "PostgreSQL: crash and restart"
    CONNECTIONS_CUT = "PostgreSQL: every connection cut"


JOB_BLOWS: Final = {
    Kind.WORKER_KILLED: 24,
    Kind.WORKER_STOPPED: 14,
    Kind.WORKER_ENDED: 3,
    Kind.RELAY_KILLED: 10,
    Kind.RELAY_STOPPED: 7,
    Kind.API_KILLED: 4,
    Kind.REDIS_EMPTIED: 8,
    Kind.REDIS_KILLED: 7,
    Kind.REDIS_STOPPED: 4,
    Kind.CONNECTIONS_CUT: 3,
}


EVENT_BLOWS: Final = {
    Kind.CONSUMER_KILLED: 24,
    Kind.CONSUMER_STOPPED: 14,
    Kind.CONSUMER_ENDED: 6,
    Kind.RELAY_KILLED: 12,
    Kind.RELAY_STOPPED: 8,
    Kind.WORKER_KILLED: 3,
    Kind.REDIS_EMPTIED: 8,
    Kind.REDIS_KILLED: 5,
    Kind.REDIS_LOST: 5,
    Kind.REDIS_OLDER: 5,
    Kind.REDIS_STOPPED: 3,
    Kind.LANE_DELETED: 3,
    Kind.LANE_REPLACED: 3,
    Kind.GROUP_DESTROYED: 3,
    Kind.CONNECTIONS_CUT: 3,
}


class Blow(msgspec.Struct, frozen=True):
    """One of them."""

    at_seconds: float
    kind: Kind
    share: float
    """Which of the candidates is hit, and how long it lasts: a number from 0 to 1."""


def plan(seed: int, *, seconds: float, every_seconds: float, shares: Mapping[Kind, int] = JOB_BLOWS) -> list[Blow]:
    """Draw the blows of a run. PostgreSQL crashes once; a long run of jobs has a worker's pause of a minute."""
    dice = random.Random(seed)  # noqa: S311 - misfortune that can be repeated
    until = seconds * (1 - _QUIET_END)
    count = max(1, round(until / every_seconds))
    kinds = dice.choices(list(shares), weights=list(shares.values()), k=count)
    blows = [Blow(dice.uniform(0.5, until), kind, dice.random()) for kind in kinds]
    blows.append(Blow(dice.uniform(0.3, 0.7) * until, Kind.POSTGRES_CRASHED, dice.random()))
    if shares is JOB_BLOWS and seconds > 2 * LONG_PAUSE_SECONDS:
        blows.append(Blow(dice.uniform(0.1, 0.6) * until, Kind.WORKER_STOPPED_LONG, dice.random()))
    return sorted(blows, key=lambda blow: blow.at_seconds)
