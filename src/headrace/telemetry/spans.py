"""The spans of the road: created, sent, received, processed, acknowledged.

Owns which span each step of a message emits: its name, kind, parent, links and attributes, as the OpenTelemetry
messaging conventions and this table say. A message is processed below its creator (parent and link) only live: first
attempt, no replay, younger than five minutes; otherwise a new root links to the creator. A trace that is not sampled
costs no span at any step.
Never start a span for a poll that came back empty.

| step | span, kind | parent, links |
|---|---|---|
| `tx.publish` | `create orders`, PRODUCER | below the request |
| `tx.enqueue` | `send tasks.default`, PRODUCER | below the request or the run |
| relay, dispatcher | `send orders`, `dispatch tasks.default`, CLIENT | a root, links to the creators |
| reader | `receive orders`, CLIENT | a root, links to the creators |
| subscriber, worker | `process orders`, `process tasks.default`, CONSUMER | below the creator, or a root; links |
| acknowledgement | `ack orders`, CLIENT | a root, links to the creators |
| clock | `process cron.nightly`, CONSUMER | a root, link to the run before |
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, get_current_span, set_span_in_context

from headrace.telemetry import names
from headrace.telemetry.propagation import parse
from headrace.telemetry.scope import Attribute, Scope, Start, at_root, passing, start, staying

LIVE_SECONDS: Final = 300.0
"""The age from which on a message no longer belongs to the trace that created it."""

LINKS: Final = 128
"""As many links as the SDK keeps on a span by default (OTEL_SPAN_LINK_COUNT_LIMIT)."""

_SAMPLED_DIGITS: Final = frozenset("13579bdf")
"""What a traceparent ends with when bit 0 of its flags is set: cheaper than parsing the nine of ten that are not."""


class Message(msgspec.Struct, frozen=True):
    """A message as it is taken up: `created` is the traceparent stored with it; `linked` are others that led here."""

    id: UUID | str
    created: str | None
    age_seconds: float = 0.0
    attempt: int = 1
    replay: bool = False
    linked: tuple[str | None, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether its processing still belongs to the trace of its creator."""
        return self.attempt == 1 and not self.replay and self.age_seconds <= LIVE_SECONDS


class Batch(msgspec.Struct, frozen=True):
    """Messages that travel together: `created` are the traceparents stored with them."""

    destination: str
    created: Sequence[str | None]
    lane: int | None = None
    group: str | None = None


def create(event_type: str, event_id: UUID | str, *, source: str, subject: str | None) -> Scope:
    """Span of one event written to the log; store its `traceparent` with the event."""
    if (current := _unrecorded()) is not None:
        return current
    destination = names.event_destination(event_type)
    attributes = _messaging(names.CREATE, names.CREATE, destination) | {
        names.MESSAGING_MESSAGE_ID: str(event_id),
        names.EVENT_ID: str(event_id),
        names.EVENT_SOURCE: source,
        names.EVENT_TYPE: event_type,
    }
    if subject is not None:
        attributes |= {names.MESSAGING_CONVERSATION_ID: subject, names.EVENT_SUBJECT: subject}
    return start(f"{names.CREATE} {destination}", SpanKind.PRODUCER, attributes)


def enqueue(queue: str, job_id: UUID | str, *, task: str) -> Scope:
    """Span of one job written to the record; store its `traceparent` with the job."""
    if (current := _unrecorded()) is not None:
        return current
    destination = names.job_destination(queue)
    attributes = _messaging(names.SEND, names.SEND, destination) | {
        names.MESSAGING_MESSAGE_ID: str(job_id),
        names.TASK: task,
    }
    return start(f"{names.SEND} {destination}", SpanKind.PRODUCER, attributes)


def enqueue_many(queue: str, count: int) -> Scope:
    """Span of a batch of jobs written to the record at once; all of them store its `traceparent`."""
    if (current := _unrecorded()) is not None:
        return current
    destination = names.job_destination(queue)
    attributes = _messaging(names.SEND, names.SEND, destination) | {names.MESSAGING_MESSAGE_COUNT: count}
    return start(f"{names.SEND} {destination}", SpanKind.PRODUCER, attributes)


def send(batch: Batch) -> Scope:
    """Span of the relay appending a batch of events to a lane's stream."""
    return _carry(names.SEND, names.SEND, batch)


def dispatch(batch: Batch) -> Scope:
    """Span of the dispatcher releasing a batch of due jobs to the belt."""
    return _carry(names.DISPATCH, names.SEND, batch)


def acknowledge(batch: Batch) -> Scope:
    """Span of acknowledging a batch of handled messages."""
    return _carry(names.ACK, names.SETTLE, batch)


