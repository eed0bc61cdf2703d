"""The tables that queries are composed for, as SQLAlchemy Core sees them.

Owns the names and types of those columns; a test holds them against a migrated database. The migrations under
`migrations/versions` create every table, and statements that are always the same name their tables in plain SQL.
Never import these from an application: it has tables of its own.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
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
    Column("moved_to", ARRAY(_JOB_STATE), nullable=False),
    Column("moved_at", ARRAY(_TIME), nullable=False),
    Column("lost", Integer, nullable=False),
    Column("waits_for", Integer, nullable=False),
    Column("watched", Boolean, nullable=False),
    Column("parked", Boolean, nullable=False),
    Column("on_dead", Text),
    Column("retention_seconds", Double),
    Column("forget_at", _TIME),
    Column("overrides", JSONB),
    Column("former_args", JSONB),
    Column("delay_seconds", Double),
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
    Column("fingerprint", Text),
    Column("release", Text),
)

job_traces = Table(
    "job_traces",
    metadata,
    Column("trace_id", Uuid, primary_key=True),
    Column("job_id", Uuid, primary_key=True),
)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("concurrency", Integer),
    Column("rate_limit", Integer),
    Column("rate_per_seconds", Double),
    Column("per_key_concurrency", Integer),
    Column("paused_at", _TIME),
    Column("paused_by", Text),
    Column("pace", Double),
    Column("pace_at", _TIME),
)
