"""The fan-out: one projection makes the deliveries of all webhooks.

Owns the way from a batch of a lane to deliveries: which enabled webhooks each event is for, by type, filter, and where
the webhook begins. It runs in the transaction that moves the projection's checkpoint, so each event becomes each
webhook's delivery exactly once, whoever dies. Webhooks are read anew for each batch, so a change counts for every event
that is published after its answer. Never call a webhook here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.events.filters import Filter, decoded
from headrace.events.model import RecordedEvent
from headrace.events.patterns import matches
from headrace.subscribers.contract import projection
from headrace.transaction import Transaction
from headrace.webhooks.deliveries import Wish, deliver_all
from headrace.webhooks.model import FAN_OUT

_ENABLED: Final = text(
    "SELECT id, types, CAST(filter AS text) AS filter, CAST(begins AS text) AS begins FROM webhooks WHERE enabled"
)

_MANY: Final = 10_000


class Listener(msgspec.Struct, frozen=True):
    """What the fan-out knows of a webhook."""

    id: UUID
    types: tuple[str, ...]
    filter: Filter | None
    begins: Mapping[str, int]

    def is_for(self, event: RecordedEvent) -> bool:
        """Tell whether an event is of a wanted type, and lies after the webhook's beginning."""
        return _meets(self.types, event.type) and event.position > self.begins.get(str(event.lane), 0)


@projection(FAN_OUT, "*")
async def fan_out(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Make a delivery of each event for each webhook that it is for."""
    listeners = await _listeners(tx)
    wishes = [wish for event in events for wish in _wishes(event, listeners)] if listeners else []
    if wishes:
        await deliver_all(tx, wishes)


async def _listeners(tx: Transaction) -> list[Listener]:
    rows = (await tx.connection.execute(_ENABLED)).all()
    return [
        Listener(row.id, tuple(row.types), _filter(row.filter), msgspec.json.decode(row.begins, type=dict[str, int]))
        for row in rows
    ]


def _wishes(event: RecordedEvent, listeners: Sequence[Listener]) -> list[Wish]:
    meant = [one for one in listeners if one.is_for(event)]
    if any(one.filter is not None for one in meant):
        data: Any = decoded(event.data)
        meant = [one for one in meant if one.filter is None or one.filter.holds(data)]
    return [Wish(one.id, event.id, event.traceparent) for one in meant]


@lru_cache(maxsize=_MANY)
def _meets(types: tuple[str, ...], name: str) -> bool:
    return matches(types, name)


@lru_cache(maxsize=_MANY)
def _filter(written: str | None) -> Filter | None:
    return None if written is None else Filter.of(msgspec.json.decode(written))
