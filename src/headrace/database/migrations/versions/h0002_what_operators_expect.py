"""Jobs: every move with its time, limits, workflows, and what a job leaves behind.

Revision ID: h0002
"""

from __future__ import annotations

from headrace.database.migrations.script import run

revision = "h0002"
down_revision = "h0001"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE jobs
    ADD COLUMN moved_to job_state[] NOT NULL DEFAULT '{}',
    ADD COLUMN moved_at timestamptz[] NOT NULL DEFAULT '{}',
    ADD COLUMN lost integer NOT NULL DEFAULT 0,
    ADD COLUMN waits_for integer NOT NULL DEFAULT 0 CHECK (waits_for >= 0),
    ADD COLUMN watched boolean NOT NULL DEFAULT false,
    ADD COLUMN parked boolean NOT NULL DEFAULT false,
    ADD COLUMN on_dead text,
    ADD COLUMN retention_seconds double precision CHECK (retention_seconds >= 0),
    ADD COLUMN forget_at timestamptz,
    ADD COLUMN overrides jsonb,
    ADD COLUMN former_args jsonb,
    ADD COLUMN delay_seconds double precision; -- of a child: how long after its parents it is due

-- What is under way begins its history with the state that it is in; what has finished keeps none, and is not rewritten.
UPDATE jobs SET moved_to = ARRAY[state], moved_at = ARRAY[coalesce(started_at, released_at, created_at)]
    WHERE state IN ('scheduled', 'pending', 'queued', 'running', 'retrying');

-- The dispatcher's order of release: priority, then age. A parked job is in no line:
-- others hold its concurrency key, or no worker knows its task.
DROP INDEX jobs_pending;
CREATE INDEX jobs_pending ON jobs (queue, priority DESC, run_at, id) WHERE state = 'pending' AND NOT parked;
CREATE INDEX jobs_parked ON jobs (queue, concurrency_key, priority DESC, run_at, id) WHERE state = 'pending' AND parked;
-- How many jobs hold a concurrency key, and in which queues such jobs wait. Jobs without a key are in neither.
CREATE INDEX jobs_keys ON jobs (queue, state, concurrency_key)
    WHERE concurrency_key IS NOT NULL AND NOT parked AND state IN ('pending', 'queued', 'running');
-- What becomes due; a child that waits for its parents does not, however late it is.
DROP INDEX jobs_due;
CREATE INDEX jobs_due ON jobs (run_at) WHERE state IN ('scheduled', 'retrying') AND waits_for = 0;
CREATE INDEX jobs_children ON jobs (queue) WHERE state = 'scheduled' AND waits_for > 0;
-- The jobs of a trace. Not an index of jobs: no change of a state is a HOT update, and so each index of all jobs is
-- written four times in the life of a job, this one for the longest key of them.
CREATE TABLE job_traces (trace_id uuid NOT NULL, job_id uuid NOT NULL, PRIMARY KEY (trace_id, job_id));
INSERT INTO job_traces SELECT trace_id::uuid, id FROM jobs WHERE trace_id <> '';
DROP INDEX jobs_trace;
-- Jobs that leave the record at a time of their own.
CREATE INDEX jobs_forgotten ON jobs (forget_at) WHERE forget_at IS NOT NULL;
"""

# Held against database/states.TRANSITIONS by a test. A job of a few moves keeps them on its own row, where they cost no
# further write; what moves for ever (a job that snoozes) puts the older ones aside.
MOVES = """
CREATE TABLE job_moves (
    job_id uuid NOT NULL,
    at timestamptz NOT NULL,
    state job_state NOT NULL
);
CREATE INDEX job_moves_job ON job_moves (job_id, at);
CREATE INDEX job_moves_age ON job_moves (at);

