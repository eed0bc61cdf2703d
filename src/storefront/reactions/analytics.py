"""Orders and revenue per day and currency, counted from the events.

Owns `storefront_sales`, a projection: each confirmed order counts once, on the day (UTC) of its confirmation, and the
table can be rebuilt from the log while it is in use. Lanes count at the same time, so rows are taken in one order: no
deadlock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.events.model import RecordedEvent
from headrace.events.reading import data_of
from headrace.subscribers.contract import projection
from headrace.transaction import Transaction
from storefront.events import OrderConfirmed

_ADD = text("""
    INSERT INTO storefront_sales (day, currency, orders, revenue_cents)
    SELECT day, currency, orders, revenue_cents
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(day date, currency text, orders bigint, revenue_cents numeric)
    ORDER BY day, currency
    ON CONFLICT (day, currency) DO UPDATE
    SET orders = storefront_sales.orders + excluded.orders,
        revenue_cents = storefront_sales.revenue_cents + excluded.revenue_cents
""")

# A sum beyond bigint, of a thousand largest orders a day, reads as the largest bigint.
_LIST = text("""
    SELECT day, orders, CAST(least(revenue_cents, 9223372036854775807) AS bigint) AS revenue_cents, currency
    FROM storefront_sales
    WHERE day BETWEEN :first AND :last AND (day, currency) < (:before_day, :before_currency)
    ORDER BY day DESC, currency DESC
    LIMIT :limit
""")


class SalesOfDay(msgspec.Struct, frozen=True):
    """What was confirmed on one day in one currency."""

    day: date
    orders: int
    revenue_cents: int
    currency: str

    @property
    def place(self) -> Place:
        """Where it stands in a listing."""
        return Place(self.day, self.currency)


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of sales ended: the next one begins below."""

    day: date
    currency: str


AT_THE_TOP = Place(date.max, "")


@projection("storefront.analytics", OrderConfirmed, tables=("storefront_sales",))
async def count_confirmed_orders(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Add confirmed orders to the sales of their days."""
    sales = tally([data_of(OrderConfirmed, event) for event in events])
    rows = msgspec.json.encode(
        [
            {
                "day": sold.day,
                "currency": sold.currency,
                "orders": sold.orders,
                "revenue_cents": str(sold.revenue_cents),
            }
            for sold in sales
        ]
    )
    await tx.connection.execute(_ADD, {"rows": rows.decode()})


def tally(confirmed: Sequence[OrderConfirmed]) -> list[SalesOfDay]:
    """Return the sales that confirmed orders amount to, by day and currency."""
    orders: Counter[tuple[date, str]] = Counter()
    revenue: Counter[tuple[date, str]] = Counter()
    for order in confirmed:
        key = (_day_of(order.confirmed_at), order.currency)
        orders[key] += 1
        revenue[key] += order.total_cents
    return [
        SalesOfDay(day, orders[day, currency], revenue[day, currency], currency) for day, currency in sorted(orders)
    ]


def _day_of(moment: datetime) -> date:
    """Return the day in UTC; at the edges of the calendar, where there is none, the day as it was written."""
    try:
        return moment.astimezone(UTC).date()
    except OverflowError:  # an event that anybody published must not hold up its lane
        return moment.date()


async def list_sales(
    connection: AsyncConnection, *, first: date, last: date, before: Place, limit: int
) -> list[SalesOfDay]:
    """Return the sales of the days from `first` to `last`, both included, newest first, that come after `before`."""
    found = await connection.execute(
        _LIST,
        {
            "first": first,
            "last": last,
            "before_day": before.day,
            "before_currency": before.currency,
            "limit": limit,
        },
    )
    return [SalesOfDay(row.day, row.orders, row.revenue_cents, row.currency) for row in found]
