"""Asking for a redrive: dead deliveries of one subscription are to be tried again.

Owns the check of what is asked for, the count, and the birth of the job together with its place in `redrives`. What
dies later is not meant. Never begin anything for a dry run, or where nothing is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.clock import new_id
from headrace.errors import FieldError, InvalidInputError
from headrace.events.patterns import checked
from headrace.jobs.call import Call
from headrace.subscribers.dead import require_known
from headrace.subscribers.failures import QUEUE
from headrace.transaction import Transaction

REDRIVE: Final = "headrace.redrive"
"""The task that tries dead deliveries again."""

ATTEMPTS: Final = 10
FASTEST: Final = 1_000_000.0
_MOST_TYPES: Final = 100

MEANT: Final = """
    d.subscription = :subscription AND d.died_at <= :asked_at
    AND (CAST(:fingerprint AS text) IS NULL OR d.fingerprint = :fingerprint)
    AND (CAST(:release AS text) IS NULL OR d.release = :release)
    AND (CAST(:event_id AS uuid) IS NULL OR d.event_id = :event_id)
    AND (CAST(:types AS text[]) IS NULL OR type_matches(d.type, :types))
"""
"""Which rows of `dead_deliveries AS d` a selection means."""

_COUNT: Final = text(f"SELECT count(*), now() FROM dead_deliveries d WHERE {MEANT.replace(':asked_at', 'now()')}")  # noqa: S608 - composed of constants
_PLACE: Final = text("""
    INSERT INTO redrives (job_id, subscription, total, asked_at) VALUES (:job_id, :subscription, :total, :asked_at)
""")

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which dead deliveries, and how: as it stands among the arguments of the job. Nothing given means all."""

    fingerprint: _Text | None = None
    release: _Text | None = None
    event_id: UUID | None = None
    types: tuple[str, ...] | None = None
    """Types of events, or patterns."""
    canary: bool = False
    """Whether one goes first, and the rest only when that one has succeeded."""
    rate_per_second: float | None = None
    """How many deliveries at most begin in a second."""

    def meaning(self, subscription: str) -> dict[str, Any]:
        """Return the parameters of `MEANT`, but for the time."""
        return {
            "subscription": subscription,
            "fingerprint": self.fingerprint,
            "release": self.release,
            "event_id": self.event_id,
            "types": None if self.types is None else list(self.types),
        }


class Redriven(msgspec.Struct, frozen=True):
    """What was begun: how many deliveries, and the job that redrives them; None where nothing was begun."""

    count: int
    job_id: UUID | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a redrive."""

    name: str
    selection: Selection
    dry_run: bool = False


async def start_redrive(tx: Transaction, asked: Asked) -> Redriven:
    """Begin to try dead deliveries again in the caller's transaction, or only count for a dry run.

    Raises:
        NotFoundError: there is no such subscription.
        InvalidInputError: a pattern or the rate is wrong.

    Example:
        >>> async with transaction(record) as tx:
        ...     redriven = await start_redrive(tx, Asked("shop.welcome", Selection(canary=True)))

    """
    _require_sound(asked.selection)
    await require_known(tx.connection, asked.name)
    count, asked_at = (await tx.connection.execute(_COUNT, asked.selection.meaning(asked.name))).one()
    if asked.dry_run or count == 0:
        return Redriven(count, None)
    job_id = new_id()
    await tx.enqueue_calls([_call(asked)], ids=[job_id])
    place = {"job_id": job_id, "subscription": asked.name, "total": count, "asked_at": asked_at}
    await tx.connection.execute(_PLACE, place)
    return Redriven(count, job_id)


def _require_sound(selection: Selection) -> None:
    types, rate = selection.types, selection.rate_per_second
    if types is not None and not 0 < len(types) <= _MOST_TYPES:
        _refuse("types", f"name 1 to {_MOST_TYPES} types, or leave this out")
    for number, pattern in enumerate(types or ()):
        checked(pattern, field=f"types.{number}")
    if rate is not None and not 0 < rate <= FASTEST:
        _refuse("rate_per_second", f"this must be a finite number above 0, at most {FASTEST:,.0f}")


def _call(asked: Asked) -> Call:
    given: dict[str, Any] = msgspec.to_builtins(asked.selection)
    return Call(
        task=REDRIVE,
        args=msgspec.Raw(msgspec.json.encode({"subscription": asked.name} | given)),
        queue=QUEUE,
        max_attempts=ATTEMPTS,
        tags=(f"redrive:{asked.name}",),
    )


def _refuse(field: str, message: str) -> None:
    text_of_all = f"{field}: {message}"
    raise InvalidInputError(text_of_all, (FieldError(field, message),))
