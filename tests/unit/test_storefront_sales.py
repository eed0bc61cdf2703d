"""Sales per day and currency."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storefront.events import OrderConfirmed
from storefront.reactions.analytics import SalesOfDay, tally

MOMENTS = st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2026, 1, 4), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
ORDERS = st.lists(
    st.builds(
        OrderConfirmed,
        order_id=st.builds(uuid4),
        actor=st.just("api"),
        confirmed_at=MOMENTS,
        currency=st.sampled_from(["EUR", "JPY"]),
        total_cents=st.integers(0, 2**53),
    )
)


@given(orders=ORDERS, cut=st.integers(0, 20))
def test_sales_are_the_same_when_batches_are_cut_anywhere(orders: list[OrderConfirmed], cut: int) -> None:
    """Adding the tallies of two batches gives the tally of both."""
    whole = {(sold.day, sold.currency): (sold.orders, sold.revenue_cents) for sold in tally(orders)}

    parts = [*tally(orders[:cut]), *tally(orders[cut:])]

    added = {
        key: (
            sum(sold.orders for sold in parts if (sold.day, sold.currency) == key),
            sum(sold.revenue_cents for sold in parts if (sold.day, sold.currency) == key),
        )
        for key in {(sold.day, sold.currency) for sold in parts}
    }
    assert added == whole
    assert sum(count for count, _ in whole.values()) == len(orders)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_day_is_as_written_when_utc_has_none(moment: str) -> None:
    """An impossible time does not stop the projection."""
    order = OrderConfirmed(
        order_id=uuid4(),
        actor="stranger",
        confirmed_at=datetime.fromisoformat(moment),
        currency="EUR",
        total_cents=5,
    )

    assert [str(sold.day) for sold in tally([order])] == [moment[:10]]


def test_day_is_that_of_utc_when_the_confirmation_was_elsewhere() -> None:
    """One o'clock in Athens is still the day before."""
    athens = timezone(timedelta(hours=2))
    order = OrderConfirmed(
        order_id=uuid4(),
        actor="api",
        confirmed_at=datetime(2026, 1, 2, 1, tzinfo=athens),
        currency="EUR",
        total_cents=5,
    )

    assert tally([order]) == [SalesOfDay(date(2026, 1, 1), 1, 5, "EUR")]
