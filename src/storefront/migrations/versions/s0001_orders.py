"""Orders, and what followed from them.

Revision ID: s0001
"""

from __future__ import annotations

from headrace.database.migrations.script import run

revision = "s0001"
down_revision = None
branch_labels = ("storefront",)
depends_on = ("h0001",)

TABLES = """
-- The items belong to their order, are read with it and never change: one row, one write. No index but the key, and room
-- on the page, so that confirming is a HOT update.
CREATE TABLE storefront_orders (
    id uuid PRIMARY KEY,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'confirmed')),
    customer_email text NOT NULL,
    currency text NOT NULL,
    items jsonb NOT NULL,
    total_cents bigint NOT NULL CHECK (total_cents >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz
) WITH (fillfactor = 70);

-- Numbers rise; one that was drawn for an attempt that failed is missing.
CREATE SEQUENCE storefront_invoice_numbers;

CREATE TABLE storefront_invoices (
    order_id uuid PRIMARY KEY REFERENCES storefront_orders (id),
    number text NOT NULL UNIQUE,
    issued_at timestamptz NOT NULL DEFAULT now(),
    pdf bytea NOT NULL
);
-- A PDF is compressed already.
ALTER TABLE storefront_invoices ALTER COLUMN pdf SET STORAGE EXTERNAL;

CREATE TABLE storefront_confirmation_mails (
    order_id uuid PRIMARY KEY REFERENCES storefront_orders (id),
    message_id text NOT NULL,
    mailed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE storefront_shipments (
    order_id uuid PRIMARY KEY REFERENCES storefront_orders (id),
    status smallint NOT NULL,
    reference text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now()
);

-- The projection of confirmed orders; a sum of largest orders exceeds bigint.
CREATE TABLE storefront_sales (
    day date NOT NULL,
    currency text NOT NULL,
    orders bigint NOT NULL,
    revenue_cents numeric NOT NULL,
    PRIMARY KEY (day, currency)
) WITH (fillfactor = 50);

CREATE TABLE storefront_audit (
    event_id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    trace_id text NOT NULL
);
CREATE INDEX storefront_audit_subject ON storefront_audit (subject, event_id);
"""


def upgrade() -> None:
    """Create the storefront's tables."""
    run(TABLES)


def downgrade() -> None:
    """Refuse: going back from the first migration would drop the orders."""
    message = "the first migration is not undone: drop the storefront's tables instead"
    raise RuntimeError(message)
