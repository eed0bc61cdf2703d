"""Events: patterns and filters, ordered subscriptions, replay, webhooks.

Revision ID: h0003
"""

from __future__ import annotations

from zlib import crc32

from alembic import op
from sqlalchemy import text

from headrace.database.migrations.script import run

revision = "h0003"
down_revision = "h0002"
branch_labels = None
depends_on = None

# `*` is any run of characters; held against events/patterns.py by a test.
TYPES = r"""
ALTER TABLE subscriptions ADD COLUMN filter jsonb;

CREATE FUNCTION type_matches(type text, patterns text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT FROM unnest(patterns) AS p
                   WHERE type LIKE replace(replace(replace(replace(p, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'))
$$;
"""

ORDER = """
ALTER TABLE subscriptions ADD COLUMN paused_at timestamptz, ADD COLUMN paused_by text;

-- A slot is for ever, a lane is slot % lanes. What has a position keeps its lane in lane_log.
ALTER TABLE event_log RENAME COLUMN lane TO slot;
ALTER TABLE outbox RENAME COLUMN lane TO slot;

-- Which positions a lane was given while the number of lanes was the same: a generation begins where every subscription
-- had passed all of the one before, so generation by generation each key is in order. `upto` is null for the present one.
CREATE TABLE lane_stretches (
    generation integer NOT NULL,
    lane smallint NOT NULL,
    after bigint NOT NULL,
    upto bigint,
    PRIMARY KEY (generation, lane)
);
INSERT INTO lane_stretches (generation, lane, after) SELECT 1, lane, 0 FROM lanes;

-- A change of the number of lanes that is under way, and who is in its way.
CREATE TABLE lane_resize (
    wanted smallint NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    held_by jsonb NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX lane_resize_one ON lane_resize ((true));

-- Keys of a subscription whose events go by way of the record: an event failed and those behind it wait for its job, or
-- there are more of them than memory takes. Only who owns the key's lane writes here.
CREATE TABLE held_keys (
    subscription text NOT NULL REFERENCES subscriptions (name) ON DELETE CASCADE,
    key text NOT NULL,
    slot smallint NOT NULL,
    job_id uuid,
    event_id uuid,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription, key)
);
CREATE INDEX held_keys_job ON held_keys (job_id) WHERE job_id IS NOT NULL;

-- The events of these keys that wait, in their order. They have their position, and checkpoints have passed it.
CREATE TABLE waiting_events (
    subscription text NOT NULL,
    key text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    event_id uuid NOT NULL,
    lane smallint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (subscription, key, seq),
    FOREIGN KEY (subscription, key) REFERENCES held_keys ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX waiting_events_once ON waiting_events (event_id, subscription);
"""

SURVIVAL = """
CREATE TABLE belt_mends (
    reason text PRIMARY KEY,
    times bigint NOT NULL,
    entries bigint NOT NULL,
    last_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
"""

REPLAY = """
-- A replay, or the rebuild of a projection, is a job of this id: here is what it goes through, and how far it is.
CREATE TABLE replays (
    job_id uuid PRIMARY KEY,
    subscription text NOT NULL,
    shadow text, -- of a rebuild: the schema in which the new generation grows
    total bigint NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    fence integer NOT NULL DEFAULT 0, -- of the run that goes on with it: an older one moves nothing
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE replay_lanes (
    job_id uuid NOT NULL REFERENCES replays ON DELETE CASCADE,
    lane smallint NOT NULL,
    begins_after bigint NOT NULL,
    position bigint NOT NULL,
    last bigint, -- of a replay; a rebuild follows the checkpoints
    PRIMARY KEY (job_id, lane)
) WITH (fillfactor = 50);

-- A delivery of a replay stands in the inbox and here as `<subscription>@<job of the replay>`.
ALTER TABLE deliveries ADD COLUMN listener text NOT NULL
    GENERATED ALWAYS AS (regexp_replace(subscription, '@[0-9a-f-]{36}$', '')) STORED;
CREATE INDEX deliveries_listener ON deliveries (listener);

ALTER TABLE subscriptions ADD COLUMN generation integer NOT NULL DEFAULT 1, ADD COLUMN rebuilt_at timestamptz;
"""


WEBHOOKS = """
-- Whom to tell of events. What changes with each call stands here too, in columns that no index has.
CREATE TABLE webhooks (
    id uuid PRIMARY KEY,
    url text NOT NULL,
    types text[] NOT NULL,
    filter jsonb,
    description text NOT NULL DEFAULT '',
    enabled boolean NOT NULL DEFAULT true,
    disabled_at timestamptz,
    disabled_reason text,
    rate_limit integer,
    rate_per_seconds double precision,
    secret text NOT NULL, -- encrypted, as the former one, which is valid for a time beside it
    former_secret text,
    former_until timestamptz,
    begins jsonb NOT NULL, -- the head of each lane when it was enabled: what lies before is not for it
    slot_at timestamptz, -- the last start that its rate has given away
    failures integer NOT NULL DEFAULT 0, -- since the last success
    failing_since timestamptz,
    circuit_until timestamptz, -- while it is open; in the past where one delivery may try
    circuit_seconds double precision NOT NULL DEFAULT 0,
    probing_until timestamptz,
    waker_until timestamptz, -- until then some delivery is sure to come and look at the circuit
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- A delivery is a job of this id; `held` says what it waits for besides its time, and is what is let go later.
CREATE TABLE webhook_deliveries (
    id uuid PRIMARY KEY,
    webhook_id uuid NOT NULL,
    event_id uuid NOT NULL,
    replay_id uuid,
    resend_of uuid,
    slot_at timestamptz,
    held text,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook_id, id);
CREATE INDEX webhook_deliveries_held ON webhook_deliveries (webhook_id, held, id) WHERE held IS NOT NULL;

-- What each call came to: all of them, also those that the job knows as its success.
CREATE TABLE webhook_attempts (
    delivery_id uuid NOT NULL,
    fence integer NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    status smallint,
    error text,
    response text,
    seconds double precision NOT NULL,
    trace_id text NOT NULL,
    PRIMARY KEY (delivery_id, fence)
);
"""


_GIVE = text("""
    UPDATE outbox SET slot = given.slot
    FROM unnest(CAST(:seqs AS bigint[]), CAST(:slots AS smallint[])) AS given(seq, slot) WHERE outbox.seq = given.seq
""")


def _give_slots() -> None:
    """Give the slot of its key to each event that waits for its position: so far it has its lane of four there."""
    bind = op.get_bind()
    waiting = bind.execute(
        text(
            "SELECT o.seq, coalesce(nullif(e.subject, ''), e.id::text) FROM outbox o JOIN event_log e ON e.id = o.event_id"
        )
    )
    for rows in waiting.partitions(5000):
        given = {"seqs": [seq for seq, _ in rows], "slots": [crc32(key.encode()) % 0x8000 for _, key in rows]}
        bind.execute(_GIVE, given)


def upgrade() -> None:
    """Add what events need."""
    for statements in (TYPES, ORDER, SURVIVAL, REPLAY, WEBHOOKS):
        run(statements)
    _give_slots()


def downgrade() -> None:
    """Refuse: what was delivered under the new tables would be forgotten."""
    message = "this migration is not undone: restore a copy of the database instead"
    raise RuntimeError(message)
