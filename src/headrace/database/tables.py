"""The record: every table of Headrace, as SQLAlchemy Core sees it.

Owns the names and types that statements are written against. The migrations under `migrations/versions` create these
tables and hold what Core cannot say (partitions, fill factors, the reason for each index); a test compares the two.
Never import these from an application: it has tables of its own.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB

from headrace.database.states import JobState

metadata = MetaData()

_TIME = DateTime(timezone=True)
_JOB_STATE = ENUM(JobState, name="job_state", values_callable=lambda states: [state.value for state in states])

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("task", Text, nullable=False),
    Column("args", JSONB, nullable=False),
    Column("queue", Text, nullable=False),
    Column("state", _JOB_STATE, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("run_at", _TIME, nullable=False),
    Column("released_at", _TIME),
    Column("started_at", _TIME),
    Column("finished_at", _TIME),
    Column("expires_at", _TIME),
    Column("progress", JSONB),
    Column("result", JSONB),
    Column("tags", ARRAY(Text), nullable=False),
    Column("unique_key", Text),
    Column("concurrency_key", Text),
    Column("parent_id", Uuid),
    Column("trace_id", Text, nullable=False),
    Column("traceparent", Text, nullable=False),
    Column("worker_id", Uuid),
    Column("cancel_requested_at", _TIME),
)

job_attempts = Table(
    "job_attempts",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("fence", Integer, primary_key=True),
    Column("started_at", _TIME),
    Column("at", _TIME, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("worker_id", Uuid),
)

event_log = Table(
    "event_log",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("created_at", _TIME, nullable=False),
    Column("type", Text, nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("subject", Text),
    Column("lane", SmallInteger, nullable=False),
    Column("time", _TIME, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("attributes", JSONB, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("traceparent", Text, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("lane", SmallInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
)

lanes = Table(
    "lanes",
    metadata,
    Column("lane", SmallInteger, primary_key=True),
    Column("head", BigInteger, nullable=False),
)

lane_log = Table(
    "lane_log",
    metadata,
    Column("lane", SmallInteger, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("event_id", Uuid, nullable=False),
)

event_keys = Table(
    "event_keys",
    metadata,
    Column("source", Text, primary_key=True),
    Column("source_id", Text, primary_key=True),
    Column("event_id", Uuid, nullable=False),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("types", ARRAY(Text), nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("subscription", Text, primary_key=True),
    Column("lane", SmallInteger, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("last_error", Text),
    Column("failing_since", _TIME),
    Column("updated_at", _TIME, nullable=False),
)

inbox = Table(
    "inbox",
    metadata,
    Column("subscription", Text, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("handled_at", _TIME, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("subscription", Text, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Uuid),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", _TIME, nullable=False),
)

processes = Table(
    "processes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("role", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("queues", ARRAY(Text)),
    Column("tasks", ARRAY(Text), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("started_at", _TIME, nullable=False),
    Column("seen_at", _TIME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("args", JSONB, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("misfire", Text, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("next_due_at", _TIME),
    Column("created_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
)

schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("schedule", Text, primary_key=True),
    Column("due_at", _TIME, primary_key=True),
    Column("fired_at", _TIME, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("job_id", Uuid),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("expires_at", _TIME),
    Column("revoked_at", _TIME),
    Column("last_used_at", _TIME),
)
