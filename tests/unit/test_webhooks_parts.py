"""What webhooks decide without a store: the schedule, Retry-After, and the body."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from headrace.jobs.retry import Retry, RetryAfterError
from headrace.webhooks.body import Fact, body_of
from headrace.webhooks.model import subscription_of, webhook_of
from headrace.webhooks.schedule import ATTEMPTS, DELAYS_SECONDS, OverDays, retry_after_seconds

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_delay_is_that_of_the_standard_when_an_attempt_fails() -> None:
    """Each is spread by a tenth, differently each time; all of them take about three days."""
    schedule = OverDays()

    for attempt, expected in enumerate(DELAYS_SECONDS, 1):
        delays = {schedule.delay_seconds(attempt) for _ in range(20)}
        assert len(delays) == 20
        assert all(0.9 * expected <= delay <= 1.1 * expected for delay in delays)

    assert (schedule.max_attempts, ATTEMPTS) == (10, 10)
    assert timedelta(days=3) < timedelta(seconds=sum(DELAYS_SECONDS)) < timedelta(days=4)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sat, 21 Nov 2026 12:01:00 GMT", 60.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("99999999999999999999", 86_400.0),
        ("Sat, 21 Nov 2099 12:00:00 GMT", 86_400.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        (None, None),
    ],
)
def test_wish_of_a_server_is_read_when_it_says_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds or a date, a day at most; what cannot be read is as if it were not there."""
    assert retry_after_seconds(value, NOW) == seconds


def test_delay_is_what_the_error_says_when_it_says_so() -> None:
    """`RetryAfterError` goes before the policy; every other error is the policy's."""
    retry = Retry(first_delay_seconds=1.0)

    assert retry.delay_after(RetryAfterError("later", 77.0), 1) == 77.0
    assert retry.delay_after(RetryAfterError("whenever", float("nan")), 1) == 0.0
    assert retry.delay_after(ValueError(), 1) <= 1.0


def test_body_keeps_our_trace_when_a_producer_gave_one() -> None:
    """The trace context is not for other people's servers; every other extension is."""
    fact = Fact(
        source_id="7",
        source="/shop",
        type="shop.thing.sold",
        version=2,
        subject=None,
        time=NOW,
        data='{"a": 1}',
        attributes='{"traceparent": "00-1-2-01", "tracestate": "x=y", "region": "eu", "type": "forged"}',
    )

    body = msgspec.json.decode(body_of(fact))

    assert body == {
        "specversion": "1.0", "id": "7", "source": "/shop", "type": "shop.thing.sold", "time": "2026-11-21T12:00:00Z",
        "datacontenttype": "application/json", "dataversion": 2, "data": {"a": 1}, "region": "eu",
    }  # fmt: skip


def test_subscription_names_its_webhook_and_nothing_else_does() -> None:
    """The name is `webhook:` and the id; what only looks like it is no webhook's."""
    identity = UUID("01a1fced-27ba-7001-8c66-390ccfe7c54b")

    assert webhook_of(subscription_of(identity)) == identity
    assert webhook_of("shop.welcome") is None
    assert webhook_of("webhook:seven") is None
