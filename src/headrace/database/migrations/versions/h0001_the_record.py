"""The record: jobs, events, and who handles them.

Revision ID: h0001
"""

from __future__ import annotations

from headrace.database.migrations.script import run

revision = "h0001"
down_revision = None
branch_labels = ("headrace",)
depends_on = None

LANES = 4

JOBS = """
CREATE TYPE job_state AS ENUM
    ('scheduled', 'pending', 'queued', 'running', 'retrying', 'succeeded', 'dead', 'cancelled', 'expired');

-- A job is updated three times in its life: the fill factor leaves room for the new versions on the same page.
CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    task text NOT NULL,
    args jsonb NOT NULL,
    queue text NOT NULL,
    state job_state NOT NULL,
    priority smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL CHECK (max_attempts >= 1),
    fence integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    run_at timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    progress jsonb,
    result jsonb,
    tags text[] NOT NULL DEFAULT '{}',
    unique_key text,
    concurrency_key text,
    parent_id uuid,
    trace_id text NOT NULL,
    traceparent text NOT NULL,
    worker_id uuid,
    cancel_requested_at timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);

-- The dispatcher's order of release: priority, then age.
CREATE INDEX jobs_pending ON jobs (queue, priority DESC, run_at, id) WHERE state = 'pending';
-- What becomes due.
CREATE INDEX jobs_due ON jobs (run_at) WHERE state IN ('scheduled', 'retrying');
-- What is on the belt or in a worker's hands.
CREATE INDEX jobs_in_flight ON jobs (queue, worker_id) WHERE state IN ('queued', 'running');
-- What an operator looks for first; with the queue, so that counting needs no job.
CREATE INDEX jobs_stopped ON jobs (state, id) INCLUDE (queue) WHERE state IN ('dead', 'cancelled', 'expired');
CREATE INDEX jobs_expiring ON jobs (expires_at)
    WHERE expires_at IS NOT NULL AND state IN ('scheduled', 'pending', 'queued', 'retrying');
CREATE UNIQUE INDEX jobs_unique_key ON jobs (task, unique_key)
    WHERE unique_key IS NOT NULL AND state IN ('scheduled', 'pending', 'queued', 'running', 'retrying');
CREATE INDEX jobs_tags ON jobs USING gin (tags) WHERE tags <> '{}';
CREATE INDEX jobs_trace ON jobs (trace_id);

-- Attempts that did not succeed; the one that did is on the job's own row.
CREATE TABLE job_attempts (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    fence integer NOT NULL,
    started_at timestamptz,
    at timestamptz NOT NULL DEFAULT now(),
    outcome text NOT NULL CHECK (outcome IN ('failed', 'timed_out', 'lost', 'cancelled', 'rejected')),
    type text NOT NULL,
    message text NOT NULL,
    traceback text NOT NULL,
    trace_id text NOT NULL,
    worker_id uuid,
    PRIMARY KEY (job_id, attempt, fence)
);

CREATE TABLE queues (
    name text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""

EVENTS = f"""
-- Append-only truth. Partitioned by the id, a UUIDv7 and so a time, which keeps the id unique over all partitions.
CREATE TABLE event_log (
    id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    type text NOT NULL,
    version smallint NOT NULL,
    source text NOT NULL,
    source_id text NOT NULL,
    subject text,
    lane smallint NOT NULL,
    time timestamptz NOT NULL,
    data jsonb NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{{}}',
    trace_id text NOT NULL,
    traceparent text NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE TABLE event_log_default PARTITION OF event_log DEFAULT;
CREATE INDEX event_log_subject ON event_log (subject, id) WHERE subject IS NOT NULL;
CREATE INDEX event_log_trace ON event_log (trace_id);
CREATE INDEX event_log_source_id ON event_log (source_id);

-- A narrow pointer beside each event that has no position yet. Drained at once, so vacuum it often and cheaply.
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane smallint NOT NULL,
    event_id uuid NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE lanes (lane smallint PRIMARY KEY, head bigint NOT NULL DEFAULT 0) WITH (fillfactor = 10);
INSERT INTO lanes (lane) SELECT generate_series(0, {LANES - 1});

CREATE TABLE lane_log (
    lane smallint NOT NULL,
    position bigint NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (lane, position)
);
CREATE INDEX lane_log_event ON lane_log (event_id);

CREATE TABLE event_keys (
    source text NOT NULL,
    source_id text NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (source, source_id)
);

CREATE TABLE subscriptions (
    name text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('subscriber', 'projection', 'webhook')),
    types text[] NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE checkpoints (
    subscription text NOT NULL REFERENCES subscriptions (name) ON DELETE CASCADE,
    lane smallint NOT NULL,
    position bigint NOT NULL,
    last_error text,
    failing_since timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription, lane)
) WITH (fillfactor = 50);

CREATE TABLE inbox (
    subscription text NOT NULL,
    event_id uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription, event_id)
) PARTITION BY RANGE (event_id);
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

CREATE TABLE deliveries (
    subscription text NOT NULL,
    event_id uuid NOT NULL,
    job_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription, event_id)
);
CREATE INDEX deliveries_event ON deliveries (event_id);
"""

OWNERSHIP = """
CREATE TABLE leases (
    name text PRIMARY KEY,
    holder uuid,
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

CREATE TABLE processes (
    id uuid PRIMARY KEY,
    role text NOT NULL CHECK (role IN ('api', 'relay', 'worker', 'consume', 'cron')),
    host text NOT NULL,
    pid integer NOT NULL,
    queues text[],
    tasks text[] NOT NULL DEFAULT '{}',
    slots integer NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
"""

TIME = """
CREATE TABLE schedules (
    name text PRIMARY KEY,
    cron text NOT NULL,
    timezone text NOT NULL DEFAULT 'UTC',
    task text NOT NULL,
    args jsonb NOT NULL DEFAULT '{}',
    enabled boolean NOT NULL DEFAULT true,
    misfire text NOT NULL DEFAULT 'once' CHECK (misfire IN ('skip', 'once', 'all')),
    overlap text NOT NULL DEFAULT 'allow' CHECK (overlap IN ('allow', 'skip')),
    origin text NOT NULL CHECK (origin IN ('code', 'api')),
    next_due_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX schedules_due ON schedules (next_due_at) WHERE enabled;

-- The fire ledger: ten clocks may try, the primary key lets one of them fire.
CREATE TABLE schedule_runs (
    schedule text NOT NULL,
    due_at timestamptz NOT NULL,
    fired_at timestamptz NOT NULL DEFAULT now(),
    outcome text NOT NULL CHECK (outcome IN ('fired', 'skipped', 'caught_up')),
    reason text,
    job_id uuid,
    PRIMARY KEY (schedule, due_at)
);
"""

DOOR = """
CREATE TABLE idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    status smallint NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    prefix text NOT NULL UNIQUE,
    secret_hash bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
"""


def upgrade() -> None:
    """Create the record."""
    for statements in (JOBS, EVENTS, OWNERSHIP, TIME, DOOR):
        run(statements)


def downgrade() -> None:
    """Refuse: going back from the first migration would drop the record."""
    message = "the first migration is not undone: drop the database instead"
    raise RuntimeError(message)
