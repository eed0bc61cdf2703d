"""A schedule as code declares it: which call is made when.

Owns the value `Schedule` and the meaning of its policies. The clock (`headrace.cron`) copies code-defined schedules
into the record and fires them from there; nothing here looks at the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.jobs.call import Call


class Misfire(StrEnum):
    """What happens to due times that passed while no clock ran."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


class Overlap(StrEnum):
    """What happens when the job of the last fire is not finished at the next due time."""

    ALLOW = "allow"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A call that is made at the times of a cron expression.

    Args:
        name: unique over all applications, such as `shop.nightly`.
        cron: five fields, or six with seconds first, in Debian cron's syntax.
        call: what to enqueue, as `task.call(…)` builds it.
        timezone: the IANA zone that the expression is meant in.
        misfire: what to do about missed due times.
        overlap: whether a fire may start while the last one's job is unfinished.

    """

    name: str
    cron: str
    call: Call
    timezone: str = "UTC"
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.ALLOW
