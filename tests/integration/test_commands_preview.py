"""`headrace subscriptions preview` as an operator uses it."""

from __future__ import annotations

from datetime import timedelta

from headrace.clock import now
from headrace.transaction import transaction
from tests.integration.api_road import ThingHappened
from tests.integration.commands import Ended, headrace
from tests.road import Road

LARGE = '{"count": [{"numeric": [">", 1]}]}'


async def preview(road: Road, *arguments: str) -> Ended:
    """Run the command with an application that declares an event."""
    given = ("subscriptions", "preview", *arguments)
    return await headrace(road, *given, HEADRACE_APPLICATIONS="tests.integration.api_road:TRIAL")


async def test_preview_is_printed_by_type_with_examples(road: Road) -> None:
    """How many of each type match, of how many, and some of them."""
    async with transaction(road.record) as tx:
        ids = [await tx.publish(ThingHappened("lamp", count)) for count in (1, 2, 3)]
    an_hour_ago = (now() - timedelta(hours=1)).isoformat()

    printed = await preview(road, "trial.*", "--filter", LARGE, "--from", an_hour_ago)

    assert (printed.code, printed.err) == (0, "")
    assert "trial.thing.happened" in printed.out
    assert "2 of all 3 events" in printed.out
    assert str(ids[2]) in printed.out
