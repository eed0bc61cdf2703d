"""The published table of span names, attributes and metrics.

Owns every name that leaves this system by OTLP or Prometheus; dashboards and alerts are built on them, so a change here
is a change of the public interface. `messaging.*` follows the OpenTelemetry messaging conventions (v1.44, in
development), where Redis has no registered system name; what they do not cover is `headrace.*`.
Never put an id, a path or a person's address into a span name or a metric's label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

INSTRUMENTATION: Final = "headrace"
SYSTEM: Final = "redis"

# What a messaging span does (messaging.operation.name); its span is named "{operation} {destination}".
CREATE: Final = "create"
SEND: Final = "send"
DISPATCH: Final = "dispatch"
RECEIVE: Final = "receive"
PROCESS: Final = "process"
ACK: Final = "ack"
SETTLE: Final = "settle"
SMTP_SEND: Final = "smtp.send"

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_PARTITION: Final = "messaging.destination.partition.id"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_CONVERSATION_ID: Final = "messaging.message.conversation_id"
MESSAGING_MESSAGE_COUNT: Final = "messaging.batch.message_count"
MESSAGING_GROUP: Final = "messaging.consumer.group.name"

EVENT_ID: Final = "cloudevents.event_id"
EVENT_SOURCE: Final = "cloudevents.event_source"
EVENT_TYPE: Final = "cloudevents.event_type"
EVENT_SUBJECT: Final = "cloudevents.event_subject"

TASK: Final = "headrace.task.name"
ATTEMPT: Final = "headrace.attempt"
AGE_SECONDS: Final = "headrace.age_seconds"
REPLAY: Final = "headrace.replay"
OUTCOME: Final = "headrace.outcome"
SCHEDULE: Final = "headrace.schedule.name"
DUE_AT: Final = "headrace.schedule.due_at"
RECIPIENT_HASH: Final = "headrace.mail.recipient_hash"
ROLE: Final = "headrace.role"
LOOP_BLOCKED: Final = "headrace.loop.blocked"
BLOCKED_SECONDS: Final = "headrace.loop.blocked_seconds"
STACKTRACE: Final = "code.stacktrace"

HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
HTTP_RESEND_COUNT: Final = "http.request.resend_count"
URL_FULL: Final = "url.full"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
NETWORK_PROTOCOL: Final = "network.protocol.name"
ERROR_TYPE: Final = "error.type"

METRIC_HTTP_REQUESTS: Final = "headrace_http_requests_total"
METRIC_HTTP_SECONDS: Final = "headrace_http_request_duration_seconds"
METRIC_JOBS: Final = "headrace_jobs"
METRIC_OLDEST_PENDING_SECONDS: Final = "headrace_oldest_pending_job_age_seconds"
METRIC_PARKED: Final = "headrace_jobs_parked"
METRIC_CONCURRENCY_LIMIT: Final = "headrace_queue_concurrency_limit"
METRIC_OUTBOX: Final = "headrace_outbox_events"
METRIC_OUTBOX_AGE_SECONDS: Final = "headrace_outbox_oldest_age_seconds"
METRIC_SUBSCRIPTION_LAG: Final = "headrace_subscription_lag_events"
METRIC_HOLDS_TRIMMING: Final = "headrace_subscription_holds_trimming_events"
METRIC_BELT_MENDS: Final = "headrace_belt_mends"
METRIC_BELT_MENDED_ENTRIES: Final = "headrace_belt_mended_entries"
METRIC_HELD_KEYS: Final = "headrace_held_keys"
METRIC_WAITING_EVENTS: Final = "headrace_waiting_events"
METRIC_DEAD_DELIVERIES: Final = "headrace_dead_deliveries"
METRIC_WEBHOOKS: Final = "headrace_webhooks"
METRIC_LOOP_BLOCKS: Final = "headrace_loop_blocks"
METRIC_LOOP_BLOCKED_SECONDS: Final = "headrace_loop_blocked_seconds"
METRIC_PROCESSES: Final = "headrace_processes"
METRIC_LIVE_LISTENERS: Final = "headrace_live_listeners"
METRIC_LIVE_DROPPED: Final = "headrace_live_dropped"

ALL_EVENTS: Final = "events"


def event_destination(event_type: str) -> str:
    """Return the destination that an event's spans name: the family, `orders` of `orders.order.created`."""
    return event_type.partition(".")[0]


def batch_destination(event_types: Iterable[str]) -> str:
    """Return the one destination of a batch of events, `events` where it mixes families."""
    families = {event_destination(event_type) for event_type in event_types}
    return families.pop() if len(families) == 1 else ALL_EVENTS


def job_destination(queue: str) -> str:
    """Return the destination that a job's spans name: `tasks.{queue}`."""
    return f"tasks.{queue}"


def schedule_destination(schedule: str) -> str:
    """Return the destination that a tick's span names: `cron.{schedule}`."""
    return f"cron.{schedule}"