-- Ends of watched jobs, those that others wait for, until somebody has acted upon them. Rows and not a state, so that a
-- death counts although the job was tried again at once. Drained at once, so vacuum it often and cheaply.
CREATE TABLE job_endings (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id uuid NOT NULL,
    state job_state NOT NULL,
    fence integer NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX job_endings_job ON job_endings (job_id);

CREATE FUNCTION job_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> ALL (CASE OLD.state
        WHEN 'scheduled' THEN '{pending,cancelled,expired}'::job_state[]
        WHEN 'pending' THEN '{queued,cancelled,expired}'::job_state[]
        WHEN 'queued' THEN '{running,pending,cancelled,expired}'::job_state[]
        WHEN 'running' THEN '{succeeded,retrying,pending,scheduled,dead,cancelled}'::job_state[]
        WHEN 'retrying' THEN '{pending,cancelled,expired}'::job_state[]
        WHEN 'succeeded' THEN '{}'::job_state[]
        WHEN 'dead' THEN '{pending,scheduled,cancelled}'::job_state[]
        WHEN 'cancelled' THEN '{pending,scheduled}'::job_state[]
        WHEN 'expired' THEN '{pending,scheduled,cancelled}'::job_state[]
    END) THEN
        RAISE EXCEPTION 'the job % is %: it cannot become %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    NEW.parked := false; -- whoever comes back later is looked at anew
    IF NEW.retention_seconds IS NOT NULL THEN
        NEW.forget_at := NEW.finished_at + make_interval(secs => NEW.retention_seconds);
    END IF;
    IF cardinality(OLD.moved_to) >= 64 THEN
        INSERT INTO job_moves (job_id, state, at) SELECT OLD.id, m.state, m.at
            FROM unnest(OLD.moved_to, OLD.moved_at) AS m(state, at);
        NEW.moved_to := ARRAY[NEW.state];
        NEW.moved_at := ARRAY[clock_timestamp()];
    ELSE
        NEW.moved_to := OLD.moved_to || NEW.state;
        NEW.moved_at := OLD.moved_at || clock_timestamp();
    END IF;
    IF NEW.watched AND NEW.state IN ('succeeded', 'dead', 'cancelled', 'expired') THEN
        -- who waits for deaths alone is not told of the rest
        IF NEW.state = 'dead' OR NEW.on_dead IS NULL OR EXISTS (SELECT FROM job_parents WHERE parent_id = NEW.id) THEN
            INSERT INTO job_endings (job_id, state, fence) VALUES (NEW.id, NEW.state, NEW.fence);
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER job_moved BEFORE UPDATE OF state ON jobs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION job_moved();

-- How long did a job wait, run, back off: one row for each state it was in; `until` is null for the one it is in.
CREATE VIEW job_transitions AS
    SELECT job_id, state, at, until, extract(epoch FROM coalesce(until, now()) - at)::float8 AS seconds
    FROM (SELECT job_id, state, at, lead(at) OVER (PARTITION BY job_id ORDER BY at, place) AS until
          FROM (SELECT id AS job_id, m.state, m.at, m.place
                FROM jobs CROSS JOIN LATERAL unnest(moved_to, moved_at) WITH ORDINALITY AS m(state, at, place)
                UNION ALL
                SELECT job_id, state, at, 0 FROM job_moves) AS every_move) AS with_end;
"""

LIMITS = """
ALTER TABLE queues
    ADD COLUMN concurrency integer CHECK (concurrency >= 1),
    ADD COLUMN rate_limit integer CHECK (rate_limit >= 1),
    ADD COLUMN rate_per_seconds double precision CHECK (rate_per_seconds > 0),
    ADD COLUMN per_key_concurrency integer CHECK (per_key_concurrency >= 1),
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN paused_by text,
    ADD COLUMN pace double precision,
    ADD COLUMN pace_at timestamptz,
    ADD CHECK ((rate_limit IS NULL) = (rate_per_seconds IS NULL));

-- How many jobs of a queue with a rate were started when: the sliding window is summed from these.
CREATE TABLE queue_starts (
    queue text NOT NULL,
    at timestamptz NOT NULL,
    jobs integer NOT NULL
);
CREATE INDEX queue_starts_window ON queue_starts (queue, at) INCLUDE (jobs);
"""

OTHERS = """
-- A child waits for its parents, each under the name that it has in the workflow.
CREATE TABLE job_parents (
    child_id uuid NOT NULL,
    parent_id uuid NOT NULL,
    name text NOT NULL,
    needs text NOT NULL CHECK (needs IN ('succeeded', 'finished')),
    satisfied_at timestamptz,
    PRIMARY KEY (child_id, parent_id)
);
CREATE INDEX job_parents_parent ON job_parents (parent_id);

-- Keys that stay taken for a time, whatever becomes of their job.
CREATE TABLE unique_keys (
    task text NOT NULL,
    key text NOT NULL,
    job_id uuid NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (task, key)
);
CREATE INDEX unique_keys_until ON unique_keys (until);

-- Work that was done, with its result: the row commits with the effect, so a repeat finds it.
CREATE TABLE processed_work (
    scope text NOT NULL,
    key text NOT NULL,
    result jsonb,
    job_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX processed_work_age ON processed_work (created_at);

-- Which tasks have blocked a worker's event loop: one row a task, the latest case with its stack.
CREATE TABLE loop_blocks (
    task text PRIMARY KEY,
    blocks bigint NOT NULL,
    seconds double precision NOT NULL,
    last_at timestamptz NOT NULL DEFAULT now(),
    last_seconds double precision NOT NULL,
    last_job_id uuid,
    last_stack text NOT NULL
);
"""


def upgrade() -> None:
    """Complete the record of jobs."""
    for statements in (COLUMNS, MOVES, LIMITS, OTHERS):
        run(statements)


def downgrade() -> None:
    """Refuse: it would drop what is on record."""
    message = "this migration is not undone: restore a backup instead"
    raise RuntimeError(message)
