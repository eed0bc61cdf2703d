"""The spans of the road: created, sent, received, processed, acknowledged.

Owns which span each step of a message emits: its name, kind, parent, links and attributes, as the OpenTelemetry
messaging conventions and this table say. A message is processed below its creator (parent and link) only live: first
attempt, no replay, younger than five minutes; otherwise a new root links to the creator. A trace that is not sampled
costs no span at any step.
Never start a span for a poll that came back empty.

`tx.publish`: `create orders`, PRODUCER, below the request.  `tx.enqueue`: `send tasks.default`, PRODUCER, likewise.
Relay, dispatcher, reader, acknowledgement: `send`, `dispatch`, `receive`, `ack`, CLIENT, root with links.
Subscriber, worker: `process orders`, `process tasks.default`, CONSUMER. Clock: `process cron.nightly`, CONSUMER, root.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, get_current_span, set_span_in_context

from headrace.telemetry import names
from headrace.telemetry.messages import Batch, Fact, Message, Order
from headrace.telemetry.propagation import parse
from headrace.telemetry.scope import Attribute, Scope, Start, at_root, passing_by, start, staying

LINKS: Final = 128
"""As many links as the SDK keeps on a span by default (OTEL_SPAN_LINK_COUNT_LIMIT)."""

_PLAIN: Final = 55
"""Characters of a traceparent of version 00, which all of ours are."""

_SAMPLED_DIGITS: Final = frozenset("13579bdf")
"""What a traceparent ends with when bit 0 of its flags is set: cheaper than parsing the nine of ten that are not."""


def create(events: Sequence[Fact]) -> Scope:
    """Span of events written to the log in one statement; store its `traceparent` with each of them."""
    if (current := _unrecorded()) is not None:
        return current
    destination = names.batch_destination(event.type for event in events)
    attributes = _messaging(names.CREATE, names.CREATE, destination)
    if len(events) == 1:
        attributes |= _fact(events[0])
    else:
        attributes[names.MESSAGING_MESSAGE_COUNT] = len(events)
    return start(f"{names.CREATE} {destination}", SpanKind.PRODUCER, attributes)


def enqueue(calls: Sequence[Order]) -> Scope:
    """Span of jobs written to the record in one statement; store its `traceparent` with each of them."""
    if (current := _unrecorded()) is not None:
        return current
    destination = names.job_destination(calls[0].queue)
    attributes = _messaging(names.SEND, names.SEND, destination)
    if len(calls) == 1:
        attributes[names.TASK] = calls[0].task
    else:
        attributes[names.MESSAGING_MESSAGE_COUNT] = len(calls)
    return start(f"{names.SEND} {destination}", SpanKind.PRODUCER, attributes)


def enqueued(scope: Scope, job_ids: Sequence[UUID]) -> None:
    """Name the job that an `enqueue` wrote, as soon as the record has said which it is; a batch names none."""
    if len(job_ids) == 1 and scope.recording:
        scope.set(names.MESSAGING_MESSAGE_ID, str(job_ids[0]))


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
        return passing_by(parent)
    attributes = _processing(destination, message)
    if group is not None:
        attributes[names.MESSAGING_GROUP] = group
    return start(f"{names.PROCESS} {destination}", SpanKind.CONSUMER, attributes, _beginning(message))


def run(queue: str, message: Message, *, task: str) -> Scope:
    """Span of a worker running one attempt of a job."""
    if (parent := _unsampled_parent(message)) is not None:
        return passing_by(parent)
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


def _unsampled_parent(message: Message) -> str | None:
    """Return the creator of a live message whose trace is not sampled."""
    created = message.created
    if created is None or len(created) != _PLAIN or created[-1] in _SAMPLED_DIGITS or not message.is_live:
        return None
    return created


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


def _fact(event: Fact) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {
        names.MESSAGING_MESSAGE_ID: str(event.id),
        names.EVENT_ID: str(event.id),
        names.EVENT_SOURCE: event.source,
        names.EVENT_TYPE: event.type,
    }
    if event.subject is not None:
        attributes |= {names.MESSAGING_CONVERSATION_ID: event.subject, names.EVENT_SUBJECT: event.subject}
    return attributes


def _processing(destination: str, message: Message) -> dict[str, Attribute]:
    attributes = _messaging(names.PROCESS, names.PROCESS, destination) | {
        names.MESSAGING_MESSAGE_ID: str(message.id),
        names.ATTEMPT: message.attempt,
        names.AGE_SECONDS: round(message.age_seconds, 3),
    }
    if message.replay:
        attributes[names.REPLAY] = True
    return attributes
