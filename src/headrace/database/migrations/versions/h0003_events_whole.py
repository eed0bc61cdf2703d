"""Events: patterns and filters, ordered subscriptions, replay, webhooks.

Revision ID: h0003
"""

from __future__ import annotations

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


def upgrade() -> None:
    """Add what events need."""
    for statements in (TYPES, ORDER, SURVIVAL, REPLAY):
        run(statements)


def downgrade() -> None:
    """Refuse: what was delivered under the new tables would be forgotten."""
    message = "this migration is not undone: restore a copy of the database instead"
    raise RuntimeError(message)