def process_batch(batch: Batch) -> Scope:
    """Span of a projection applying a batch of events."""
    return _carry(names.PROCESS, names.PROCESS, batch, kind=SpanKind.CONSUMER)


def receive(batch: Batch, *, since_ns: int) -> str | None:
    """Record a read that brought messages, begun at `since_ns` (as of `time.time_ns()`).

    Return its traceparent, for `Message.linked`; None where nobody records any of the messages' traces.
    """
    begun_ns = min(since_ns, time.time_ns())
    with _carry(names.RECEIVE, names.RECEIVE, batch, at_ns=begun_ns) as scope:
        return scope.traceparent if scope.recording else None


def process(destination: str, message: Message, *, group: str | None = None) -> Scope:
    """Span of one subscription handling one event."""
    if (parent := _unsampled_parent(message)) is not None:
        return passing(parent)
    attributes = _processing(destination, message)
    if group is not None:
        attributes[names.MESSAGING_GROUP] = group
    return start(f"{names.PROCESS} {destination}", SpanKind.CONSUMER, attributes, _beginning(message))


def run(queue: str, message: Message, *, task: str) -> Scope:
    """Span of a worker running one attempt of a job."""
    if (parent := _unsampled_parent(message)) is not None:
        return passing(parent)
    destination = names.job_destination(queue)
    attributes = _processing(destination, message) | {names.TASK: task}
    return start(f"{names.PROCESS} {destination}", SpanKind.CONSUMER, attributes, _beginning(message))


def tick(schedule: str, due_at: datetime, *, previous: str | None = None) -> Scope:
    """Span of the clock firing a schedule: a root, linked to the run before."""
    destination = names.schedule_destination(schedule)
    attributes = _messaging(names.PROCESS, names.PROCESS, destination) | {
        names.SCHEDULE: schedule,
        names.DUE_AT: due_at.isoformat(),
    }
    begin = at_root(_links((previous,)))
    return start(f"{names.PROCESS} {destination}", SpanKind.CONSUMER, attributes, begin)


def _unrecorded() -> Scope | None:
    """Return a scope that stays where the current trace is not sampled, None where a span must be started."""
    current = get_current_span()
    context = current.get_span_context()
    return staying(current) if context.is_valid and not context.trace_flags.sampled else None


def _unsampled_parent(message: Message) -> SpanContext | None:
    """Return the creator of a live message whose trace is not sampled."""
    if not message.is_live:
        return None
    parent = parse(message.created)
    return parent if parent is not None and not parent.trace_flags.sampled else None


def _beginning(message: Message) -> Start:
    """Return parent and links as the policy for live messages says."""
    links = _links((message.created, *message.linked))
    parent = parse(message.created) if message.is_live else None
    if parent is None:
        return at_root(links)
    return Start(parent=set_span_in_context(NonRecordingSpan(parent), Context()), links=links)


def _carry(
    name: str, kind_of_step: str, batch: Batch, *, kind: SpanKind = SpanKind.CLIENT, at_ns: int | None = None
) -> Scope:
    """Start the span of a batch in a trace of its own, linked to those creators whose traces are recorded."""
    links = _links(batch.created)
    if not links:
        return staying()
    attributes = _messaging(name, kind_of_step, batch.destination)
    attributes[names.MESSAGING_MESSAGE_COUNT] = len(batch.created)
    if batch.lane is not None:
        attributes[names.MESSAGING_PARTITION] = str(batch.lane)
    if batch.group is not None:
        attributes[names.MESSAGING_GROUP] = batch.group
    return start(f"{name} {batch.destination}", kind, attributes, at_root(links, at_ns))


def _links(traceparents: Iterable[str | None]) -> list[Link]:
    """Return links to the sampled ones, at most `LINKS`: a link into a trace that nobody kept leads nowhere."""
    sampled = (parse(traceparent) for traceparent in traceparents if traceparent and traceparent[-1] in _SAMPLED_DIGITS)
    return [Link(context) for context in islice(filter(None, sampled), LINKS)]


def _messaging(name: str, kind_of_step: str, destination: str) -> dict[str, Attribute]:
    return {
        names.MESSAGING_SYSTEM: names.SYSTEM,
        names.MESSAGING_OPERATION_NAME: name,
        names.MESSAGING_OPERATION_TYPE: kind_of_step,
        names.MESSAGING_DESTINATION: destination,
    }


def _processing(destination: str, message: Message) -> dict[str, Attribute]:
    attributes = _messaging(names.PROCESS, names.PROCESS, destination) | {
        names.MESSAGING_MESSAGE_ID: str(message.id),
        names.ATTEMPT: message.attempt,
        names.AGE_SECONDS: round(message.age_seconds, 3),
    }
    if message.replay:
        attributes[names.REPLAY] = True
    return attributes
