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


def upgrade() -> None:
    """Add what events need."""
    for statements in (TYPES, ORDER, SURVIVAL):
        run(statements)


def downgrade() -> None:
    """Refuse: what was delivered under the new tables would be forgotten."""
    message = "this migration is not undone: restore a copy of the database instead"
    raise RuntimeError(message)
