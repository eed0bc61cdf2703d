"""What a webhook is, to who makes one and to who looks at one.

Owns the values that pass between the record, the API and the command line, and the names under which webhooks stand in
the rest of Headrace: the subscription `webhook:<id>`, the task and the queue of their deliveries, and the projection
that fans events out to them. Never put a secret into one of these values but `WebhookMade`, which is shown once.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from headrace.events.patterns import MAX_PATTERN
from headrace.jobs.limits import Rate

FAN_OUT: Final = "headrace.webhooks"
"""The projection that makes deliveries of events."""

TASK: Final = "headrace.webhook"
"""The task that calls a webhook: one job for each delivery."""

QUEUE: Final = "headrace.webhooks"
"""Where deliveries wait; its `per_key_concurrency` says how many calls of one webhook are under way at once."""

AT_ONCE: Final = 5
"""Calls of one webhook at once, unless the queue's limits say otherwise: a slow one must not take all workers."""

_PREFIX: Final = "webhook:"
_MOST_TYPES: Final = 100
_LONGEST_DESCRIPTION: Final = 2000

Types = Annotated[
    list[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATTERN)]],
    msgspec.Meta(min_length=1, max_length=_MOST_TYPES, description="event types, or patterns such as `orders.*`"),
]
Description = Annotated[str, msgspec.Meta(max_length=_LONGEST_DESCRIPTION, description="for people")]
Url = Annotated[str, msgspec.Meta(min_length=1, description="where events are sent by POST")]
Filter = Annotated[dict[str, Any] | None, msgspec.Meta(description="which events, by their data; all where missing")]
RateGiven = Annotated[Rate | None, msgspec.Meta(description="how many calls may start in a time, evenly spread")]


def subscription_of(webhook_id: UUID) -> str:
    """Return the name of a webhook's subscription, which is also its concurrency key."""
    return f"{_PREFIX}{webhook_id}"


def webhook_of(subscription: str) -> UUID | None:
    """Return the webhook that a subscription belongs to, None where it is no webhook's."""
    if not subscription.startswith(_PREFIX):
        return None
    try:
        return UUID(subscription.removeprefix(_PREFIX))
    except ValueError:
        return None


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A webhook as it is asked for."""

    url: Url
    types: Types
    description: Description = ""
    enabled: bool = True
    rate: RateGiven = None
    filter: Filter = None


class WebhookChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be otherwise; what is missing stays, and null takes `rate` or `filter` away."""

    url: Url | msgspec.UnsetType = msgspec.UNSET
    types: Types | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    rate: RateGiven | msgspec.UnsetType = msgspec.UNSET
    filter: Filter | msgspec.UnsetType = msgspec.UNSET


class CircuitState(StrEnum):
    """Whether deliveries are sent at present."""

    CLOSED = "closed"
    OPEN = "open"
    """The endpoint fails: deliveries wait and cost it nothing."""
    HALF_OPEN = "half_open"
    """The pause is over: one delivery tries, the others wait for what becomes of it."""


class Circuit(msgspec.Struct, frozen=True):
    """How the endpoint answers."""

    state: CircuitState
    failures: int
    """Since its last success."""
    failing_since: datetime | None
    until: datetime | None
    """When the next delivery may try; None where the circuit is closed."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook as it is shown."""

    id: UUID
    url: str
    types: list[str]
    description: str
    enabled: bool
    rate: Rate | None
    filter: msgspec.Raw
    """JSON, `null` where there is none."""
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    former_secret_until: datetime | None
    """Until when deliveries are signed with a former secret too: the last one's end, where there are several."""
    circuit: Circuit
    subscription: str


class WebhookMade(Webhook, frozen=True, kw_only=True):
    """A webhook with its secret, which is shown this once."""

    secret: str


class DeliveryState(StrEnum):
    """How a delivery stands."""

    PENDING = "pending"
    RETRYING = "retrying"
    HANDLED = "handled"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Held(StrEnum):
    """What a delivery waits for besides its time."""

    PAUSED = "paused"
    CIRCUIT = "circuit"
    SECRET = "secret"  # noqa: S105 - a reason, not a secret
    DISABLED = "disabled"
    """Cancelled, and to be taken up again when the webhook is enabled."""


class WebhookDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way to one webhook, and what its last call came to."""

    id: UUID
    """The delivery's, and that of its job."""
    webhook_id: UUID
    event_id: UUID
    type: str | None
    """The event's; null where the event has left the record."""
    state: DeliveryState
    attempts: int
    reason: str | None
    """Why it waits for more than its time, or why it was cancelled."""
    last_status: int | None
    last_error: str | None
    last_response: str | None
    """The beginning of the last answer."""
    last_duration_seconds: float | None
    last_attempt_at: datetime | None
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    trace_id: str | None
    replay_id: UUID | None
    resend_of: UUID | None


class WebhookTested(msgspec.Struct, frozen=True, kw_only=True):
    """What a webhook answered to a test event."""

    ok: bool
    status: int | None
    error: str | None
    response: str | None
    duration_seconds: float
    message_id: UUID
    """The `webhook-id` that it was sent with."""


class WebhookAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call."""

    attempt: int
    at: datetime
    status: int | None
    """None where nobody answered."""
    error: str | None
    response: str | None
    duration_seconds: float
    trace_id: str
