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

-- The shape of each version of each type as code that runs here has last declared it: what a change is compared with.
CREATE TABLE event_schemas (
    type text NOT NULL,
    version smallint NOT NULL,
    schema jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (type, version)
);
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
    held_by jsonb NOT NULL DEFAULT '[]',
    hand_over_until timestamptz NOT NULL DEFAULT '-infinity' -- so long nobody takes a lane, and all are given back
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
    subscription text NOT NULL REFERENCES subscriptions (name) ON DELETE CASCADE,
    key text NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    event_id uuid NOT NULL,
    lane smallint NOT NULL,
    PRIMARY KEY (subscription, key, generation, position),
    FOREIGN KEY (subscription, key) REFERENCES held_keys
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
    switched_at timestamptz,
    total bigint NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    fence integer NOT NULL DEFAULT 0, -- of the run that goes on with it: an older one moves nothing
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE replay_lanes (
    job_id uuid NOT NULL REFERENCES replays ON DELETE CASCADE,
    generation integer NOT NULL,
    lane smallint NOT NULL,
    begins_after bigint NOT NULL,
    position bigint NOT NULL,
    upto bigint NOT NULL,
    PRIMARY KEY (job_id, generation, lane)
) WITH (fillfactor = 50);

-- A delivery of a replay stands in the inbox and here as `<subscription>@<job of the replay>`.
ALTER TABLE deliveries ADD COLUMN listener text NOT NULL
    GENERATED ALWAYS AS (CASE WHEN strpos(subscription, '@') = 0 THEN subscription
                              ELSE regexp_replace(subscription, '@[0-9a-f-]{36}$', '') END) STORED;
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
    secret text NOT NULL, -- encrypted
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

-- What a webhook's secret was before: encrypted, and valid beside it for a time.
CREATE TABLE webhook_former_secrets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id uuid NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    secret text NOT NULL,
    valid_until timestamptz NOT NULL
);
CREATE INDEX webhook_former_secrets_webhook ON webhook_former_secrets (webhook_id);

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
CREATE INDEX webhook_deliveries_event ON webhook_deliveries (event_id, webhook_id);
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

DEAD = r"""
-- What failed is told from what else failed by its fingerprint, and by the version of the code that ran it.
ALTER TABLE job_attempts ADD COLUMN fingerprint text, ADD COLUMN release text;

-- A death that left no exception, or was put on record by older code, has a fingerprint too: by its type, and what it
-- said without quoted values and words that hold a digit.
CREATE FUNCTION death_fingerprint(type text, message text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT left(encode(sha256(convert_to(type || E'\n' || regexp_replace(regexp_replace(
        split_part(message, E'\n', 1), '''[^'']*''', '', 'g'), '\S*\d\S*', '#', 'g'), 'UTF8')), 'hex'), 16)
$$;

-- The dead deliveries, kept true by a trigger whichever way a job dies, comes back or leaves: an operator asks for
-- their groups when there are very many.
CREATE TABLE dead_deliveries (
    job_id uuid PRIMARY KEY,
    subscription text NOT NULL,
    fingerprint text NOT NULL,
    release text NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    died_at timestamptz NOT NULL
);
CREATE INDEX dead_deliveries_groups ON dead_deliveries (subscription, fingerprint, release, job_id) INCLUDE (died_at);
CREATE INDEX dead_deliveries_event ON dead_deliveries (event_id);

CREATE FUNCTION note_dead_delivery(job jobs) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dead_deliveries (job_id, subscription, fingerprint, release, event_id, type, died_at)
    SELECT job.id, d.subscription,
           coalesce(a.fingerprint,
                    death_fingerprint(coalesce(a.type, ''),
                                      CASE WHEN a.outcome = 'lost' THEN '' ELSE coalesce(a.message, '') END)),
           coalesce(a.release, ''), d.event_id, coalesce((SELECT type FROM event_log WHERE id = d.event_id), ''),
           coalesce(job.finished_at, now())
    FROM (SELECT job.args->>'subscription', CAST(job.args->>'event_id' AS uuid) WHERE job.task = 'headrace.deliver'
          UNION ALL
          SELECT 'webhook:' || w.webhook_id, w.event_id FROM webhook_deliveries w
          WHERE job.task = 'headrace.webhook' AND w.id = job.id) AS d(subscription, event_id)
    LEFT JOIN LATERAL (SELECT * FROM job_attempts WHERE job_id = job.id ORDER BY fence DESC LIMIT 1) AS a ON true
    ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION dead_delivery_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM dead_deliveries WHERE job_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.state = 'dead' THEN
        PERFORM note_dead_delivery(NEW);
    END IF;
    RETURN NULL;
END $$;
-- AFTER, so that the attempt is seen that the same statement put on record.
CREATE TRIGGER dead_delivery_born AFTER INSERT ON jobs FOR EACH ROW
    WHEN (NEW.state = 'dead' AND NEW.task IN ('headrace.deliver', 'headrace.webhook'))
    EXECUTE FUNCTION dead_delivery_moved();
CREATE TRIGGER dead_delivery_moved AFTER UPDATE OF state ON jobs FOR EACH ROW
    WHEN ((NEW.state = 'dead' OR OLD.state = 'dead') AND NEW.task IN ('headrace.deliver', 'headrace.webhook'))
    EXECUTE FUNCTION dead_delivery_moved();
CREATE TRIGGER dead_delivery_left AFTER DELETE ON jobs FOR EACH ROW
    WHEN (OLD.state = 'dead' AND OLD.task IN ('headrace.deliver', 'headrace.webhook'))
    EXECUTE FUNCTION dead_delivery_moved();
SELECT note_dead_delivery(jobs) FROM jobs WHERE state = 'dead' AND task = 'headrace.deliver';

-- A redrive is a job of this id; `canary` is the delivery that goes first.
CREATE TABLE redrives (
    job_id uuid PRIMARY KEY,
    subscription text NOT NULL,
    total bigint NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    asked_at timestamptz NOT NULL DEFAULT now(),
    canary uuid
);
"""

# Nothing after `reached` was ever taken up by any owner of a lane: of the rest the next owner asks the inbox.
REACHED = """
ALTER TABLE checkpoints ADD COLUMN reached bigint NOT NULL DEFAULT 0;
UPDATE checkpoints SET reached = (SELECT head FROM lanes WHERE lanes.lane = checkpoints.lane);
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
    for statements in (TYPES, ORDER, SURVIVAL, REPLAY, WEBHOOKS, DEAD, REACHED):
        run(statements)
    _give_slots()


def downgrade() -> None:
    """Refuse: what was delivered under the new tables would be forgotten."""
    message = "this migration is not undone: restore a copy of the database instead"
    raise RuntimeError(message)
